"""What surrounds a face, hair, collar and the wall behind, painted from several pictures of one scene.

A portrait shows one moment of it: where a head has left, the wall is a guess; a collar that is turned with the body is
drawn out of shape. Frames of the same scene have both. Ours: every picture is drawn as the portrait is, in layers, the
person and what stands behind (`body.backdrop`), and layers of one kind are mixed, each picture by the inverse of the
error that is expected of it. Of what stands behind a picture tells what its own person does not hide.

What is expected is measured, not set: the pictures paint each other before anything is painted from them. How errors
grow with the way that a head has gone in the picture, and with the angle between views, is fitted for hair, torso and
wall apart; what a frame is off by beyond that in showing the portrait stays with it; and a part is mixed only where
pictures that paint one that they do not hold come out clearly nearer to it than the portrait alone does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from fportrait.body.backdrop import PERSON
from fportrait.body.blending import headness, view_of
from fportrait.body.painting import PortraitPainter
from fportrait.body.warping import SEAM, Target, on_surface, project

PARTS = ("hair", "torso", "wall")
HAIR, TORSO, WALL = range(3)
LEAST_ERROR = 10.0  # squared grey levels that any picture is off by
POWER = 3.0  # of the inverse errors that pictures count by
# How torsos are brought together: side of the pictures that tell by how much; deviation of the Gaussian that they are
# softened with, their pixels; rounds; share of the side that one moves at most; squared slope that tells nothing.
SMALL, SOFT, ROUNDS, FURTHEST, FLAT = 64, 1.0, 4, 0.04, 1.0
CLEARLY = 0.8  # of the portrait's error, up to which a part is mixed
AHEAD = 0.3  # share of what the portrait has to move that the nearest frame saves, from which frames count wholly
STRANGE = 1000.0  # misfit from which a picture shows another hair, torso or wall
FEWEST = 4  # frames that paint each other
LEAST_SHARE = 0.05  # of the best picture's weight, which is taken from all
LITTLE = 8  # pixels of a part, below which a picture tells nothing of it
UNKNOWN = 1e-3  # how much a picture counts beyond its file, where it goes on as in a mirror (`body.backdrop`)
CHIN = 152  # landmark; and over how much of the picture's height hair becomes torso around it
OVER = 0.04


class Shot(NamedTuple):
    """A picture of the scene, in the portrait's cut: its `painter`, with a backdrop; the person's `opacity` and which
    pixels were filmed, `known`, both `H W` in [0, 1]; and the `gain` of its light, by channel `3`."""

    painter: PortraitPainter
    opacity: np.ndarray
    known: np.ndarray
    gain: np.ndarray


class Place(NamedTuple):
    """How a head stands in a picture: `points` of it, `N 2` shares of the picture's short side, and where the camera
    stands in its axes, `view` `3`."""

    points: np.ndarray
    view: np.ndarray


class Layer(NamedTuple):
    """A shot's person for a target, float32 at its samples: `colours` `H W 3`, `opacity` and `known` `H W`."""

    colours: np.ndarray
    opacity: np.ndarray
    known: np.ndarray


class Wall(NamedTuple):
    """What stands behind in a shot, float32: `colours` `H W 3`, `told` as far as `H W`."""

    colours: np.ndarray
    told: np.ndarray


