"""What is asked of an animation, and what its files turned out to be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fportrait.animate.film import Frame
from fportrait.animate.matching import Response
from fportrait.animate.tracked import Tracked
from fportrait.animate.viewpoint import Viewpoint
from fportrait.capture.clock import rows_at
from fportrait.diffusion.factors import FACTORS
from fportrait.errors import UserError


@dataclass(frozen=True)
class Request:
    """One video to make. Each factor has a source of its own.

    Args:
        portrait: a picture with one face: identity. driving: a video: head pose, and expression unless `expression` is
            given. expression: another video, whose expressions are used; the shorter of the two decides the length.
        more: further pictures of the portrait's person, for what the first does not see, such as a side of the head; of
            models that read the painted portrait.
        camera: see `fportrait.animate.viewpoint`.
        guidance: scale per factor (expression, pose, view, identity), in place of the model's own; 1 costs nothing, any
            other value one more model call per step. steps: sampling steps; None takes the model's own.
        scale: enlarges the written video, for viewing. max_frames: longer videos are cut there, and the cut is said.
        sound: keep the sound of the video that the lips come from, or else of the other.
        neutral: what is done with the face at rest of whom the expressions come from: `auto` estimates it from the clip
            and puts the portrait's in its place, a frame's number names it, `off` leaves the expressions as they are.
        adjust: strengths of expression sliders (`fportrait.animate.retarget`), added in every frame: eyes wider, lips
            parted, whatever the driver does.
        fov, portrait_fov: fields of view across the longer side, degrees, of the videos and of the portrait; None takes
            the picture's record (EXIF), or else what the face tells (`tracking.lens_estimate`).
        force: go on with what is unlike a face. as_filmed: the portrait is a frame of a video, and no further turned
            upright than one (`portrait.track_picture`).

    The driving video's clock is the result's: its rate, or a constant one in place of a variable one. Expressions and
    the cameras of a file with an `fps` are taken at the same seconds.
    """

    portrait: Path
    driving: Path
    camera: str = "front"
    expression: Path | None = None
    guidance: Mapping[str, float] = field(default_factory=dict)
    steps: int | None = None
    seed: int = 0
    scale: int = 4
    max_frames: int = 250
    sound: bool = True
    neutral: str = "auto"
    adjust: Mapping[str, float] = field(default_factory=dict)
    fov: float | None = None
    portrait_fov: float | None = None
    force: bool = False
    more: Sequence[Path] = ()
    as_filmed: bool = False


@dataclass
class Prepared:
    """A request whose files were tracked: what the model will be given."""

    request: Request
    person: Tracked
    drive: Tracked
    express: Tracked
    image: np.ndarray  # the portrait, H W 3
    view: Viewpoint
    notes: list[str]
    others: list[tuple[Tracked, np.ndarray]] = field(default_factory=list)  # further portraits, with their pictures
    film: list[Frame] = field(default_factory=list)  # of the person, that an adapter carries
    response: Response | None = None  # how the portrait's scores answer its actions, once it was asked for

    def __len__(self) -> int:
        return len(self.view.world_to_camera)

    def express_rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each frame the expression's frame before, the one after, and the share of the latter, at its second."""
        seconds = np.arange(len(self)) / self.drive.fps
        return rows_at(seconds, self.express.fps, len(self.express))

    def express_numbers(self, numbers: Sequence[int]) -> list[int]:
        """The expression's frames nearest to some of the result's."""
        before, after, share = self.express_rows()
        return np.where(share < 0.5, before, after)[list(numbers)].tolist()

    @property
    def sound(self) -> Tracked | None:
        """The video whose sound is kept: that of the lips, else the other."""
        clips = (self.express, self.drive) if self.request.sound else ()
        return next((clip for clip in clips if clip.sound), None)


def clock_notes(drive: Tracked, express: Tracked, frames: int) -> list[str]:
    """What happened to the videos' pictures and times: conversions, two rates, and what was left out at the end."""
    clips = [drive] if express is drive else [drive, express]
    notes = [note for clip in clips for note in clip.notes]
    if abs(drive.fps - express.fps) > 1e-3 * drive.fps:
        notes.append(
            f"{drive.path.name} has {drive.fps:.5g} frames per second and {express.path.name} {express.fps:.5g}: "
            "they were aligned in seconds"
        )
    for clip in clips:
        used = math.ceil(frames / drive.fps * clip.fps - 1e-6)
        if clip.frames_in_file > used:
            notes.append(f"{clip.path.name} was cut after {used} of its {clip.frames_in_file} frames")
    return notes


def check_guidance(guidance: Mapping[str, float]) -> None:
    """Refuse unknown factors and scales that only break pictures.

    Raises:
        UserError: either of these; NaN is out of range too.
    """
    for factor, value in guidance.items():
        if factor not in FACTORS or not 0 <= value <= 20:
            raise UserError(
                f"guidance {factor}={value:g}", f"one of {', '.join(FACTORS)} and a scale from 0 to 20", "change it"
            )
