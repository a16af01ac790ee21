"""The embedded world: people who exist nowhere, filmed as real people would be.

`write_embedded_world` leaves PhoneCapture and StudioCapture folders as a user would bring them, and the truth behind
them in a folder of its own that only tests and evaluation open. `sample_training_clip` gives single clips with
everything known, for pretraining. Every identity is a pure function of (configuration, seed, index).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.atomic_io import atomic_folder, atomic_path, write_json
from fportrait.body.model import BodyModel, Pose, load_body
from fportrait.camera.cameras import intrinsics_from_fov, look_at
from fportrait.capture.motion import Motion, sample_motion, smooth_degrees
from fportrait.capture.people import Person, render, sample_person
from fportrait.capture.video_io import write_video
from fportrait.errors import UserError, nearest_name, refuse_unknown_keys

HEAD_TARGET = np.array([0.0, -0.005, 0.02])  # where cameras look: between eyes and chin, hair included in the view
VIEW_METRES = 0.30  # side of the square a model's picture spans at the head's distance
CAMERA_DEGREES_PER_SECOND = 25.0 * 25 / 9  # 25 degrees in nine frames at 25 frames per second
TRAINING_KINDS = ("phone", "studio", "view_sweep", "dynamic_sweep", "faces")
FIRST_TRAINING_SEED = 2**31  # captures use seeds below, so no captured person is ever pretrained on
PHONE_MOTIONS = ("rotation", "expressions", "speech", "mixed")
STUDIO_MOTIONS = ("expressions", "speech", "mixed", "rotation")


@dataclass(frozen=True)
class WorldConfig:
    """How much is filmed. Sizes in pixels, distances in metres."""

    phone_identities: int = 6
    phone_clips: int = 3
    phone_frames: int = 50
    studio_identities: int = 3
    studio_cameras: int = 7
    studio_segments: int = 2
    studio_frames: int = 40
    size: int = 256
    fps: float = 25.0
    phone_distance: float = 0.55
    phone_fov_degrees: float = 38.0
    studio_distance: float = 0.9
    studio_yaw_degrees: float = 75.0
    supersample: int = 2
    crf: float = 14.0
    variety: float = 0.0  # of the people: 0 plain, 1 wild (`fportrait.capture.variety`)

    def __post_init__(self) -> None:
        for name in (
            "phone_clips",
            "phone_frames",
            "studio_cameras",
            "studio_segments",
            "studio_frames",
            "supersample",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)}", "at least 1", f"raise {name}")
        if (
            self.phone_identities < 0
            or self.studio_identities < 0
            or self.phone_identities + self.studio_identities == 0
        ):
            raise UserError("no identities to film", "at least one", "raise phone_identities or studio_identities")
        if not 0 <= self.variety <= 1:
            raise UserError(f"variety = {self.variety:g}", "0 (plain) to 1 (wild)", "choose one between")
        if self.size < 16:
            raise UserError(f"size = {self.size}", "at least 16 pixels", "raise size")


@dataclass(frozen=True)
class IdentityUnit:
    """One identity to film: what an engine's map gets."""

    dataset: str
    index: int
    seed: int
    config: WorldConfig
    root: str
    truth_root: str

    @property
    def identity(self) -> str:
        return f"{'phone' if self.dataset == 'PhoneCapture' else 'studio'}{self.index:04d}"

    @property
    def person_seed(self) -> int:
        return self.seed * 10_000 + (5_000 if self.dataset == "StudioCapture" else 0) + self.index


def write_embedded_world(
    root: str | Path,
    truth_root: str | Path,
    config: WorldConfig | Mapping[str, Any] | None = None,
    seed: int = 0,
    map_function: Callable[..., Iterable[Any]] = map,
) -> list[str]:
    """Film everybody; captures go to `root/phone` and `root/studio`, truth to `truth_root/DATASET/IDENTITY/*.npz`.

    Args:
        map_function: applied to `(film_identity, units)`; results may come at any pace, which is progress.

    Returns:
        `dataset/identity` of everybody filmed.

    Raises:
        UserError: an unknown or impossible setting, a seed out of range, a full disk.
    """
    units = world_units(root, truth_root, config, seed)
    return list(map_function(film_identity, units))


def world_units(
    root: str | Path, truth_root: str | Path, config: WorldConfig | Mapping[str, Any] | None = None, seed: int = 0
) -> list[IdentityUnit]:
    """The units of `write_embedded_world`, for an engine that wants to hash or schedule them itself."""
    if not isinstance(config, WorldConfig):
        refuse_unknown_keys(config or {}, [f.name for f in fields(WorldConfig)], "the embedded world's configuration")
        config = WorldConfig(**(config or {}))
    if not 0 <= seed < 200_000:
        raise UserError(f"the world seed {seed}", "0 to 199999", "choose a smaller seed")
    if max(config.phone_identities, config.studio_identities) > 5_000:
        raise UserError(
            "more than 5000 identities of one kind", "at most 5000 per seed", "split them over several seeds"
        )
    counts = {"PhoneCapture": config.phone_identities, "StudioCapture": config.studio_identities}
    return [
        IdentityUnit(dataset, index, seed, config, str(root), str(truth_root))
        for dataset, count in counts.items()
        for index in range(count)
    ]


