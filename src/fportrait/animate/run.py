"""One call from files to a video: `fportrait animate` and the registered model."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fportrait.animate.animator import Animator, quiet
from fportrait.animate.profile import Profile
from fportrait.animate.request import Request
from fportrait.animate.sizes import AS_PORTRAIT
from fportrait.animate.tracked import Report
from fportrait.animate.writing import CONDITIONS, write_conditions, write_result
from fportrait.capture.withdrawn import refuse_withdrawn
from fportrait.errors import UserError
from fportrait.outputs import check_file, check_folder, check_open_folder, check_writable
from fportrait.pixels import Picture


def check_output(
    output: Path, inputs: Iterable[Path | None], conditions: Path | None = None, force: bool = False
) -> None:
    """Refuse, before any work, what cannot be written at the end: another kind of file, an input, a closed folder.

    Args:
        conditions: the folder for what the model was given, if it is asked for. force: replace files that fportrait
            did not write.
    """
    if output.suffix.lower() != ".mp4":
        raise UserError(f"the output {output}", "a name that ends with .mp4", f"write to {output.with_suffix('.mp4')}")
    written = {os.path.realpath(path) for path in (output, output.with_suffix(".png"))}
    for source in inputs:
        if source is not None and os.path.realpath(source) in written:  # `resolve` fails at links that go in circles
            raise UserError(f"the output {output}, which would overwrite {source}", "a name of its own", "change -o")
    check_writable(output, "-o")
    if conditions is not None:
        check_open_folder(conditions, conditions, "--conditions")
    for path in (output, output.with_suffix(".png")):
        check_file(path, force)
    if conditions is not None:
        check_folder(conditions, CONDITIONS, force)


def for_portrait(
    model: str | Path,
    portrait: Path,
    size: int | str | Picture | None = None,
    aspect: str | None = None,
    adapter: str | Path | None = None,
    fov: float | None = None,
    force: bool = False,
) -> Animator:
    """An animator whose picture may have the shape of a portrait (`aspect` is `sizes.AS_PORTRAIT`); see `Animator`."""
    if aspect != AS_PORTRAIT:
        return Animator(model, size=size, adapter=adapter, aspect=aspect)
    return Animator(model, remember=1, adapter=adapter).drawing(size, aspect, Path(portrait), fov, force)


def animate(
    portrait: Path,
    driving: Path,
    camera: str,
    output: Path,
    model: Path,
    report: Report = quiet,
    conditions: Path | None = None,
    size: int | str | Picture | None = None,
    force: bool = False,
    adapter: Path | None = None,
    profile: Profile | None = None,
    aspect: str | None = None,
    **settings: Any,
) -> dict[str, Path]:
    """Animate `portrait` with the expressions and head pose of `driving`, seen along `camera`.

    Args:
        output: the video (.mp4). model: a bundle folder. conditions: a folder for what the model was given.
        size, aspect: of the model's picture; see `sizes.chosen_picture`. force: replace files that fportrait did not
            write, and go on with what is unlike a face. adapter: LoRA weights over the model; see `Animator`.
        profile: is told the seconds of every stage. settings: the other fields of `Request`.

    Returns:
        `video` and `picture`: the files written; `conditions` when asked for.

    Raises:
        UserError: unreadable files, no face or two faces, a bad camera, a model folder with parts missing, an adapter
            of another base, a file of somebody who withdrew (`capture.withdrawn`), an output that cannot be written, is
            one of the inputs, or would replace what fportrait did not write.
    """
    output = Path(output)
    request = Request(Path(portrait), Path(driving), camera, force=force, **settings)
    inputs = [request.portrait, request.driving, request.expression, *request.more]
    check_output(output, inputs, conditions, force)
    refuse_withdrawn(inputs)
    profile = profile or Profile()
    with profile.measured("load"):
        animator = for_portrait(model, request.portrait, size, aspect, adapter, request.portrait_fov, force)
    animator.profile = profile
    if adapter is not None:
        _ = animator.pipeline  # an adapter of another base is refused before a video is tracked
    with profile.measured("track"):
        prepared = animator.prepare(request, report)
    for note in prepared.notes:
        report(f"note: {note}", 0, 0)
    with profile.measured("write"):
        written = write_result(animator, prepared, output, report)
    if conditions is not None:
        written["conditions"] = write_conditions(animator, prepared, Path(conditions))
    return written
