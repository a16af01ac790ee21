"""Checkpoints that are whole or absent, and checked before they are trusted.

```
FOLDER/step-00000200/weights.safetensors ema.safetensors optimizer.safetensors state.json manifest.json
```
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

from fportrait.atomic_io import atomic_folder, file_hash, write_json, write_safetensors

MANIFEST, STATE = "manifest.json", "state.json"
RNG = "torch_rng"
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


def saved_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints from the oldest to the newest, unchecked."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def best_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the lowest score, the older of equal ones; None when none has a score."""
    scored = [(score, path) for path in saved_checkpoints(folder) if (score := _score(path)) < math.inf]
    return min(scored)[1] if scored else None


def _score(checkpoint: Path) -> float:
    try:
        score = json.loads((checkpoint / STATE).read_text()).get("score")
    except (OSError, ValueError):
        return math.inf
    return math.inf if score is None else score


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


def last_good_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files match its manifest; damaged ones are named in the log and passed over."""
    for checkpoint in reversed(saved_checkpoints(folder)):
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