def film_identity(unit: IdentityUnit) -> str:
    """Film one identity; its folder appears as a whole or not at all."""
    body = load_body()
    person = sample_person(unit.person_seed, body, unit.config.variety)
    rng = np.random.default_rng([unit.person_seed, 1])
    if unit.dataset == "PhoneCapture":
        _film_phone(unit, body, person, rng)
    else:
        _film_studio(unit, body, person, rng)
    return f"{unit.dataset}/{unit.identity}"


def sample_training_clip(
    rng: np.random.Generator,
    body: BodyModel,
    kind: str,
    frames: int,
    size: int,
    person: Person | None = None,
    fps: float = 25.0,
    supersample: int | None = None,
    variety: float = 0.0,
) -> dict[str, Any]:
    """One clip as the model sees it, with everything known; a fresh person of `variety` unless one is given.

    Args:
        kind: "phone" (static front), "studio" (static, within 55 degrees of yaw and 18 of elevation), "view_sweep" (the
            camera moves, the person holds still), "dynamic_sweep" (everything moves) or "faces" (camera and pose hold
            still, every frame another face: pictures, not a video).
        supersample: samples per pixel and side; by default 2 up to 128 pixels and 1 above.

    Returns:
        `person`, `person_seed`, `video` (T, size, size, 3) uint8, `actions` (T, 52), `poses` (T `Pose`s), `shape` (K,),
        `world_to_camera` (T, 4, 4), `intrinsics` (3, 3).

    Raises:
        UserError: an unknown kind.
    """
    if kind not in TRAINING_KINDS:
        near = nearest_name(kind, TRAINING_KINDS) or TRAINING_KINDS[0]
        raise UserError(f"the clip kind '{kind}'", f"one of {', '.join(TRAINING_KINDS)}", f"use '{near}'")
    if person is None:
        person = sample_person(int(rng.integers(FIRST_TRAINING_SEED, 2**53)), body, variety)
    if kind == "view_sweep":
        motion = sample_motion("still", frames, rng, fps)
    elif kind == "faces":
        motion = sample_motion("faces", frames, rng, fps)
    else:
        names = ("expressions", "speech", "mixed", "rotation")
        motion = sample_motion(names[rng.choice(4, p=[0.35, 0.2, 0.35, 0.1])], frames, rng, fps)
    if kind in ("view_sweep", "dynamic_sweep"):
        angles = smooth_degrees(frames, fps, rng, np.array([50.0, 18.0]), CAMERA_DEGREES_PER_SECOND)
    else:
        reach = np.array({"phone": [6.0, 6.0], "studio": [55.0, 18.0], "faces": [30.0, 12.0]}[kind])
        angles = np.repeat(rng.uniform(-1, 1, (1, 2)) * reach, frames, axis=0)
    distance = rng.uniform(0.45, 0.9)
    target = HEAD_TARGET + rng.uniform(-1, 1, 3) * 0.01
    cameras = np.stack([orbit_camera(yaw, up, distance, target) for yaw, up in angles])
    fov = 2 * np.degrees(np.arctan(0.5 * VIEW_METRES / distance))
    intrinsics = intrinsics_from_fov(float(fov), size, size)
    samples = supersample or (2 if size <= 128 else 1)
    video = np.stack(
        [
            render(person, actions, pose, camera, intrinsics, size, samples, body)
            for actions, pose, camera in zip(motion.actions, motion.poses, cameras, strict=True)
        ]
    )
    return {
        "person": person,
        "person_seed": person.seed,
        "video": video,
        "actions": motion.actions,
        "poses": motion.poses,
        "shape": person.identity,
        "world_to_camera": cameras,
        "intrinsics": intrinsics,
    }


def orbit_camera(yaw_degrees: float, elevation_degrees: float, distance: float, target: np.ndarray) -> np.ndarray:
    """`world_to_camera` (4, 4) of a camera around `target`; positive yaw sees the person's left side."""
    yaw, up = np.radians([yaw_degrees, elevation_degrees])
    offset = distance * np.array([np.sin(yaw) * np.cos(up), np.sin(up), np.cos(yaw) * np.cos(up)])
    return look_at(np.asarray(target) + offset, np.asarray(target))


