"""Eyes that look elsewhere than the portrait's do, or open wider.

Ours. A mesh's lids end about where a portrait's do. What lies between the two, and what comes out from below a lid, is
the edge of a lid, lashes and shadow: drawn with another gaze an eye is grey, in a bright rim. So an eye that moves is
drawn apart: as a ball behind an opening that the landmarks of its lids bound. What the portrait's opening shows of the
ball moves with it; what comes out is known, for an iris is about the same all around, and beside it is the white.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from fportrait.body.eyelids import MARGINS, lids_of, opening, smooth
from fportrait.body.mesh import of_part, still_in_the_head
from fportrait.body.warping import Target, project, values_at

IRIS = 0.0059  # metres: an iris' radius, about the same in all adults (Rüfer, Schröder and Erb 2005: 11.7 mm across)
LIMBUS = 0.9, 1.1  # of that radius: between these an iris turns into the white
# Metres further within the opening than the portrait shows it, from which a point of the ball is drawn anew, and
# wholly; how far within it a portrait shows it surely; and how many pixels of it, which are half lid at its edge, at
# least.
COMES_OUT, SURE, LEAST = (0.0003, 0.0012), (0.0006, 0.0025), 1.0
# Where an iris is looked for: aside, up and down from the middle of the body's own, degrees, and in which steps; how
# much darker than around it, grey levels a degree, it has to be to be found away from there; and the ring around it.
ASIDE, UPWARDS, STEP, PRIOR, AROUND = 12, 10, 2, 0.6, 1.7
RINGS = np.array([0.2, 0.5, 0.8, 1.0])  # of an iris' radius, at which its colours are told
WHITE = 70  # percentile of what an eye shows beside its iris: lashes and lids' shadows darken the rest
# And how far two eyes must look like such balls. Of 25 photographs all but four reach it (spectacles, and eyes of a few
# dark pixels), and two of three paintings.
FITS = 0.4
FEW = 6  # pixels that tell a colour
SHADE, SHADED = 0.3, 0.0015  # what a lid's shadow takes from the white, and how far from the lid (deviation, metres)
LIKE, UNLIKE = 0.0025, 0.02  # deviation of the Gaussian of the white that is seen nearby, metres; how much is little
# Degrees that an eye has turned in its head, and of its width that it is open further, from which it is drawn apart,
# and wholly; and how much of its opening is gone from which it is not, and not at all.
TURNED, OPENED, CLOSING = (3.0, 7.0), (0.03, 0.1), (0.25, 0.5)
SLIT = 0.06, 0.15  # of its width that an eye is open, from which its ball is seen, and wholly
EDGE = 0.8  # pixels beside the opening up to which a ball is seen: what lies there in a portrait is half white
# Squared grey levels that an eye is expected to be off by for every squared degree that it is turned, and for every
# squared width that it is opened; that any is; and the power of the inverse that pictures count by.
PER_DEGREE, PER_WIDTH, LEAST_ERROR, POWER, LEAST_SHARE = 3.0, 2e4, 10.0, 40.0, 0.02
SOFT = 0.0005  # deviation of the Gaussian that the edge between what is shown and drawn is softened with, metres
FINER = 4  # samples of a pixel's side that an opening is drawn with


class Ball(NamedTuple):
    """An eyeball before a camera: its `centre` `3` and `radius`, metres; its `turn` `3 3` from the template's axes, and
    that within the head, `look` `3 3`; the opening between its lids, `N 2` pixels; and how `open` it is
    (`eyelids.opening`)."""

    centre: np.ndarray
    radius: float
    turn: np.ndarray
    look: np.ndarray
    opening: np.ndarray
    open: float

    def seen(self, pixels: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
        """The direction from the centre, in the template's axes, of what is seen of it at `pixels` `N 2`: `N 3`. Beside
        the ball it is that of its outline."""
        rays = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(intrinsics).T
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        along = rays @ self.centre
        within = self.radius**2 - (self.centre @ self.centre - along**2)
        points = rays * (along - np.sqrt(np.maximum(within, 0)))[:, None] - self.centre
        return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True) @ self.turn, np.float32)

    def places(self, ways: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
        """Where it shows directions `N 3`, pixels `N 2`."""
        return project(self.centre + self.radius * (ways @ self.turn.T), intrinsics)


class Eye(NamedTuple):
    """What a portrait shows of an eye: the `ball`; how many pixels within its opening each of a `window` lies whose
    first pixel is `corner`; the direction `3` in which the iris lies; colours `R 3` of it at `RINGS`, and of the
    `white`; how many pixels a `metre` is there; and how far it looks like an eye, `fit`: correlation with that ball."""

    ball: Ball
    window: np.ndarray
    corner: np.ndarray
    middle: np.ndarray
    rings: np.ndarray
    white: np.ndarray
    metre: float
    fit: float


class Gaze:
    """The eyes of a portrait's person, looking anywhere.

    Args:
        body: one that `has_eyes`. portrait: `H W 3` uint8. vertices: `V 3`, of the portrait's own
            pose and face before its camera of `intrinsics` `3 3`.

    Attributes:
        balls: the left and the right one. eyes: what it shows of them, None of one that it does not show, or hardly.
    """

    def __init__(self, body: Any, portrait: np.ndarray, vertices: np.ndarray, intrinsics: np.ndarray):
        self._body, self._portrait, self._intrinsics = body, portrait, np.asarray(intrinsics, np.float64)
        self.balls = balls_of(body, vertices, self._intrinsics)
        around = around_eyes(body, Target(vertices, intrinsics, body.faces, portrait.shape[:2], 1))
        eyes = [self._told(ball, around == number) for number, ball in enumerate(self.balls, start=1)]
        fits = [eye.fit for eye in eyes if eye is not None]
        if fits and np.mean(fits) < FITS:  # spectacles, a painting, or lids that are not where they are thought to be
            eyes = [None, None]
        # Of two whites the darker one is in the shadow of lashes, mostly.
        whitest = max((eye.white for eye in eyes if eye is not None), key=np.sum, default=None)
        self.eyes = [None if eye is None else eye._replace(white=(eye.white + whitest) / 2) for eye in eyes]

    def _told(self, ball: Ball, around: np.ndarray) -> Eye | None:
        bounds = _bounds(ball.opening, self._portrait.shape[:2], 3)
        if bounds is None:
            return None
        (top, _), (left, _) = bounds
        deep = within_opening(ball.opening, bounds, 1)
        deep[~around[top : top + len(deep), left : left + deep.shape[1]]] = -1  # behind a nose, or what is in profile
        metre = float(self._intrinsics[1, 1] / ball.centre[2])
        y, x = np.nonzero(deep > 0)
        if len(y) < 4 * FEW:
            return None
        colours, near = self._portrait[y + top, x + left].astype(np.float32), deep[y, x] / metre
        ways = ball.seen(np.column_stack([x + left, y + top]) + 0.5, self._intrinsics)
        iris = np.degrees(np.arcsin(IRIS / ball.radius))
        middle = middle_of_iris(ways, colours.mean(1), smooth(0, SURE[0], near), iris)
        away = _degrees(ways, middle) / iris
        beside = (away > LIMBUS[1]) & (near > SURE[0])
        if beside.sum() < FEW:
            beside = away > LIMBUS[1]
        borders = [0, *(RINGS[1:] + RINGS[:-1]) / 2, LIMBUS[1]]
        told = [(away >= low) & (away < high) & (near > SURE[0] / 2) for low, high in itertools.pairwise(borders)]
        rings = [np.median(colours[ring], 0) for ring in told if ring.sum() >= FEW // 2]
        known = [at for at, ring in zip(RINGS, told, strict=True) if ring.sum() >= FEW // 2]
        if beside.sum() < FEW or not rings:
            return None
        white, grey = colours[beside], colours[beside].mean(1)
        white = np.median(white[grey >= np.percentile(grey, WHITE)], 0)
        filled = np.stack([np.interp(RINGS, known, channel) for channel in np.transpose(rings)], 1)
        wanted = of_a_ball(away, filled, white).mean(1)
        even = min(wanted.std(), colours.mean(1).std()) < 1
        fit = 0.0 if even else float(np.corrcoef(wanted, colours.mean(1))[0, 1])
        return Eye(ball, deep, np.array([left, top]), middle, filled, white, metre, fit)

    def draw(self, drawn: np.ndarray, target: Target) -> None:
        """Draw the eyes that have moved into a target's picture `H W 3` uint8 at its samples."""
        draw_eyes(drawn, target, self._body, [self])

    def error(self, number: int, shown: Opening) -> float:
        """Squared grey levels that an eye is expected to be off by as `shown` elsewhere."""
        ball = self.balls[number]
        return (
            PER_DEGREE * degrees_between(ball.turn, shown.ball.turn) ** 2
            + PER_WIDTH * (shown.ball.open - ball.open) ** 2
        )

    def colours(self, number: int, shown: Opening, like: Eye | None = None) -> np.ndarray:
        """Colours `N 3` of the points of an opening through which an eye is shown; with its iris where that of `like`
        would be, another picture's of the same eye."""
        eye = self.eyes[number]
        assert eye is not None
        ways = shown.ways if like is None else shown.ways @ between(like.middle, eye.middle).T
        places, least = eye.ball.places(ways, self._intrinsics), LEAST / eye.metre
        before = values_at(eye.window, places - eye.corner)[:, 0] / eye.metre
        share = smooth(max(COMES_OUT[0], least / 2), max(COMES_OUT[1], 1.5 * least), shown.within - before)
        share = share * (1 - smooth(SURE[0], max(SURE[1], 3 * least), before))
        share = softened(shown, share)
        own = values_at(self._portrait, places).astype(np.float32)
        away = _degrees(ways, eye.middle) / np.degrees(np.arcsin(IRIS / eye.ball.radius))
        white = eye.white * (1 - SHADE * np.exp(-((shown.within / SHADED) ** 2) / 2)[:, None])
        # As bright as the white that is seen nearby.
        sure = (away > LIMBUS[1]) * (1 - share) * smooth(0, SURE[0], before)
        near = np.zeros((*shown.opacity.shape, 4), np.float32)
        near[shown.rows] = np.column_stack([(own - white) * sure[:, None], sure])
        near = cv2.GaussianBlur(near, (0, 0), LIKE * shown.metre)[shown.rows]
        white = white + near[:, :3] / (near[:, 3:] + UNLIKE)
        return np.asarray(own + share[:, None] * (of_a_ball(away, eye.rings, white) - own))


