"""One portrait, one driving video and one camera path in, a video out.

The head's middle becomes the world's origin in both the portrait and the driving video, so that a camera path means the
same for everyone: the front camera stands at +z, at the distance the model was trained with. Pose and expression come
from the driving video, body shape and appearance from the portrait.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fportrait import __version__
from fportrait.body.model import BodyModel, load_body
from fportrait.body.rasterizer import normal_map
from fportrait.bundle import BundleSettings, read_settings
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.camera.paths import front_path, load_camera_path, spin_path, spiral_path
from fportrait.camera.rays import fold_rays, plucker_rays
from fportrait.capture.video_io import probe, read_image, read_video, write_image, write_video
from fportrait.dataset.encode import crop_picture, whole_pixels
from fportrait.errors import UserError, nearest_name
from fportrait.tracking.fit import LandmarkModel, to_pose
from fportrait.tracking.track import (
    LOOK_AT,
    Clip,
    Track,
    TrackConfig,
    crop_square,
    read_landmarks,
    segment_codes,
    track_segments,
)

CAMERAS = ("front", "spin", "spiral")
MAX_YAW = 50.0  # degrees of the named paths: as far as the small base was trained
DEFAULT_FOV = 40.0  # degrees, horizontal, of pictures that do not say


@dataclass
class Tracked:
    """A picture or video with its track. `frames` `T H W 3` uint8, `shape` `K`, `crop` `x0, y0, size`."""

    frames: np.ndarray
    shape: np.ndarray
    track: Track
    crop: tuple[int, int, int]

    @property
    def middle(self) -> np.ndarray:
        """Mean place of the head's middle in the clip's own world."""
        return (self.track.translations + self.track.rotations @ LOOK_AT).mean(0)


def track_frames(frames: np.ndarray, name: str, model: LandmarkModel, config: TrackConfig, crop_size: int) -> Tracked:
    """Track one clip (or one picture, T = 1) of one person with an unknown camera.

    Raises:
        UserError: no face, or two of like size.
    """
    height, width = frames.shape[1:3]
    side = max(height, width)
    k = intrinsics_from_fov(DEFAULT_FOV, side, side)
    k[0, 2], k[1, 2] = width / 2, height / 2
    clip = Clip(name, name, "", "phone", width, height, k, None)
    seen = read_landmarks(frames, name, crop_size, config)
    shape, tracks = track_segments([[(clip, seen)]], model, config)
    track = tracks[0]
    crop = crop_square(track.translations, track.rotations, track.cameras[0], k, config.crop_metres)
    return Tracked(frames, shape, track, whole_pixels(crop.tolist()))


def camera_path(camera: str, frames: int, settings: BundleSettings, seed: int) -> np.ndarray:
    """World-to-camera matrices `T 4 4` around a head at the origin.

    Raises:
        UserError: neither a named path nor a readable camera file.
    """
    rng = np.random.default_rng(seed)
    distance = settings.camera_distance
    reach = (0.95 * distance, 1.1 * distance)
    if camera == "front":
        return front_path(frames, distance)
    if camera == "spin":
        return spin_path(frames, rng, reach, yaw_degrees=MAX_YAW)
    if camera == "spiral":
        return spiral_path(frames, rng, reach, yaw_degrees=MAX_YAW, elevation_degrees=15.0)
    if not camera.endswith(".json"):
        near = nearest_name(camera, CAMERAS)
        raise UserError(
            f"the camera '{camera}'", "front, spin, spiral or a .json file of cameras",
            f"write '{near}'" if near else "choose one of them",
        )  # fmt: skip
    return load_camera_path(camera, frames)


def animate(
    portrait: Path,
    driving: Path,
    camera: str,
    output: Path,
    model: Path,
    steps: int | None = None,
    seed: int = 0,
    scale: int = 4,
    progress: bool = False,
    max_frames: int = 250,
) -> dict[str, Path]:
    """Animate `portrait` with the expressions and head pose of `driving`, seen along `camera`.

    Args:
        camera: front, spin, spiral, or a JSON file of cameras around a head at the origin.
        model: a bundle folder. scale: enlarges the written video, for viewing.
        max_frames: longer driving videos are cut there, and the cut is said.

    Returns:
        `video` and `picture`: the files written.

    Raises:
        UserError: unreadable files, no face or two faces, a bad camera, a model folder with parts missing.
    """
    import torch

    from fportrait.tracking.expression import ExpressionEncoder

    output = Path(output)
    if output.suffix.lower() != ".mp4":
        raise UserError(f"the output {output}", "a name that ends with .mp4", f"write to {output.with_suffix('.mp4')}")
    settings = read_settings(model)
    encoder = ExpressionEncoder.from_pretrained(Path(model) / "expression_encoder")
    body, size = load_body(), settings.size
    landmarks = LandmarkModel(body)
    config = TrackConfig(camera_distance=settings.camera_distance, crop_metres=settings.crop_metres)

    person = track_frames(read_image(portrait)[None], str(portrait), landmarks, config, encoder.crop_size)
    info = probe(driving)
    frames = min(info.frames, max_frames)
    drive = track_frames(read_video(driving, 0, frames), str(driving), landmarks, config, encoder.crop_size)
    codes = segment_codes(drive.track, encoder)
    cameras = camera_path(camera, frames, settings, seed)

    # One frame repeated at the end makes up 4k+1; the surplus is cut off again.
    padded = np.minimum(np.arange(-(-(frames - 1) // 4) * 4 + 1), frames - 1)
    intrinsics = square_intrinsics(settings)
    normals = draw_normals(body, person.shape, drive, cameras, intrinsics, size)
    rays = fold_rays(plucker_rays(cameras[padded], intrinsics, reference_camera(person), size, size))
    reference = crop_picture(person.frames[0], person.crop, size)

    pipeline = load_pipeline(model, settings)
    pipeline.set_progress_bar_config(disable=not progress, desc="sample", leave=False)
    result = pipeline(
        reference,
        torch.from_numpy(rays)[None],
        normals[padded],
        torch.from_numpy(codes[padded])[None],
        num_inference_steps=steps or settings.steps,
        generator=torch.Generator().manual_seed(seed),
    )
    video = result.frames[0][:frames]
    write_video(output, enlarge(video, scale), fps=info.fps, metadata={"comment": provenance(model)})
    picture = output.with_suffix(".png")
    write_image(picture, side_by_side(reference, drive, normals, video, size))
    written = {"video": output, "picture": picture}
    if frames == max_frames and info.frames > max_frames:
        print(f"the driving video was cut after {max_frames} of its {info.frames} frames")
    return written


def square_intrinsics(settings: BundleSettings) -> np.ndarray:
    """Intrinsics of the model's picture for a head at the training distance."""
    focal = settings.size * settings.camera_distance / settings.crop_metres
    return np.array([[focal, 0, settings.size / 2], [0, focal, settings.size / 2], [0, 0, 1.0]])


