"""What an animated portrait leaves on disk: the video, its sheet, its provenance and what the model was given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fportrait.animate.pictures import rows_of_pictures, shown_frames
from fportrait.atomic_io import atomic_path, write_json
from fportrait.camera.paths import save_camera_path
from fportrait.capture.sound import Sound
from fportrait.capture.video_io import write_image, write_video
from fportrait.pixels import Picture
from fportrait.provenance import provenance_tags

if TYPE_CHECKING:
    from fportrait.animate.animator import Animator
    from fportrait.animate.request import Prepared
    from fportrait.animate.tracked import Report

CONDITIONS = ("provenance.json", "normals.mp4", "warped.mp4", "portrait_normals.png", "cameras.json", "codes.npy")
"""What `write_conditions` leaves."""


def tags_of(animator: Animator, prepared: Prepared, changes: dict[str, Any] | None = None) -> dict[str, str]:
    """Provenance of a video, or with `changes` of an edited picture; see `fportrait.provenance`."""
    request = prepared.request
    inputs = {"portrait": request.portrait, "driving": request.driving}
    inputs |= {f"portrait {number}": path for number, path in enumerate(request.more, start=2)}
    own = [other.path for other, _ in prepared.others[len(request.more) :]]
    inputs |= {f"adapter's picture {number}": path for number, path in enumerate(own, start=1)}
    films = dict.fromkeys(frame.tracked.path for frame in prepared.film)
    inputs |= {f"adapter's film {number}": path for number, path in enumerate(films, start=1)}
    if request.expression is not None:
        inputs["expression"] = request.expression
    camera = request.camera
    if camera.lower().endswith(".json"):
        inputs["camera"], camera = Path(camera), "file"
    settings = {
        "camera": camera,
        "steps": request.steps or animator.settings.steps,
        "seed": request.seed,
        "guidance": animator.guidance(request),
        "guidance_below": animator.settings.guidance_below,
        "scheduler": animator.settings.scheduler,
        "frames": len(prepared),
        "size": animator.settings.size if animator.picture.square else animator.picture.across_by_down,
        "scale": request.scale,
        "fps": round(prepared.drive.fps, 3),
        "sound": prepared.sound is not None,
        "neutral": request.neutral,
        **({"adjust": dict(request.adjust)} if request.adjust else {}),
        **(changes or {}),
    }
    return provenance_tags(animator.model, inputs, settings, animator.made_by)


def write_result(animator: Animator, prepared: Prepared, output: Path, report: Report) -> dict[str, Path]:
    """Sample and write `output` (.mp4) and, beside it, a picture (.png) of portrait, driving frames and result.

    Returns:
        `video` and `picture`: the files written.
    """
    request, picture = prepared.request, animator.picture
    numbers = shown_frames(len(prepared))
    shown: list[np.ndarray] = []
    tags = tags_of(animator, prepared)

    def frames() -> Iterator[np.ndarray]:
        for index, frame in enumerate(animator.sample(prepared, report, request.scale)):
            if index in numbers:
                shown.append(frame)
            yield frame

    clip = prepared.sound
    sound = Sound(clip.path, clip.start) if clip else None
    write_video(output, frames(), fps=prepared.drive.fps, metadata=tags, sound=sound)
    rows: list[tuple[str, np.ndarray | None, Any]] = [("driving", None, prepared.drive.crops(numbers, picture))]
    if prepared.express is not prepared.drive:
        rows[0] = ("pose from", None, rows[0][2])
        shown_by = prepared.express_numbers(numbers)
        rows.insert(0, ("expression from", None, prepared.express.crops(shown_by, picture)))
    reference = animator.portrait(prepared)
    rows += [
        ("pose", None, list(animator.normals(prepared, numbers))),
        ("portrait, result", reference, shown),
    ]
    sheet, larger = output.with_suffix(".png"), max(96, picture.short * 2) / picture.short
    cell = Picture(round(picture.height * larger), round(picture.width * larger))
    write_image(sheet, rows_of_pictures(rows, cell), tags)
    return {"video": output, "picture": sheet}


def write_conditions(animator: Animator, prepared: Prepared, folder: Path) -> Path:
    """What the model was given, for use elsewhere: see `CONDITIONS`."""
    tags = tags_of(animator, prepared)
    write_video(folder / "normals.mp4", animator.normals(prepared, range(len(prepared))), prepared.drive.fps, crf=8)
    write_video(folder / "warped.mp4", animator.painted(prepared, range(len(prepared))), prepared.drive.fps, crf=8)
    write_image(folder / "portrait_normals.png", animator.portrait_normals(prepared.person), tags)
    view = prepared.view
    save_camera_path(folder / "cameras.json", view.world_to_camera, view.intrinsics)
    codes = animator.expression(prepared)[: len(prepared)]
    with atomic_path(folder / "codes.npy") as path:
        np.save(path, codes, allow_pickle=False)
    write_json(folder / "provenance.json", {"tags": tags})
    return folder
