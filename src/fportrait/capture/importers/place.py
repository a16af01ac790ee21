"""`fportrait import`: plan what a source holds, then place it under `phone/` and `studio/` as links or copies.

Nothing that was not made by an import is ever overwritten. Beside each result lies a hidden stamp of what made it, so
that an import that died, or a second one, only does what is missing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from fportrait.atomic_io import atomic_folder, atomic_path, value_hash, write_json
from fportrait.capture.calibration import check_name, write_calibration
from fportrait.capture.features import features_path, write_features
from fportrait.capture.importers import ava256, nersemble, own, seamless
from fportrait.capture.importers.plan import ClipPlan, Options, Plan, Refusal, StudioPlan, ZippedFrames
from fportrait.capture.ingest import CONSENT, consent_files
from fportrait.capture.video_io import constant_rate, probe, write_video
from fportrait.capture.withdrawn import AGAIN, LIST, refuse_withdrawn, withdrawn
from fportrait.errors import UserError

LAYOUTS: dict[str, tuple[Callable[[Path], bool], Callable[[Path, Options], Plan]]] = {
    # In the order in which `auto` asks; the first that recognises the source is taken.
    "ava256": (ava256.is_ava256, ava256.plan_ava256),
    "nersemble": (nersemble.is_nersemble, nersemble.plan_nersemble),
    "seamless": (seamless.is_seamless, seamless.plan_seamless),
    "studio": (own.is_studio, own.plan_studio),
    "phone": (own.is_phone, own.plan_phone),
    "folder": (own.is_folder, own.plan_folder),
}
VERSION = 1  # of what is placed; a change places everything anew
CRF = 14.0  # of videos that have to be encoded


@dataclass(frozen=True)
class ImportReport:
    """What was placed, what was there already, which clips were resampled, what was refused.

    `notes` are sentences about clips that are shown otherwise than they are stored (HDR, cut copies), and about people
    whose clips have different rates.
    """

    layout: str
    placed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    resampled: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    quarantine: list[dict[str, str]] = field(default_factory=list)


def import_captures(
    source: str | Path,
    target: str | Path,
    layout: str = "auto",
    *,
    copy: bool = False,
    options: Options | None = None,
    map_function: Callable[..., Iterable[Any]] = map,
) -> ImportReport:
    """Bring captures of a known layout into `target` (`phone/IDENTITY/CLIP.mp4`, `studio/IDENTITY/…`).

    Args:
        layout: one of `LAYOUTS`, or `auto`.
        copy: copy videos instead of linking to them.
        map_function: applied to `(place, plans)`; an engine's map works in parallel.

    Raises:
        UserError: no such source, a layout that is unknown or not recognised, nothing usable in it, or people who
            withdrew (`capture.withdrawn`) alone.
    """
    source, target, options = Path(source), Path(target), options or Options()
    if not source.is_dir():
        raise UserError(f"no folder {source}", "a folder with captures", "check the path")
    if target.resolve() == source.resolve() or source.resolve() in target.resolve().parents:
        raise UserError(f"the target {target} inside the source", "another folder", "choose another --to")
    name = _recognise(source) if layout == "auto" else layout
    if name not in LAYOUTS:
        raise UserError(f"the layout '{name}'", f"auto or one of {', '.join(LAYOUTS)}", "correct the name")
    plans = list(LAYOUTS[name][1](source, options))
    aside = {plan.identity for plan in plans} & withdrawn(target).keys()
    plans = [plan for plan in plans if plan.identity not in aside]
    if aside and not plans:
        refuse_withdrawn(target / "phone" / person / "any" for person in aside)
    todo = [plan for plan in plans if not isinstance(plan, Refusal)]
    refusals = [plan for plan in plans if isinstance(plan, Refusal)]
    report = ImportReport(name)
    call = partial(place, target=str(target), copy=copy, min_frames=options.min_frames)
    rates: dict[str, set[float]] = {}
    for outcome in map_function(call, todo):
        for identity, fps in outcome["rates"]:
            rates.setdefault(identity, set()).add(round(fps, 2))
        for kind in ("placed", "unchanged", "resampled", "notes"):
            getattr(report, kind).extend(outcome[kind])
        report.quarantine.extend(outcome["quarantine"])
    report.notes.extend(mixed_rates(rates))
    if aside:  # who is not written down
        report.notes.append(f"{len(aside)} of {LIST} passed over: consent was withdrawn; {AGAIN}")
    report.quarantine.extend(refusal.as_json() for refusal in refusals)
    if not report.placed and not report.unchanged:
        first = f"; the first fault: {report.quarantine[0]['reason']}" if report.quarantine else ""
        raise UserError(f"nothing usable in {source} as layout {name}{first}", "captures", "see docs/captures.md")
    write_json(target / "import.json", {"source": str(source), **asdict(report)})
    return report


def _recognise(source: Path) -> str:
    for name, (recognises, _) in LAYOUTS.items():
        if recognises(source):
            return name
    raise UserError(
        f"no known layout in {source}", f"one of {', '.join(LAYOUTS)}", "see docs/captures.md for the exact trees"
    )


def mixed_rates(rates: Mapping[str, Iterable[float]]) -> list[str]:
    """A sentence for each person whose clips differ in rate by more than a hundredth: the model takes frames alike."""
    notes = []
    for identity, found in sorted(rates.items()):
        listed = sorted(found)
        if listed[-1] > 1.01 * listed[0]:
            shown = ", ".join(f"{fps:.4g}" for fps in listed)
            notes.append(f"clips of {identity} have different rates ({shown} frames per second): each keeps its own")
    return notes


def place(plan: ClipPlan | StudioPlan, target: str, copy: bool, min_frames: int) -> dict[str, list]:
    """Place one clip or one person's studio capture; the answer is JSON-like, also when it was refused."""
    kinds = ("placed", "unchanged", "resampled", "notes", "rates", "quarantine")
    outcome: dict[str, list] = {kind: [] for kind in kinds}
    where = plan.video if isinstance(plan, ClipPlan) else Path(plan.identity)
    try:
        check_name(plan.identity, "an identity's")
        folder = Path(target) / ("phone" if isinstance(plan, ClipPlan) else "studio") / plan.identity
        if isinstance(plan, ClipPlan):
            _place_clip(plan, folder, copy, min_frames, outcome)
        else:
            _place_studio(plan, folder, copy, min_frames, outcome)
        _bring_consent(plan.consent_in, folder, copy)
    except UserError as error:
        outcome["quarantine"].append(Refusal(plan.identity, where, str(error)).as_json())
    except OSError as error:
        reason = str(UserError(f"{where} unreadable ({error.strerror})", "a readable file", "check its permissions"))
        outcome["quarantine"].append(Refusal(plan.identity, where, reason).as_json())
    return outcome


