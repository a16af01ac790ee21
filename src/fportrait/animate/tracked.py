"""A picture or video of one person, tracked for animation. Frames are read one by one and not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fportrait.body.model import BodyModel
from fportrait.body.rasterizer import normal_map
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.capture.video_io import iter_video, probe, read_image
from fportrait.dataset.encode import crop_picture, whole_pixels
from fportrait.tracking.clips import Clip, read_landmarks
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import LandmarkModel, bridge_gaps, to_pose
from fportrait.tracking.segments import LOOK_AT, Track, crop_square, track_segments

DEFAULT_FOV = 40.0  # degrees, horizontal, of pictures that do not say
Report = Callable[[str, int, int], None]  # what is being done, how many are done, of how many


@dataclass
class Tracked:
    """`shape` `K`, `track` with `T` frames, `crop` `x0, y0, size` in pixels; `intrinsics` `3 3` (assumed) and `fps` of
    the file."""

    path: Path
    shape: np.ndarray
    track: Track
    crop: tuple[int, int, int]
    intrinsics: np.ndarray
    fps: float
    frames_in_file: int

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

    def pictures(self, numbers: Sequence[int]) -> list[np.ndarray]:
        """Full frames `H W 3` uint8 of some frames in rising order, read again from the file."""
        wanted, last = set(numbers), max(numbers)
        kept = {index: frame for index, frame in enumerate(iter_video(self.path, 0, last + 1)) if index in wanted}
        return [kept[number] for number in numbers]

    def landmarks(self, size: int) -> np.ndarray:
        """Landmarks `T 478 2` in pixels of the model's picture, bridged where the face was lost."""
        seen = self.track.seen[0]
        found = np.flatnonzero(seen.confidence > 0)
        points = bridge_gaps(found, seen.landmarks[found], len(seen.confidence))
        return (points - self.crop[:2]) * size / self.crop[2]

    def crops(self, numbers: Sequence[int], size: int) -> list[np.ndarray]:
        """The model's pictures `S S 3` of some frames."""
        return [crop_picture(frame, self.crop, size) for frame in self.pictures(numbers)]


def track_picture(path: Path, model: LandmarkModel, config: TrackConfig, crop_size: int) -> tuple[Tracked, np.ndarray]:
    """A portrait's track (T = 1) and its picture `H W 3`.

    Raises:
        UserError: not a picture, no face, or two of like size.
    """
    image = read_image(path)
    size = (image.shape[1], image.shape[0])
    return _track(Path(path), iter([image]), size, 25.0, 1, model, config, crop_size), image


def track_video(
    path: Path, model: LandmarkModel, config: TrackConfig, crop_size: int, max_frames: int, report: Report, what: str
) -> Tracked:
    """The track of the first `max_frames` frames of a video of one person with an unknown camera.

    Raises:
        UserError: not a video, no face, two of like size, or a face that is gone too long.
    """
    info = probe(path)
    count = min(info.frames, max_frames)
    frames = _counted(iter_video(path, 0, count), count, report, what)
    return _track(Path(path), frames, (info.width, info.height), info.fps, info.frames, model, config, crop_size)


def _counted(frames: Iterable[np.ndarray], count: int, report: Report, what: str) -> Iterator[np.ndarray]:
    for index, frame in enumerate(frames):
        report(what, index, count)
        yield frame
    report(what, count, count)


def _track(
    path: Path,
    frames: Iterable[np.ndarray],
    size: tuple[int, int],
    fps: float,
    in_file: int,
    model: LandmarkModel,
    config: TrackConfig,
    crop_size: int,
) -> Tracked:
    width, height = size
    side = max(width, height)
    k = intrinsics_from_fov(DEFAULT_FOV, side, side)
    k[0, 2], k[1, 2] = width / 2, height / 2
    # A name, not the path: where a person keeps their files does not belong into a message on a shared screen.
    clip = Clip(path.name, path.name, "", "phone", width, height, k, None)
    seen = read_landmarks(frames, path.name, crop_size, config)
    shape, tracks = track_segments([[(clip, seen)]], model, config)
    track = tracks[0]
    crop = crop_square(track.translations, track.rotations, track.cameras[0], k, config.crop_metres)
    return Tracked(path, shape, track, whole_pixels(crop.tolist()), k, fps, in_file)


def draw_normals(
    body: BodyModel,
    shape: np.ndarray,
    drive: Tracked,
    cameras: np.ndarray,
    intrinsics: np.ndarray,
    size: int,
    numbers: Iterable[int],
) -> Iterator[np.ndarray]:
    """Normal maps `S S 3`, one by one, of a body of `shape` in the driver's poses, seen by `cameras`.

    Args:
        cameras: `N 4 4`. intrinsics: `N 3 3`. numbers: `N` frame numbers of the driver.
    """
    for camera, matrix, number in zip(cameras, intrinsics, numbers, strict=True):
        translation = drive.track.translations[number] - drive.centre
        pose = to_pose(body, shape, drive.track.rotations[number], translation)
        vertices = body.vertices(shape, None, pose)
        yield normal_map(vertices, body.faces, camera, matrix, size, size, 2, body.weld)
