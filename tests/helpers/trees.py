"""Miniature captures in every layout that can be imported: real little videos, pictures, archives and tables."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from fportrait.camera.cameras import intrinsics_from_fov, look_at
from fportrait.capture.video_io import write_video


def audio_only(path):
    """A film without pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


def pictures(path: Path | str, frames: int, height: int, width: int) -> np.ndarray:
    """Frames whose content differs from that of every other path."""
    start = zlib.crc32(str(path).encode())
    ramp = np.arange(frames * height * width * 3, dtype=np.uint32).reshape(frames, height, width, 3)
    return ((ramp + start % 24832) // (61 + start // 24832 % 97) % 256).astype(np.uint8)


def clip(path: Path, frames: int = 6, height: int = 32, width: int = 48, **options) -> Path:
    return write_video(path, pictures(path, frames, height, width), **options)


def variable_clip(path: Path, milliseconds=(0, 40, 80, 120, 240, 280, 320)) -> Path:
    """A video whose frames lie at the given times; a frame's brightness is its number times 30."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 30 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def ring(count: int, distance: float = 1.0, spread_degrees: float = 120.0) -> list[np.ndarray]:
    """`world_to_camera` of cameras on an arc in front of the origin, at three heights."""
    angles = np.radians(np.linspace(-spread_degrees / 2, spread_degrees / 2, count))
    heights = [0.0, 0.35, -0.3]
    eyes = [
        distance * np.array([np.sin(a), heights[i % 3], np.cos(a)]) / np.hypot(1, heights[i % 3])
        for i, a in enumerate(angles)
    ]
    return [look_at(eye, np.zeros(3)) for eye in eyes]


def calibration(cameras=("cam00", "cam01"), height: int = 32, width: int = 48) -> dict:
    intrinsics = intrinsics_from_fov(40, width, height).tolist()
    matrices = ring(len(cameras))
    return {
        "units": "m",
        "cameras": {
            name: {"width": width, "height": height, "intrinsics": intrinsics, "world_to_camera": matrix.tolist()}
            for name, matrix in zip(cameras, matrices, strict=True)
        },
    }


def studio(folder: Path, segments=("s0",), cameras=("cam00", "cam01"), edit=None, frames: int = 6) -> Path:
    content = calibration(cameras)
    if edit:
        edit(content)
    folder.mkdir(parents=True)
    (folder / "calibration.json").write_text(json.dumps(content))
    for segment in segments:
        for camera in cameras:
            clip(folder / segment / f"{camera}.mp4", frames)
    return folder


def ava_cameras(names, metres_matrices) -> dict:
    """`camera_calibration.json` of a dome in the frame of its front camera, 1 m from the head, in millimetres."""
    flip, head = np.diag([1.0, -1.0, -1.0]), np.array([10.0, -20.0, 1000.0])  # x right, y down, z away
    entries = []
    for name, matrix in zip(names, metres_matrices, strict=True):
        rotation = matrix[:3, :3] @ flip  # our world seen from the dome's
        translation = 1000 * matrix[:3, 3] - rotation @ head
        intrinsics = np.array([[10000.0, 0, 1334], [0, 10000, 2048], [0, 0, 1]])
        whole = np.block([[rotation, translation[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])
        entries.append(
            {
                "cameraId": name,
                "projectionModel": "Pinhole",
                "distortionModel": "RadialAndTangential",
                "K": intrinsics.T.tolist(),
                "distortion": [-0.07, 0.04, -0.003, 0.003],
                "T": whole.T.tolist(),
            }
        )
    return {"KRT": entries}


def ava256(root: Path, cameras: int = 4, frames: int = 12, step: int = 4, suffix: str = "avif") -> Path:
    """One capture of Ava-256: two segments of `frames` frames, every `step`-th of the dome's thirty per second."""
    capture = root / "m--20220101--1200--ABC123--GHS"
    decoder = capture / "decoder"
    (decoder / "image").mkdir(parents=True)
    names = [f"40{i:04d}" for i in range(cameras)]
    (decoder / "camera_calibration.json").write_text(json.dumps(ava_cameras(names, ring(cameras))))
    numbers = {
        "EXP_jaw": [1000 + step * i for i in range(frames)],
        "SEN_rose": [3000 + step * i for i in range(frames)],
    }
    lines = ["seg_id,frame_id", *(f"{segment},{n}" for segment, all_n in numbers.items() for n in all_n)]
    (decoder / "frame_list.csv").write_text("\n".join(lines) + "\n")
    for name in names:
        with zipfile.ZipFile(decoder / "image" / f"cam{name}.zip", "w") as archive:
            images = pictures(name, 2 * frames, 64, 42)
            for number, image in zip([n for all_n in numbers.values() for n in all_n], images, strict=True):
                sink = io.BytesIO()
                Image.fromarray(image).save(sink, suffix)
                archive.writestr(f"cam{name}/{number:06d}.{suffix}", sink.getvalue())
    return capture


def nersemble(root: Path, participant: str = "017", cameras: int = 5, sequences=("EXP-3-cheeks+nose", "FREE")) -> Path:
    folder = root / participant
    serials = [f"2222000{36 + i}" for i in range(cameras)]
    tilt = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0.0]])  # a world whose z points up
    poses = {}
    for serial, matrix in zip(serials, ring(cameras), strict=True):
        moved = matrix.copy()
        moved[:3, :3] = matrix[:3, :3] @ tilt.T
        moved[:3, 3] = matrix[:3, 3] - moved[:3, :3] @ np.array([0.1, 0.2, 1.1])
        poses[serial] = moved.tolist()
    intrinsics = [[8187.0, 0, 1099.7], [0, 8187.0, 1604.1], [0, 0, 1]]
    (folder / "calibration").mkdir(parents=True)
    (folder / "calibration/camera_params.json").write_text(json.dumps({"world_2_cam": poses, "intrinsics": intrinsics}))
    (folder / "sequences/BACKGROUND").mkdir(parents=True)
    for sequence in sequences:
        for serial in serials:
            clip(folder / "sequences" / sequence / "images" / f"cam_{serial}.mp4", 6, 64, 44, fps=73)
    return folder


def movement(frames: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The movement keys that Seamless Interaction's V00 files have, with the shapes and types seen there."""
    rng = np.random.default_rng(seed)
    valid = np.ones((frames, 1), np.float32)
    arrays = {
        "movement:expression": rng.normal(size=(frames, 128)).astype(np.float32),
        "movement:alignment_head_rotation": rng.normal(size=(frames, 3)).astype(np.float32),
        "movement:alignment_translation": rng.normal(size=(frames, 2, 3)).astype(np.float32),
        "movement:is_valid": valid,
        "movement:FAUValue": np.zeros((frames, 24), np.float32),
        "smplh:is_valid": np.ones(frames, bool),
    }
    for key in list(arrays)[:3]:
        arrays[key][0] = 0
    valid[0] = 0
    return arrays


def seamless(root: Path, name: str = "V00_S0809_I00000582_P0947", frames: int = 8, features: int | None = 8) -> Path:
    folder = root / "improvised/dev/0000/0005"
    clip(folder / f"{name}.mp4", frames, fps=30)
    if features is not None:
        np.savez_compressed(folder / f"{name}.npz", **movement(features))
    (folder / f"{name}.json").write_text(json.dumps({"id": name, "metadata:transcript": [], "metadata:vad": []}))
    return folder / f"{name}.mp4"
