"""Camera paths of an animation: named ones, one through key positions, or a camera file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fportrait.animate.tracked import Tracked
from fportrait.bundle import BundleSettings
from fportrait.camera.conventions import Sight, focus, likely, moved_to, sight, upright_axes
from fportrait.camera.files import CameraFile, read_camera_file
from fportrait.camera.paths import front_path, orbit, spin_path, spiral_path
from fportrait.errors import UserError, nearest_name
from fportrait.pixels import Picture

CAMERAS = ("front", "spin", "spiral")
ENOUGH = 0.75  # share of frames that must show the head where another convention would show it in all
MOST_KEYS = 100
KEY_LIMITS = {"yaw": (-90.0, 90.0), "elevation": (-60.0, 60.0), "distance": (0.5, 2.0)}


@dataclass(frozen=True)
class Viewpoint:
    """`world_to_camera` `T 4 4` around a head at the origin; `intrinsics` `T 3 3` in pixels of the model's picture.

    `notes`: what was made of a camera file that its owner would want to know.
    """

    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    notes: tuple[str, ...] = ()

    def padded(self, frames: int) -> Viewpoint:
        """The last camera repeated until there are `frames`."""
        rows = np.minimum(np.arange(frames), len(self.world_to_camera) - 1)
        return Viewpoint(self.world_to_camera[rows], self.intrinsics[rows], self.notes)


@dataclass(frozen=True)
class Framing:
    """The model's picture, and the place in it, `x, y` pixels, that its own camera looks at: where the middle of the
    square around the head is. In a square it is the middle; in a rectangle the head stays where the portrait has it."""

    picture: Picture
    centre: tuple[float, float]

    @classmethod
    def of(cls, person: Tracked, picture: Picture) -> Framing:
        """That of a portrait."""
        x0, y0, width, height = person.cut(picture)
        along_x = (person.crop[0] - x0) * picture.width / width
        along_y = (person.crop[1] - y0) * picture.height / height
        return cls(picture, (along_x + picture.short / 2, along_y + picture.short / 2))

    @property
    def off_middle(self) -> tuple[float, float]:
        """Pixels from the picture's middle to `centre`."""
        return self.centre[0] - self.picture.width / 2, self.centre[1] - self.picture.height / 2

    def intrinsics(self, settings: BundleSettings) -> np.ndarray:
        """Intrinsics `3 3` for a head at the training distance."""
        matrix = square_intrinsics(settings)
        matrix[:2, 2] = self.centre
        return matrix


def viewpoint(
    camera: str,
    frames: int,
    settings: BundleSettings,
    seed: int,
    fps: float | None = None,
    framing: Framing | None = None,
) -> Viewpoint:
    """The viewpoint that `camera` asks for.

    Args:
        camera: front, spin, spiral; key positions `YAW,ELEVATION[,DISTANCE]; …` (degrees, degrees, times the model's
            own distance), passed through smoothly at even times; or the path of a camera file (.json).
        fps: frames per second of the video; a camera file with a rate of its own is read at the same times.
        framing: of the picture; None is the model's square.

    Raises:
        UserError: none of these, key positions out of range, or a camera file under which the head is never in the
            picture (the convention that its matrices probably follow is named).
    """
    framing = framing or square_framing(settings)
    if camera.lower().endswith(".json"):
        return file_viewpoint(camera, frames, settings, fps, framing)
    intrinsics = np.repeat(framing.intrinsics(settings)[None], frames, axis=0)
    return Viewpoint(camera_path(camera, frames, settings, seed), intrinsics)


def file_viewpoint(
    camera: str, frames: int, settings: BundleSettings, fps: float | None, framing: Framing
) -> Viewpoint:
    """The viewpoint of a camera file; see `viewpoint`."""
    content, name = read_camera_file(camera, frames, fps), Path(camera).name
    notes = [f"{name}: {note}" for note in content.notes]
    if content.fps is not None and fps is not None and abs(content.fps - fps) > 1e-3 * fps:
        notes.append(f"{name} has {content.fps:.4g} cameras a second, read at the video's {fps:.4g} frames a second")
    if content.intrinsics is None:
        intrinsics = np.repeat(framing.intrinsics(settings)[None], frames, axis=0)
    else:
        intrinsics = np.stack([fit_intrinsics(matrix, framing.picture) for matrix in content.intrinsics])
    cameras = content.world_to_camera
    found = sight(cameras, intrinsics, framing.picture)
    if found.whole < 1 and not content.located:
        cameras = _around_the_head(content, intrinsics, settings, name)
        notes.append(
            f"{name} does not say where the head is: the place that its cameras look at was taken, "
            + ("in metres" if content.metric else "and their mean distance was set to the model's")
        )
        found = sight(cameras, intrinsics, framing.picture)
    if found.whole < 1:
        notes += _explain(cameras, intrinsics, framing.picture, found, name)
    return Viewpoint(cameras, intrinsics, tuple(notes))


