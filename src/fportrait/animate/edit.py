"""One picture of a portrait with another expression, head pose or view: the video model asked for a single frame."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fportrait.animate.animator import Animator, quiet
from fportrait.animate.carried import portraits_for
from fportrait.animate.request import Prepared, Request, check_guidance
from fportrait.animate.retarget import check_strengths
from fportrait.animate.tracked import Report, far_turn_notes
from fportrait.animate.viewpoint import Framing, training_fit, viewpoint
from fportrait.animate.writing import tags_of
from fportrait.capture.motion import rotation_from_degrees
from fportrait.capture.video_io import write_image
from fportrait.capture.withdrawn import refuse_withdrawn
from fportrait.errors import UserError
from fportrait.outputs import check_file

HEAD_LIMITS = {"yaw": 45.0, "pitch": 30.0, "roll": 30.0}  # degrees to either side


@dataclass(frozen=True)
class Edit:
    """What is changed of a portrait.

    Args:
        adjust: strengths of `fportrait.animate.retarget.SLIDERS`, added to the expression; 1 is a full action.
        at_rest: begin with a face at rest, not with the portrait's own expression.
        head: yaw, pitch and roll, degrees, added to the head's own.
        camera: the view as one key position, `YAW,ELEVATION[,DISTANCE]`; the default is the front.
        guidance, steps, seed, portrait_fov, force: as in `Request`. scale: enlarges the written picture.
    """

    portrait: Path
    adjust: Mapping[str, float] = field(default_factory=dict)
    at_rest: bool = False
    head: tuple[float, float, float] = (0.0, 0.0, 0.0)
    camera: str = "0,0"
    guidance: Mapping[str, float] = field(default_factory=dict)
    steps: int | None = None
    seed: int = 0
    scale: int = 8
    portrait_fov: float | None = None
    force: bool = False


def check_head(head: tuple[float, float, float]) -> None:
    """Refuse what the model was never shown.

    Raises:
        UserError: an angle out of range.
    """
    for (name, limit), value in zip(HEAD_LIMITS.items(), head, strict=True):
        if not -limit <= value <= limit:
            raise UserError(f"a head's {name} of {value:g}°", f"-{limit:g} to {limit:g}", "turn it less")


def prepare_edit(animator: Animator, edit: Edit) -> Prepared:
    """The portrait as its own driver, with the head turned.

    Raises:
        UserError: no face or two faces, an unknown slider, a value out of range, or a picture of somebody who withdrew.
    """
    check_guidance(edit.guidance)
    check_strengths(edit.adjust)
    check_head(edit.head)
    if animator.reads_landmarks and (edit.adjust or edit.at_rest):
        raise UserError(
            "a model that reads landmarks, not codes", "a model of expression codes", "use the base, or change the head"
        )
    refuse_withdrawn([edit.portrait])
    person, image = animator.tracked_portrait(edit.portrait, edit.portrait_fov, edit.force)
    turn = rotation_from_degrees(*edit.head)
    drive = replace(person, track=replace(person.track, rotations=turn @ person.track.rotations))
    request = Request(
        edit.portrait,
        edit.portrait,
        edit.camera,
        guidance=edit.guidance,
        steps=edit.steps,
        seed=edit.seed,
        scale=edit.scale,
        neutral="0" if edit.at_rest else "off",
        adjust=edit.adjust,
        portrait_fov=edit.portrait_fov,
        force=edit.force,
    )
    framing = Framing.of(person, animator.picture)
    view = viewpoint(edit.camera, 1, animator.settings, edit.seed, framing=framing)
    carried, film, told = portraits_for(animator, person, image, edit.force)
    notes = [*person.notes, *animator.picture_notes(person), *training_fit(view, animator.settings)]
    notes += [*far_turn_notes(person, drive, view.world_to_camera), *told]
    return Prepared(request, person, drive, drive, image, view, notes, carried, film)


def edit_picture(animator: Animator, edit: Edit, report: Report = quiet) -> tuple[np.ndarray, Prepared]:
    """The edited picture `H W 3`, enlarged by `scale`, and what it was made from.

    Raises:
        UserError: see `prepare_edit`.
    """
    prepared = prepare_edit(animator, edit)
    (frame,) = animator.sample(prepared, report, edit.scale)
    return frame, prepared


def write_edit(animator: Animator, edit: Edit, output: Path, report: Report = quiet) -> Prepared:
    """Write the edited picture (.png); it says in its metadata that it is synthetic.

    Raises:
        UserError: see `prepare_edit`; or the output is no PNG, the portrait itself, or a file that fportrait did not
            write.
    """
    if output.suffix.lower() != ".png":
        raise UserError(f"the output {output}", "a name that ends with .png", f"write to {output.with_suffix('.png')}")
    if os.path.realpath(output) == os.path.realpath(edit.portrait):
        raise UserError(f"the output {output}, which would overwrite the portrait", "a name of its own", "change -o")
    check_file(output, edit.force)
    image, prepared = edit_picture(animator, edit, report)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_image(output, image, tags_of(animator, prepared, {"head": list(edit.head), "at_rest": edit.at_rest}))
    return prepared