def _frames(
    person: Person, motion: Motion, camera: np.ndarray, intrinsics: np.ndarray, config: WorldConfig, body: BodyModel
) -> Iterator[np.ndarray]:
    for actions, pose in zip(motion.actions, motion.poses, strict=True):
        yield render(person, actions, pose, camera, intrinsics, config.size, config.supersample, body)


def _film_phone(unit: IdentityUnit, body: BodyModel, person: Person, rng: np.random.Generator) -> None:
    config = unit.config
    intrinsics = intrinsics_from_fov(config.phone_fov_degrees, config.size, config.size)
    with atomic_folder(Path(unit.root) / "phone" / unit.identity) as folder:
        write_json(folder / "capture.json", {"horizontal_fov_degrees": config.phone_fov_degrees})
        for clip in range(config.phone_clips):
            # Everyone begins elsewhere: with one clip each, nobody would ever have moved the face.
            kind = PHONE_MOTIONS[(unit.index + clip) % len(PHONE_MOTIONS)]
            name = f"{clip:02d}_{kind}"
            motion = sample_motion(kind, config.phone_frames, rng, config.fps)
            target = HEAD_TARGET + rng.uniform(-1, 1, 3) * 0.008
            yaw, elevation = rng.uniform(-4, 4, 2)
            camera = orbit_camera(yaw, elevation, config.phone_distance * rng.uniform(0.96, 1.04), target)
            frames = _frames(person, motion, camera, intrinsics, config, body)
            write_video(folder / f"{name}.mp4", frames, config.fps, config.crf)
            _write_truth(unit, name, person, motion, {"phone": camera}, intrinsics)


def _film_studio(unit: IdentityUnit, body: BodyModel, person: Person, rng: np.random.Generator) -> None:
    config = unit.config
    cameras = studio_cameras(config, rng)
    fov = 2 * np.degrees(np.arctan(0.5 * 1.25 * VIEW_METRES / config.studio_distance))
    intrinsics = intrinsics_from_fov(float(fov), config.size, config.size)
    size = {"width": config.size, "height": config.size}
    entries = {
        name: {**size, "intrinsics": intrinsics.tolist(), "world_to_camera": camera.tolist()}
        for name, camera in cameras.items()
    }
    with atomic_folder(Path(unit.root) / "studio" / unit.identity) as folder:
        write_json(folder / "calibration.json", {"units": "m", "cameras": entries})
        for segment in range(config.studio_segments):
            kind = STUDIO_MOTIONS[segment % len(STUDIO_MOTIONS)]
            name = f"{segment:02d}_{kind}"
            motion = sample_motion(kind, config.studio_frames, rng, config.fps)
            for camera_name, camera in cameras.items():
                frames = _frames(person, motion, camera, intrinsics, config, body)
                write_video(folder / name / f"{camera_name}.mp4", frames, config.fps, config.crf)
            _write_truth(unit, name, person, motion, cameras, intrinsics)


def studio_cameras(config: WorldConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Cameras spread evenly over the yaw range at varied elevations; `cam00` is the one nearest the front."""
    count = config.studio_cameras
    step = 2 * config.studio_yaw_degrees / max(count - 1, 1)
    yaws = np.linspace(-config.studio_yaw_degrees, config.studio_yaw_degrees, count) if count > 1 else np.zeros(1)
    yaws = np.clip(yaws + rng.uniform(-0.2, 0.2, count) * step, -config.studio_yaw_degrees, config.studio_yaw_degrees)
    heights = np.array([0.0, 18.0, -12.0, 8.0])[np.arange(count) % 4] + rng.uniform(-4, 4, count)
    order = np.argsort(np.abs(yaws), kind="stable")
    heights[0] = rng.uniform(-4, 4)
    return {
        f"cam{i:02d}": orbit_camera(yaws[k], heights[i], config.studio_distance, HEAD_TARGET)
        for i, k in enumerate(order)
    }


def _write_truth(
    unit: IdentityUnit,
    segment: str,
    person: Person,
    motion: Motion,
    cameras: Mapping[str, np.ndarray],
    intrinsics: np.ndarray,
) -> None:
    poses: list[Pose] = motion.poses
    target = Path(unit.truth_root) / unit.dataset / unit.identity / f"{segment}.npz"
    with atomic_path(target) as path, open(path, "wb") as sink:
        np.savez_compressed(
            sink,
            person_seed=np.int64(person.seed),
            shape=person.identity,
            actions=motion.actions,
            body_rotation=np.stack([pose.body_rotation for pose in poses]),
            body_translation=np.stack([pose.body_translation for pose in poses]),
            head_rotation=np.stack([pose.head_rotation for pose in poses]),
            camera_names=np.array(list(cameras)),
            world_to_camera=np.stack(list(cameras.values())),
            intrinsics=np.stack([intrinsics] * len(cameras)),
        )
