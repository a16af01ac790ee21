"""How embedded people move: head rotations, short expressions, speech, blinks and gaze as smooth curves.

Each region of the face (mouth, brows, lids, gaze) walks from one drawn target to the next with eased transitions,
so every frame is a fresh combination. Strengths are mostly near full: captures exist to teach expression control,
and faint expressions teach nothing. Head speed is capped at `MAX_HEAD_DEGREES_PER_SECOND`, 18 degrees in nine
frames at 25 frames per second, because faster motion blurs in a video codec of temporal stride four.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fportrait.body.model import Pose, load_body
from fportrait.errors import UserError, nearest_name

KINDS = ("rotation", "expressions", "speech", "mixed", "still", "faces")
MAX_HEAD_DEGREES_PER_SECOND = 50.0
HEAD_LIMITS_DEGREES = np.array([30.0, 18.0, 12.0])  # yaw, pitch, roll

# One mouth shape: action (without side: both sides) -> lowest and highest strength; then how often it is drawn.
_MOUTHS: list[tuple[float, dict[str, tuple[float, float]]]] = [
    (2.0, {}),
    (2.5, {"mouthSmile": (0.75, 1.0), "cheekSquint": (0.3, 0.8)}),
    (1.2, {"mouthSmile": (0.7, 1.0), "jawOpen": (0.3, 0.7), "cheekSquint": (0.3, 0.8), "mouthUpperUp": (0.2, 0.5)}),
    (2.5, {"jawOpen": (0.65, 1.0)}),
    (2.2, {"mouthPucker": (0.8, 1.0)}),
    (1.5, {"mouthFunnel": (0.75, 1.0), "jawOpen": (0.1, 0.45)}),
    (1.2, {"mouthFrown": (0.75, 1.0), "mouthShrugLower": (0.2, 0.6)}),
    (1.0, {"noseSneer": (0.75, 1.0), "mouthUpperUp": (0.4, 0.9)}),
    (1.0, {"cheekPuff": (0.8, 1.0), "mouthPress": (0.1, 0.4)}),
    (1.0, {"mouthStretch": (0.75, 1.0), "jawOpen": (0.0, 0.4)}),
    (1.0, {"mouthUpperUp": (0.7, 1.0), "mouthLowerDown": (0.7, 1.0), "jawOpen": (0.0, 0.3)}),
    (0.7, {"mouthPress": (0.7, 1.0), "mouthRollLower": (0.3, 0.8), "mouthRollUpper": (0.3, 0.8)}),
    (0.5, {"mouthLeft": (0.6, 1.0), "jawLeft": (0.2, 0.7)}),
    (0.5, {"mouthRight": (0.6, 1.0), "jawRight": (0.2, 0.7)}),
    (0.4, {"mouthDimple": (0.7, 1.0)}),
    (0.4, {"mouthShrugUpper": (0.5, 1.0), "mouthShrugLower": (0.5, 1.0)}),
    (0.3, {"jawForward": (0.6, 1.0)}),
    (0.3, {"tongueOut": (0.8, 1.0), "jawOpen": (0.5, 0.8)}),
]
_BROWS: list[tuple[float, dict[str, tuple[float, float]]]] = [
    (1.5, {}),
    (2.0, {"browInnerUp": (0.7, 1.0), "browOuterUp": (0.7, 1.0)}),
    (2.0, {"browDown": (0.75, 1.0)}),
    (0.7, {"browInnerUp": (0.7, 1.0)}),
    (0.7, {"browOuterUp": (0.7, 1.0)}),
]
_LIDS: list[tuple[float, dict[str, tuple[float, float]]]] = [
    (3.0, {}),
    (1.2, {"eyeSquint": (0.6, 1.0)}),
    (1.2, {"eyeWide": (0.7, 1.0)}),
    (0.8, {"eyeBlink": (0.9, 1.0)}),  # eyes held shut, longer than a blink
]
_SYLLABLES: list[tuple[float, dict[str, tuple[float, float]]]] = [
    (2.5, {"jawOpen": (0.4, 0.9)}),
    (1.5, {"mouthFunnel": (0.5, 1.0), "jawOpen": (0.15, 0.5)}),
    (1.5, {"mouthPucker": (0.6, 1.0), "jawOpen": (0.0, 0.15)}),
    (1.5, {"mouthStretch": (0.4, 0.9), "mouthSmile": (0.1, 0.4), "jawOpen": (0.1, 0.3)}),
    (1.0, {"mouthUpperUp": (0.2, 0.6), "mouthLowerDown": (0.4, 0.9), "jawOpen": (0.1, 0.25)}),
    (1.5, {"mouthPress": (0.3, 0.7), "mouthRollLower": (0.1, 0.5)}),
    (0.7, {"mouthRollLower": (0.5, 1.0), "mouthUpperUp": (0.1, 0.4)}),
]


@dataclass(frozen=True)
class Motion:
    """`actions` (T, 52) in [0, 1], columns in the order of the body's `action_names`; `poses`, T of them."""

    actions: np.ndarray
    poses: list[Pose]


