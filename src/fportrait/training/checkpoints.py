"""Checkpoints that are whole or absent, and checked before they are trusted.

```
ROOT/NAME-SCHEDULE/step-00000200/weights.safetensors ema.safetensors optimizer.safetensors state.json manifest.json
```
NAME stands for all that a step is made of: settings, shards, starting weights. SCHEDULE is how long the run was asked
to be, and where its rate falls. A run goes on from its own checkpoints, or from those of another schedule where the
two runs are still one (`StageConfig.begins_like`), never from one beyond its own end.

A checkpoint is written beside its place, every file fsynced, the manifest with SHA-256 sums last, then renamed. It
holds whole tensors by name, so that another number of processes, or another way of spreading the model, reads it too.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fportrait.atomic_io import atomic_folder, file_hash, value_hash, write_json, write_safetensors
from fportrait.training.config import StageConfig

MANIFEST, STATE = "manifest.json", "state.json"
RNG = "torch_rng"
GIB = 1024**3
logger = logging.getLogger(__name__)


def save_checkpoint(
    folder: Path,
    step: int,
    weights: dict[str, Tensor],
    average: dict[str, Tensor],
    moments: dict[str, Tensor],
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write `step-…`, then drop all but the last `keep` and the one with the lowest `state["score"]`.

    Raises:
        UserError: the disk is full; earlier checkpoints stand.
    """
    target = folder / f"step-{step:08d}"
    with atomic_folder(target) as temporary:
        write_safetensors(temporary / "weights.safetensors", weights)
        write_safetensors(temporary / "ema.safetensors", average)
        # Samples, noise and dropped conditions come from counters; this state only matters to layers with own dropout.
        write_safetensors(temporary / "optimizer.safetensors", {**moments, RNG: torch.get_rng_state()})
        write_json(temporary / STATE, {"step": step, **state})
        write_json(temporary / MANIFEST, {path.name: file_hash(path) for path in sorted(temporary.iterdir())})
    best = best_checkpoint(folder)
    for old in saved_checkpoints(folder)[:-keep]:
        if old != best:
            shutil.rmtree(old)
    return target


def lack_of_room(folder: Path, stage: StageConfig, step: int, learned: int) -> tuple[str, str, str] | None:
    """What to tell when the disk cannot hold the checkpoints that a run will keep, beside the one that it writes.

    Args:
        step: where the run goes on. learned: how many numbers a checkpoint holds, as weights and average in float32 and
            as two moments.
    """
    each = learned * (4 + 4 + (2 if stage.optimizer == "adamw8bit" else 8))
    saves = math.ceil((stage.iterations - step) / stage.checkpoint_every)
    most = max(1, stage.keep_checkpoints + 2 - len(saved_checkpoints(folder)))  # the best, and one in the making, too
    needed = each * min(saves, most)
    place = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if needed <= free:
        return None
    return (
        f"{free / GIB:.2f} GiB free on the disk of {folder}, where {stage.name} keeps its checkpoints",
        f"{needed / GIB:.2f} GiB for {needed // each} more of them, {each / GIB:.2f} each",
        "free some space, lower keep_checkpoints, or train an adapter (lora), whose checkpoints are small",
    )


def saved_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints from the oldest to the newest, unchecked."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def best_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the lowest score, the older of equal ones; None when none has a score."""
    scored = [(score, path) for path in saved_checkpoints(folder) if (score := _score(path)) < math.inf]
    return min(scored)[1] if scored else None


def _score(checkpoint: Path) -> float:
    score = _state(checkpoint).get("score")
    return math.inf if score is None else score


def _state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself; nothing where it cannot be read."""
    try:
        return json.loads((checkpoint / STATE).read_text())
    except (OSError, ValueError):
        return {}


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        for name, checksum in manifest.items():
            if file_hash(checkpoint / name) != checksum:
                return f"{name} does not match its checksum"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        return f"{MANIFEST} is unreadable"
    return None


def run_folder(root: Path, name: str, stage: StageConfig) -> Path:
    """Where the checkpoints of a run lie."""
    return root / f"{name}-{value_hash(stage.schedule)}"


def checkpoint_to_resume(root: Path, name: str, stage: StageConfig) -> Path | None:
    """The newest good checkpoint that `stage` passes through, its own before an equal one of another schedule.

    Damaged ones are named in the log and passed over.
    """
    own = run_folder(root, name, stage)
    found = [path for folder in root.glob(f"{name}-*") for path in saved_checkpoints(folder)]
    for checkpoint in sorted(found, key=lambda path: (path.name, path.parent == own), reverse=True):
        step, schedule = int(checkpoint.name.removeprefix("step-")), _state(checkpoint).get("schedule")
        if step > stage.iterations or (schedule is not None and not stage.begins_like(schedule, step)):
            continue
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("%s is damaged (%s); falling back to the one before", checkpoint, problem)
    return None


def load_checkpoint(
    checkpoint: Path,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Weights, average, moments and `state.json`; also puts the random state back."""
    from safetensors.torch import load_file

    weights, average, moments = (load_file(checkpoint / f"{n}.safetensors") for n in ("weights", "ema", "optimizer"))
    torch.set_rng_state(moments.pop(RNG))
    return weights, average, moments, json.loads((checkpoint / STATE).read_text())
