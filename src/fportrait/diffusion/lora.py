"""LoRA: a few million numbers that teach a large base the conditions, or a trained model one more person.

Wan's own matrices stay frozen under low-rank updates; what Wan does not have (controller, widened patch embedding) can
be trained whole beside them. Needs `pip install fportrait[lora]`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fportrait.atomic_io import atomic_folder, file_hash, tensors_hash, value_hash, write_json, write_safetensors
from fportrait.errors import UserError
from fportrait.parameters import settings_from

if TYPE_CHECKING:  # a stage's settings are read without torch
    import torch
    from torch import Tensor

    from fportrait.diffusion.transformer import FactorPortraitTransformer

WEIGHTS, CONFIG = "adapter.safetensors", "adapter.json"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


@dataclass(frozen=True)
class LoraSettings:
    """`rank` of the updates, which are scaled by `alpha`/`rank`; `targets`: the matrices of every block that get one.

    `conditions`: train the controller (or landmark layers) and the patch embedding whole, beside the low-rank part.
    Right for teaching a bare Wan the conditions; leave it out to adapt a trained model.
    """

    rank: int = 16
    alpha: int = 16
    targets: Sequence[str] = TARGETS
    conditions: bool = True

    def __post_init__(self) -> None:
        for key in ("rank", "alpha"):
            if getattr(self, key) < 1:
                raise UserError(f"a LoRA {key} of {getattr(self, key)}", "1 or more", f"raise {key}")
        unknown = [target for target in self.targets if target not in TARGETS]
        if isinstance(self.targets, str) or unknown or not self.targets:
            named = self.targets if isinstance(self.targets, str) else ", ".join(unknown) or "none"
            raise UserError(f"LoRA targets that match nothing: {named}", f"some of {', '.join(TARGETS)}", "rename them")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "lora") -> LoraSettings:
        return settings_from(cls, values, where)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "targets": list(self.targets)}


@dataclass(frozen=True)
class Adapter:
    """What a model carries since `add_lora`: the settings, and the hash of the weights that it adapts."""

    settings: LoraSettings
    base: str


def adapter_of(model: torch.nn.Module) -> Adapter | None:
    return getattr(model, "fportrait_adapter", None)


def adapted_matrices(model: torch.nn.Module, settings: LoraSettings) -> dict[str, torch.nn.Linear]:
    """The matrices that get an update: inside the blocks only, and not in landmark layers, which nothing trained."""
    import torch

    ends = tuple(f".{target}" for target in settings.targets)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and name.startswith("blocks.")
        and "landmark_attention" not in name
        and name.endswith(ends)
    }


def trained_whole(model: FactorPortraitTransformer, settings: LoraSettings) -> tuple[str, ...]:
    """Beginnings of the names of what is trained whole beside the updates."""
    return (*model.new_modules(), "patch_embedding.") if settings.conditions else ()


def add_lora(model: FactorPortraitTransformer, settings: LoraSettings | None = None) -> list[str]:
    """Freeze `model` and add trainable low-rank updates, which start at zero: its outputs do not change.

    Returns:
        the names of what is trainable now.

    Raises:
        UserError: peft is not installed, the model has an adapter, or a target matches nothing.
    """
    try:
        from peft import LoraConfig
    except ImportError:
        raise UserError("no peft package", "peft (for LoRA)", "pip install 'fportrait[lora]'") from None
    settings = settings or LoraSettings()
    if getattr(model, "peft_config", None):
        raise UserError("a model that has an adapter", "one without", "merge it first (`merge_lora`)")
    base = weights_hash(model)
    chosen = list(adapted_matrices(model, settings))
    sides = [min(model.get_submodule(name).weight.shape) for name in chosen]
    if settings.rank > max(sides):  # more than such matrices have, and memory without end
        raise UserError(f"a LoRA rank of {settings.rank}", f"{max(sides)} at most, of this model", "lower the rank")
    model.add_adapter(LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=chosen))
    model.requires_grad_(False)
    whole = trained_whole(model, settings)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or (bool(whole) and name.startswith(whole)))
    model.fportrait_adapter = Adapter(settings, base)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def save_lora(model: FactorPortraitTransformer, folder: str | Path) -> Path:
    """Write what `add_lora` made trainable and what it takes to rebuild it (`write_adapter`).

    Raises:
        UserError: the model has no adapter.
    """
    adapter = adapter_of(model)
    if adapter is None:
        raise UserError("a model without LoRA weights", "one that `add_lora` changed", "call `add_lora` first")
    return write_adapter(folder, {n: p.detach().cpu() for n, p in model.named_parameters() if p.requires_grad}, adapter)


def write_adapter(folder: str | Path, state: dict[str, Tensor], adapter: Adapter) -> Path:
    """`adapter.safetensors`, and `adapter.json` with the settings and `base`, the hash of the weights it adapts."""
    with atomic_folder(folder) as target:
        write_safetensors(target / WEIGHTS, state)
        write_json(target / CONFIG, {**adapter.settings.as_dict(), "base": adapter.base})
    return Path(folder)


def find_adapter(source: str | Path) -> Path:
    """The folder of an adapter, named by itself, by its `adapter.safetensors`, or by the trained stage that holds it.

    Raises:
        UserError: none of these.
    """
    source = Path(source)
    for folder in (source.parent if source.name in (WEIGHTS, CONFIG) else source, source / "adapter"):
        if (folder / CONFIG).is_file():
            return folder
    raise UserError(
        f"no {CONFIG} in {source}",
        f"an adapter: a folder with {CONFIG} and {WEIGHTS}, or a stage that was trained with `lora`",
        "check the path, or train one with `lora` among a stage's settings",
    )


def read_adapter(source: str | Path) -> Adapter:
    """Settings and base of an adapter, without its numbers; see `find_adapter`.

    Raises:
        UserError: no adapter there, or settings that are unknown, broken or out of range.
    """
    path = find_adapter(source) / CONFIG
    try:
        values = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(f"a broken {path}", "the settings of an adapter, as JSON", "write or copy it again") from None
    base = values.pop("base", None)
    settings = LoraSettings.from_dict(values, str(path))
    if not isinstance(base, str):
        raise UserError(f"{path} without its base", "the hash of the weights that it adapts", "train the adapter again")
    return Adapter(settings, base)


def adapter_name(source: str | Path) -> dict[str, str]:
    """What names an adapter beyond doubt: `hash`, sixteen hexadecimal digits over its files, and `base`."""
    folder = find_adapter(source)
    return {
        "hash": value_hash([file_hash(folder / name) for name in (WEIGHTS, CONFIG)]),
        "base": read_adapter(folder).base,
    }


def weights_hash(model: torch.nn.Module) -> str:
    """What an adapter calls its `base`: the hash of a model's weights, in the types they are stored in."""
    return tensors_hash({name: value.cpu() for name, value in model.state_dict().items()})