def sample_motion(kind: str, frames: int, rng: np.random.Generator, fps: float = 25.0) -> Motion:
    """Draw a motion of `frames` frames; equal generators give equal motions.

    "rotation" turns the head under a calm, blinking face; "expressions" and "speech" move the face over a nearly
    still head; "mixed" does everything; "still" holds one drawn expression and pose throughout; "faces" holds one pose
    under another face in every frame, single pictures of one person that differ in expression alone.

    Raises:
        UserError: an unknown kind, no frames or a bad rate.
    """
    if kind not in KINDS:
        near = nearest_name(kind, KINDS)
        raise UserError(f"the motion '{kind}'", f"one of {', '.join(KINDS)}", f"use '{near or KINDS[0]}'")
    if frames < 1 or not fps > 0:
        raise UserError(f"{frames} frames at {fps} per second", "at least one frame and a positive rate", "raise them")
    names = list(load_body().action_names)
    if kind == "faces":
        actions = np.stack([_face(names, rng) for _ in range(frames)])
        head = np.repeat(rng.uniform(-0.6, 0.6, (1, 3)) * HEAD_LIMITS_DEGREES, frames, axis=0)
        return Motion(np.clip(actions, 0.0, 1.0), _poses(head, np.zeros((frames, 3)), np.zeros((frames, 3))))
    if kind == "still":
        actions = _draw(names, _BROWS, rng) + _draw(names, _LIDS[:3], rng)
        if rng.random() < 0.6:
            actions = actions + _draw(names, _MOUTHS, rng)
        actions = np.repeat((actions + _gaze(names, rng))[None], frames, axis=0)
        head = np.repeat(rng.uniform(-0.4, 0.4, (1, 3)) * HEAD_LIMITS_DEGREES, frames, axis=0)
        return Motion(np.clip(actions, 0.0, 1.0), _poses(head, np.zeros((frames, 3)), np.zeros((frames, 3))))

    total = frames + int(2 * fps)  # a run-up, so that short clips begin mid-motion
    actions = np.zeros((total, len(names)))
    walk = _Walk(total, fps, rng)
    speaks = kind == "speech" or (kind == "mixed" and rng.random() < 0.4)
    if speaks:
        rate = rng.uniform(3.0, 5.0)  # syllables per second
        actions += walk(lambda: _draw(names, _SYLLABLES, rng), (0.0, 0.15 / rate), (0.85 / rate, 1.0 / rate))
    elif kind in ("expressions", "mixed"):
        actions += walk(lambda: _draw(names, _MOUTHS, rng), (0.08, 0.45), (0.14, 0.35))
    if kind != "rotation":
        quiet = (0.5, 1.6) if speaks else (0.15, 0.7)
        actions += walk(lambda: _draw(names, _BROWS, rng), quiet, (0.16, 0.36))
        actions += walk(lambda: _draw(names, _LIDS if not speaks else _LIDS[:3], rng), quiet, (0.14, 0.3))
    actions += walk(lambda: _gaze(names, rng), (0.3, 1.5), (0.06, 0.1))
    actions += _blinks(names, total, fps, rng)
    _yield_to_blinks(actions, names)

    reach = {"rotation": 1.0, "expressions": 0.3, "speech": 0.25, "mixed": rng.uniform(0.5, 1.0)}[kind]
    top_speed = MAX_HEAD_DEGREES_PER_SECOND * (0.6 if speaks else 1.0)  # nods come on top
    head = smooth_degrees(total, fps, rng, reach * HEAD_LIMITS_DEGREES, top_speed)
    if speaks:  # small nods with the voice
        time = np.arange(total) / fps
        head[:, 1] += rng.uniform(0.5, 1.5) * np.sin(2 * np.pi * rng.uniform(1.0, 1.8) * time + rng.uniform(0, 6.28))
    sway = walk(lambda: rng.uniform(-1, 1, 6), (0.0, 0.6), (1.2, 2.5))
    begin = int(rng.integers(0, total - frames + 1))
    window = slice(begin, begin + frames)
    head = np.clip(head, -HEAD_LIMITS_DEGREES, HEAD_LIMITS_DEGREES)
    return Motion(
        np.clip(actions[window], 0.0, 1.0),
        _poses(head[window], sway[window, :3] * [3.0, 1.5, 1.5], sway[window, 3:] * [0.012, 0.006, 0.012]),
    )