@dataclass
class Expected:
    """Squared grey levels that pictures are off by: for each part the `floor`; what it grows by, `slopes` `3 2`, with a
    squared hundredth of the short side that the head has gone and with a squared degree of view; the `misfits` `1+N 3`
    of the portrait (0) and the frames; which parts are `mixed`, and their errors `alone` and `together`, `3`."""

    places: list[Place]
    floor: np.ndarray
    slopes: np.ndarray
    misfits: np.ndarray
    mixed: np.ndarray = field(default_factory=lambda: np.ones(3, bool))
    alone: np.ndarray = field(default_factory=lambda: np.zeros(3))
    together: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def weights(self, place: Place) -> np.ndarray:
        """How much each picture counts for each part where the head stands so, `1+N 3`; the best is 1."""
        away = np.stack([apart(one, place) for one in self.places])
        moved = LEAST_ERROR + away @ self.slopes.T  # what the way and the turn alone bring
        weights = (moved + self.misfits) ** -POWER
        weights[1:, ~self.mixed] = 0
        # Where all are as far off, as from a side that none shows, a mixture would be a blur of guesses.
        ahead = np.clip((1 - moved[1:].min(0) / moved[0]) / AHEAD, 0, 1)
        weights[1:, :WALL] *= ahead[:WALL]
        weights = np.maximum(weights / weights.max(0) - LEAST_SHARE, 0)  # none comes or goes with a jump
        return np.asarray(weights / weights.max(0))


class SceneBlend:
    """Paints a scene from the portrait and frames of it.

    Args:
        own: the portrait. frames: what makes each of the frames, asked when it first counts. expected: of all of them.
    """

    def __init__(self, own: Shot, frames: Sequence[Callable[[], Shot | None]], expected: Expected):
        self._makers, self._made, self.expected = list(frames), {0: own}, expected
        self._walls = dict[int, Wall]()

    def paint(self, target: Target) -> np.ndarray:
        """The picture `H W 3` uint8 of a target."""
        own = self._made[0]
        weights = self.expected.weights(place_of(own.painter, target.vertices, target.intrinsics))
        people = [0, *(np.flatnonzero(weights[1:, :WALL].any(1)) + 1).tolist()]  # the face is always the portrait's
        layers = [drawn_by(self._shot(number), target) for number in people]
        size = target.covered.shape
        behind = mixed_wall([self._wall(number, size) for number in range(len(weights))], weights[:, WALL])
        picture = before_wall(own.painter, target, layers, weights[people], behind)
        if target.samples > 1:
            picture = np.asarray(cv2.resize(picture, target.size[::-1], interpolation=cv2.INTER_AREA))
        return np.clip(picture + 0.5, 0, 255).astype(np.uint8)

    def _shot(self, number: int) -> Shot:
        if number not in self._made:
            made = self._makers[number - 1]()
            assert made is not None  # it was measured, small
            self._made[number] = made
        return self._made[number]

    def _wall(self, number: int, size: tuple[int, ...]) -> Wall | None:
        """None of a frame that tells nothing of it."""
        if number and (not self.expected.mixed[WALL] or not np.isfinite(self.expected.misfits[number, WALL])):
            return None
        if number not in self._walls:
            self._walls[number] = wall_of(self._shot(number), size)
        return self._walls[number]


def drawn_by(shot: Shot, target: Target) -> Layer:
    """A shot's person for a target of its size."""
    person, opacity, source = shot.painter.layers(target)
    known = cv2.remap(shot.known, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)  # type: ignore[call-overload]
    return Layer(person * shot.gain.astype(np.float32), opacity.astype(np.float32), known)


def wall_of(shot: Shot, size: tuple[int, ...]) -> Wall:
    """What stands behind in a shot, at a size `H W` of samples; it tells nothing of what its person hides."""
    assert shot.painter.backdrop is not None
    behind: np.ndarray = shot.painter.backdrop.picture.astype(np.float32)
    told: np.ndarray = shot.known * (1 - shot.painter.backdrop.rim)
    if told.shape != size:
        behind, told = (cv2.resize(one, size[::-1], interpolation=cv2.INTER_LINEAR) for one in (behind, told))
    return Wall(behind * shot.gain.astype(np.float32), told)


