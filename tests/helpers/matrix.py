"""Ways to spread a model × what a stage can ask for × ways to be interrupted: every cell against one process.

Six settings that a stage switches on or off and two ways to be interrupted are crossed by an orthogonal array: in its
eight rows every pair of them meets in all four combinations. Each row is run by every way on two processes. The
reference is the same row on one process, uninterrupted. All of it is run on shards of one shape, or of two (buckets).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from helpers.forks import Forks, entries, journal

WAYS = ("none", "fsdp2", "zero2", "zero3")
FEATURES: dict[str, dict[str, Any]] = {
    "held-out scores": {"held_out": 4},
    "samples": {"sample_every": 2},
    "average": {"ema": 0.9},
    "accumulation": {"accumulation": 2},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "LoRA": {"lora": {"rank": 2, "alpha": 4}},
}
OFF = {"held_out": 0, "ema": 0.0}  # where leaving a setting out would not switch it off
INTERRUPTIONS = ("SIGKILL", "2 → 1 → 2")
COLUMNS = (*FEATURES, *INTERRUPTIONS)
# A model whose paths start at the painted portrait, with the gate that keeps it: what the shipped base is.
BRIDGE = {"warped_reference": True, "reference_normals": "portrait", "bridge_level": 0.6}
BASE = {"iterations": 6, "checkpoint_every": 2, "keep_checkpoints": 9, "log_every": 1}
TOLERANCE = 1e-5
SHAPED = {"shards": "one shape", "buckets": "two shapes"}
PATIENCE = 600  # seconds, after which a run counts as a hang


def array() -> list[tuple[tuple[str, ...], str]]:
    """L8: features switched on, and the interruption, of each row; the first row has everything on."""
    rows = []
    for a, b, c in [(a, b, c) for a in (1, 0) for b in (1, 0) for c in (1, 0)]:
        # Sums modulo 2 of three independent columns are balanced against each other; 1 + … makes the first row ones.
        columns = (a, b, c, 1 ^ a ^ b, 1 ^ a ^ c, 1 ^ b ^ c)
        chosen = tuple(name for name, on in zip(FEATURES, columns, strict=True) if on)
        rows.append((chosen, INTERRUPTIONS[a ^ b ^ c]))
    return rows


def settings_of(features: tuple[str, ...], way: str) -> dict[str, Any]:
    changes = {key: value for name in features for key, value in FEATURES[name].items()}
    return {**BASE, **OFF, **changes, "sharding": way}


def bridge_cells() -> list[tuple[str, tuple[str, ...], str]]:
    """Way, features and shards: every two of way, LoRA and buckets meet, all else is switched on."""
    return [
        (way, tuple(name for name in FEATURES if lora or name != "LoRA"), ("shards", "buckets")[(number + lora) % 2])
        for number, way in enumerate(WAYS)
        for lora in (0, 1)
    ]


def run_reference(
    forks: Forks, features: tuple[str, ...], out: Path, shards: str = "shards", model: dict[str, Any] | None = None
) -> None:
    settings = settings_of(features, "none")
    codes = forks.run(out, settings=settings, shards=shards, seconds=PATIENCE, model=model or {})
    assert codes == [0], forks.error()


def run_cell(
    forks: Forks,
    way: str,
    features: tuple[str, ...],
    interruption: str,
    out: Path,
    shards: str = "shards",
    model: dict[str, Any] | None = None,
) -> None:
    """Two processes, interrupted (by nothing where that is empty); they go on to the end."""
    request = {"settings": settings_of(features, way), "shards": shards, "seconds": PATIENCE, "model": model or {}}
    if interruption == "SIGKILL":  # the second one, just before its fourth optimiser step
        codes = forks.run(out, ranks=2, kill=[{"rank": 1, "event": 4}], **request)
        assert codes == [1, -9], (codes, forks.error())
    elif interruption:
        for step, ranks in ((2, 2), (4, 1)):
            codes = forks.run(out, ranks=ranks, signal=[{"step": step, "name": "SIGTERM"}], **request)
            assert codes == [143] * ranks, (codes, forks.error())
    assert forks.run(out, ranks=2, **request) == [0, 0], forks.error()


def compare(out: Path, reference: Path) -> float:
    """The largest relative difference of any loss, held-out score or state; wrong samples or videos raise.

    States are compared where they are learned: where a gradient is rounding noise (what an attention does not depend
    on) Adam makes a whole step of it.
    """
    ours, theirs = journal(out), journal(reference)
    assert [entry["ids"] for entry in ours.values()] == [entry["ids"] for entry in theirs.values()]
    worst = max(relative(ours[step]["loss"], theirs[step]["loss"]) for step in theirs)
    for kind in ("held_out", "sample"):
        mine, other = ({e["step"]: e[kind] for e in entries(folder) if kind in e} for folder in (out, reference))
        assert other.keys() <= mine.keys(), kind  # a stop makes a checkpoint, and a score, of its own
        for step, value in other.items():
            if kind == "held_out":
                worst = max(worst, relative(mine[step], value))
                continue
            assert mine[step].keys() == value.keys()
            for name in value:  # grey levels: a picture is rounded to 255 of them
                assert abs(mine[step][name] - value[name]) < 0.05, (step, name, mine[step][name], value[name])
    mine, other = (last_state(folder) for folder in (out, reference))
    assert mine.keys() == other.keys()
    for name, value in other.items():
        file, _, parameter = name.partition("/")
        moment = other.get(f"optimizer.safetensors/{parameter}/exp_avg")
        if file == "optimizer.safetensors" or moment is None:
            continue
        learned = moment.abs() > 1e-5
        if learned.any():
            worst = max(worst, float((mine[name] - value)[learned].abs().max()))
    model, expected = (load_file(next((folder / "transformer").glob("*.safetensors"))) for folder in (out, reference))
    assert model.keys() == expected.keys()
    assert json.loads((out / "training.json").read_text()) == json.loads((reference / "training.json").read_text())
    return worst


def relative(one: float, other: float) -> float:
    return abs(one - other) / abs(other)


def last_state(out: Path) -> dict[str, torch.Tensor]:
    """Weights, average and moments of the last checkpoint."""
    folder = next(out.glob("checkpoints/*/step-00000006"))
    return {
        f"{path.name}/{name}": value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()
    }


def run_matrix(
    forks: Forks, ways: tuple[str, ...], folder: Path, report: Any = print, shards: str = "shards"
) -> dict[str, dict[str, Any]]:
    """Worst difference, or what went wrong, by way and column: of all rows in which that column is on."""
    table: dict[str, dict[str, Any]] = {way: {} for way in ways}
    for number, (features, interruption) in enumerate(array()):
        reference = folder / f"reference-{number}"
        run_reference(forks, features, reference, shards)
        for way in ways:
            out = folder / f"{way}-{number}"
            try:
                run_cell(forks, way, features, interruption, out, shards)
                found: Any = compare(out, reference)
            except AssertionError as error:
                found = str(error)
            report(f"{way:<6} {interruption:<10} {', '.join(features) or 'nothing else'}: {found}", flush=True)
            for column in (*features, interruption):
                before = table[way].get(column, 0.0)
                table[way][column] = (
                    found if isinstance(found, str) else before if isinstance(before, str) else max(before, found)
                )
            shutil.rmtree(out, ignore_errors=True)
    return table


def run_bridge(forks: Forks, ways: tuple[str, ...], folder: Path, report: Any = print) -> dict[str, dict[str, Any]]:
    """Worst difference, or what went wrong, of `bridge_cells` by way and cell."""
    table: dict[str, dict[str, Any]] = {way: {} for way in ways}
    made: dict[tuple[Any, ...], Path] = {}
    for way, features, shards in bridge_cells():
        if way not in ways:
            continue
        key, named = (features, shards), f"{'LoRA' if 'LoRA' in features else 'all weights'}, {SHAPED[shards]}"
        if key not in made:
            made[key] = folder / f"reference-{len(made)}"
            run_reference(forks, features, made[key], shards, BRIDGE)
        out = folder / f"{way}-{named}"
        try:
            run_cell(forks, way, features, "", out, shards, BRIDGE)
            table[way][named] = compare(out, made[key])
        except AssertionError as error:
            table[way][named] = str(error)
        report(f"{way:<6} {named}: {table[way][named]}", flush=True)
        shutil.rmtree(out, ignore_errors=True)
    return table
