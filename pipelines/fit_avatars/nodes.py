"""Fit the studio captures, one avatar per identity, each a unit that survives a crash."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

from fportrait.atomic_io import atomic_folder, file_hash, write_json
from fportrait.errors import UserError


def fit_avatars(
    validated: Path, avatars: Path, units: Path, *, fit: dict[str, Any], seed: int, workers: int
) -> dict[str, Any]:
    """Fit every identity of StudioCapture; one that cannot be fitted is quarantined with its reason."""
    import pandas as pd

    from fportrait.ops.lineage import code_hash
    from fportrait.scale.map_engine import map_units

    identities = pd.read_parquet(validated / "identities.parquet")
    names = sorted(identities[identities.dataset == "StudioCapture"].identity)
    version = [code_hash("avatar", "body", "camera"), file_hash(validated / "frames.parquet"), fit, seed]
    report = map_units(
        functools.partial(fit_one, validated=validated, fit=fit, seed=seed),
        names,
        workers=workers,
        cache_folder=units / "avatars",
        key=lambda name: [name, version],
        progress="avatars",
    )
    if not report.results:
        reason = report.failures[0].reason if report.failures else "there are no studio captures"
        raise UserError(f"no avatar ({reason})", "at least one", "add studio captures or mend the ones there are")
    with atomic_folder(avatars) as folder:
        for result in report.results:
            shutil.copytree(result.folder / "avatar", folder / result.unit)
        write_json(folder / "quarantine.json", [{"identity": f.unit, "reason": f.reason} for f in report.failures])
    scores = {result.unit: result.value for result in report.results}
    return {"avatars": len(scores), "quarantined": len(report.failures), "scores": scores}


def fit_one(identity: str, folder: Path, validated: Path, fit: dict[str, Any], seed: int) -> dict[str, Any]:
    """Fit one identity into `folder/avatar`; returns its scores."""
    import pandas as pd

    from fportrait.avatar.fitting import fit_avatar, fit_config
    from fportrait.body.model import load_body

    wanted = [("dataset", "==", "StudioCapture"), ("identity", "==", identity)]
    person = pd.read_parquet(validated / "identities.parquet", filters=wanted).iloc[0]
    frames = pd.read_parquet(validated / "frames.parquet", filters=wanted)
    config = fit_config(fit)
    avatar = fit_avatar(frames, person["shape"], load_body(config.avatar.body_model), config, seed)
    avatar.scores.pop("seconds", None)  # equal fits give equal files
    avatar.save(folder / "avatar")
    return avatar.scores