def mixed_wall(walls: Sequence[Wall | None], weights: np.ndarray) -> np.ndarray:
    """What stands behind, `H W 3`, of the portrait's, the first, and frames', by weights `1+N`; where no picture tells
    it is what the portrait has filled it with."""
    total = np.zeros(walls[0].told.shape if walls[0] is not None else 0, np.float32)
    colours = np.zeros((*total.shape, 3), np.float32)
    for index, (wall, weight) in enumerate(zip(walls, weights.astype(np.float32), strict=True)):
        if wall is not None and weight:
            share = weight * (wall.told if index else np.maximum(wall.told, UNKNOWN))
            total += share
            colours += share[..., None] * wall.colours
    return np.asarray(colours / np.maximum(total, 1e-12)[..., None])


def before_wall(
    painter: PortraitPainter, target: Target, layers: Sequence[Layer], weights: np.ndarray, behind: np.ndarray
) -> np.ndarray:
    """People mixed by weights `1+N 3`, the portrait's the first, before what stands `behind` `H W 3`: float32.

    Within a head they are the portrait's: `body.blending` paints it.
    """
    shape = target.covered.shape
    low, inside = lowness(painter, target)[:, None], np.zeros(shape, np.float32)
    inside.reshape(-1)[target.places] = headness(painter.body, target)
    beside = 1 - np.clip(2 * cv2.GaussianBlur(inside, (0, 0), SEAM * min(shape)) - 1, 0, 1)
    layers = aligned(layers, weights[:, TORSO].astype(np.float32), behind, low * beside)
    total, opaque = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    people = np.zeros((*shape, 3), np.float32)
    for index, (layer, weight) in enumerate(zip(layers, weights.astype(np.float32), strict=True)):
        share = beside * ((1 - low) * weight[HAIR] + low * weight[TORSO])
        if not index:  # also where frames tell so much more of hair and torso that it counts for nothing beside
            share += 1 - beside
        share *= np.maximum(layer.known, UNKNOWN)
        total += share
        share = share * layer.opacity
        opaque += share
        people += share[..., None] * layer.colours
    people /= np.maximum(opaque, 1e-12)[..., None]
    return np.asarray(behind + (opaque / np.maximum(total, 1e-12))[..., None] * (people - behind))


def aligned(layers: Sequence[Layer], weights: np.ndarray, behind: np.ndarray, torso: np.ndarray) -> list[Layer]:
    """People of weights `1+N` before what stands `behind` `H W 3`, whose torsos, `H W` in [0, 1], are moved to where
    they are on the mean: the mean of two shoulders, one higher than the other, is a double outline.

    By small pictures, which are moved and tilted until they lie on their mean (Lucas and Kanade 1981).
    """
    told = np.flatnonzero(weights > 0).tolist()
    if len(told) < 2 or not (torso > 0.5).any():
        return list(layers)
    side = min(torso.shape)
    step = max(side // SMALL, 1)
    size = torso.shape[1] // step, torso.shape[0] // step

    def small(picture: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.GaussianBlur(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), (0, 0), SOFT))

    wall = behind.mean(-1)
    people = [small(layers[n].opacity * (layers[n].colours.mean(-1) - wall)) for n in told]
    where = cv2.resize(torso, size, interpolation=cv2.INTER_AREA)
    for n in told:
        where = where * cv2.resize(layers[n].known, size, interpolation=cv2.INTER_AREA)
    share = weights[told] / weights[told].sum()
    moved, most = np.zeros((len(told), 3), np.float32), FURTHEST * side / step
    for _ in range(ROUNDS):
        now = [_moved(one, ways) for one, ways in zip(people, moved, strict=True)]
        mean = np.tensordot(share, np.stack(now), 1)
        across, down = (cv2.Sobel(mean, cv2.CV_32F, *way) / 8 for way in ((1, 0), (0, 1)))
        slopes = np.stack([across, down, down * np.linspace(-1, 1, size[0], dtype=np.float32)], -1)
        known = np.einsum("hw,hwi,hwj->ij", where, slopes, slopes) + FLAT * where.sum() * np.eye(3)
        for index, one in enumerate(now):
            moved[index] += np.linalg.solve(known, np.einsum("hw,hwi,hw->i", where, slopes, mean - one))
        moved = np.clip(moved - share @ moved, -most, most)
    top, found = int(np.flatnonzero((torso > 0).any(1))[0]), list(layers)
    field = torso[top:].astype(np.float32)
    for n, ways in zip(told, moved * np.float32(step), strict=True):
        found[n] = Layer(*(np.concatenate([one[:top], _moved(one[top:], ways, field)]) for one in layers[n]))
    return found


