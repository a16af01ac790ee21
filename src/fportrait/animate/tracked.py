"""A picture or video of one person, tracked for animation. Frames are read one by one and not kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fportrait.body.blending import FaceBlend, Texture
from fportrait.body.folds import smooth_folds
from fportrait.body.mesh import turned_by
from fportrait.body.model import BodyModel
from fportrait.body.painting import WARP_SCALE, PortraitPainter, acting_vertices
from fportrait.body.rasterizer import normal_map
from fportrait.body.scene import SceneBlend
from fportrait.body.warping import Target
from fportrait.camera.cameras import in_camera, rectangle_intrinsics
from fportrait.capture.clock import picked
from fportrait.capture.image_io import exposure_note
from fportrait.capture.ingest import FPS_RANGE
from fportrait.capture.video_io import constant_frames, iter_video, probe
from fportrait.dataset.buckets import bucket_crop
from fportrait.dataset.crops import crop_rectangle, whole_pixels
from fportrait.errors import UserError
from fportrait.pixels import Picture
from fportrait.tracking.clips import Clip, read_landmarks
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import LandmarkModel, bridge_gaps, to_pose
from fportrait.tracking.lens import intrinsics_across, picture_fov
from fportrait.tracking.lens_estimate import estimated_lens
from fportrait.tracking.segments import LOOK_AT, Track, crop_square, track_segments
from fportrait.tracking.unlikeness import refuse_unlike

Report = Callable[[str, int, int], None]  # what is being done, how many are done, of how many


@dataclass
class Tracked:
    """`shape` `K`, `track` with `T` frames, `crop` `x0, y0, size` in pixels; `intrinsics` `3 3` and `fps` of the
    file."""

    path: Path
    shape: np.ndarray
    track: Track
    crop: tuple[int, int, int]
    intrinsics: np.ndarray
    fps: float
    frames_in_file: int
    stored: np.ndarray | None = None  # `T` numbers of the file's frames, where its rate was variable
    notes: tuple[str, ...] = ()  # what was done to the file's pictures and times
    start: float = 0.0  # seconds of the file's clock
    sound: bool = False
    offsets: np.ndarray | None = None  # `V 3` of a portrait's own face beside the fitted body; see `tracking.residual`
    own: bool = False  # filmed in the portrait's own scene and fitted with it; see `together`
    code_changes: np.ndarray | None = None  # `T 128` that the pixels of an own scene add to the codes; see `alignment`
    lens_known: bool = True  # given or recorded, and not estimated from the face
    covered: tuple[str, ...] = ()  # parts of a portrait's face that something stands before; see `tracking.covered`
    quarter_turns: int = (
        0  # by which faces stand rolled in the file, clockwise: everything here is of its frames upright
    )

    def __len__(self) -> int:
        return len(self.track.translations)

    @property
    def centre(self) -> np.ndarray:
        """Mean place of the head's centre in the clip's own world."""
        return (self.track.translations + self.track.rotations @ LOOK_AT).mean(0)

    @property
    def reference_camera(self) -> np.ndarray:
        """The first camera, in a world whose origin is the head's centre."""
        camera = self.track.cameras[0].copy()
        camera[:3, 3] += camera[:3, :3] @ self.centre
        return camera

    def pictures(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Full frames `H W 3` uint8 of some frames in rising order, upright, read again from the file, one by one."""
        places = [int(number if self.stored is None else self.stored[number]) for number in numbers]
        for frame in picked(iter_video(self.path, 0, max(places) + 1), places):
            yield np.ascontiguousarray(np.rot90(frame, self.quarter_turns))

    def cut(self, picture: Picture) -> tuple[int, int, int, int]:
        """`x0, y0, width, height` of an upright frame's pixels that a picture shows: the square `crop` where it is
        square, else more of the frame along the long side (`dataset.buckets`)."""
        width, height = (round(2 * middle) for middle in self.intrinsics[:2, 2])
        return bucket_crop(self.crop, picture, (height, width))

    def lens(self, picture: Picture) -> np.ndarray:
        """Intrinsics `3 3` of such a picture."""
        return rectangle_intrinsics(self.intrinsics, self.cut(picture), picture)

    def shown(self, frame: np.ndarray, picture: Picture, filled: bool = False) -> np.ndarray:
        """Such a picture `H W 3` of a full frame, black where the frame has ended, or `filled` as its edge is."""
        return crop_rectangle(frame, self.cut(picture), picture, filled)

    def landmarks(self, size: int | Picture) -> np.ndarray:
        """Landmarks `T 478 2` in pixels of the model's picture, bridged where the face was lost."""
        seen, picture = self.track.seen[0], Picture.of(size)
        found = np.flatnonzero(seen.confidence > 0)
        x0, y0, width, height = self.cut(picture)
        points = bridge_gaps(found, seen.landmarks[found], len(seen.confidence)) - (x0, y0)
        return np.asarray(points * (picture.width, picture.height) / (width, height))

    def each_crop(self, numbers: Sequence[int], size: int | Picture) -> Iterator[np.ndarray]:
        """The model's pictures `H W 3` of some frames, one by one."""
        for frame in self.pictures(numbers):
            yield self.shown(frame, Picture.of(size))

    def crops(self, numbers: Sequence[int], size: int | Picture) -> list[np.ndarray]:
        """All of `each_crop`."""
        return list(self.each_crop(numbers, size))


def face_of(frame: np.ndarray, tracked: Tracked, number: int = 0) -> np.ndarray:
    """The part of an upright frame `H W 3` inside the box of its landmarks; empty where no face was found."""
    points = tracked.track.seen[0].landmarks[number]
    if not np.isfinite(points).all():
        return frame[:0]
    (left, top), (right, bottom) = np.maximum(points.min(0), 0).astype(int), np.ceil(points.max(0)).astype(int)
    return frame[top:bottom, left:right]


def track_video(
    path: Path,
    model: LandmarkModel,
    config: TrackConfig,
    crop_size: int,
    max_frames: int,
    report: Report,
    what: str,
    seconds: float = math.inf,
    fov: float | None = None,
) -> Tracked:
    """The track of a video of one person with an unknown camera; a variable rate is brought to a constant one.

    Args:
        max_frames, seconds: whichever ends first; later frames are left out. fov: degrees across the longer side; None
            estimates them from the face.

    Raises:
        UserError: not a video, no face or nothing like one, two of like size, a face that is gone too long, or a rate
            that nothing has.
    """
    path, info = Path(path), probe(path)
    fps, frames_in_file, stored = info.fps, info.frames, None
    notes = [f"{path.name}: {note}" for note in info.notes]
    if info.variable_rate:
        fps, stored = constant_frames(path)
        frames_in_file = len(stored)
        notes.append(f"{path.name} has a variable frame rate; it was resampled to {fps:g} frames per second")
    if fps > FPS_RANGE[1]:
        raise UserError(f"{fps:.4g} frames per second in {path.name}", "1000 at most", "write it again with its rate")
    count = min(frames_in_file, max_frames, max(1, math.ceil(min(seconds * fps, frames_in_file) - 1e-6)))
    if stored is None:
        source = iter_video(path, 0, count)
    else:
        stored = stored[:count]
        source = picked(iter_video(path, 0, int(stored[-1]) + 1), stored.tolist())
    first: list[np.ndarray] = []
    frames = _counted(_first_kept(source, first), count, report, what)
    fov, told = picture_fov(path, fov)
    intrinsics = intrinsics_across(fov, info.width, info.height)
    tracked = track_frames(path, frames, intrinsics, fps, frames_in_file, model, config, crop_size, told != "assumed")
    burnt = exposure_note(face_of(np.rot90(first[0], tracked.quarter_turns), tracked), path.name)
    notes += [*tracked.notes, *[burnt] * bool(burnt)]
    if tracked.quarter_turns:
        notes.append(f"the face in {path.name} is rolled by {90 * tracked.quarter_turns}°; it is taken as upright")
    return replace(tracked, stored=stored, notes=tuple(notes), start=info.start, sound=info.sound)


def _first_kept(frames: Iterable[np.ndarray], kept: list[np.ndarray]) -> Iterator[np.ndarray]:
    for frame in frames:
        if not kept:
            kept.append(frame)
        yield frame


def _counted(frames: Iterable[np.ndarray], count: int, report: Report, what: str) -> Iterator[np.ndarray]:
    for index, frame in enumerate(frames):
        report(what, index, count)
        yield frame
    report(what, count, count)


def track_frames(
    path: Path,
    frames: Iterable[np.ndarray],
    intrinsics: np.ndarray,
    fps: float,
    in_file: int,
    model: LandmarkModel,
    config: TrackConfig,
    crop_size: int,
    lens_known: bool = True,
) -> Tracked:
    """The track of frames that were read; where faces stand rolled in most of them by quarter turns, of these upright.

    Args:
        intrinsics: `3 3` with the principal point in the picture's middle. lens_known: else they are those of
            `ASSUMED_FOV`, and the face tells better ones.
    """
    seen = read_landmarks(frames, path.name, crop_size, config)
    width, height = (round(2 * middle) for middle in intrinsics[:2, 2])
    seen, turns = seen.upright(width, height)
    if turns % 2:
        width, height, intrinsics = height, width, intrinsics[[1, 0, 2]][:, [1, 0, 2]]
    doubt = refuse_unlike(seen.unlike, path.name, config.force)
    if not lens_known:
        intrinsics = estimated_lens(model, seen, intrinsics)
    # A name, not the path: where a person keeps their files does not belong into a message on a shared screen.
    clip = Clip(path.name, path.name, "", "phone", width, height, intrinsics, None, fps)
    shape, tracks = track_segments([[(clip, seen)]], model, config)
    track = tracks[0]
    crop = crop_square(track.translations, track.rotations, track.cameras[0], intrinsics, config.crop_metres)
    notes = (doubt,) if doubt else ()
    cut = whole_pixels(crop.tolist())
    told = (path, shape, track, cut, intrinsics, fps, in_file)
    return Tracked(*told, notes=notes, lens_known=lens_known, quarter_turns=turns)


def draw_normals(
    body: BodyModel,
    shape: np.ndarray,
    drive: Tracked,
    cameras: np.ndarray,
    intrinsics: np.ndarray,
    picture: Picture,
    numbers: Sequence[int],
) -> Iterator[np.ndarray]:
    """Normal maps `H W 3`, one by one, of a body of `shape` in the driver's poses, seen by `cameras`.

    Args:
        cameras: `N 4 4`. intrinsics: `N 3 3`. numbers: `N` frame numbers of the driver.
    """
    for camera, matrix, vertices in zip(cameras, intrinsics, posed(body, shape, drive, numbers), strict=True):
        yield normal_map(vertices, body.faces, camera, matrix, *picture, 2, body.weld)


def posed(
    body: BodyModel,
    shape: np.ndarray,
    drive: Tracked,
    numbers: Sequence[int],
    actions: Sequence[np.ndarray | None] | None = None,
    offsets: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Vertices `V 3` of a body of `shape` in the driver's poses, in a world whose origin is the head's centre.

    Args:
        actions: `52` of every number's frame, for a body that acts; None of a face at rest.
        offsets: `V 3` in the head's axes, added to the body's own surface.
    """
    for number, acted in zip(numbers, actions or [None] * len(numbers), strict=True):
        translation = drive.track.translations[number] - drive.centre
        pose = to_pose(body, shape, drive.track.rotations[number], translation)
        vertices = acting_vertices(body, shape, acted, pose)
        yield vertices if offsets is None else vertices + offsets @ drive.track.rotations[number].T


# Degrees up to which a painted portrait is trusted as ever, and from which not at all.
TRUSTED_TURN = 60.0, 85.0


def trust_in(paint: PortraitPainter, target: Target, vertices: np.ndarray) -> np.ndarray:
    """`PortraitPainter.trust` of a portrait turned to `vertices` `V 3` before the camera: the further the less, because
    what is dragged along beside a silhouette is not what stands beside the one that comes into view."""
    near, far = TRUSTED_TURN
    share = np.clip((far - turned_by(paint.vertices, vertices)) / (far - near), 0, 1)
    return np.asarray(paint.trust(target) * share + 0.5, np.uint8)


def far_turn_notes(person: Tracked, drive: Tracked, cameras: np.ndarray) -> list[str]:
    """A sentence where a portrait is turned further than it is trusted, by a driver's head and by cameras `N 4 4`
    together, each of which may be within its own bounds."""
    from scipy.spatial.transform import Rotation

    own = person.reference_camera[:3, :3] @ person.track.rotations[0]
    views = cameras[:, :3, :3] @ drive.track.rotations[: len(cameras)]
    turned = float(np.degrees(Rotation.from_matrix(views @ own.T).magnitude()).max())
    if turned <= TRUSTED_TURN[0]:
        return []
    return [
        f"the head is turned up to {turned:.0f}° from where {person.path.name} shows it: beyond {TRUSTED_TURN[0]:.0f}° "
        "most of what comes into view is made up; turn head and camera less, or take a portrait from that side"
    ]


def portrait_painter(
    body: BodyModel,
    of: Tracked,
    picture: np.ndarray,
    own_actions: np.ndarray | None,
    samples: int = WARP_SCALE,
    others: Sequence[PortraitPainter] = (),
    matte: np.ndarray | None = None,
) -> PortraitPainter:
    """What paints a tracked portrait's picture `H W 3`; arguments as `paint_portrait` has them."""
    vertices = in_camera(next(posed(body, of.shape, of, [0], [own_actions], of.offsets)), of.reference_camera)
    lens, covered = of.lens(Picture(*picture.shape[:2])), ("mouth" in of.covered, "eyes" in of.covered)
    return PortraitPainter(body, picture, vertices, lens, samples, others, matte, *covered)


def paint_portrait(
    body: BodyModel,
    person: Tracked,
    portrait: np.ndarray,
    drive: Tracked,
    cameras: np.ndarray,
    intrinsics: np.ndarray,
    numbers: Sequence[int],
    own_actions: np.ndarray | None = None,
    actions: Sequence[np.ndarray | None] | None = None,
    samples: int = WARP_SCALE,
    others: Sequence[tuple[Tracked, np.ndarray, np.ndarray | None]] = (),
    trusted: list[np.ndarray] | None = None,
    matte: np.ndarray | None = None,
    film: Sequence[Texture] = (),
    scene: Callable[[np.ndarray], SceneBlend | None] | None = None,
) -> Iterator[np.ndarray]:
    """The portrait `H W 3` painted on its body and drawn in the driver's poses, one by one; see `draw_normals`.

    Args:
        samples: of `PortraitPainter`. others: further portraits of the person: track, picture and own actions.
        own_actions, actions: how the portrait's body acts, and how it shall in each of the frames; see `posed`.
        trusted: takes up how far each picture is trusted (`trust_in`). matte: of `PortraitPainter`.
        film: frames of the person that the face is painted from, too (`body.blending`); where actions are given.
        scene: makes what paints around the face, of the gains of the film's light (`body.scene`).
    """

    painters = [portrait_painter(body, of, picture, acted, samples) for of, picture, acted in others]
    paint = portrait_painter(body, person, portrait, own_actions, samples, painters, matte)
    blend = FaceBlend(paint, own_actions, film) if film and own_actions is not None else None
    surroundings = scene(blend.gains) if blend is not None and scene is not None else None
    acted = actions or [None] * len(numbers)
    every = posed(body, person.shape, drive, numbers, actions, person.offsets)
    for camera, matrix, vertices, acts in zip(cameras, intrinsics, every, acted, strict=True):
        before_camera = in_camera(vertices, camera)
        target = Target(before_camera, matrix, body.faces, portrait.shape[:2], samples)
        if trusted is not None:
            trusted.append(trust_in(paint, target, before_camera))
        drawn = (surroundings or paint).paint(target)
        if blend is not None and acts is not None:
            drawn = blend.paint(drawn, target, acts)
        yield smooth_folds(drawn, target, paint) if samples == 1 and matte is not None else drawn