class Opening(NamedTuple):
    """Where a target shows an eye: the `ball`; the first `row` and `column` of a window of its samples around it, and
    the opening's `opacity` there, `h w`; of the `N` samples with some: which those are, `rows`; what they see of the
    ball, `ways` `N 3`; and how many metres `within` the opening they lie; and how many samples a `metre` is."""

    ball: Ball
    row: int
    column: int
    opacity: np.ndarray
    rows: tuple[np.ndarray, np.ndarray]
    ways: np.ndarray
    within: np.ndarray
    metre: float


def shown_in(target: Target, ball: Ball, around: np.ndarray) -> Opening | None:
    """None of an eye that is not in the picture. `around`: which of the target's samples see what is around it, `H W`
    true or not: others lie before it."""
    samples = target.samples
    bounds = _bounds(ball.opening * samples, target.covered.shape, 1)
    if bounds is None or ball.centre[2] <= ball.radius:
        return None
    (top, _), (left, _) = bounds
    metre = float(samples * target.intrinsics[1, 1] / ball.centre[2])
    deep = within_opening(ball.opening * samples, bounds, FINER if samples == 1 else 1)
    opacity = np.clip(deep + EDGE * samples, 0, 1)
    opacity *= around[top : top + len(deep), left : left + deep.shape[1]]
    y, x = np.nonzero(opacity)
    if not len(y):
        return None
    pixels = (np.column_stack([x + left, y + top]) + 0.5) / samples
    ways = ball.seen(pixels, np.asarray(target.intrinsics, np.float64))
    within = np.maximum(deep[y, x], 0) / metre
    return Opening(ball, top, left, opacity, (y, x), ways, within, metre)