def _moved(picture: np.ndarray, way: np.ndarray, field: np.ndarray | float = 1.0) -> np.ndarray:
    """A picture `H W` or `H W C` that shows what lay further across, down, and down at the right side but up at the
    left, by such a way `3`, pixels, times a field `H W`."""
    across, down, tilt = way
    y, x = np.mgrid[: len(picture), : picture.shape[1]].astype(np.float32)
    ways = down + tilt * np.linspace(-1, 1, picture.shape[1], dtype=np.float32)
    at = x + np.float32(across) * field, (y + ways * field).astype(np.float32)
    return np.asarray(cv2.remap(picture, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def lowness(painter: PortraitPainter, target: Target) -> np.ndarray:
    """How much each row of a target's samples belongs to the torso and not to the hair, `H`: by where the chin is."""
    body, side = painter.body, min(target.size)
    triangle, weights = body.landmark_triangles[[CHIN]], body.landmark_barycentric[[CHIN]]
    point, _ = on_surface(target.vertices, painter.faces, triangle, np.asarray(weights, np.float32))
    chin = project(point, target.intrinsics)[0, 1]
    rows = (np.arange(len(target.covered), dtype=np.float32) + 0.5) / target.samples
    share = np.clip((rows - chin) / (OVER * side) + 0.5, 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def place_of(painter: PortraitPainter, vertices: np.ndarray, intrinsics: np.ndarray) -> Place:
    """Where a head of vertices `V 3` stands before a camera of `intrinsics` `3 3`, in the painter's size of picture."""
    body = painter.body
    head = np.flatnonzero(np.asarray(body.skinning)[:, -1] > 0.95)[::8]
    points = project(np.asarray(vertices, np.float32)[head], intrinsics) / min(painter.portrait.shape[:2])
    return Place(points, view_of(body, vertices))


def apart(one: Place, other: Place) -> np.ndarray:
    """How far a head is from where it stands in another picture, `2`: squared hundredths of the short side (mean), and
    squared degrees between the views."""
    gone = 1e4 * ((one.points - other.points) ** 2).sum(-1).mean()
    return np.array([gone, np.degrees(np.arccos(np.clip(one.view @ other.view, -1, 1))) ** 2])


def measured(shots: Sequence[Shot]) -> Expected | None:
    """What is expected of pictures, found by letting them paint each other, small; None of too few.

    Args:
        shots: of any size, the portrait first.
    """
    if len(shots) <= FEWEST:
        return None
    painters = [shot.painter for shot in shots]
    targets = [Target(one.vertices, one.intrinsics, one.faces, one.portrait.shape[:2], one.samples) for one in painters]
    size = targets[0].covered.shape
    layers = [[drawn_by(shot, target) for shot in shots] for target in targets]
    walls: list[Wall | None] = [wall_of(shot, size) for shot in shots]
    truth = [shot.painter.portrait * shot.gain.astype(np.float32) for shot in shots]
    parts = [parts_of(shot, target) for shot, target in zip(shots, targets, strict=True)]
    count, one = len(shots), np.ones((1, 3))
    errors = np.full((count, count, 3), np.nan)
    for i in range(count):
        for j, (layer, wall) in enumerate(zip(layers[i], walls, strict=True)):
            assert wall is not None
            whole = before_wall(painters[j], targets[i], [layer], one, wall.colours)
            for part, told in ((HAIR, layer.known), (TORSO, layer.known), (WALL, wall.told)):
                errors[i, j, part] = _error(wall.colours if part == WALL else whole, truth[i], parts[i][part] * told)
    places = [place_of(one, one.vertices, one.intrinsics) for one in painters]
    away = np.array([[apart(one, other) for other in places] for one in places])
    floor, slopes = _fitted(errors[1:, 1:], away[1:, 1:])
    misfits = np.maximum(errors[0] - away[0] @ slopes.T, floor)
    misfits[~(misfits < STRANGE)] = np.inf
    misfits[0] = 0
    found = Expected(places, floor, slopes, misfits)
    sums, fit = np.zeros((2, 3)), np.isfinite(misfits)  # one that shows something else judges nothing
    for i in range(1, count):
        left = np.delete(np.arange(count), i)
        without = Expected([places[j] for j in left], floor, slopes, misfits[left])
        weights = without.weights(places[i])
        behind = mixed_wall([walls[j] for j in left], weights[:, WALL])
        mixed = before_wall(painters[0], targets[i], [layers[i][j] for j in left], weights, behind)
        alone = before_wall(painters[0], targets[i], layers[i][:1], one, mixed_wall(walls[:1], one[0, WALL:]))
        for row, picture in enumerate((alone, mixed)):
            scores = np.nan_to_num([_error(picture, truth[i], part) for part in parts[i]])
            sums[row] += np.where(fit[i], scores, 0)
    found.alone, found.together = sums / np.maximum(fit[1:].sum(0), 1)
    found.mixed = found.together < CLEARLY * found.alone
    return found if found.mixed.any() else None


def parts_of(shot: Shot, target: Target) -> list[np.ndarray]:
    """Where a shot shows hair, torso and wall, `H W` of 0 and 1 each."""
    size = shot.painter.portrait.shape[:2]
    head: np.ndarray = np.zeros(target.covered.size, np.float32)
    head[target.places] = headness(shot.painter.body, target)
    head = cv2.resize(head.reshape(target.covered.shape), size[::-1], interpolation=cv2.INTER_AREA)
    mesh = cv2.resize(target.covered.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) > 0.5
    low = lowness(shot.painter, target)[:: target.samples, None] > 0.5
    person, seen = shot.opacity > PERSON, (shot.known > 0.99) & (head < 0.5)
    return [seen & person & ~mesh & ~low, seen & (mesh | (person & low)), seen & ~mesh & ~person]


def _error(picture: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> float:
    """Mean squared difference over `weights` `H W`; NaN where they are next to none."""
    if picture.shape != truth.shape:
        picture = cv2.resize(picture, truth.shape[1::-1], interpolation=cv2.INTER_AREA)
    if weights.shape != truth.shape[:2]:
        weights = cv2.resize(np.asarray(weights, np.float32), truth.shape[1::-1], interpolation=cv2.INTER_AREA)
    total = float(weights.sum())
    return float((((picture - truth) ** 2).mean(-1) * weights).sum() / total) if total >= LITTLE else float("nan")


def _fitted(errors: np.ndarray, away: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`Expected.floor` and `slopes` of errors `N N 3` between frames that are apart by `away` `N N 2`: non-negative
    least squares of the relative error (Lawson and Hanson 1974)."""
    from scipy.optimize import nnls

    floor, slopes = np.zeros(3), np.zeros((3, 2))
    other = ~np.eye(len(errors), dtype=bool)
    for part in range(3):
        known = other & np.isfinite(errors[..., part])
        if known.sum() < FEWEST:
            continue
        wanted = np.maximum(errors[known, part], LEAST_ERROR)
        told = np.concatenate([np.ones((len(wanted), 1)), away[known]], 1) / wanted[:, None]
        found, _ = nnls(told, np.ones(len(wanted)))
        floor[part], slopes[part] = float(found[0]), found[1:]
    return floor, slopes
