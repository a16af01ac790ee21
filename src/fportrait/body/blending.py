"""A face painted from several frames of one person, each point from those that show it as it shall look.

A portrait that is turned and made to smile stays a stretched picture of a face that did neither: folds, the light on a
turned cheek and what lies behind lips are not in it. Frames of the person in which the head stands so, and smiles,
have them. Ours, in the manner of view-dependent textures (Debevec, Taylor and Malik 1996): every frame is a texture of
the acting mesh, as the portrait is, and counts by the inverse of the error that is expected of it. What is expected
grows with how far the head is turned and the face moved from where the frame has them, and holds what the frame is off
by when it shall show the portrait itself, another light or haircut, a hand before the mouth: that is measured, so a
frame that does not fit does not count.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from fportrait.body.gaze import Gaze, draw_eyes
from fportrait.body.mesh import still_in_the_head
from fportrait.body.mouth import inside_of
from fportrait.body.painting import PortraitPainter
from fportrait.body.teeth import ShownMouth
from fportrait.body.warping import SEAM, Target

# Squared grey levels of error that a picture of a face has for every squared millimetre that its landmarks shall move
# (root of mean square), and for every squared degree that it shall turn: of the upper face, and from the nose down.
PER_MILLIMETRE = np.array([10.0, 3.0])
PER_DEGREE = np.array([1.3, 0.8])
LEAST_ERROR = 10.0  # squared grey levels that any picture is off by
TURNS = 0.6, 0.95  # how much a place turns with the head from which it is painted from frames, and from which wholly
STRANGE = 300.0  # misfit from which a frame shows something else, squared grey levels
POWER = 4.0  # of the inverse errors that pictures count by
IN_MOUTH = 12.0  # the same inside a mouth: two pictures' teeth are no mixture
LEAST_SHARE = 0.02  # of the best picture's, below which one is left out
OCCLUDED = 40.0  # grey levels from which a difference says no more
SIGHT = 0.1, 0.4  # cosines of what a frame sees from which it counts, and from which wholly
UNSEEN = 0.3  # how much the portrait counts where it does not see for itself
NOSE = 1  # landmark; and how far above it the lower face begins, and over how much the upper one ends, metres
ABOVE, OVER = 0.005, 0.012
NEAR = 0.1  # how much the colours around a place count beside its own
LOOKED = 6.0, 10.0  # degrees that eyes turn from which, and wholly, they are drawn apart: less, frames have shown
MEASURED = 64  # pixels at which misfits are measured
GAINS = 0.5, 2.0  # of light between a frame and the portrait, by channel


@dataclass
class Texture:
    """A frame of the person: its `painter`, of any size and without a matte; how its face acts, `actions` `52`; and
    which pixels of the painter's picture were filmed, `known` `H W`: black beside a file's edge is no colour."""

    painter: PortraitPainter
    actions: np.ndarray
    known: np.ndarray

    @functools.cached_property
    def mouth(self) -> ShownMouth | None:
        return self.painter.shown_mouth()

    @functools.cached_property
    def gaze(self) -> Gaze:
        return Gaze(self.painter.body, self.painter.portrait, self.painter.vertices, self.painter.intrinsics)

    def sight(self, target: Target) -> tuple[np.ndarray, np.ndarray]:
        """How well it sees a target's points, cosines `N`, and where, `N 2` pixels."""
        sight, places, _ = self.painter.sight(target, smooth=True)
        x, y = np.clip(places.astype(int), 0, np.array(self.known.shape[::-1]) - 1).T
        return sight * self.known[y, x], places


class Looks(dict[int, tuple[np.ndarray, np.ndarray]]):
    """What each of some frames sees of a target (`Texture.sight`), found when it is asked for."""

    def __init__(self, frames: Sequence[Texture], target: Target):
        super().__init__()
        self._frames, self._target = frames, target

    def __missing__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        self[number] = self._frames[number].sight(self._target)
        return self[number]