def draw_eyes(
    drawn: np.ndarray,
    target: Target,
    body: Any,
    pictures: Sequence[Gaze],
    gains: np.ndarray | None = None,
    misfits: np.ndarray | None = None,
    turned: tuple[float, float] = TURNED,
) -> None:
    """Draw the eyes that have moved into a target's picture `H W 3` uint8, from the first one of some `pictures` of the
    person and from others that show them nearer to what is asked for.

    Args:
        drawn: at the target's samples. gains: by channel, how much brighter the first is than each of the others,
            `N-1 3`. misfits: what each is off by in showing what the first does, `N` squared grey levels.
        turned: as TURNED.
    """
    around = None
    for number, ball in enumerate(balls_of(body, target.vertices, target.intrinsics)):
        own = pictures[0].eyes[number]
        if own is None or (len(pictures) == 1 and not moved(own.ball, ball, turned)):
            continue
        around = around_eyes(body, target) if around is None else around
        if (shown := shown_in(target, ball, around == number + 1)) is None:
            continue
        seen = np.array([one.eyes[number] is not None for one in pictures])
        closed = np.array([one.balls[number].open < SLIT[1] for one in pictures])
        errors = np.array([one.error(number, shown) for one in pictures])
        weights = (LEAST_ERROR + errors + (0 if misfits is None else misfits)) ** -POWER
        weights *= seen | closed
        weights[weights < LEAST_SHARE * weights.max()] = 0
        weights /= weights.sum()
        # Through a slit no ball is seen; and where pictures with closed eyes are nearer none is drawn.
        opacity = float(moved(own.ball, ball, turned) * smooth(*SLIT, ball.open) * weights[seen].sum())
        if opacity < LEAST_SHARE:
            continue
        weights = weights * seen / weights[seen].sum()
        colours = np.zeros((len(shown.ways), 3), np.float32)
        for one in np.flatnonzero(weights).tolist():
            light = np.ones(3) if gains is None or one == 0 else gains[one - 1]
            colours += weights[one] * light * pictures[one].colours(number, shown, own if one else None)
        y, x = shown.rows[0] + shown.row, shown.rows[1] + shown.column
        at, share = drawn[y, x].astype(np.float32), opacity * shown.opacity[shown.rows]
        drawn[y, x] = np.clip(at + share[:, None] * (colours - at) + 0.5, 0, 255).astype(np.uint8)


