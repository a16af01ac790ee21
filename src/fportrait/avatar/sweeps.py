"""Clips that no camera took: an avatar under a moving camera, with annotations that are exact.

A *ViewSweep* clip freezes one frame of the person's capture and moves the camera alone. A *DynamicSweep* clip plays a
stretch of the capture, expression and pose, while the camera moves, and looks at the stretch's mean head centre; the
clips of a person come from different segments of the capture, and where it has fewer, from different places in them.
Cameras move on ovals (spin) or on curves through random positions (spiral).

What a clip shows is a pure function of the avatar, the annotations, the parameters, the seed and the clip's number. Its
video is named by a hash of all of these: a job that died finds what it has finished and renders only the rest.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fportrait.atomic_io import value_hash
from fportrait.avatar.captures import HEAD_RADIUS
from fportrait.avatar.coverage import Coverage, inside, without_gaps
from fportrait.avatar.model import GaussianAvatar
from fportrait.avatar.splat import render, splatting_device
from fportrait.avatar.views import CaptureFrame, combine_rows, rows_by_frame
from fportrait.errors import UserError
from fportrait.parameters import settings_from
from fportrait.provenance import SYNTHETIC

if TYPE_CHECKING:
    import pandas as pd

VIEW_SWEEP, DYNAMIC_SWEEP = "ViewSweep", "DynamicSweep"
CAMERA = "sweep"
# Largest values; at an elevation of 90 degrees a camera has no way up.
LIMITS = {
    "spin_yaw_degrees": 180.0,
    "spiral_yaw_degrees": 180.0,
    "spin_elevation_degrees": 80.0,
    "spiral_elevation_degrees": 80.0,
    "spin_share_view": 1.0,
    "spin_share_dynamic": 1.0,
}
GOLDEN = (5**0.5 - 1) / 2  # steps of it around a circle stay as far apart as can be, however many there are


@dataclass(frozen=True)
class SweepConfig:
    """What is rendered per identity. Defaults are the small world's; the paper has 128 and 32 clips of 100 and 128
    frames at 1024².

    Spins swing `spin_yaw_degrees` to either side and rise by at most `spin_elevation_degrees`; spirals pass through
    `spiral_seeds` random positions within ±`spiral_yaw_degrees` and ±`spiral_elevation_degrees`. `spin_share_view` and
    `spin_share_dynamic`: the share of spins among a dataset's clips, the others are spirals. A stretch shorter than a
    dynamic clip is played forth and back. normals: write the clips' normal maps as videos too; training makes its own
    from the annotations. device: `cpu`, or `cuda` with gsplat.
    """

    clips_view: int = 6
    clips_dynamic: int = 6
    frames_view: int = 33
    frames_dynamic: int = 33
    size: int = 128
    fov_degrees: float = 72.0
    distance_min: float = 0.25
    distance_max: float = 0.40
    spin_yaw_degrees: float = 45.0
    spin_elevation_degrees: float = 5.0
    spiral_yaw_degrees: float = 90.0
    spiral_elevation_degrees: float = 20.0
    spiral_seeds: int = 4
    spin_share_view: float = 0.5
    spin_share_dynamic: float = 0.5
    fps: float = 25.0
    crf: int = 12
    normals: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class SweepClip:
    """One clip before it is rendered: per frame a pose with its code, and a camera."""

    dataset: str
    identity: str
    segment: str
    path_kind: str
    frames: list[CaptureFrame]
    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    size: int


def sweep_config(values: Mapping[str, Any]) -> SweepConfig:
    """A `SweepConfig` from a mapping.

    Raises:
        UserError: unknown keys, or numbers that cannot be rendered.
    """
    config = settings_from(SweepConfig, values, "the parameters of render_sweeps")
    if not HEAD_RADIUS <= config.distance_min <= config.distance_max:
        raise UserError(
            f"camera distances from {config.distance_min} to {config.distance_max} m",
            f"a range above {HEAD_RADIUS} m, outside the head",
            "mend distance_min and distance_max",
        )
    if (
        min(config.frames_view, config.frames_dynamic, config.size) < 1
        or min(config.clips_view, config.clips_dynamic) < 0
    ):
        raise UserError("a clip without frames or pixels", "positive numbers", "mend frames_view, frames_dynamic, size")
    if not 0 < config.fov_degrees < 170:
        raise UserError(f"a field of view of {config.fov_degrees} degrees", "0 to 170", "mend fov_degrees")
    for name, most in LIMITS.items():
        if not 0 <= getattr(config, name) <= most:
            raise UserError(f"{name} = {getattr(config, name)}", f"0 to {most:g}", f"mend render_sweeps' {name}")
    if config.spiral_seeds < 1:
        raise UserError(f"spiral_seeds = {config.spiral_seeds}", "at least 1", "mend render_sweeps' spiral_seeds")
    return config


def plan_sweeps(avatar: GaussianAvatar, table: pd.DataFrame, config: SweepConfig, seed: int) -> list[SweepClip]:
    """Draw every clip of one identity; each depends on `seed` and its own number only.

    Args:
        table: that identity's rows of `tracks/frames.parquet` (its studio capture).
    """
    from fportrait.camera.cameras import intrinsics_from_fov
    from fportrait.camera.paths import spin_path, spiral_path

    identities = sorted(set(table["identity"]))
    if len(identities) != 1:
        raise UserError(
            f"{len(identities)} identities in one table", "the rows of one identity", "filter the table first"
        )
    identity = identities[0]
    frames = [combine_rows(rows) for rows in rows_by_frame(table).values()]
    seen = Coverage.told(avatar.scores)
    if seen is not None:
        config, frames = inside(seen, config, frames, identity)
    segments: dict[str, list[CaptureFrame]] = {}
    for frame in frames:
        segments.setdefault(frame.segment, []).append(frame)
    if seen is not None:
        segments = without_gaps(segments)
    intrinsics = intrinsics_from_fov(config.fov_degrees, config.size, config.size)
    identity_number = int(hashlib.sha256(identity.encode()).hexdigest()[:8], 16)
    spins = {
        False: math.floor(config.spin_share_view * config.clips_view + 0.5),
        True: math.floor(config.spin_share_dynamic * config.clips_dynamic + 0.5),
    }
    clips = []
    for number in range(config.clips_view + config.clips_dynamic):
        dynamic = number >= config.clips_view
        index = number - config.clips_view if dynamic else number
        rng = np.random.default_rng([seed, identity_number, int(dynamic), index])
        if dynamic:
            stretch = _stretch(segments, config.frames_dynamic, [seed, identity_number], index)
        else:
            stretch = [frames[rng.integers(len(frames))]] * config.frames_view
        spin = index < spins[dynamic]
        target = head_centre(avatar, stretch)
        distance = (config.distance_min, config.distance_max)
        if spin:
            cameras = spin_path(
                len(stretch),
                rng,
                distance=distance,
                elevation_degrees=config.spin_elevation_degrees,
                yaw_degrees=config.spin_yaw_degrees,
                target=target,
            )
        else:
            cameras = spiral_path(
                len(stretch),
                rng,
                distance=distance,
                yaw_degrees=config.spiral_yaw_degrees,
                elevation_degrees=config.spiral_elevation_degrees,
                seeds=config.spiral_seeds,
                target=target,
            )
        clips.append(
            SweepClip(
                DYNAMIC_SWEEP if dynamic else VIEW_SWEEP,
                identity,
                f"{'dynamic' if dynamic else 'view'}{index:03d}",
                "spin" if spin else "spiral",
                stretch,
                np.asarray(cameras, dtype=np.float64),
                intrinsics,
                config.size,
            )
        )
    return clips


def render_sweeps(
    avatar: GaussianAvatar,
    table: pd.DataFrame,
    config: SweepConfig,
    seed: int,
    folder: str | Path,
    published: str = "data/03_primary/sweeps/clips",
) -> pd.DataFrame:
    """Render one identity's sweeps and annotate them.

    Args:
        table: that identity's rows of `tracks/frames.parquet`. seed: of the whole stage.
        folder: where the videos go, as `NAME.mp4`; a whole video of that name is kept as it is. Normal maps, if asked
            for, go to `normals/` beside it.
        published: the folder, relative to the project root, in which the table's `path` will find them.

    Returns:
        rows in the schema of `tracks/frames.parquet`, one per rendered frame.

    Raises:
        UserError: not one identity; see also `sweep_config` and `write_video`.
    """
    import pandas as pd

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = fingerprint(avatar)
    avatar.to(splatting_device(config.device))
    split = str(table["split"].iloc[0])
    tables = []
    for clip in plan_sweeps(avatar, table, config, seed):
        name = f"{clip.identity}-{clip.segment}-{clip_hash(clip, state, config)}.mp4"
        if not _is_whole(folder / name, len(clip.frames)):
            _write_clip(avatar, clip, folder / name, config)
        if config.normals and not _is_whole(folder.parent / "normals" / name, len(clip.frames)):
            _write_normals(avatar, clip, folder.parent / "normals" / name, config)
        tables.append(_rows(avatar, clip, split, f"{published}/{name}"))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def fingerprint(avatar: GaussianAvatar) -> str:
    """Hash of everything an avatar's pictures depend on."""
    digest = hashlib.sha256(repr((asdict(avatar.config), avatar.shape.tolist())).encode())
    for key, tensor in sorted(avatar.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def clip_hash(clip: SweepClip, avatar_state: str, config: SweepConfig) -> str:
    """Sixteen digits that name a clip by what it shows."""
    motion = hashlib.sha256(clip.world_to_camera.tobytes())
    for frame in clip.frames:
        for array in (frame.pose.body_rotation, frame.pose.body_translation, frame.pose.head_rotation, frame.code):
            motion.update(np.ascontiguousarray(array).tobytes())
    return value_hash([avatar_state, motion.hexdigest(), clip.intrinsics.tolist(), clip.size, config.fps, config.crf])


@torch.no_grad()
def render_clip(avatar: GaussianAvatar, clip: SweepClip) -> np.ndarray:
    """(T, H, W, 3) uint8."""
    pictures = np.empty((len(clip.frames), clip.size, clip.size, 3), dtype=np.uint8)
    last = None
    for index, frame in enumerate(clip.frames):
        if frame is not last:  # a still person is posed once, whatever the camera does
            last, guide = frame, avatar.guide(frame.pose)
            code = avatar.check_code(frame.code).to(avatar.background.device)
            flat, light = avatar.without_view(avatar.expression(code), guide)
        camera = clip.world_to_camera[index]
        parts = avatar.seen_from(flat, light, guide, camera)
        colour, _, _ = render(*parts, camera, clip.intrinsics, clip.size, clip.size, avatar.background)
        # in place: at a million pixels, copies would cost as much as a tenth of the rasterizing
        pictures[index] = colour.mul_(255).add_(0.5).clamp_(0, 255).to(torch.uint8).cpu().numpy()
    return pictures


def head_centre(avatar: GaussianAvatar, frames: list[CaptureFrame]) -> np.ndarray:
    """(3,) mean place of the head's centre, world."""
    return np.mean([avatar.body.head_centre(avatar.shape, frame.pose) for frame in frames], axis=0)


def sweep_landmarks(avatar: GaussianAvatar, frame: CaptureFrame) -> np.ndarray:
    """(478, 3) world positions of the face landmarks; one that the body model lacks takes its nearest neighbour's."""
    body = avatar.body
    code = avatar.check_code(frame.code).to(avatar.background.device)
    strengths = avatar.expression(code).actions.detach().clamp(0, 1).cpu().numpy().astype(np.float64)
    vertices = np.asarray(body.vertices(avatar.refined_shape, strengths, frame.pose))
    corners = vertices[np.asarray(body.faces)[np.asarray(body.landmark_triangles)]]
    places = (corners * np.asarray(body.landmark_barycentric)[:, :, None]).sum(axis=1)
    return places[_stand_ins(body)]


def _stand_ins(body) -> np.ndarray:
    """(478,) for each landmark itself, or the valid one with the nearest number: neighbours in the list are neighbours
    in the face more often than not, and there is no position to go by."""
    valid = np.flatnonzero(np.asarray(body.landmark_valid))
    numbers = np.arange(len(body.landmark_valid))
    return valid[np.abs(numbers[:, None] - valid[None, :]).argmin(axis=1)]


def _stretch(
    segments: Mapping[str, list[CaptureFrame]], length: int, seed: list[int], index: int
) -> list[CaptureFrame]:
    """`length` frames of the capture for dynamic clip `index`; a shorter segment is played forth and back.

    Clips go through the segments in a shuffled order, so that none is played again before all have been; clips of one
    segment start at places far from each other.
    """
    turn, place = divmod(index, len(segments))
    name = sorted(segments)[np.random.default_rng([*seed, 2, turn]).permutation(len(segments))[place]]
    segment = segments[name]
    offset = np.random.default_rng([*seed, 3, *name.encode()]).random()
    start = (offset + turn * GOLDEN) % 1
    if len(segment) >= length:
        first = int(start * (len(segment) - length + 1))
        return segment[first : first + length]
    period = segment + segment[-2:0:-1]
    first = int(start * len(period))
    return [period[(first + i) % len(period)] for i in range(length)]


def _is_whole(path: Path, length: int) -> bool:
    from fportrait.capture.video_io import probe

    if not path.is_file():
        return False
    try:
        return probe(path).frames == length
    except UserError:
        return False


def _write_clip(avatar: GaussianAvatar, clip: SweepClip, path: Path, config: SweepConfig) -> None:
    from fportrait.capture.video_io import write_video

    write_video(path, render_clip(avatar, clip), fps=config.fps, crf=config.crf, metadata=SYNTHETIC)


def _write_normals(avatar: GaussianAvatar, clip: SweepClip, path: Path, config: SweepConfig) -> None:
    """Normal maps of the expression-neutral mesh, in the conventions of the data contracts."""
    from fportrait.body.rasterizer import normal_map
    from fportrait.capture.video_io import write_video

    body, size = avatar.body, clip.size
    maps = []
    for frame, camera in zip(clip.frames, clip.world_to_camera, strict=True):
        vertices = body.vertices(avatar.refined_shape, None, frame.pose)
        maps.append(normal_map(vertices, body.faces, camera, clip.intrinsics, size, size, weld=body.weld))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.stack(maps), fps=config.fps, crf=config.crf, metadata=SYNTHETIC)


