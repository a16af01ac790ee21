"""Videos of other methods, scored on the same clips by the same metrics.

    fportrait evaluate --export inputs/          portraits, driving videos, cameras of every held-out clip
    fportrait evaluate --run gagavatar --repo DIR --inputs inputs/ --output theirs/
    fportrait evaluate --external GAGAvatar=theirs/

A method's folder holds `DATASET/IDENTITY/RECORD.mp4`, one per exported clip, and may hold `method.json` with `name`,
`alignment` (said in the report) and `fps`. Videos must have the clip's frames; square ones of another size are resized
by area averaging and the report says so. What is missing or does not fit is listed, never scored.
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
from fportrait.evaluation.types import Evaluation, Request

FPS = 25.0
MADE_BY = "made_by.json"


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


def clip_path(record: Record) -> Path:
    """Where a clip lies below an export or a method's folder."""
    return Path(record.dataset) / record.identity / record.record


def export_inputs(reader: ShardReader, chosen: Sequence[tuple[Record, int]], folder: str | Path) -> int:
    """Write `portrait.png`, `driving.mp4` and `cameras.json` of every clip below `folder`; returns how many.

    `driving.mp4` is the clip itself (self-reenactment). Pictures are lossless; videos H.264 at constant quality 10.
    """
    from fportrait.camera.paths import save_camera_path
    from fportrait.capture.video_io import write_image, write_video

    for record, frames in chosen:
        window, portraits = reader.read(record, frames), reader.references(record)
        place = Path(folder) / clip_path(record)
        write_image(place / "portrait.png", portraits["images"][0].numpy())
        write_video(place / "driving.mp4", window["video"].numpy(), FPS, 10)
        save_camera_path(place / "cameras.json", window["world_to_camera"].numpy(), window["intrinsics"].numpy())
    write_json(Path(folder) / "clips.json", [record.id for record, _ in chosen])
    return len(chosen)


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
    if not (inputs / "clips.json").is_file():
        raise UserError(f"no clips.json in {inputs}", "an export", "run `fportrait evaluate --export DIR` first")
    done, failed = 0, {}
    made_by: dict[str, str] = json.loads(record.read_text()) if (record := output / MADE_BY).is_file() else {}
    for clip in json.loads((inputs / "clips.json").read_text()):
        source, target = inputs / _plain(clip), output / f"{_plain(clip)}.mp4"
        made_from = value_hash([template, {path.name: file_hash(path) for path in sorted(source.glob("*.*"))}])
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
        {"name": adapter.title if adapter else name, "alignment": "as the method wrote it", "fps": FPS},
    )
    return {"done": done, "failed": failed}


def _plain(clip: str) -> Path:
    """A clip's id as a relative path that stays below its folder."""
    path = Path(clip)
    if path.is_absolute() or ".." in path.parts or len(path.parts) != 3:
        raise UserError(f"the clip '{clip}'", "DATASET/IDENTITY/RECORD", "export the clips again")
    return path


def score_external(
    evaluation: Evaluation, name: str, folder: str | Path, chosen: Sequence[tuple[Record, int]]
) -> dict[str, Any]:
    """Score a method's videos on the chosen clips.

    Returns:
        `datasets` (as for our own), `scored`, `missing` (ids), `refused` (id → reason), `alignment`, `scores` by clip.

    Raises:
        UserError: no such folder, or unknown keys in `method.json`.
    """
    reader, scorers, seed = evaluation.reader, evaluation.scorers, evaluation.seed
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}", f"the videos of {name}", "check --external NAME=FOLDER")
    stated: Mapping[str, Any] = {}
    if (folder / "method.json").is_file():
        stated = json.loads((folder / "method.json").read_text(encoding="utf-8"))
        refuse_unknown_keys(stated, ("name", "alignment", "fps"), str(folder / "method.json"))
    clips: dict[str, list[Any]] = {}
    missing, refused, sizes = [], {}, set()
    for record, frames in chosen:
        path = folder / clip_path(record).with_suffix(".mp4")
        if not path.is_file():
            missing.append(record.id)
            continue
        window, portraits = reader.read(record, frames), reader.references(record)
        truth = window["video"].numpy()
        try:
            video, size = read_fitting(path, truth.shape, float(stated.get("fps", FPS)))
        except UserError as error:
            refused[record.id] = error.found
            continue
        sizes.add(size)
        request = Request(
            truth,
            portraits["images"][0].numpy(),
            window["landmarks"].numpy() if "landmarks" in window else None,
            window["codes"].numpy(),
            window["intrinsics"].numpy(),
        )
        videos = {"ours": video, "truth": truth, "portrait": request.portrait}
        clip = score_clip(record.id, record.identity, videos, request, scorers, f"{name} {record.dataset}")
        evaluation.keep(f"{name}: {record.dataset}", clip)
        clips.setdefault(record.dataset, []).append(clip)
    resized = sorted({size for size in sizes if size != reader_size(reader, chosen)})
    alignment = str(stated.get("alignment", "not stated")) + (
        f"; resized from {', '.join(map(str, resized))} pixels" if resized else ""
    )
    return {
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
