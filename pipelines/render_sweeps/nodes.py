"""Render ViewSweep and DynamicSweep clips, and send their annotations through the same gate as the captures'."""

from __future__ import annotations

import functools
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fportrait.atomic_io import atomic_folder, code_hash, file_hash, write_json, write_parquet
from fportrait.errors import UserError

if TYPE_CHECKING:
    from fportrait.avatar.coverage import Coverage

log = logging.getLogger(__name__)


def render_sweeps(
    validated: Path,
    avatars: Path,
    sweeps: Path,
    units: Path,
    thresholds: dict[str, Any],
    *,
    sweep: dict[str, Any],
    studio_share: float,
    seed: int,
    workers: int,
) -> dict[str, Any]:
    """Write `clips/*.mp4`, `frames.parquet`, `identities.parquet` and the gate's report under `validation/`.

    Where avatars of phone clips stand beside those of a studio, these get at most `studio_share` of the clips.
    """
    import pandas as pd

    from fportrait.dataset.rules import ValidationConfig
    from fportrait.dataset.validation import validate_tables
    from fportrait.scale.map_engine import map_units
    from fportrait.tables.annotations import join_frames

    names = sorted(path.parent.name for path in avatars.glob("*/avatar.safetensors"))
    published = f"{sweeps}/clips"  # the paths that the tables of a unit name
    code = code_hash("avatar", "body", "camera", "assets/body.npz")
    people = pd.read_parquet(validated / "identities.parquet")
    trained = set(people[people.split == "train"].identity)  # what is judged stays as it is
    seen = {name: coverage_of(avatars / name) for name in names}
    usable = {name for name, one in seen.items() if one is None or one.sweepable}
    sharing = {name: seen[name] is not None for name in names if name in trained & usable}
    shared = sweeps_of(sharing, sweep, studio_share)
    plans = {name: shared.get(name, sweep) for name in names}
    names = [name for name in names if plans[name]["clips_view"] + plans[name]["clips_dynamic"]]
    version = [2, code, file_hash(validated / "frames.parquet"), published]
    report = map_units(
        functools.partial(
            render_one, validated=validated, avatars=avatars, published=published, sweeps=plans, seed=seed
        ),
        names,
        workers=workers,
        cache_folder=units / "sweeps",
        key=lambda name: [
            name,
            *(file_hash(avatars / name / file) for file in ("config.json", "avatar.safetensors")),
            [*version, plans[name], seed],
        ],
        progress="sweeps",
    )
    if not report.results:
        fix = "fit avatars first: kedro run --pipelines=fit_avatars"
        if report.failures:
            fix = "mend that, or let embedded studio people stand in (ingest.fill: true)"
        reason = report.failures[0].reason.rstrip(".") if report.failures else "there are no avatars"
        raise UserError(f"no sweeps ({reason})", "at least one", fix)
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
        refused = [{"identity": failure.unit, "reason": failure.reason} for failure in report.failures]
        if refused:
            write_json(folder / "quarantine.json", refused)
    for entry in refused:
        log.warning("no sweeps of %s: %s", entry["identity"], entry["reason"])
    clips: dict[str, int] = {}
    for value in filmed.values():
        for dataset, count in value["clips"].items():
            clips[dataset] = clips.get(dataset, 0) + count
    told = {"clips": dict(sorted(clips.items())), "quarantined": gate["quarantined"], "failures": len(report.failures)}
    phone = sum(sum(value["clips"].values()) for name, value in filmed.items() if seen[name])
    if phone:
        studio = sum(clips.values()) - phone
        log.info(
            "sweeps: %d clips of people of phone clips, %d of studio people (%.0f%%; render_sweeps.studio_share %g)",
            *(phone, studio, 100 * studio / (phone + studio), studio_share),
        )
        told["of_phone_people"], told["of_studio_people"] = phone, studio
    return told


def coverage_of(avatar: Path) -> Coverage | None:
    """The angles that an avatar of phone clips covers; None of a studio's."""
    from fportrait.avatar.coverage import Coverage

    return Coverage.told(json.loads((avatar / "config.json").read_text()).get("scores", {}))


def sweeps_of(phone: Mapping[str, bool], sweep: dict[str, Any], studio_share: float) -> dict[str, dict[str, Any]]:
    """What to film of every person: as many clips as `sweep` asks for of each, but where studio people beside people of
    phone clips would have more than `studio_share` of them, the same number in all is shared out so that they do not.

    Args:
        phone: by person, whether they are known by phone clips alone.

    Raises:
        UserError: a share that is none.
    """
    if not 0 <= studio_share <= 1:
        raise UserError(f"render_sweeps.studio_share = {studio_share}", "0 to 1", "correct it")
    own, studio = ([name for name, by_phone in phone.items() if by_phone == kind] for kind in (True, False))
    plans = {name: dict(sweep) for name in phone}
    if not own or len(studio) <= studio_share * len(phone):
        return plans
    for key in ("clips_view", "clips_dynamic"):
        total = sweep[key] * len(phone)
        theirs = int(total * studio_share)
        for names, count in ((studio, theirs), (own, total - theirs)):
            for index, name in enumerate(names):
                plans[name][key] = count // len(names) + (index < count % len(names))
    return plans


def render_one(
    identity: str,
    folder: Path,
    validated: Path,
    avatars: Path,
    published: str,
    sweeps: Mapping[str, dict[str, Any]],
    seed: int,
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
    table = render(avatar, frames, sweep_config(sweeps[identity]), seed, folder / "clips", published)
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
