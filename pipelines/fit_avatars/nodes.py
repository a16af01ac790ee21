"""Fit the studio captures, one avatar per identity, each a unit that survives a crash."""

from __future__ import annotations

import functools
import logging
import shutil
from pathlib import Path
from typing import Any

from fportrait.atomic_io import atomic_folder, code_hash, file_hash, write_json
from fportrait.errors import UserError

log = logging.getLogger(__name__)


def fit_avatars(
    validated: Path,
    avatars: Path,
    units: Path,
    *,
    prior: str,
    prior_training: dict[str, Any],
    fit: dict[str, Any],
    phone: bool,
    seed: int,
    workers: int,
) -> dict[str, Any]:
    """Fit every identity of StudioCapture, and with `phone` those of PhoneCapture, of their turning heads; one that
    cannot be fitted is quarantined with its reason.

    `prior` is `shipped`, `captures` (train one on the training identities first), `none`, or the folder of one.
    """
    import pandas as pd

    from fportrait.avatar.coverage import Coverage
    from fportrait.avatar.prior import WEIGHTS
    from fportrait.ops.runs import log_artifact
    from fportrait.scale.map_engine import map_units

    identities = pd.read_parquet(validated / "identities.parquet")
    studio = identities[identities.dataset == "StudioCapture"].sort_values("identity")
    names = list(studio.identity)
    if phone:  # who was in a studio, too, is known better from there
        names += sorted(set(identities[identities.dataset == "PhoneCapture"].identity) - set(names))
    code = [
        code_hash("avatar", "body", "camera", "assets/body.npz"),
        *(file_hash(validated / f"{table}.parquet") for table in ("frames", "identities")),
    ]
    folder_of_prior = None
    if prior == "captures":
        known = list(studio[studio.split == "train"].identity)
        folder_of_prior = train_prior(known, validated, units, prior_training, seed, code)
    elif prior != "none":
        from fportrait.avatar.prior import SHIPPED

        folder_of_prior = SHIPPED if prior == "shipped" else Path(prior)
    from_prior = [folder_of_prior / name for name in ("config.json", WEIGHTS)] if folder_of_prior else []
    version = [code, fit, seed, [file_hash(path) for path in from_prior if path.is_file()]]
    report = map_units(
        functools.partial(fit_one, validated=validated, fit=fit, seed=seed, prior=folder_of_prior),
        names,
        workers=workers,
        cache_folder=units / "avatars",
        key=lambda name: [name, version],
        progress="avatars",
    )
    if not report.results:
        reason = report.failures[0].reason.rstrip(".") if report.failures else "there are no studio captures"
        fix = "add captures, mend the ones there are, or let embedded studio people stand in (ingest.fill: true)"
        raise UserError(f"no avatar ({reason})", "at least one", fix)
    with atomic_folder(avatars) as folder:
        for result in report.results:
            shutil.copytree(result.folder / "avatar", folder / result.unit)
            log_artifact(result.folder / "avatar" / "contact_sheet.png", f"contact_sheets/{result.unit}")
        write_json(folder / "quarantine.json", [{"identity": f.unit, "reason": f.reason} for f in report.failures])
    for failure in report.failures:
        log.warning("no avatar of %s: %s", failure.unit, failure.reason)
    scores = {result.unit: result.value for result in report.results}
    for name, entry in scores.items():
        if (seen := Coverage.told(entry)) is not None:
            log.info("%s, of phone clips: %s; sweeps stay inside", name, seen.words)
    return {"avatars": len(scores), "quarantined": len(report.failures), "scores": scores}


def train_prior(
    names: list[str], validated: Path, units: Path, training: dict[str, Any], seed: int, code: list[str]
) -> Path:
    """Train the universal avatar over all training identities together: one unit; returns its folder."""
    from fportrait.scale.map_engine import map_units

    report = map_units(
        functools.partial(train_one, validated=validated, training=training, seed=seed),
        [tuple(names)],
        cache_folder=units / "avatar_prior",
        key=lambda unit: [list(unit), code, training, seed],
        progress="avatar prior",
    )
    if not report.results:
        raise UserError(
            f"no avatar prior ({report.failures[0].reason})", "studio captures to train it on", "set prior: shipped"
        )
    return report.results[0].folder / "prior"


def train_one(
    names: tuple[str, ...], folder: Path, validated: Path, training: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Train the prior into `folder/prior`; a capture that cannot be read is left out, with its reason."""
    from fportrait.avatar.captures import read_capture
    from fportrait.avatar.prior_training import capture_person, prior_training, train_prior
    from fportrait.body.model import load_body
    from fportrait.ops.runs import log_metrics

    config = prior_training(training)
    body = load_body(config.prior.avatar.body_model)
    subjects, left_out = [], {}
    for name in names:
        frames, shape = rows_of(validated, name)
        try:
            capture = read_capture(
                frames, shape, body, config.prior.avatar, config.size, config.max_frames, margin=config.margin
            )
            subjects.append(
                capture_person(
                    name, shape, body, capture.frames, capture.views, config, backgrounds=capture.backgrounds
                )
            )
        except UserError as error:
            left_out[name] = str(error)
    prior = train_prior(subjects, body, config, seed, log=lambda step, values: log_metrics(values, step))
    prior.record |= {"left_out": left_out}
    prior.record.pop("seconds")  # equal trainings give equal files
    prior.save(folder / "prior")
    return {"people": len(subjects), "left_out": left_out, "loss": prior.record["last_loss"]}


def fit_one(
    identity: str, folder: Path, validated: Path, fit: dict[str, Any], seed: int, prior: Path | None
) -> dict[str, Any]:
    """Fit one identity into `folder/avatar`, with its contact sheet; returns its scores."""
    from fportrait.avatar.captures import read_capture
    from fportrait.avatar.fitting import fit_capture, fit_config
    from fportrait.avatar.prior import AvatarPrior
    from fportrait.avatar.sheet import contact_sheet
    from fportrait.body.model import load_body
    from fportrait.capture.video_io import write_image

    frames, shape = rows_of(validated, identity)
    config = fit_config(fit)
    body = load_body(config.avatar.body_model)
    capture = read_capture(
        frames,
        shape,
        body,
        config.avatar,
        config.size,
        config.max_frames,
        config.holdout_every,
        config.holdout_camera,
        config.margin,
    )
    avatar = fit_capture(capture, config, seed, AvatarPrior.load(prior, body) if prior else None)
    avatar.scores.pop("seconds")  # equal fits give equal files
    avatar.save(folder / "avatar")
    write_image(folder / "avatar" / "contact_sheet.png", contact_sheet(capture))
    write_json(folder / "identity.json", {"identity": identity})  # so that `fportrait forget` finds it
    return avatar.scores


def rows_of(validated: Path, identity: str) -> tuple[Any, Any]:
    """One identity's annotation rows, and its shape: of the studio capture, or of the phone clips of whom has none."""
    import pandas as pd

    people = pd.read_parquet(validated / "identities.parquet", filters=[("identity", "==", identity)])
    studio = "StudioCapture" in set(people.dataset)
    wanted = [("dataset", "==", "StudioCapture" if studio else "PhoneCapture"), ("identity", "==", identity)]
    person = people[people.dataset == wanted[0][2]].iloc[0]
    return pd.read_parquet(validated / "frames.parquet", filters=wanted), person["shape"]
