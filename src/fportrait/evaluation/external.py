"""Videos of other methods, scored on the same clips by the same metrics.

    fportrait evaluate --export inputs/          portraits, driving videos, cameras of every held-out clip
    fportrait evaluate --run gagavatar --repo DIR --inputs inputs/ --output theirs/
    fportrait evaluate --external GAGAvatar=theirs/

A method's folder holds `DATASET/IDENTITY/RECORD.mp4`, one per exported clip, and may hold `method.json` with `name`,
`alignment` (said in the report), `fps` and `holdout` (of the export). Videos must have the clip's frames; square ones
of another size are resized by area averaging and the report says so. What is missing or does not fit is listed, never
scored. `export` writes what a method is given.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.atomic_io import file_hash, value_hash, write_json
from fportrait.dataset.shards import Record, ShardReader
from fportrait.errors import UserError, nearest_name, refuse_unknown_keys
from fportrait.evaluation.clips import frechet_of, score_clip, summarise
from fportrait.evaluation.export import CLIPS, FPS, clip_path, holdout_of
from fportrait.evaluation.types import ClipResult, Evaluation, Request

MADE_BY = "made_by.json"
ASKED = ("portrait.png", "driving.mp4", "cameras.json")  # what a method is given of a clip


@dataclass(frozen=True)
class Adapter:
    """How a method is called when the user has it: a command run in its repository for every clip.

    `{portrait}`, `{driving}`, `{cameras}`, `{output}` are paths. Commands follow the methods' own instructions; other
    versions may want another one (`--command`).
    """

    title: str
    command: str
    note: str


ADAPTERS = {
    "gagavatar": Adapter(
        "GAGAvatar",
        "python inference.py -i {portrait} -d {driving} -o {output}",
        "drives head pose and expression; front camera",
    ),
    "cap4d": Adapter(
        "CAP4D",
        "bash scripts/animate.sh {portrait} {driving} {cameras} {output}",
        "fits an avatar first: about 1.5 h per portrait",
    ),
    "hunyuanportrait": Adapter(
        "HunyuanPortrait",
        "python inference.py --config config/hunyuan-portrait.yaml --image_path {portrait} --video_path {driving} "
        "--output_path {output}",
        "no camera control",
    ),
}


def run_method(
    name: str, repository: str | Path, inputs: str | Path, output: str | Path, command: str = ""
) -> dict[str, Any]:
    """Call a method for every exported clip; `{"done", "failed": {clip: reason}}`.

    Videos that are there are kept, unless another command or other inputs made them (`made_by.json` beside them).

    Raises:
        UserError: an unknown method without a command, no repository, or nothing exported.
    """
    adapter = ADAPTERS.get(name)
    if adapter is None and not command:
        near = nearest_name(name, ADAPTERS)
        raise UserError(
            f"the method '{name}'",
            f"one of {', '.join(ADAPTERS)}, or --command",
            f"write '{near}'" if near else "give --command",
        )
    template = command or (adapter.command if adapter else "")
    repository, inputs, output = Path(repository).resolve(), Path(inputs).resolve(), Path(output).resolve()
    if not repository.is_dir():
        raise UserError(f"no folder {repository}", "the method's own repository, installed by you", "check --repo")
    exported = read_export(inputs)
    done, failed = 0, {}
    made_by: dict[str, str] = json.loads(record.read_text()) if (record := output / MADE_BY).is_file() else {}
    for clip in (one["id"] for one in exported["clips"]):
        source, target = inputs / _plain(clip), output / f"{_plain(clip)}.mp4"
        absent = [name for name in ASKED if not (source / name).is_file()]
        if absent:
            failed[clip] = f"no {', '.join(absent)} in {source}"
            continue
        made_from = value_hash([template, {name: file_hash(source / name) for name in ASKED}])
        if not target.is_file() or made_by.get(clip, made_from) != made_from:
            target.unlink(missing_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            words = {
                "portrait": source / "portrait.png",
                "driving": source / "driving.mp4",
                "cameras": source / "cameras.json",
                "output": target,
            }
            # Split before filling in: a path with spaces stays one argument, and no shell reads it.
            arguments = [part.format(**words) for part in shlex.split(template)]
            try:
                run = subprocess.run(arguments, cwd=repository, capture_output=True, text=True, check=False)
            except OSError as error:
                raise UserError(
                    f"the command '{arguments[0]}' ({error})", "a command that can be started", "check --command"
                ) from None
            if run.returncode or not target.is_file():
                failed[clip] = (run.stderr.strip().splitlines() or ["it wrote no video"])[-1][:300]
                continue
            made_by[clip] = made_from
            write_json(record, made_by)
        done += 1
    write_json(
        output / "method.json",
        {
            "name": adapter.title if adapter else name,
            "alignment": "as the method wrote it",
            "fps": FPS,
            "holdout": exported["holdout"],
        },
    )
    return {"done": done, "failed": failed}


def read_export(folder: Path) -> dict[str, Any]:
    """An export's `clips.json`: `holdout`, and `clips` with `id`, `frames` and `side`.

    Raises:
        UserError: there is none, or it was written by hand or by another version.
    """
    path = folder / CLIPS
    fix = "run `fportrait evaluate --export DIR` first"
    if not path.is_file():
        raise UserError(f"no {CLIPS} in {folder}", "an export", fix)
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(read["holdout"], str) and all(isinstance(one["id"], str) for one in read["clips"]):
            return read
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path}, which lists no clips", "what an export writes", fix)


def _plain(clip: str) -> Path:
    """A clip's id as a relative path that stays below its folder."""
    path = Path(clip)
    if path.is_absolute() or ".." in path.parts or len(path.parts) != 3:
        raise UserError(f"the clip '{clip}'", "DATASET/IDENTITY/RECORD", "export the clips again")
    return path