def _rows(avatar: GaussianAvatar, clip: SweepClip, split: str, path: str) -> pd.DataFrame:
    """The clip's rows of the annotation table."""
    import pandas as pd

    from fportrait.camera.cameras import project

    landmarks: dict[int, np.ndarray] = {}
    rows = []
    for index, frame in enumerate(clip.frames):
        if id(frame) not in landmarks:
            landmarks[id(frame)] = sweep_landmarks(avatar, frame)
        pixels, _ = project(landmarks[id(frame)], clip.world_to_camera[index], clip.intrinsics)
        rows.append(
            {
                "dataset": clip.dataset,
                "identity": clip.identity,
                "clip": f"{clip.identity}/{clip.segment}/{CAMERA}",
                "camera": CAMERA,
                "segment": clip.segment,
                "split": split,
                "path": path,
                "frame": index,
                "width": clip.size,
                "height": clip.size,
                "world_to_camera": clip.world_to_camera[index].ravel().tolist(),
                "intrinsics": clip.intrinsics.ravel().astype(float).tolist(),
                "crop": [0.0, 0.0, float(clip.size)],
                "body_rotation": np.asarray(frame.pose.body_rotation, dtype=float).ravel().tolist(),
                "head_rotation": np.asarray(frame.pose.head_rotation, dtype=float).ravel().tolist(),
                "body_translation": np.asarray(frame.pose.body_translation, dtype=float).ravel().tolist(),
                "expression_code": frame.code.astype(np.float32),
                "landmarks": pixels.astype(np.float32).ravel(),
                "confidence": 1.0,
            }
        )
    table = pd.DataFrame(rows)
    return table.astype({"frame": "int32", "width": "int32", "height": "int32", "confidence": "float32"})