def _place_clip(plan: ClipPlan, folder: Path, copy: bool, min_frames: int, outcome: dict[str, list]) -> None:
    check_name(plan.clip, "a clip's")
    sources = [_stamp_of(path) for path in (plan.video, plan.features) if path is not None]
    stamp = value_hash([VERSION, sources, plan.fov_degrees, copy])
    stamp_file = folder / f".{plan.clip}.import.json"
    taken = [path for path in folder.glob("*") if path.stem == plan.clip and not path.name.endswith(".safetensors")]
    if taken and _read_stamp(stamp_file) == stamp:
        outcome["unchanged"].append(f"phone/{plan.identity}/{plan.clip}")
        return
    if taken and _read_stamp(stamp_file) is None:
        raise UserError(
            f"{taken[0].name} of {plan.identity} already there", "a clip that no import made", "rename or remove it"
        )
    info = probe(plan.video)
    if info.frames < min_frames:
        raise UserError(f"{info.frames} frames in {plan.video.name}", f"at least {min_frames}", "record a longer clip")
    features = None
    if plan.features is not None:
        try:
            features = seamless.read_movement(plan.features, info.frames)
        except UserError as error:  # the video is good without them
            outcome["quarantine"].append(Refusal(plan.identity, plan.features, str(error)).as_json())
    if features is not None and info.variable_rate:
        reason = UserError("features beside a video of variable rate", "a constant rate", "resample both alike")
        outcome["quarantine"].append(Refusal(plan.identity, plan.features or plan.video, str(reason)).as_json())
        features = None
    _place_field_of_view(plan, folder)
    for path in taken:
        path.unlink()
    features_path(folder / f"{plan.clip}.mp4").unlink(missing_ok=True)
    if info.variable_rate:
        fps, frames = constant_rate(plan.video)
        info = replace(info, fps=fps)
        write_video(folder / f"{plan.clip}.mp4", frames, fps, CRF)
        outcome["resampled"].append(f"phone/{plan.identity}/{plan.clip}")
    else:
        _bring(plan.video, folder / f"{plan.clip}{plan.video.suffix.lower()}", copy)
    outcome["rates"].append([plan.identity, info.fps])
    outcome["notes"] += [f"phone/{plan.identity}/{plan.clip}: {note}" for note in info.notes]
    if features is not None:
        write_features(folder / f"{plan.clip}.mp4", features)
    write_json(stamp_file, {"stamp": stamp, "source": str(plan.video.absolute())})
    outcome["placed"].append(f"phone/{plan.identity}/{plan.clip}")