def _around_the_head(content: CameraFile, intrinsics: np.ndarray, settings: BundleSettings, name: str) -> np.ndarray:
    """The cameras of a file in an unknown world, in ours.

    Raises:
        UserError: they look at no common place, or do not say where up and front are.
    """
    centre = focus(content.world_to_camera)
    axes = None if centre is None else upright_axes(content.world_to_camera, centre)
    if centre is None or axes is None:
        raise UserError(
            f"{content.layout}'s cameras in {name}, which look at no common place from the front",
            "a path around a head",
            "write world_to_camera matrices in metres with the head's middle at the origin",
        )
    cameras = moved_to(content.world_to_camera, centre)
    cameras[:, :3, :3] = cameras[:, :3, :3] @ axes.T
    if not content.metric:
        distances = np.linalg.norm(cameras[:, :3, 3], axis=1)
        widths = distances * settings.size / intrinsics[:, 0, 0]
        cameras[:, :3, 3] *= settings.crop_metres / widths.mean()
    return cameras


def _explain(cameras: np.ndarray, intrinsics: np.ndarray, picture: Picture, found: Sight, name: str) -> list[str]:
    """Notes on a path that does not show the head, upright and from the front, in every frame.

    Raises:
        UserError: it never shows it, or in few frames while another convention explains all of them.
    """
    other, count = likely(cameras, intrinsics, picture), len(cameras)
    if found.seen == 0 or (other and found.whole < ENOUGH):
        how = f"the head is in the picture in {round(found.seen * count)} of {count} frames"
        if found.seen in (0, 1):
            how = "the head is from behind or upside down" if found.seen else f"the head is {found.fault}"
        fix = "check the camera's convention, unit and origin"
        if other:
            fix = f"these look like {other[0]}, under which it is in all {count} frames: {other[1]}"
        raise UserError(
            f"a camera path in {name} under which {how}",
            "world-to-camera matrices of OpenCV (x right, y down, z forward), in metres, the head at the origin",
            fix,
        )
    if found.seen == 1:
        return []  # from the side of training or not: `training_fit` tells
    hint = f"; read as {other[0]}, it would be in all" if other else ""
    return [f"the head is in the picture in {round(found.seen * count)} of {count} frames of {name}{hint}"]