def rotation_from_degrees(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """(3, 3) rotation: roll about z, then pitch about x (positive looks down), then yaw about y (positive to +x)."""
    (cy, cp, cr), (sy, sp, sr) = np.cos(np.radians([yaw, pitch, roll])), np.sin(np.radians([yaw, pitch, roll]))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


class _Walk:
    """Walk from drawn target to drawn target: hold, then move with eased speed; (frames, D)."""

    def __init__(self, frames: int, fps: float, rng: np.random.Generator):
        self.frames, self.fps, self.rng = frames, fps, rng

    def __call__(
        self, draw: Callable[[], np.ndarray], hold: tuple[float, float], move: tuple[float, float]
    ) -> np.ndarray:
        now = np.asarray(draw(), dtype=np.float64)
        curve = np.empty((self.frames, len(now)))
        frame = 0.0
        curve[:] = now
        while frame < self.frames:
            begin = frame + self.rng.uniform(*hold) * self.fps
            length = max(self.rng.uniform(*move) * self.fps, 1.0)
            target = np.asarray(draw(), dtype=np.float64)
            first = min(int(np.ceil(begin)), self.frames)
            progress = np.clip((np.arange(first, self.frames) - begin) / length, 0.0, 1.0)[:, None]
            curve[first:] = now + (target - now) * _ease(progress)
            now, frame = target, begin + length
        return curve


def _ease(progress: np.ndarray) -> np.ndarray:
    return progress * progress * (3.0 - 2.0 * progress)


def _draw(
    names: Sequence[str], shapes: list[tuple[float, dict[str, tuple[float, float]]]], rng: np.random.Generator
) -> np.ndarray:
    """One shape of the list at drawn strength; mostly symmetric, one time in five lopsided."""
    weights = np.array([weight for weight, _ in shapes])
    shape = shapes[rng.choice(len(shapes), p=weights / weights.sum())][1]
    left, right = 1.0, 1.0
    if rng.random() < 0.2:
        weak = rng.uniform(0.0, 0.5)
        left, right = (1.0, weak) if rng.random() < 0.5 else (weak, 1.0)
    actions = np.zeros(len(names))
    for action, (low, high) in shape.items():
        strength = rng.uniform(low, high)
        if action in names:
            actions[names.index(action)] = strength
        else:
            actions[names.index(action + "Left")] = strength * left * rng.uniform(0.94, 1.0)
            actions[names.index(action + "Right")] = strength * right * rng.uniform(0.94, 1.0)
    return actions


def _face(names: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """A face drawn at once: at rest one time in eight, one region moved two times in four, else all regions."""
    regions = [
        lambda: _draw(names, _MOUTHS[1:], rng),
        lambda: _draw(names, _BROWS[1:], rng),
        lambda: _draw(names, _LIDS[1:], rng),
        lambda: _gaze(names, rng),
    ]
    which = rng.random()
    if which < 1 / 8:
        return np.zeros(len(names))
    if which < 5 / 8:
        return regions[rng.choice(4, p=[0.55, 0.2, 0.15, 0.1])]()
    actions = sum((region() for region in regions), np.zeros(len(names)))[None]
    _yield_to_blinks(actions, names)
    return actions[0]


def _gaze(names: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Both eyes towards one drawn direction; straight ahead two times in five."""
    actions = np.zeros(len(names))
    if rng.random() < 0.4:
        return actions
    side, up = rng.uniform(-0.9, 0.9), rng.uniform(-0.8, 0.7)
    outer, inner = ("Left", "Right") if side > 0 else ("Right", "Left")  # positive: towards the person's left
    actions[names.index("eyeLookOut" + outer)] = actions[names.index("eyeLookIn" + inner)] = abs(side)
    for eye in ("Left", "Right"):
        actions[names.index(("eyeLookUp" if up > 0 else "eyeLookDown") + eye)] = abs(up)
    return actions


def _blinks(names: Sequence[str], frames: int, fps: float, rng: np.random.Generator) -> np.ndarray:
    """Full blinks of 0.2 to 0.32 s about every 1.2 s (more often than in life, to be learned); rarely a wink."""
    actions = np.zeros((frames, len(names)))
    left, right = names.index("eyeBlinkLeft"), names.index("eyeBlinkRight")
    time = np.arange(frames) / fps
    at = rng.uniform(0.0, 1.0)
    while at < time[-1]:
        length = rng.uniform(0.2, 0.32)
        # closes in the first third, stays for a fifth, opens slower
        close, reopen = length * 0.33, length * 0.53
        lid = np.minimum(
            _ease(np.clip((time - at) / close, 0, 1)),
            1 - _ease(np.clip((time - at - reopen) / (length - reopen), 0, 1)),
        )
        wink = rng.random()
        if wink > 0.05:
            actions[:, left] = np.maximum(actions[:, left], lid)
        if wink < 0.95:
            actions[:, right] = np.maximum(actions[:, right], lid)
        at += length + rng.uniform(0.3, 1.8)
    return actions


def _yield_to_blinks(actions: np.ndarray, names: Sequence[str]) -> None:
    """Squint and wide fade while a lid is shut: added to a blink they would push the lids through each other."""
    for side in ("Left", "Right"):
        open_part = 1.0 - np.clip(actions[:, names.index("eyeBlink" + side)], 0.0, 1.0)
        for action in ("eyeSquint", "eyeWide"):
            actions[:, names.index(action + side)] *= open_part


def smooth_degrees(
    frames: int, fps: float, rng: np.random.Generator, limits: np.ndarray, top_speed: float
) -> np.ndarray:
    """Angles (frames, D) in degrees within plus and minus `limits`: eased moves between drawn targets.

    The angles' speeds sum to at most `top_speed` degrees per second.
    """
    now = rng.uniform(-1, 1, len(limits)) * limits
    curve = np.repeat(now[None], frames, axis=0)
    frame = 0.0
    while frame < frames:
        target = rng.uniform(-1, 1, len(limits)) * limits
        distance = np.abs(target - now).sum()  # bounds the angle between the two rotations
        # the eased move peaks at 1.5 times its mean speed
        speed = rng.uniform(0.55, 0.95) * top_speed
        length = max(1.5 * distance / speed * fps, 4.0)
        first = int(np.ceil(frame))
        progress = np.clip((np.arange(first, frames) - frame) / length, 0.0, 1.0)[:, None]
        curve[first:] = now + (target - now) * _ease(progress)
        now, frame = target, frame + length + rng.uniform(0.0, 0.3) * fps
    return curve


def _poses(head: np.ndarray, body: np.ndarray, translation: np.ndarray) -> list[Pose]:
    return [
        Pose(rotation_from_degrees(*b), np.asarray(t, dtype=np.float64), rotation_from_degrees(*h))
        for h, b, t in zip(head, body, translation, strict=True)
    ]