def score_external(
    evaluation: Evaluation, name: str, folder: str | Path, chosen: Sequence[tuple[Record, int]]
) -> tuple[dict[str, Any], list[ClipResult]]:
    """Score a method's videos on the chosen clips.

    Returns:
        `datasets` (its own clips, as for ours), `scored`, `missing` (ids), `refused` (id → reason), `alignment`,
        `scores` by clip; and the clips.

    Raises:
        UserError: no such folder, unknown keys in `method.json`, or a method that was given other clips.
    """
    reader, scorers, seed = evaluation.reader, evaluation.scorers, evaluation.seed
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}", f"the videos of {name}", "check --external NAME=FOLDER")
    stated: Mapping[str, Any] = {}
    if (folder / "method.json").is_file():
        stated = read_stated(folder / "method.json")
        if stated.get("holdout", (holdout := holdout_of(chosen))) != holdout:
            raise UserError(
                f"videos of the holdout {stated['holdout']} in {folder}",
                f"of {holdout}, which is scored here",
                "export again with the same model and --records, or score with those of the export",
            )
    clips: dict[str, list[Any]] = {}
    missing, refused, sizes = [], {}, set()
    for record, frames in chosen:
        path = folder / clip_path(record).with_suffix(".mp4")
        if not path.is_file():
            missing.append(record.id)
            continue
        window, portraits = reader.read(record, frames), reader.references(record)
        request = Request.of(window, portraits)
        try:
            video, size = read_fitting(path, request.truth.shape, float(stated.get("fps", FPS)))
        except UserError as error:
            refused[record.id] = error.found
            continue
        sizes.add(size)
        videos = {"ours": video, "truth": request.truth, "portrait": request.portrait}
        clip = score_clip(record.id, record.identity, videos, request, scorers, f"{name} {record.dataset}")
        evaluation.keep(f"{name}: {record.dataset}", clip)
        clips.setdefault(record.dataset, []).append(clip)
    resized = sorted({size for size in sizes if size != reader_size(reader, chosen)})
    alignment = str(stated.get("alignment", "not stated")) + (
        f"; resized from {', '.join(map(str, resized))} pixels" if resized else ""
    )
    found = {
        "datasets": {
            dataset: summarise(some, seed) | frechet_of(scorers, f"{name} {dataset}") for dataset, some in clips.items()
        },
        "scored": sum(map(len, clips.values())),
        "missing": missing,
        "refused": refused,
        "alignment": alignment,
        "scores": {
            clip.id: {key: round(value, 6) for key, value in clip.scores.items() if np.isfinite(value)}
            for some in clips.values()
            for clip in some
        },
    }
    return found, [clip for some in clips.values() for clip in some]


def read_stated(path: Path) -> Mapping[str, Any]:
    """What a method says of itself.

    Raises:
        UserError: not JSON, unknown keys (the nearest known one is named), or a rate that is no number.
    """
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        readable = isinstance(stated, Mapping) and float(stated.get("fps", FPS)) > 0
    except (ValueError, TypeError):
        readable = False
    if not readable:
        raise UserError(f"{path}, which cannot be read", "JSON with name, alignment, fps and holdout", "mend it")
    refuse_unknown_keys(stated, ("name", "alignment", "fps", "holdout"), str(path))
    return stated


def reader_size(reader: ShardReader, chosen: Sequence[tuple[Record, int]]) -> int:
    record, _ = chosen[0]
    return int(reader.references(record)["images"].shape[1])


def read_fitting(path: Path, shape: tuple[int, ...], fps: float) -> tuple[np.ndarray, int]:
    """A video as `T S S 3` uint8 of the wanted shape, and the size it had.

    Raises:
        UserError: unreadable, another number of frames or rate, or pictures that are not square.
    """
    import cv2

    from fportrait.capture.video_io import probe, read_video

    info = probe(path)
    if abs(info.fps - fps) > 0.5:
        raise UserError(
            f"{info.fps:.2f} frames per second in {path.name}",
            f"{fps:.2f}",
            "write the clip's own rate, or state fps in method.json",
        )
    video = read_video(path)
    if len(video) != shape[0]:
        raise UserError(
            f"{len(video)} frames in {path.name}", f"{shape[0]}, as exported", "make one frame per driving frame"
        )
    if video.shape[1] != video.shape[2]:
        raise UserError(
            f"{video.shape[2]}x{video.shape[1]} pixels in {path.name}",
            "a square of the portrait's framing",
            "crop it as the portrait",
        )
    if video.shape[1] == shape[1]:
        return video, shape[1]
    interpolation = cv2.INTER_AREA if video.shape[1] > shape[1] else cv2.INTER_CUBIC
    return np.stack(
        [cv2.resize(frame, (shape[2], shape[1]), interpolation=interpolation) for frame in video]
    ), video.shape[1]