def camera_path(camera: str, frames: int, settings: BundleSettings, seed: int) -> np.ndarray:
    """World-to-camera matrices `T 4 4` of a viewpoint; see `viewpoint`."""
    rng = np.random.default_rng(seed)
    distance = settings.camera_distance
    reach = (0.95 * distance, 1.1 * distance)
    if camera == "front":
        return front_path(frames, distance)
    yaw, turn = settings.moving_yaw, settings.trained_turn
    oval = int(np.ceil(2 * np.pi * yaw / turn))  # frames of a whole one; a shorter video shows a part of it
    if camera == "spin":
        return spin_path(max(frames, oval), rng, reach, yaw_degrees=yaw)[:frames]
    if camera == "spiral":  # steeper between two seeds than an oval anywhere, by 0.3 at most over 300 of them
        length, elevation = max(frames, oval * 4 // 3), min(15.0, settings.trained_elevation)
        return spiral_path(length, rng, reach, yaw_degrees=yaw, elevation_degrees=elevation)[:frames]
    if camera.lower().endswith(".json"):
        return file_viewpoint(camera, frames, settings, None, square_framing(settings)).world_to_camera
    if re.search(r"\d", camera):
        return key_path(parse_keys(camera), frames, distance)
    near = nearest_name(camera, CAMERAS)
    raise UserError(
        f"the camera '{camera}'",
        "front, spin, spiral, key positions such as '-40,0; 40,10', or a .json file of cameras",
        f"write '{near}'" if near else "choose one of them",
    )


def parse_keys(text: str) -> list[tuple[float, float, float]]:
    """Key positions `(yaw, elevation, distance)` of a text such as `-40,0; 0,10,0.9; 40,0`.

    Raises:
        UserError: not numbers, or out of range.
    """
    keys = []
    if text.count(";") > MOST_KEYS:
        raise UserError(f"{text.count(';') + 1} key positions", f"at most {MOST_KEYS}", "write a camera file instead")
    for part in filter(str.strip, text.split(";")):
        try:
            values = [float(number) for number in part.split(",")]
        except ValueError:
            values = []
        if len(values) not in (2, 3):
            raise UserError(
                f"the key position '{part.strip()}'", "YAW,ELEVATION or YAW,ELEVATION,DISTANCE", "write e.g. -40,0,1"
            )
        key = (*values, 1.0)[:3]
        for (name, (low, high)), value in zip(KEY_LIMITS.items(), key, strict=True):
            if not low <= value <= high:
                raise UserError(f"{name} {value:g} in a key position", f"{low:g} to {high:g}", "move it into the range")
        keys.append((key[0], key[1], key[2]))
    if not keys:
        raise UserError("no key position", "one at least", "write e.g. '-40,0; 40,10'")
    return keys


def key_path(keys: Sequence[tuple[float, float, float]], frames: int, distance: float) -> np.ndarray:
    """Cameras `T 4 4` that pass key positions at even times; monotone pieces between them, so none is overshot."""
    points = np.array(keys, np.float64) * [1, 1, distance]
    if len(points) == 1 or frames == 1:
        rows = np.repeat(points[:1], frames, axis=0)
    else:
        from scipy.interpolate import PchipInterpolator  # half a second with what it brings, for a camera that moves

        rows = PchipInterpolator(np.linspace(0, frames - 1, len(points)), points)(np.arange(frames))
    return orbit(*rows.T)


def square_framing(settings: BundleSettings) -> Framing:
    """That of the model's square."""
    return Framing(settings.square, (settings.size / 2, settings.size / 2))


def square_intrinsics(settings: BundleSettings) -> np.ndarray:
    """Intrinsics `3 3` of the model's square for a head at the training distance."""
    focal = settings.size * settings.camera_distance / settings.crop_metres
    return np.array([[focal, 0, settings.size / 2], [0, focal, settings.size / 2], [0, 0, 1.0]])


def fit_intrinsics(intrinsics: np.ndarray, picture: Picture) -> np.ndarray:
    """A camera file's intrinsics `3 3` for a picture.

    A camera file does not tell the size of its picture, which is taken as 2·cx by 2·cy. Ours is the largest rectangle
    of its shape around the principal point: of a centred 1920×1080 camera a square is the central 1080 pixels.

    Raises:
        UserError: the principal point is not inside a picture.
    """
    shorter = 2 * min(intrinsics[0, 2], intrinsics[1, 2])
    if not shorter > 0:
        raise UserError(
            f"a principal point {intrinsics[0, 2]:g}, {intrinsics[1, 2]:g} in a camera file",
            "one inside the picture, in pixels",
            "give cx and cy as half the width and height of the camera's picture",
        )
    height, width = picture
    scale = max(width / (2 * intrinsics[0, 2]), height / (2 * intrinsics[1, 2]))
    return np.array([[intrinsics[0, 0] * scale, 0, width / 2], [0, intrinsics[1, 1] * scale, height / 2], [0, 0, 1.0]])


def turn_degrees(world_to_camera: np.ndarray) -> float:
    """The maximum that the cameras `T 4 4` turn from one frame to the next, degrees; 0 for a single one."""
    directions = world_to_camera[:, 2, :3]
    return float(np.degrees(np.arccos(np.clip((directions[1:] * directions[:-1]).sum(-1), -1, 1))).max(initial=0))


def training_fit(view: Viewpoint, settings: BundleSettings) -> list[str]:
    """A sentence for each way in which the path leaves what the model saw in training."""
    directions = view.world_to_camera[:, 2, :3]  # what the camera looks along, in the world
    yaw = np.abs(np.degrees(np.arctan2(-directions[:, 0], -directions[:, 2]))).max()
    elevation = np.abs(np.degrees(np.arcsin(np.clip(directions[:, 1], -1, 1)))).max()
    centres = np.linalg.norm(view.world_to_camera[:, :3, 3], axis=-1)  # distance to the head at the origin
    turn = turn_degrees(view.world_to_camera)
    width = centres * settings.size / view.intrinsics[:, 0, 0] / settings.crop_metres
    notes = []
    if yaw > settings.trained_yaw + 1 or elevation > settings.trained_elevation + 1:
        notes.append(
            f"the camera goes to {yaw:.0f}° aside and {elevation:.0f}° up or down; the model was trained to "
            f"{settings.trained_yaw:.0f}° and {settings.trained_elevation:.0f}°"
        )
    if turn > 1.5 * settings.trained_turn:
        notes.append(
            f"the camera turns up to {turn:.1f}° a frame, and was trained to {settings.trained_turn:g}°: the picture "
            "will smear; take a longer driving video or a smaller turn"
        )
    if width.min() < 0.7 or width.max() > 1.4:
        least, most = (f"{100 * one:.0f}%" for one in (width.min(), width.max()))
        notes.append(
            f"the picture is {least if least == most else f'{least} to {most}'} as wide at the head as in training; "
            "move the camera or change the focal length"
        )
    return notes
