"""Render ViewSweep and DynamicSweep clips, and send their annotations through the same gate as the captures'."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

from fportrait.atomic_io import atomic_folder, file_hash, write_parquet


def render_sweeps(
    validated: Path,
    avatars: Path,
    sweeps: Path,
    units: Path,
    thresholds: dict[str, Any],
    *,
    sweep: dict[str, Any],
    seed: int,
    workers: int,
) -> dict[str, Any]:
    """Write `clips/*.mp4`, `frames.parquet`, `identities.parquet` and the gate's report under `validation/`."""
    import pandas as pd

    from fportrait.dataset.validation import ValidationConfig, validate_tables
    from fportrait.ops.lineage import code_hash
    from fportrait.scale.map_engine import map_units

    names = sorted(path.name for path in avatars.iterdir() if path.is_dir())
    version = [code_hash("avatar", "body", "camera"), file_hash(validated / "frames.parquet"), sweep, seed]
    report = map_units(
        functools.partial(
            render_one, validated=validated, avatars=avatars, published=f"{sweeps}/clips", sweep=sweep, seed=seed
        ),
        names,
        workers=workers,
        cache_folder=units / "sweeps",
        key=lambda name: [name, file_hash(avatars / name / "avatar.safetensors"), version],
        progress="sweeps",
    )
    frames = pd.concat([pd.read_parquet(r.folder / "frames.parquet") for r in report.results], ignore_index=True)
    people = pd.read_parquet(validated / "identities.parquet")
    with atomic_folder(sweeps) as folder:
        (folder / "clips").mkdir()
        for result in report.results:
            for video in sorted((result.folder / "clips").iterdir()):
                shutil.copy(video, folder / "clips")
        tables = folder / "unchecked"
        write_parquet(tables / "frames.parquet", frames)
        write_parquet(tables / "identities.parquet", identities_of(frames, people))
        docs = units / "sweeps_gate"  # outside the folder that vanishes when the gate refuses: the message points here
        gate = validate_tables(tables, docs, ValidationConfig.from_dict(thresholds))
        shutil.copytree(docs, folder / "validation")
        for table in ("frames", "identities"):
            (folder / "validation" / f"{table}.parquet").rename(folder / f"{table}.parquet")
        shutil.rmtree(tables)
    clips = frames.groupby("dataset")["clip"].nunique().to_dict()
    return {"clips": clips, "quarantined": gate["quarantined"], "failures": len(report.failures)}


def render_one(
    identity: str, folder: Path, validated: Path, avatars: Path, published: str, sweep: dict[str, Any], seed: int
) -> int:
    """Render one identity's clips into `folder/clips`; returns their number."""
    import pandas as pd

    from fportrait.avatar.model import GaussianAvatar
    from fportrait.avatar.sweeps import render_sweeps as render
    from fportrait.avatar.sweeps import sweep_config

    wanted = [("dataset", "==", "StudioCapture"), ("identity", "==", identity)]
    frames = pd.read_parquet(validated / "frames.parquet", filters=wanted)
    avatar = GaussianAvatar.load(avatars / identity)
    table = render(avatar, frames, sweep_config(sweep), seed, folder / "clips", published)
    write_parquet(folder / "frames.parquet", table)
    return int(table["clip"].nunique())


def identities_of(frames: Any, people: Any) -> Any:
    """Rows of `identities.parquet` for the sweeps: the studio rows under the sweeps' dataset names.

    The reference is the frame whose camera is nearest to the front of the head.
    """
    import numpy as np
    import pandas as pd

    from fportrait.avatar.views import frontality

    studio = people[people.dataset == "StudioCapture"].set_index("identity")
    rows = []
    for (dataset, identity), part in frames.groupby(["dataset", "identity"], sort=True):
        best = part.iloc[int(np.argmax([frontality(row) for row in part.itertuples()]))]
        row = studio.loc[identity].to_dict()
        reference = {"reference_clip": best["clip"], "reference_frame": best["frame"]}
        rows.append({**row, "dataset": dataset, "identity": identity, **reference})
    table = pd.DataFrame(rows)[list(people.columns)]
    return table.astype({"reference_frame": people["reference_frame"].dtype})
