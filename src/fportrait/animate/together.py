"""A portrait and a video that was filmed in the portrait's own scene, fitted as one person.

One picture tells little of the shape of a head, and what it leaves open, pose takes up: of two fits with own shapes,
a head stands a pixel or two from where it is in the video, which between two people nobody could tell, but of the same
face costs 2 to 9 dB (docs/small-base.md). So where the video continues the portrait's own picture, both are fitted
with one shape, and the video's expressions need no other face at rest: they are the portrait's.

Whether it does is seen, not guessed from a name or a face network: the portrait, painted on the common body in the
video's poses, must look like the video. In 8 talking clips against their own first and last frames and 24 pictures of
others (five of them of the same person elsewhere) the likeness was .91 to 1.00 and at most .78.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from fportrait.animate.tracked import Tracked, paint_portrait
from fportrait.body.model import BodyModel
from fportrait.camera.cameras import crop_intrinsics
from fportrait.dataset.crops import crop_picture
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import LandmarkModel
from fportrait.tracking.segments import track_segments

ALIKE = 0.85  # likeness from which a video counts as the portrait's own scene
LOOKED_AT = (0, 12, 24)  # frames: early ones, so that a long video is not read twice
SIZE = 64  # pixels of the pictures that are compared
SAME_SHAPE = 0.02  # difference of the logarithms of two pictures' sides up to which one may be of the other


def in_one_scene(
    person: Tracked, image: np.ndarray, drive: Tracked, body: BodyModel, model: LandmarkModel, config: TrackConfig
) -> tuple[Tracked, Tracked] | None:
    """The portrait and the video fitted with one shape, the latter marked as `own`; None if it is another scene.

    Args:
        person, image: the portrait's track and upright picture `H W 3`. drive: the video's track.
    """
    portrait, video = as_one_person(person, drive, model, config)
    return (portrait, video) if resemblance(portrait, image, video, body) >= ALIKE else None


def as_one_person(
    person: Tracked, drive: Tracked, model: LandmarkModel, config: TrackConfig
) -> tuple[Tracked, Tracked]:
    """The portrait and a video of the same person fitted with one shape and lens, the latter marked as `own`."""
    person, drive = through_one_lens(person, drive)
    segments = [[(tracked.track.clips[0], tracked.track.seen[0])] for tracked in (person, drive)]
    shape, (of_person, of_drive) = track_segments(segments, model, config)
    return replace(person, shape=shape, track=of_person), replace(drive, shape=shape, track=of_drive, own=True)


def through_one_lens(person: Tracked, drive: Tracked) -> tuple[Tracked, Tracked]:
    """The portrait and the video with one field of view, where their pictures are alike in shape and it was estimated
    for one of them at least: the other's is taken, or of two estimates the video's, which saw more."""
    sizes = [2 * tracked.intrinsics[:2, 2] for tracked in (person, drive)]
    alike = np.ptp(np.log(sizes[0] / sizes[1])) < SAME_SHAPE
    if not alike or (person.lens_known and drive.lens_known):
        return person, drive
    if person.lens_known:
        return person, _through(drive, person)
    return _through(person, drive), drive


def _through(tracked: Tracked, other: Tracked) -> Tracked:
    """A track before it is fitted anew, with another's field of view."""
    lens, factor = tracked.intrinsics.copy(), tracked.intrinsics[0, 2] / other.intrinsics[0, 2]
    lens[[0, 1], [0, 1]] = other.intrinsics[[0, 1], [0, 1]] * factor
    track = replace(tracked.track, clips=[replace(tracked.track.clips[0], intrinsics=lens)])
    return replace(tracked, intrinsics=lens, track=track, lens_known=other.lens_known)


def resemblance(
    person: Tracked, image: np.ndarray, drive: Tracked, body: BodyModel, looked_at: Sequence[int] = LOOKED_AT
) -> float:
    """How much the portrait painted in the video's poses looks like the video, over the face: the best correlation of
    grey levels among a few frames, in -1..1, whatever their light."""
    numbers = [number for number in looked_at if number < len(drive)]
    lens = crop_intrinsics(drive.intrinsics, drive.crop, SIZE)
    cameras = np.repeat(drive.reference_camera[None], len(numbers), 0)
    portrait = crop_picture(image, person.crop, SIZE)
    lenses = np.repeat(lens[None], len(numbers), 0)
    painted = paint_portrait(body, person, portrait, drive, cameras, lenses, numbers)
    points = drive.landmarks(SIZE)[numbers]
    pairs = zip(painted, drive.crops(numbers, SIZE), points, strict=True)
    return max(_correlation(a, b, around) for a, b, around in pairs)


def _correlation(a: np.ndarray, b: np.ndarray, points: np.ndarray) -> float:
    """Of two pictures' grey levels in the box of landmarks `478 2`; 0 where the face lies outside."""
    low, high = np.clip(points.min(0), 0, SIZE).astype(int), np.clip(np.ceil(points.max(0)), 0, SIZE).astype(int)
    if (high - low).min() < 4:
        return 0.0
    box = (slice(low[1], high[1]), slice(low[0], high[0]))
    x, y = (cv2.GaussianBlur(cv2.cvtColor(one, cv2.COLOR_RGB2GRAY), (0, 0), 1.0)[box].ravel() for one in (a, b))
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / max(np.sqrt((x @ x) * (y @ y)), 1e-9))