def reference_camera(person: Tracked) -> np.ndarray:
    """The portrait's camera in a world whose origin is the head's middle."""
    camera = person.track.cameras[0].copy()
    camera[:3, 3] += camera[:3, :3] @ person.middle
    return camera


def draw_normals(
    body: BodyModel, shape: np.ndarray, drive: Tracked, cameras: np.ndarray, intrinsics: np.ndarray, size: int
) -> np.ndarray:
    """Normal maps `T S S 3` of the portrait's body in the driver's poses, seen by `cameras`."""
    maps = []
    for rotation, translation, camera in zip(
        drive.track.rotations, drive.track.translations - drive.middle, cameras, strict=True
    ):
        pose = to_pose(body, shape, rotation, translation)
        vertices = body.vertices(shape, None, pose)
        maps.append(normal_map(vertices, body.faces, camera, intrinsics, size, size, 2, body.weld))
    return np.stack(maps)


def load_pipeline(model: Path, settings: BundleSettings) -> Any:
    """The sampling pipeline of a bundle, in float32."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    from fportrait.diffusion.codec import load_vae
    from fportrait.diffusion.pipeline import FactorPortraitPipeline
    from fportrait.diffusion.transformer import FactorPortraitTransformer

    return FactorPortraitPipeline(
        FactorPortraitTransformer.from_pretrained(Path(model) / "transformer", torch_dtype=torch.float32).eval(),
        load_vae(Path(model) / "vae"),
        FlowMatchEulerDiscreteScheduler(shift=settings.shift),
        window_frames=settings.frames,
    )


def enlarge(video: np.ndarray, scale: int) -> np.ndarray:
    side = video.shape[1] * scale
    return np.stack([cv2.resize(frame, (side, side), interpolation=cv2.INTER_CUBIC) for frame in video])


def provenance(model: Path) -> str:
    """Written into every video: it says that the video is synthetic and what made it."""
    return f"synthetic: generated by fportrait {__version__} with {Path(model).name}; not a recording"


def side_by_side(
    reference: np.ndarray, drive: Tracked, normals: np.ndarray, video: np.ndarray, size: int, columns: int = 8
) -> np.ndarray:
    """Rows of driving frames, normal maps and results over time, the portrait at the left; uint8."""
    cell = max(96, size * 2)
    times = np.linspace(0, len(video) - 1, min(columns, len(video))).round().astype(int)

    def row(label: str, pictures: list[np.ndarray], first: np.ndarray | None) -> np.ndarray:
        cells = [np.full((cell, cell, 3), 255, np.uint8) if first is None else first, *pictures]
        cells = [cv2.resize(c, (cell, cell), interpolation=cv2.INTER_CUBIC) for c in cells]
        ink = (0, 0, 0) if first is None else (255, 255, 255)
        cv2.putText(cells[0], label, (6, cell - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.4, ink, 1, cv2.LINE_AA)
        return np.hstack(cells)

    return np.vstack(
        [
            row("driving", [crop_picture(drive.frames[t], drive.crop, size) for t in times], None),
            row("pose", [normals[t] for t in times], None),
            row("portrait, result", [video[t] for t in times], reference),
        ]
    )
