"""Checkpoints that are whole or absent, and checked before they are trusted.

```
FOLDER/step-00000200/weights.safetensors ema.safetensors optimizer.safetensors state.json manifest.json
```
A checkpoint is written beside its place, every file fsynced, the manifest with SHA-256 sums last, then renamed.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fportrait.atomic_io import atomic_folder, file_hash, write_json, write_safetensors

MANIFEST = "manifest.json"
logger = logging.getLogger(__name__)


def save_checkpoint(
    folder: Path,
    step: int,
    weights: dict[str, Tensor],
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write `step-…`, then drop all but the last `keep`.

    Raises:
        UserError: the disk is full; earlier checkpoints stand.
    """
    target = folder / f"step-{step:08d}"
    with atomic_folder(target) as temporary:
        write_safetensors(temporary / "weights.safetensors", weights)
        write_safetensors(temporary / "ema.safetensors", average)
        moments = {
            f"{number}.{name}": value.detach().clone()
            for number, entry in optimizer.state_dict()["state"].items()
            for name, value in entry.items()
        }
        # Samples, noise and dropped conditions come from counters; this state only matters to layers with own dropout.
        moments["torch_rng"] = torch.get_rng_state()
        write_safetensors(temporary / "optimizer.safetensors", moments)
        write_json(temporary / "state.json", {"step": step, **state})
        write_json(temporary / MANIFEST, {path.name: file_hash(path) for path in sorted(temporary.iterdir())})
    for old in saved_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def saved_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints from the oldest to the newest, unchecked."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


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
    checkpoint: Path, model: torch.nn.Module, average: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put a checkpoint's state into the given objects; returns `state.json`."""
    from safetensors.torch import load_file

    model.load_state_dict(load_file(checkpoint / "weights.safetensors"))
    for name, value in load_file(checkpoint / "ema.safetensors").items():
        average[name].copy_(value)
    moments = load_file(checkpoint / "optimizer.safetensors")
    torch.set_rng_state(moments.pop("torch_rng"))
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        number, name = key.split(".", 1)
        entries.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    return json.loads((checkpoint / "state.json").read_text())