def _place_field_of_view(plan: ClipPlan, folder: Path) -> None:
    """One `capture.json` serves a whole folder, so two sources with different lenses cannot share one."""
    path = folder / "capture.json"
    wanted = None if plan.fov_degrees is None else {"horizontal_fov_degrees": plan.fov_degrees}
    if path.exists():
        if json.loads(path.read_text()) != (wanted or {}):
            raise UserError(
                f"another field of view in {plan.identity}/capture.json",
                "one camera per identity's folder",
                "import it under another identity",
            )
    elif wanted is not None:
        if any(not entry.name.startswith(".") and entry.name.lower() not in CONSENT for entry in folder.glob("*")):
            raise UserError(
                f"clips of {plan.identity} without a capture.json",
                "one camera per identity's folder",
                "import it under another identity",
            )
        write_json(path, wanted)


def _place_studio(plan: StudioPlan, folder: Path, copy: bool, min_frames: int, outcome: dict[str, list]) -> None:
    sources = {
        segment: {name: _describe(one) for name, one in files.items()} for segment, files in plan.segments.items()
    }
    matrices = {
        name: [camera.intrinsics.tolist(), camera.world_to_camera.tolist()] for name, camera in plan.cameras.items()
    }
    stamp = value_hash([VERSION, sources, matrices, copy])
    place_name = f"studio/{plan.identity}"
    if folder.exists():
        known = _read_stamp(folder / ".import.json")
        if known == stamp:
            outcome["unchanged"].append(place_name)
            return
        if known is None:
            raise UserError(f"{place_name} already there", "a capture that no import made", "rename or remove it")
    kept = 0
    with atomic_folder(folder) as fresh:
        for path in consent_files(folder):  # also one that was put here by hand
            shutil.copy2(path, fresh / path.name, follow_symlinks=False)
        write_calibration(fresh / "calibration.json", plan.cameras)
        for segment, files in plan.segments.items():
            try:
                check_name(segment, "a segment's")
                _check_synchronised(files, min_frames)
                for name, one in files.items():
                    if isinstance(one, ZippedFrames):
                        write_video(fresh / segment / f"{name}.mp4", iter(one), one.fps, CRF)
                    else:
                        _bring(one, fresh / segment / f"{name}{one.suffix.lower()}", copy)
                kept += 1
            except UserError as error:
                shutil.rmtree(fresh / segment, ignore_errors=True)
                place_of = next(iter(files.values()))
                path = place_of.archive if isinstance(place_of, ZippedFrames) else place_of.parent
                outcome["quarantine"].append(Refusal(plan.identity, path, str(error)).as_json())
        if not kept:
            raise UserError(f"no usable segment of {plan.identity}", "at least one", "mend the faults named before")
        write_json(fresh / ".import.json", {"stamp": stamp})
    outcome["placed"].append(place_name)


def _check_synchronised(files: dict[str, Path | ZippedFrames], min_frames: int) -> None:
    counts = {}
    for name, one in files.items():
        if isinstance(one, ZippedFrames):
            counts[name] = len(one.members)
            continue
        info = probe(one)
        counts[name] = info.frames
        if info.variable_rate:
            raise UserError(
                f"a variable frame rate in {one.name}",
                "cameras that run at one constant rate",
                "resample all cameras of the segment with their common clock",
            )
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        raise UserError(f"different frame counts ({listed})", "synchronised cameras", "cut the videos to common frames")
    if min(counts.values()) < min_frames:
        raise UserError(f"{min(counts.values())} frames", f"at least {min_frames}", "record a longer segment")


def _bring(source: Path, target: Path, copy: bool) -> None:
    """Link to or copy a file, atomically."""
    with atomic_path(target) as temporary:
        if copy:
            shutil.copyfile(source, temporary)
        else:
            temporary.unlink()
            os.symlink(source.resolve(), temporary)


def _bring_consent(source: Path | None, folder: Path, copy: bool) -> None:
    """What a person agreed to comes along with what they agreed to; a link is broken where it is withdrawn."""
    for path in consent_files(source) if source is not None else ():
        if not os.path.lexists(folder / path.name):
            _bring(path, folder / path.name, copy)


def _describe(one: Path | ZippedFrames) -> list[Any]:
    if isinstance(one, ZippedFrames):
        return [*_stamp_of(one.archive), one.members, one.fps]
    return _stamp_of(one)


def _stamp_of(path: Path) -> list[Any]:
    try:
        status = path.stat()
    except OSError:  # probing it will say why
        return [str(path.absolute()), None, None]
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _read_stamp(path: Path) -> str | None:
    try:
        return json.loads(path.read_text())["stamp"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