def has_eyes(body: Any) -> bool:
    """Whether a body has eyeballs whose place is known, and lids."""
    return "eyes" in getattr(body, "part_names", []) and lids_of(body) is not None


def around_eyes(body: Any, target: Target) -> np.ndarray:
    """Around which eye, 1 or 2, each of a target's samples sees the mesh, `H W`; 0 elsewhere."""
    lids = lids_of(body)
    assert lids is not None
    found = np.zeros(target.covered.size, np.int8)
    found[target.places] = lids.eye[target.triangles]
    return found.reshape(target.covered.shape)


def of_a_ball(away: np.ndarray, rings: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Colours `N 3` of points that lie so many radii of an iris from its middle, `N`; `white`: `3`, or `N 3`."""
    colours = np.stack([np.interp(away, RINGS, channel) for channel in rings.T], 1)
    return np.asarray(colours + smooth(*LIMBUS, away)[:, None] * (white - colours))


def balls_of(body: Any, vertices: np.ndarray, intrinsics: np.ndarray) -> list[Ball]:
    """The left and the right eyeball of a body's `vertices` `V 3` before a camera of `intrinsics` `3 3`."""
    marks, still, balls = body.landmarks(vertices), still_in_the_head(body), []
    head, _, _ = carried(np.asarray(body.template)[still], vertices[still])
    for number, (upper, lower) in enumerate(MARGINS):
        own, rest, radius = _at_rest(body, number)
        turn, scale, centre = carried(rest, vertices[own])
        around = project(marks[[*upper, *lower[-2:0:-1]]].astype(np.float32), intrinsics)
        balls.append(Ball(centre, radius * scale, turn, head.T @ turn, around, opening(marks, number)))
    return balls


def carried(points: np.ndarray, to: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """The turn `3 3`, scale and shift `3` that take points `N 3` to others with the least squared error (Umeyama
    1991)."""
    before, after = np.asarray(points, np.float64), np.asarray(to, np.float64)
    here, there = before - before.mean(0), after - after.mean(0)
    u, values, vt = np.linalg.svd(there.T @ here)
    sign = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    turn = (u * sign) @ vt
    scale = float((values * sign).sum() / (here**2).sum())
    return turn, scale, after.mean(0) - scale * turn @ before.mean(0)


def moved(before: Ball, after: Ball, turned: tuple[float, float] = TURNED) -> float:
    """How far an eye is to be drawn apart from a portrait's, 0 to 1. One that closes is not: lids do that."""
    looks, wider = smooth(*turned, degrees_between(before.look, after.look)), after.open - before.open
    closing = smooth(*CLOSING, -wider / max(before.open, SLIT[1]))
    return float(np.maximum(looks, smooth(*OPENED, wider)) * (1 - closing))


def degrees_between(first: np.ndarray, second: np.ndarray) -> float:
    """Degrees between two rotations `3 3`."""
    return float(np.degrees(np.arccos(np.clip((np.trace(first.T @ second) - 1) / 2, -1, 1))))


def softened(shown: Opening, share: np.ndarray) -> np.ndarray:
    """Shares `N` of an opening's points without the edge of what one portrait shows."""
    told = np.zeros((*shown.opacity.shape, 2), np.float32)
    told[shown.rows] = np.column_stack([share, np.ones(len(share))])
    soft = cv2.GaussianBlur(told, (0, 0), max(SOFT * shown.metre, 0.3))[shown.rows]
    return np.asarray(soft[:, 0] / np.maximum(soft[:, 1], 1e-6))


def between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The smallest rotation `3 3` from one direction `3` to another."""
    from scipy.spatial.transform import Rotation

    axis = np.cross(first, second)
    sine = np.linalg.norm(axis)
    return np.asarray(Rotation.from_rotvec(axis / max(sine, 1e-9) * np.arctan2(sine, first @ second)).as_matrix())


def middle_of_iris(ways: np.ndarray, grey: np.ndarray, sure: np.ndarray, iris: float) -> np.ndarray:
    """The direction `3` in which an iris of a radius of `iris` degrees lies: of a ball that is seen in directions `N 3`
    the darkest disc beside what is around it. Args: grey: levels `N`. sure: `N`, in 0..1."""
    best, found = -np.inf, np.array([0.0, 0.0, 1.0])
    for up in np.radians(np.arange(-UPWARDS, UPWARDS + 1, STEP)):
        for aside in np.radians(np.arange(-ASIDE, ASIDE + 1, STEP)):
            way = np.array([np.sin(aside) * np.cos(up), np.sin(up), np.cos(aside) * np.cos(up)])
            away = _degrees(ways, way) / iris
            within, around = sure * (away < LIMBUS[0]), sure * ((away > LIMBUS[1]) & (away < AROUND))
            if min(within.sum(), around.sum()) < FEW:
                continue
            contrast = (around @ grey) / around.sum() - (within @ grey) / within.sum()
            score = contrast - PRIOR * np.degrees(np.hypot(up, aside))
            if score > best:
                best, found = score, way
    return found


def within_opening(outline: np.ndarray, bounds: tuple[tuple[int, int], tuple[int, int]], finer: int) -> np.ndarray:
    """How many pixels each one of a window lies within an `outline` `N 2`, and below 0 how many beside it."""
    (top, bottom), (left, right) = bounds
    size = (bottom - top) * finer, (right - left) * finer
    mask = np.zeros(size, np.uint8)
    points = (outline - (left, top)) * finer - 0.5
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 1, shift=4)
    inside, beside = (cv2.distanceTransform(one, cv2.DIST_L2, 5) for one in (mask, 1 - mask))
    deep = np.where(mask > 0, inside - 0.5, 0.5 - beside).astype(np.float32) / finer
    return (
        deep if finer == 1 else np.asarray(cv2.resize(deep, (right - left, bottom - top), interpolation=cv2.INTER_AREA))
    )


def _bounds(outline: np.ndarray, size: tuple[int, ...], beside: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Rows and columns of a picture around an outline; None where none are left."""
    low = np.clip(np.floor(outline.min(0)) - beside, 0, size[::-1]).astype(int)
    high = np.clip(np.ceil(outline.max(0)) + beside, 0, size[::-1]).astype(int)
    if (high - low).min() < 2:
        return None
    return (low[1], high[1]), (low[0], high[0])


def _degrees(ways: np.ndarray, way: np.ndarray) -> np.ndarray:
    return np.asarray(np.degrees(np.arccos(np.clip(ways @ way, -1, 1))))


@functools.lru_cache(maxsize=8)
def _at_rest(body: Any, number: int) -> tuple[np.ndarray, np.ndarray, float]:
    """An eyeball's vertices, where they lie on the template from its centre, and its radius."""
    template = np.asarray(body.template, np.float64)
    own = np.flatnonzero(of_part(body, "eyes") & ((template[:, 0] > 0) == (number == 0)))
    rest = template[own] - np.asarray(body.eye_centres[number])
    return own, rest, float(np.median(np.linalg.norm(rest, axis=1)))
