"""What a stage will cost, before it runs: the numbers behind `fportrait plan`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fportrait.dataset.buckets import parse_buckets, shares
from fportrait.dataset.encode import EncodeConfig
from fportrait.dataset.identities import count_windows
from fportrait.dataset.shards import ShardReader
from fportrait.diffusion.shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE
from fportrait.errors import UserError
from fportrait.training.config import StageConfig
from fportrait.training.cost import GIB, learned_parameters, named_peak, sample_cost, state_bytes, vae_flops

STAGES = (1, 2, 3, 4)
CARDS = {24: "RTX 4090", 48: "L40S", 80: "A100"}  # a usual GPU of that much memory (GiB)
WORKSPACE_GIB = 2.0  # of a card's memory: CUDA's own, the kernels' scratch, and gaps between tensors
PICTURES = (512, 384, 256)
METHODS: dict[str, dict[str, Any]] = {
    "full": {"lora": None, "optimizer": "adamw"},
    "full, 8-bit moments": {"lora": None, "optimizer": "adamw8bit"},
    "LoRA": {"lora": {"rank": 64, "alpha": 64}, "optimizer": "adamw"},
}
WAN: dict[str, dict[str, Any]] = {  # Wan 2.1 text-to-video, widened as `FactorPortraitTransformer.from_wan` does
    "wan-1.3b": {"num_layers": 30, "num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960},
    "wan-14b": {"num_layers": 40, "num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824},
}
WAN_SHARED = {"patch_size": (1, 2, 2), "text_dim": 4096, "freq_dim": 256, "prompt_tokens": 512}


def read_stage(number: int, environment: str = "base", conf: Path = Path("conf")) -> StageConfig:
    """Settings of stage 1 to 4 as `kedro run --env ENVIRONMENT` merges them: the environment's over the base's.

    Raises:
        UserError: no such stage or environment, or settings that a stage refuses.
    """
    name = f"stage{number}"
    parent = f"stage{number - 1}" if number > 1 else None
    return StageConfig.from_dict({"name": name, "parent": parent, **read_section(f"train_{name}", environment, conf)})


def read_section(section: str, environment: str, conf: Path = Path("conf")) -> dict[str, Any]:
    """One section of the parameters, an environment's own values over those of `conf/base`, as Kedro merges them.

    Raises:
        UserError: no such environment, or nothing of that section in `conf/base`.
    """
    return _merged(f"parameters_{section}.yml", section, environment, conf)


def read_folder(name: str, environment: str, conf: Path = Path("conf")) -> str:
    """A folder of `conf/*/globals.yml` ("shards", "base", "reports"), as `kedro run --env ENVIRONMENT` finds it."""
    return (
        _merged("globals.yml", None, environment, conf).get(name)
        or (_merged("globals.yml", "folders", environment, conf)[name])
    )


def _merged(file: str, key: str | None, environment: str, conf: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    merged: Any = OmegaConf.create({})
    for folder in dict.fromkeys(("base", environment)):
        path = conf / folder / file
        if not (conf / folder).is_dir() or (folder == "base" and not path.is_file()):
            folders = sorted(conf.iterdir()) if conf.is_dir() else []
            known = ", ".join(entry.name for entry in folders if any(entry.glob("parameters*")))
            raise UserError(
                f"no {path}",
                f"a project with conf/{folder}" + (f" (there are {known})" if known else ""),
                "run from the project's root, and name one of its environments",
            )
        if path.is_file():
            own: Any = OmegaConf.load(path)
            merged = OmegaConf.merge(merged, own if key is None else own.get(key, {}))
    return OmegaConf.to_container(merged)  # type: ignore[return-value]


def model_config(model: str) -> dict[str, Any]:
    """Configuration of a transformer: of `wan-1.3b` or `wan-14b`, or of a folder that holds one.

    Raises:
        UserError: neither.
    """
    if model in WAN:
        return {**WAN_SHARED, **WAN[model]}
    for folder in (Path(model), Path(model) / "transformer"):
        if (folder / "config.json").is_file():
            return json.loads((folder / "config.json").read_text())
    raise UserError(
        f"no model '{model}'", f"{', '.join(WAN)}, or a folder with transformer/config.json", "name one of them"
    )


def plan(
    stage: StageConfig,
    config: Mapping[str, Any],
    picture: int,
    reader: ShardReader | None = None,
    gpu: str = "H100",
    mfu: float = 0.35,
) -> dict[str, Any]:
    """What a stage costs, without training.

    Args:
        config: of the transformer. picture: side of the square video in pixels.
        reader: the shards, where there are any; their records are counted by dataset.
        mfu: share of the GPU's peak that training reaches (model FLOPs utilisation).

    Returns:
        Parameters, tokens and operations of a step and of the stage, GiB on one device, GPU-hours, records and epochs.
    """
    if not 0 < mfu <= 1:
        raise UserError(f"an MFU of {mfu}", "a share of the peak, above 0 and at most 1", "0.35 is usual")
    processes = stage.processes * stage.nodes
    buckets = bucket_shares(stage, reader) or {(picture, picture): 1.0}
    costs = {
        (height, width): sample_cost(
            *(config, stage.frames, height // SPATIAL_STRIDE, width // SPATIAL_STRIDE),
            *(stage.precision, stage.gradient_checkpointing),
        )
        for height, width in buckets
    }
    cost = max(costs.values(), key=lambda one: one.activation_bytes)  # the largest picture decides what fits
    tokens = round(sum(share * costs[bucket].tokens for bucket, share in buckets.items()) * stage.batch_size)
    learned = learned_parameters(config, stage.adapter)
    frozen = 0 if stage.adapter is None else cost.parameters
    state = state_bytes(learned, stage.optimizer, stage.precision, processes, stage.sharding, frozen)
    activations = cost.activation_bytes * stage.micro_batch(processes)
    flops = round(
        sum(share * costs[bucket].flops for bucket, share in buckets.items()) * stage.passes * stage.batch_size
    )
    seconds = flops / (named_peak(gpu) * mfu)
    sizes = reader.sizes() if reader is not None else {}
    drawn = {dataset: share for dataset, share in stage.mixture.items() if share}
    return {
        "stage": stage.name,
        "frames": stage.frames,
        "parameters": cost.parameters,
        "learned": learned,
        "tokens_per_sample": cost.tokens,
        "tokens_per_step": tokens,
        "buckets": [
            {"picture": f"{height}x{width}", "share": share, "tokens_per_sample": costs[height, width].tokens}
            for (height, width), share in buckets.items()
        ],
        "flops_per_step": flops,
        "flops_of_stage": flops * stage.iterations,
        "processes": processes,
        "sharding": stage.sharding,
        "launch": stage.launch or "torchrun",
        "state_gib": round(state / GIB, 3),
        "activations_gib": round(activations / GIB, 3),
        "memory_gib": round((state + activations) / GIB, 3),
        "seconds_per_step": seconds / processes,
        "gpu_hours": seconds * stage.iterations / 3600,
        "gpu": gpu,
        "mfu": mfu,
        "samples": stage.batch_size * stage.iterations,
        "records": {dataset: sizes.get(dataset, 0) for dataset in drawn},
        "epochs": {
            dataset: round(stage.iterations * stage.batch_size * share / 100 / sizes[dataset], 2)
            for dataset, share in drawn.items()
            if sizes.get(dataset)
        },
    }


def stream_cost(
    config: Mapping[str, Any], picture: int, calls: int, latents: int = 1, gpu: str = "H100", mfu: float = 0.35
) -> dict[str, Any]:
    """What a frame of a stream costs the transformer, from counted operations; the codec and tracking come on top.

    Args:
        config: of the transformer. picture: side of the square video in pixels. calls: of the model per window (a
            guided teacher: steps, and one more per guided step and factor). latents: new ones of a window.
        mfu: share of the GPU's peak that sampling reaches; assumed, not measured.

    Returns:
        `tokens` and `flops` of a call, `frames` of a window, `flops_per_frame`, `seconds_per_frame` and
        `frames_per_second`.
    """
    side, frames = picture // SPATIAL_STRIDE, TEMPORAL_STRIDE * latents
    cost = sample_cost(config, frames + 1, side, side)
    seconds = calls * cost.flops / (named_peak(gpu) * mfu) / frames
    return {
        "calls": calls,
        "frames": frames,
        "tokens": cost.tokens,
        "flops": cost.flops,
        "flops_per_frame": calls * cost.flops / frames,
        "gpu": gpu,
        "mfu": mfu,
        "seconds_per_frame": seconds,
        "frames_per_second": 1 / seconds,
    }


def plan_encode(
    encoding: Mapping[str, Any],
    vae: Mapping[str, Any],
    tables: Sequence[Path] = (),
    gpu: str = "H100",
    mfu: float = 0.35,
) -> dict[str, Any]:
    """What `encode` costs on a GPU: every window goes through the VAE twice, as video and as normal maps.

    Args:
        encoding: encode's settings. vae: its configuration (empty: Wan 2.1's). tables: annotation folders, where there
            are any yet; without them the number of windows is not known.
        mfu: share of the peak that is reached. Codecs compute in float32, which cards do as TF32, at half the peak.

    Returns:
        `flops_per_window` and `seconds_per_window`; with tables also `windows`, `references` and `gpu_hours`.
    """
    config = EncodeConfig.from_dict(encoding)
    square, *further = parse_buckets(config.size, config.buckets)
    largest = max((square, *further), key=lambda bucket: bucket.height * bucket.width)
    speed = named_peak(gpu) / 2 * mfu
    flops = 2 * vae_flops(vae, config.window, *largest)
    found: dict[str, Any] = {
        "window": config.window,
        "picture": str(largest),
        "flops_per_window": flops,
        "seconds_per_window": flops / speed,
    }
    there = [folder for folder in tables if (folder / "frames.parquet").is_file()]
    if there:
        windows, people = count_windows(there, config.window, config.stride, config.test_stride)
        references = people * config.references
        total = flops * windows + vae_flops(vae, 1, *largest) * references
        found |= {"windows": windows, "references": references, "gpu_hours": total / speed / 3600}
    return found


def vae_config(model: str) -> dict[str, Any]:
    """Configuration of a model's VAE; an empty one, which means Wan 2.1's, for `wan-1.3b` and `wan-14b`."""
    file = Path(model) / "vae" / "config.json"
    return json.loads(file.read_text()) if model not in WAN and file.is_file() else {}


def bucket_shares(stage: StageConfig, reader: ShardReader | None) -> dict[tuple[int, int], float]:
    """Height, width and share of the pictures that a stage trains on; nothing where the shards have one shape."""
    if reader is None:
        return {}
    shapes = {dataset: some for dataset, some in reader.shapes().items() if stage.mixture.get(dataset)}
    return {} if (0, 0) in {shape for some in shapes.values() for shape in some} else shares(stage.mixture, shapes)


def usual_card(memory_gib: float) -> str:
    """The name of a usual GPU with this much memory; an H100 where there is none."""
    return CARDS.get(round(memory_gib), "H100")


def propose(
    stages: Sequence[StageConfig],
    config: Mapping[str, Any],
    memory_gib: float,
    gpu: str,
    mfu: float = 0.35,
    pictures: Sequence[int] = PICTURES,
) -> list[dict[str, Any]]:
    """What one card of this memory can train: every method at every picture size, the first that fits being the best.

    Each stage gets the largest micro-batch that fits, with recomputed activations only where it must.

    Returns:
        By method and size: `fits`, `memory_gib` (the largest stage's), `gpu_hours` (of all stages), and `stages`, each
        with `micro_batch`, `accumulation`, `gradient_checkpointing`, `memory_gib`, `gpu_hours`; of a stage that does
        not fit, what it would take at the least.
    """
    rows = []
    for picture in pictures:
        for method, changes in METHODS.items():
            planned = [
                _fitted(replace(stage, **changes), config, picture, memory_gib - WORKSPACE_GIB, gpu, mfu)
                for stage in stages
            ]
            rows.append(
                {
                    "method": method,
                    "picture": picture,
                    "fits": all(one["fits"] for one in planned),
                    "memory_gib": max(one["memory_gib"] for one in planned) + WORKSPACE_GIB,
                    "gpu_hours": sum(one["gpu_hours"] for one in planned),
                    "stages": planned,
                }
            )
    return rows


def _fitted(
    stage: StageConfig, config: Mapping[str, Any], picture: int, memory_gib: float, gpu: str, mfu: float
) -> dict[str, Any]:
    """The stage's plan on one card with its largest micro-batch that fits, or with the smallest where none does."""
    alone = replace(stage, processes=1, nodes=1, sharding="none")
    found: dict[str, Any] = {}
    for accumulation in sorted(n for n in range(1, stage.batch_size + 1) if stage.batch_size % n == 0):
        for recompute in (False, True):
            trial = replace(alone, accumulation=accumulation, gradient_checkpointing=recompute)
            cost = plan(trial, config, picture, None, gpu, mfu)
            found = {
                "stage": stage.name,
                "fits": cost["memory_gib"] <= memory_gib,
                "micro_batch": stage.batch_size // accumulation,
                "accumulation": accumulation,
                "gradient_checkpointing": recompute,
                "memory_gib": cost["memory_gib"],
                "gpu_hours": cost["gpu_hours"],
            }
            if found["fits"]:
                return found
    return found