def refuse_other_base(source: Path, adapter: Adapter, found: str) -> None:
    """Raise `UserError` unless a model with the weights `found` is the one that the adapter belongs to."""
    if adapter.base != found:
        raise UserError(
            f"the adapter {source} of the base {adapter.base[:16]}, and a model with the weights {found[:16]}",
            "the base that the adapter was trained on",
            "load that base, or the merged transformer beside the adapter",
        )


def load_lora(model: FactorPortraitTransformer, folder: str | Path) -> LoraSettings:
    """Add the adapter of `save_lora` to the base it was trained on, to be trained on (needs peft).

    Raises:
        UserError: no adapter there, unknown settings, keys missing, extra or misshapen (another architecture; all
            listed), or another base of the same architecture.
    """
    import torch

    from fportrait.diffusion import checkpoint

    folder = find_adapter(folder)
    read = read_adapter(folder)
    state = checkpoint.read_tensors(folder)
    trainable = set(add_lora(model, read.settings))
    parameters = {name: value for name, value in model.named_parameters() if name in trainable}
    found = {name: tuple(value.shape) for name, value in state.items()}
    checkpoint.check_keys(found, {name: tuple(value.shape) for name, value in parameters.items()}, str(folder))
    own = adapter_of(model)
    assert own is not None
    refuse_other_base(folder, read, own.base)
    with torch.no_grad():
        for name, value in state.items():
            parameters[name].copy_(value)
    return read.settings


def apply_adapter(model: FactorPortraitTransformer, source: str | Path) -> Adapter:
    """Merge an adapter into the model it belongs to, in place: an ordinary model with the adapter's weights in it.

    For sampling and evaluation. Needs no peft, and gives bit for bit the `transformer/` that training leaves beside
    the adapter. The model keeps the types it is stored in; cast it afterwards (`checkpoint.cast`).

    Args:
        source: see `find_adapter`.

    Raises:
        UserError: no adapter there, a broken one, one that does not fit its settings, or one of another base.
    """
    import torch

    from fportrait.diffusion import checkpoint

    folder = find_adapter(source)
    adapter = read_adapter(folder)
    refuse_other_base(folder, adapter, weights_hash(model))
    settings, own = adapter.settings, model.state_dict()
    low, whole = set(adapted_matrices(model, settings)), trained_whole(model, settings)
    expected = {name: tuple(value.shape) for name, value in own.items() if whole and name.startswith(whole)}
    for name in low:
        out, into = own[f"{name}.weight"].shape
        expected |= {f"{name}.lora_A.default.weight": (settings.rank, into)}
        expected |= {f"{name}.lora_B.default.weight": (out, settings.rank)}
    state = checkpoint.read_tensors(folder)
    checkpoint.check_keys({name: tuple(value.shape) for name, value in state.items()}, expected, str(folder))
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{broken[0]} in {folder}, which is not finite", "finite numbers", "train the adapter again")
    spread = {}
    for name, value in own.items():
        module, _, kind = name.rpartition(".")
        spread[f"{module}.base_layer.{kind}" if module in low else name] = value
    model.load_state_dict(merged_weights({**spread, **state}, settings))
    return adapter


def merge_lora(model: FactorPortraitTransformer) -> FactorPortraitTransformer:
    """Add the low-rank updates to the matrices and take the adapter away: an ordinary model again, to save or export.

    Raises:
        UserError: the model has no adapter.
    """
    if not getattr(model, "peft_config", None):
        raise UserError("a model without LoRA weights", "one that `add_lora` changed", "call `add_lora` first")
    model.fuse_lora()
    model.unload_lora()
    model.fportrait_adapter = None
    return model.requires_grad_(True)


def merged_weights(state: Mapping[str, Tensor], settings: LoraSettings) -> dict[str, Tensor]:
    """`merge_lora` for the tensors of a model that lies spread over processes: W + alpha/rank · B A, float32."""
    merged = {}
    for name, value in state.items():
        module, inner, kind = name.partition(".base_layer.")
        if ".lora_" in name:
            continue
        if inner and kind == "weight":
            down, up = (state[f"{module}.lora_{part}.default.weight"].float() for part in "AB")
            value = value + (settings.alpha / settings.rank * (up @ down)).to(value)
        merged[f"{module}.{kind}" if inner else name] = value
    return merged
