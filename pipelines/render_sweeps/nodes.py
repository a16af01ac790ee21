"""Render ViewSweep and DynamicSweep clips, and send their annotations through the same gate as the captures'."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fportrait.atomic_io import atomic_folder, code_hash, file_hash, write_parquet
from fportrait.errors import UserError


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

    from fportrait.dataset.rules import ValidationConfig
    from fportrait.dataset.validation import validate_tables
    from fportrait.scale.map_engine import map_units
    from fportrait.tables.annotations import join_frames

    names = sorted(path.parent.name for path in avatars.glob("*/avatar.safetensors"))
    published = f"{sweeps}/clips"  # the paths that the tables of a unit name
    code = code_hash("avatar", "body", "camera", "assets/body.npz")
    version = [2, code, file_hash(validated / "frames.parquet"), published, sweep, seed]
    report = map_units(
        functools.partial(
            render_one, validated=validated, avatars=avatars, published=published, sweep=sweep, seed=seed
        ),
        names,
        workers=workers,
        cache_folder=units / "sweeps",
        key=lambda name: [
            name,
            *(file_hash(avatars / name / file) for file in ("config.json", "avatar.safetensors")),
            version,
        ],
        progress="sweeps",
    )
    if not report.results:
        raise UserError(
            f"no sweeps ({report.failures[0].reason if report.failures else 'there are no avatars'})",
            "at least one",
            "fit avatars first: kedro run --pipelines=fit_avatars",
        )
    people = pd.read_parquet(validated / "identities.parquet")
    with atomic_folder(sweeps) as folder:
        (folder / "clips").mkdir()
        for result in report.results:
            shutil.copytree(result.folder / "clips", folder / "clips", dirs_exist_ok=True)
            if (result.folder / "normals").is_dir():
                shutil.copytree(result.folder / "normals", folder / "normals", dirs_exist_ok=True)
        tables = folder / "unchecked"
        join_frames(tables / "frames.parquet", (result.folder / "frames.parquet" for result in report.results))
        filmed = {result.unit: result.value for result in report.results}
        write_parquet(tables / "identities.parquet", identities_of(filmed, people))
        docs = units / "sweeps_gate"  # outside the folder that vanishes when the gate refuses: the message points here
        gate = validate_tables(tables, docs, ValidationConfig.from_dict(thresholds))
        shutil.copytree(docs, folder / "validation")
        for table in ("frames", "identities"):
            (folder / "validation" / f"{table}.parquet").rename(folder / f"{table}.parquet")
        shutil.rmtree(tables)
    clips: dict[str, int] = {}
    for value in filmed.values():
        for dataset, count in value["clips"].items():
            clips[dataset] = clips.get(dataset, 0) + count
    return {"clips": dict(sorted(clips.items())), "quarantined": gate["quarantined"], "failures": len(report.failures)}


def render_one(
    identity: str, folder: Path, validated: Path, avatars: Path, published: str, sweep: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Render one identity's clips into `folder/clips`; returns, per dataset, their number and the reference, and the
    avatar's shape.

    The reference is the frame whose camera is nearest to the front of the head.
    """
    import numpy as np
    import pandas as pd

    from fportrait.avatar.model import GaussianAvatar
    from fportrait.avatar.sweeps import render_sweeps as render
    from fportrait.avatar.sweeps import sweep_config
    from fportrait.avatar.views import frontality
    from fportrait.tables.annotations import write_frames

    frames = pd.read_parquet(validated / "frames.parquet", filters=[("identity", "==", identity)])
    avatar = GaussianAvatar.load(avatars / identity)
    frames = frames[frames.dataset == ("PhoneCapture" if avatar.scores.get("coverage") else "StudioCapture")]
    table = render(avatar, frames, sweep_config(sweep), seed, folder / "clips", published)
    write_frames(folder / "frames.parquet", table)
    clips, references = {}, {}
    for dataset, part in table.groupby("dataset", sort=True):
        best = part.iloc[int(np.argmax([frontality(row) for row in part.itertuples()]))]
        clips[dataset] = int(part["clip"].nunique())
        references[dataset] = {"reference_clip": best["clip"], "reference_frame": int(best["frame"])}
    return {"clips": clips, "references": references, "shape": avatar.refined_shape.tolist()}


def identities_of(filmed: Mapping[str, Mapping[str, Any]], people: Any) -> Any:
    """Rows of `identities.parquet` for the sweeps: the captures' rows, the studio's where there are two, under the
    sweeps' dataset names.

    The shape is the avatar's, which its pictures show.

    Args:
        filmed: per identity what `render_one` returned.
    """
    import pandas as pd

    captured = people[people.dataset.isin(["StudioCapture", "PhoneCapture"])]
    captured = captured.sort_values("dataset").drop_duplicates("identity", keep="last").set_index("identity")
    rows = [
        {
            **captured.loc[identity].to_dict(),
            "dataset": dataset,
            "identity": identity,
            "shape": value["shape"],
            **reference,
        }
        for identity, value in filmed.items()
        for dataset, reference in value["references"].items()
    ]
    table = pd.DataFrame(rows)[list(people.columns)].sort_values(["dataset", "identity"], ignore_index=True)
    return table.astype({"reference_frame": people["reference_frame"].dtype})
