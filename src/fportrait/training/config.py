"""The settings of one training stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from fportrait.diffusion.lora import LoraSettings
from fportrait.diffusion.shapes import latent_frames
from fportrait.diffusion.variants import ARCHITECTURES, stage_as_variant
from fportrait.errors import UserError, refuse_unknown_keys
from fportrait.parameters import settings_from
from fportrait.tables.schema import DATASETS

CHOICES = {
    "precision": ("bf16", "fp32"),
    "sigmas": ("uniform", "logit_normal", "start"),
    "optimizer": ("adamw", "adamw8bit"),
    "sharding": ("none", "fsdp2", "zero2", "zero3"),
    "variant": ARCHITECTURES,
}


@dataclass(frozen=True)
class StageConfig:
    """One stage of Table 1: a mixture of datasets, a clip length, a number of iterations, a learning rate.

    The paper gives these and the batch. Ours, where it is silent: warm-up, decay, average, dropout, contrast, focus.

    Raises:
        UserError: shares that do not sum to 100, an unknown dataset, frames other than 4k+1, or a number out of range.
    """

    name: str
    frames: int
    iterations: int
    learning_rate: float
    mixture: dict[str, int]  # percent by dataset
    parent: str | None = None  # the stage this one starts from; None starts from the base
    lora: dict[str, Any] | None = None  # of `LoraSettings`: learn low-rank updates of a frozen model; None: all of it
    variant: str = "full"  # of `diffusion.variants`, begun from what a full start knows; c1 becomes its mixture
    batch_size: int = 8  # over all processes and accumulated micro-batches
    accumulation: int = 1
    seed: int = 0
    optimizer: str = "adamw"  # or adamw8bit: moments in 8 bits (bitsandbytes)
    warmup: int = 20
    decay_from: float = 1.0  # fraction of the iterations after which the rate falls to zero; 1 keeps it constant
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    gradient_clip: float = 1.0
    ema: float = 0.998
    precision: str = "bf16"  # of autocast; weights and optimiser are float32
    dropout: float | dict[str, float] = 0.1  # of each factor, or by name: identity, view, pose, expression
    shift: float = 5.0
    sigmas: str = "uniform"  # or logit_normal; start: only where sampling starts, for a model of one step
    focus_gain: float = 0.0  # extra loss weight on eyes and mouth
    contrast: float = 1.0  # weight of the error in what differs between the frames of a clip (`flow_loss`)

    compile: bool = False
    gradient_checkpointing: bool = False  # recompute activations in the backward pass: less memory, a third more work
    processes: int = 1  # on this machine, one per device; more than one trains in child processes
    nodes: int = 1  # machines
    rendezvous: str = "localhost:29500"  # host:port of the first machine
    sharding: str = "none"  # fsdp2, zero3: spread weights, gradients and moments over the processes; zero2: not weights
    launch: str | None = None  # an accelerate configuration that starts the children (conf/launch); None: torchrun
    shards_url: str | None = None  # read the latents from this object store instead of the project's folder

    checkpoint_every: int = 200
    keep_checkpoints: int = 2  # the last ones; the best is kept too
    held_out: int = 8  # test samples that score each checkpoint; 0 scores it by its training loss
    log_every: int = 10
    sample_every: int = 0  # steps between sample videos; 0 samples before and after the stage alone

    # Settings that change what is logged or kept or where it runs, not what is learned.
    BOOKKEEPING: ClassVar[tuple[str, ...]] = (
        *("compile", "gradient_checkpointing", "processes", "nodes", "rendezvous", "sharding", "launch", "shards_url"),
        *("checkpoint_every", "keep_checkpoints", "held_out", "log_every", "sample_every"),
    )

    def __post_init__(self) -> None:
        latent_frames(self.frames)
        refuse_unknown_keys(self.mixture, DATASETS, f"the mixture of {self.name}")
        total = sum(self.mixture.values())
        if total != 100 or any(int(share) != share or share < 0 for share in self.mixture.values()):
            raise UserError(
                f"shares of {self.name} that sum to {total} ({self.mixture})",
                "whole percents that sum to 100",
                f"change the mixture of {self.name}",
            )
        for key in (
            "iterations",
            "batch_size",
            "accumulation",
            "learning_rate",
            "gradient_clip",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
            "shift",
            "contrast",
            "processes",
            "nodes",
        ):
            if not getattr(self, key) > 0:
                raise UserError(f"{key} = {getattr(self, key)} in {self.name}", "a number above 0", f"raise {key}")
        for key in ("warmup", "weight_decay", "focus_gain", "held_out", "sample_every"):
            if getattr(self, key) < 0:
                raise UserError(f"{key} = {getattr(self, key)} in {self.name}", "0 or more", f"raise {key}")
        for key, known in CHOICES.items():
            if getattr(self, key) not in known:
                raise UserError(f"{key} '{getattr(self, key)}' in {self.name}", " or ".join(known), f"change {key}")
        if not 0 < self.decay_from <= 1 or not 0 <= self.ema < 1:
            raise UserError(
                f"decay_from {self.decay_from}, ema {self.ema}", "fractions", f"correct them in {self.name}"
            )
        self.micro_batch(self.processes * self.nodes)
        if self.lora is not None:  # refused now, not at the first step
            LoraSettings.from_dict(self.lora, f"lora of {self.name}")

    @property
    def adapter(self) -> LoraSettings | None:
        """Settings of the adapter that this stage trains."""
        return None if self.lora is None else LoraSettings.from_dict(self.lora, f"lora of {self.name}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StageConfig:
        """From a configuration file's section; unknown, missing and mistyped keys are refused.

        A variant of the mixture (`c1`) becomes that mixture, of the full model.
        """
        name, variant = values.get("name", "a stage"), values.get("variant", "full")
        changed = {"betas": tuple(values["betas"])} if "betas" in values else {}
        if isinstance(variant, str) and isinstance(values.get("mixture", {}), Mapping):
            changed |= stage_as_variant(values, variant)
        return settings_from(cls, {**values, **changed}, f"the settings of {name}")

    def micro_batch(self, processes: int) -> int:
        """Samples of one forward pass on one of `processes`.

        Raises:
            UserError: the batch does not divide.
        """
        share, rest = divmod(self.batch_size, processes * self.accumulation)
        if rest:
            raise UserError(
                f"a batch of {self.batch_size} over {processes} processes and {self.accumulation} parts",
                "a batch that divides by processes × accumulation",
                f"set batch_size of {self.name} to a multiple of {processes * self.accumulation}",
            )
        return share

    @property
    def passes(self) -> int:
        """Forward passes that a step costs: the backward one takes two, or one where the matrices learn nothing."""
        return 3 if self.lora is None else 2

    def learned_from(self) -> dict[str, Any]:
        """The settings that decide what is learned."""
        values = {key: value for key, value in asdict(self).items() if key not in self.BOOKKEEPING}
        return {**values, "lora": None if self.adapter is None else self.adapter.as_dict()}

    @property
    def schedule(self) -> dict[str, Any]:
        """The settings that shape the course of a run, and not its single steps: its length, and where its rate falls.

        Of everything that a step reads, only the learning rate knows them. Samples, noise and dropped conditions come
        from counters, and warm-up and average (`training.average.decay_at`) count steps from the first one.
        """
        return {"iterations": self.iterations, "decay_from": self.decay_from}

    def begins_like(self, schedule: Mapping[str, Any], steps: int) -> bool:
        """Whether a run that differs in its schedule alone has taken its first `steps` steps as this one does.

        True where both runs are at least that long and have the same learning rate in every one of these steps. Then
        weights, moments and average after them are the same, and this run may go on from there.
        """
        try:
            other = replace(self, **schedule)
        except (TypeError, UserError):
            return False
        if steps > min(self.iterations, other.iterations):
            return False
        return all(self.rate(step) == other.rate(step) for step in range(steps))

    def rate(self, step: int) -> float:
        """Learning rate of step `step` (from 0): linear warm-up (ours), constant, and a linear fall where asked."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        left = 1 - step / self.iterations
        cool = 1.0 if self.decay_from == 1 else min(1.0, left / (1 - self.decay_from))
        return self.learning_rate * warm * cool