class FaceBlend:
    """Paints a face from the portrait and frames of the person.

    Args:
        own: the portrait's painter. own_actions: how its face acts, `52`. frames: one at least.

    Attributes:
        gains: by channel, how much brighter the portrait is than each frame, `N 3`.
        misfits: what each is off by in showing the portrait, beyond what is expected, `1+N 2` squared grey levels of
            upper and lower face: 0 of the portrait itself, which is the first, infinite where something else is shown.
    """

    def __init__(self, own: PortraitPainter, own_actions: np.ndarray, frames: Sequence[Texture]):
        self.own, self.frames, self.body = own, list(frames), own.body
        painters, acting = [own, *(one.painter for one in frames)], [own_actions, *(one.actions for one in frames)]
        self._views = np.stack([view_of(self.body, painter.vertices) for painter in painters])
        self._moves = np.stack([face_moves(self.body, actions) for actions in acting])
        self.gains, self.misfits = self._measured()

    def paint(self, drawn: np.ndarray, target: Target, actions: np.ndarray) -> np.ndarray:
        """The portrait's painted picture `H W 3` of a target whose face acts by `actions` `52`, with the face so."""
        view, moves = view_of(self.body, target.vertices), face_moves(self.body, actions)
        expected = expected_errors(self.body, self._views, self._moves, view, moves)
        weights = (LEAST_ERROR + self.misfits + expected) ** -POWER  # 1+N 2
        weights /= weights.max(0)
        low, seen = self._lowness(target), Looks(self.frames, target)
        sight, _, _ = self.own.seen(target)
        own = ((1 - low) * weights[0, 0] + low * weights[0, 1]) * np.maximum(_counts(sight), UNSEEN)
        total, mixed = np.zeros(len(low), np.float32), np.zeros((len(low), 3), np.float32)
        for number in np.flatnonzero((weights[1:] > LEAST_SHARE).any(1)).tolist():
            cosines, at = seen[number]
            one = ((1 - low) * weights[number + 1, 0] + low * weights[number + 1, 1]) * _counts(cosines)
            total += one
            mixed += one[:, None] * self.frames[number].painter.colours(at) * self.gains[number].astype(np.float32)
        share = total / np.maximum(total + own, 1e-12) * headness(self.body, target)
        colours = mixed / np.maximum(total, 1e-12)[:, None]
        inside = behind_lips(self.body, target)
        if inside.any():
            colours[inside], share[inside] = self._in_mouth(target, seen, inside, expected[:, 1])
        drawn = _laid_over(self.body, drawn, target, colours, share, inside)
        if self.own.gaze is not None:
            pictures = [self.own.gaze, *(frame.gaze for frame in self.frames)]
            draw_eyes(drawn, target, self.body, pictures, self.gains, self.misfits[:, 0], LOOKED)
        return drawn

    def _in_mouth(
        self, target: Target, seen: Looks, inside: np.ndarray, expected: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """Colours `M 3` of those points of a target that are `inside` its mouth, `N` true or not, and their share.

        Of one picture, mostly, and all of them alike: lips that part on less than the target's see but slivers of what
        is there, and their mixture was a mouth full of specks. Where no picture's lips are as far apart it stays as it
        is drawn. `expected`: squared grey levels `1+N` of the lower face.
        """
        fits = np.clip(1 - expected / STRANGE, 0, 1) * np.isfinite(self.misfits[:, 1])
        fits[0] *= self.own.fills_mouth(target)
        fits[1:] *= [0.0 if one.mouth is None else one.mouth.filled(inside) for one in self.frames]
        weights = fits * (LEAST_ERROR + expected) ** -IN_MOUTH
        mixed, total, most = np.zeros((inside.sum(), 3), np.float32), 0.0, 0.0
        for number in np.flatnonzero(weights[1:] > LEAST_SHARE * weights.max()).tolist():
            mouth, painter = self.frames[number].mouth, self.frames[number].painter
            at = None if mouth is None else mouth.carried(target, *seen[number])
            if at is not None:
                mixed += weights[number + 1] * painter.colours(at) * self.gains[number].astype(np.float32)
                total, most = total + weights[number + 1], max(most, fits[number + 1])
        return mixed / max(total, 1e-30), max(most, fits[0]) * total / max(total + weights[0], 1e-30)

    def _measured(self) -> tuple[np.ndarray, np.ndarray]:
        """`gains` and `misfits`, of pictures softened to what a small one shows, so that they do not depend on size."""
        own = self.own
        expected = expected_errors(self.body, self._views, self._moves, self._views[0], self._moves[0])
        target = Target(own.vertices, own.intrinsics, own.faces, own.portrait.shape[:2], own.samples)
        sight, places, _ = own.seen(target)
        wanted, low = own.colours(places, _softened(own)), self._lowness(target)
        head = headness(self.body, target)  # a collar may be another one
        gains, misfits = np.ones((len(self.frames), 3)), np.zeros((1 + len(self.frames), 2))
        for number, frame in enumerate(self.frames):
            seen, at = frame.sight(target)
            both = np.minimum(_counts(seen), _counts(sight)) * head
            shown = frame.painter.colours(at, _softened(frame.painter))
            gains[number] = np.clip((both @ wanted) / np.maximum(both @ shown, 1), *GAINS)
            error = np.minimum((shown * gains[number] - wanted) ** 2, OCCLUDED**2).mean(1)
            for half, part in enumerate((1 - low, low)):
                weights = both * part
                found = (weights @ error) / weights.sum() if weights.sum() > 1 else np.inf
                misfit = max(found - expected[number + 1, half], 0)
                misfits[number + 1, half] = misfit if misfit < STRANGE else np.inf
        return gains, misfits

    def _lowness(self, target: Target) -> np.ndarray:
        """Of each of a target's points how much it belongs to the lower face, `N`."""
        template = np.asarray(self.body.template)
        corners = template[self.own.faces[target.triangles], 1]
        height = (corners * target.weights).sum(1)
        nose = face_points(self.body)[2]
        share = np.clip((nose + ABOVE + OVER / 2 - height) / OVER, 0, 1)
        return np.asarray(share * share * (3 - 2 * share), np.float32)


def headness(body: Any, target: Target) -> np.ndarray:
    """Of each of a target's points how much it turns with the head, `N`: a collar is the portrait's."""
    moved = np.asarray(body.skinning)[:, -1][body.faces[target.triangles]]
    share = ((moved * target.weights).sum(1) - TURNS[0]) / (TURNS[1] - TURNS[0])
    return np.asarray(np.clip(share, 0, 1), np.float32)


def behind_lips(body: Any, target: Target) -> np.ndarray:
    """Which of a target's points are inside the mouth, `N`; none of a body that does not tell."""
    inside = inside_of(body)
    return np.zeros(len(target.triangles), bool) if inside is None else inside.part[target.triangles] > 0


def expected_errors(body: Any, views: np.ndarray, moves: np.ndarray, view: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Squared grey levels `N 2`, of upper and lower face, that pictures of a face are off by when they are painted with
    another view and another expression.

    Args:
        views, view: where the camera stands in the head's axes (`view_of`), `N 3` of the pictures and `3` of what is
            painted. moves, moved: the same of `face_moves`, `N L 3` and `L 3`.
    """
    turned = np.degrees(np.arccos(np.clip(views @ view, -1, 1)))
    away, lower = ((moves - moved) ** 2).sum(-1), face_points(body)[1]
    halves = np.stack([away[:, ~lower].mean(1), away[:, lower].mean(1)], 1)
    return np.asarray(PER_MILLIMETRE * halves + PER_DEGREE * turned[:, None] ** 2)


def _softened(painter: PortraitPainter) -> np.ndarray:
    """Its picture, float32, as soft as one of `MEASURED` pixels is."""
    picture = painter.portrait.astype(np.float32)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.5 * max(min(picture.shape[:2]) / MEASURED, 1)))


def _counts(sight: np.ndarray) -> np.ndarray:
    """How much a picture counts, 0 to 1, where it sees the surface with such cosines."""
    return np.asarray(np.clip((sight - SIGHT[0]) / (SIGHT[1] - SIGHT[0]), 0, 1), np.float32)


def _laid_over(
    body: Any, drawn: np.ndarray, target: Target, colours: np.ndarray, share: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """A picture with colours `N 3` over it where a target has its points, by their `share` `N`; less at the mesh's
    edge. Those which are `inside` the mouth, `N`, and the others are no neighbours."""
    shape = target.covered.shape
    flat = np.zeros((target.covered.size, 4), np.float32)
    mouth: np.ndarray = np.zeros(target.covered.size, bool)
    flat[target.places, :3], flat[target.places, 3] = colours * share[:, None], share
    mouth[target.places[inside]] = True
    picture, mouth = flat.reshape(*shape, 4), mouth.reshape(shape)
    # Shares are softened, colours are not: a tooth that one frame sees and its neighbour does not is no white speck.
    deviation = SEAM * min(shape)
    told = target.covered & ~mouth
    soft = cv2.GaussianBlur(np.where(mouth[..., None], 0, picture), (0, 0), deviation)
    outside = cv2.GaussianBlur(told.astype(np.float32), (0, 0), deviation)
    covered = cv2.GaussianBlur(target.covered.astype(np.float32), (0, 0), deviation) if inside.any() else outside
    near = picture + NEAR * soft
    shares = soft[..., 3] / np.maximum(outside, 1e-6) * np.clip(2 * covered - 1, 0, 1)
    over = np.concatenate([near[..., :3] / np.maximum(near[..., 3:], 1e-6) * shares[..., None], shares[..., None]], -1)
    over[mouth] = picture[mouth]
    if target.samples > 1:
        over = np.asarray(cv2.resize(over, drawn.shape[1::-1], interpolation=cv2.INTER_AREA))
    return np.asarray(np.clip(drawn * (1 - over[..., 3:]) + over[..., :3] + 0.5, 0, 255), np.uint8)


def view_of(body: Any, vertices: np.ndarray) -> np.ndarray:
    """Where the camera stands in the head's axes, a direction `3`, of vertices `V 3` before it (Kabsch 1976)."""
    from scipy.spatial.transform import Rotation

    head = still_in_the_head(body)
    here, there = vertices[head], np.asarray(body.template)[head]
    turn, _ = Rotation.align_vectors(here - here.mean(0), there - there.mean(0))
    sight = turn.inv().apply(-here.mean(0))
    return np.asarray(sight / np.linalg.norm(sight))


def face_moves(body: Any, actions: np.ndarray) -> np.ndarray:
    """How far actions `52` move the face's points, millimetres `L 3`."""
    return np.asarray(1000 * np.tensordot(actions, face_points(body)[0], 1))


@functools.lru_cache(maxsize=4)
def face_points(body: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """By how much every action moves the valid landmarks, `52 L 3` metres; which of them are of the lower face, `L`;
    and the height of the nose's tip."""
    corners, weights = body.faces[body.landmark_triangles], body.landmark_barycentric
    places = np.einsum("lcx,lc->lx", body.template[corners], weights)
    nose, valid = float(places[NOSE, 1]), np.flatnonzero(body.landmark_valid)
    modes = np.einsum("mlcx,lc->mlx", body.actions[:, corners[valid]], weights[valid])
    return modes, places[valid, 1] < nose + ABOVE, nose
