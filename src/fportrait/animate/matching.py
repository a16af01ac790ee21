"""A driver's expression at the strength at which the portrait shows it.

Ours. Codes say what a rendered face would do. Half a rendered smile is a broad one on some faces and none on others, a
beard hides a jaw, and what the encoder reads of real drivers is often too little: of two portraits and eight real
drivers, jaw and smile moved a hundredth as far as the driver's in the median, told by the scores of the blendshape net.
The same scores say what is missing. The portrait is painted on its body with more and more of an action, once, and its
scores then tell which action of *this* face looks like the driver's: as far above its own score at rest as the driver
is above his. The difference to what the code tells is added to the code, along the same directions as expression
sliders, so that everything that reads codes sees one expression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fportrait.animate.retarget import MOST
from fportrait.animate.tracked import Tracked, paint_portrait
from fportrait.body.model import BodyModel
from fportrait.camera.cameras import crop_intrinsics
from fportrait.dataset.crops import crop_picture
from fportrait.tracking.actions import ActionReadout
from fportrait.tracking.clips import ClipLandmarks
from fportrait.tracking.fit import bridge_gaps, smooth
from fportrait.tracking.landmarks import shared_landmarker
from fportrait.tracking.neutral import LOW_END, Rest
from fportrait.tracking.points import BLENDSHAPE_NAMES

# What is matched: its actions and scores (their names are the same), and its row in `retarget.directions`.
MATCHED: dict[str, tuple[tuple[str, ...], str]] = {
    "jaw": (("jawOpen",), "jaw_open"),
    "smile": (("mouthSmileLeft", "mouthSmileRight"), "smile"),
    "blink": (("eyeBlinkLeft", "eyeBlinkRight"), "eyes_closed"),
}
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of an action, at which the portrait is painted and scored
FINE = np.linspace(0, 1, 41)  # levels among which a frame's are chosen
FINE_PAIRS = tuple(part.ravel() for part in np.meshgrid(FINE, FINE, indexing="ij"))  # of a jaw and a smile
SIZE = 256  # pixels at which a portrait's scores are measured
SMALL_STEP = 0.02  # what a level away from the code's costs, beside squared errors of scores: settles what they do not
# The most that is added to or taken from what the code tells of jaw, smile and blink, in actions. A jaw's score rises
# late on many portraits, and a mouth that opens as far as the score asks looks wider than the driver's.
TRUSTED = np.array([0.4, 0.7, 0.7])


@dataclass(frozen=True)
class Response:
    """The scores of a portrait that acts, at `LEVELS` of its actions.

    Attributes:
        mouth: `L L 2`, jaw and smile scores by level of the jaw and of the smile: a smiling mouth's jaw reads less.
        eyes: `L`, blink scores by level of the blink. Either is None where the portrait's face was not found again.
    """

    mouth: np.ndarray | None
    eyes: np.ndarray | None

    @classmethod
    def measured(cls, scores: Callable[[list[np.ndarray]], list[np.ndarray | None]], names: list[str]) -> Response:
        """Args:
        scores: the net's `52` for each of a list of actions `52`, None where no face was found. names: of the actions.
        """
        mouths = [acting(names, jaw=jaw, smile=smile) for jaw in LEVELS for smile in LEVELS]
        answers = scores([*mouths, *(acting(names, blink=blink) for blink in LEVELS)])

        def read(some: list[np.ndarray | None], what: tuple[str, ...]) -> np.ndarray | None:
            known = [one for one in some if one is not None]
            return np.stack([score_of(np.stack(known), name) for name in what], -1) if len(known) == len(some) else None

        mouth, eyes = read(answers[: len(mouths)], ("jaw", "smile")), read(answers[len(mouths) :], ("blink",))
        side = len(LEVELS)
        return cls(None if mouth is None else mouth.reshape(side, side, 2), None if eyes is None else eyes[:, 0])

    @cached_property
    def _fine(self) -> np.ndarray | None:
        """`mouth` at the levels of `FINE`, `F F 2`; made once, because a live stream asks at every frame."""
        return None if self.mouth is None else fine_grid(self.mouth)

    def levels(self, wanted: np.ndarray, told: np.ndarray) -> np.ndarray:
        """Levels `T 3` (jaw, smile, blink) at which the portrait's scores come nearest to those `wanted` `T 3`.

        Args:
            told: `T 3`, what the codes tell: taken as it is where nothing is known, and the nearer the cheaper.
        """
        found = np.array(told, np.float64)
        if self._fine is not None:
            jaw, smile = FINE_PAIRS
            error = ((self._fine.reshape(-1, 2) - wanted[:, None, :2]) ** 2).sum(-1)
            away = (jaw - told[:, :1]) ** 2 + (smile - told[:, 1:2]) ** 2
            best = (error + SMALL_STEP * away).argmin(1)
            found[:, 0], found[:, 1] = jaw[best], smile[best]
        if self.eyes is not None:
            fine = np.interp(FINE, LEVELS, self.eyes)
            best = ((fine - wanted[:, 2:]) ** 2 + SMALL_STEP * (FINE - told[:, 2:]) ** 2).argmin(1)
            found[:, 2] = FINE[best]
        return found

    def at(self, levels: np.ndarray) -> np.ndarray:
        """Scores `3` (jaw, smile, blink) at levels `3`; what is not known is as the level."""
        scores = np.array(levels, np.float64)
        if self._fine is not None:
            row, column = (int(abs(FINE - level).argmin()) for level in levels[:2])
            scores[:2] = self._fine[row, column]
        if self.eyes is not None:
            scores[2] = np.interp(levels[2], LEVELS, self.eyes)
        return scores


def response_of(body: BodyModel, person: Tracked, image: np.ndarray, acted: np.ndarray | None) -> Response:
    """How a portrait's scores answer its body's actions, in its own pose and view, where it acts as `acted`."""
    portrait = crop_picture(image, person.crop, SIZE)
    lens, points = crop_intrinsics(person.intrinsics, person.crop, SIZE), person.landmarks(SIZE)[0]

    def scores(actions: list[np.ndarray]) -> list[np.ndarray | None]:
        count = len(actions)
        cameras, lenses = (np.repeat(one[None], count, 0) for one in (person.reference_camera, lens))
        where = (person, cameras, lenses, [0] * count)
        painted = paint_portrait(body, person, portrait, *where, acted, actions, 1)
        faces = [shared_landmarker().follow(picture, points) for picture in painted]
        return [None if face is None else face.blendshapes for face in faces]

    return Response.measured(scores, body.action_names)


def fine_grid(mouth: np.ndarray) -> np.ndarray:
    """`L L 2` at `LEVELS`, linear between them: `F F 2` at `FINE`."""
    from scipy.interpolate import RegularGridInterpolator

    points = np.stack(np.meshgrid(FINE, FINE, indexing="ij"), -1)
    return np.asarray(RegularGridInterpolator((LEVELS, LEVELS), mouth)(points))


def acting(names: list[str], **levels: float) -> np.ndarray:
    """Actions `52` of a face that does nothing but some of `MATCHED`, each at its level."""
    actions = np.zeros(len(names), np.float32)
    for name, level in levels.items():
        actions[[names.index(part) for part in MATCHED[name][0]]] = level
    return actions


def score_of(scores: np.ndarray, name: str) -> np.ndarray:
    """Of scores `... 52`, the mean over the sides of one of `MATCHED`."""
    return np.asarray(scores[..., [BLENDSHAPE_NAMES.index(part) for part in MATCHED[name][0]]].mean(-1))


def scores_at_rest(scores: np.ndarray, frames: Sequence[int]) -> np.ndarray:
    """The scores `52` of a driver's face at rest, from all that were seen `T 52` and the frames at rest.

    A mouth at rest is no further open, and smiles no more, than the driver's own low end: of one who speaks while his
    face is calmest, the closed mouth would else be less than nothing, which no portrait can show.
    """
    rest = scores[list(frames)].mean(0)
    for name in ("jaw", "smile"):
        columns = [BLENDSHAPE_NAMES.index(part) for part in MATCHED[name][0]]
        rest[columns] = np.minimum(rest[columns], np.quantile(scores[:, columns], LOW_END, axis=0))
    return np.asarray(rest)


def rises_above(scores: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """How far a driver's scores `T 52` lie above those of his face at rest `52`: `T 3` (jaw, smile, blink)."""
    return np.stack([score_of(scores, name) - score_of(rest, name) for name in MATCHED], -1)


def driver_rises(seen: ClipLandmarks, rest: Rest, frames: int) -> np.ndarray:
    """`rises_above` of a driver's frames, `T 3`, between those that show no face, too."""
    found = np.flatnonzero(seen.confidence > 0)
    assert seen.scores is not None
    scores = bridge_gaps(found, seen.scores[found], frames)
    return rises_above(scores, scores_at_rest(scores, rest.frames))


def matched_codes(
    codes: np.ndarray,
    rises: np.ndarray,
    rest_code: np.ndarray,
    response: Response,
    readout: ActionReadout,
    directions: Mapping[str, np.ndarray],
    names: list[str],
    sigma: float = 0.0,
) -> np.ndarray:
    """Codes `T 128` under which the portrait's scores rise as the driver's do.

    Args:
        rises: the driver's, `T 3`, of `rises_above`. rest_code: `128`, what the portrait at rest is told. response: of
            the portrait. names: of the readout's actions. directions: of `retarget.directions`.
        sigma: of the temporal filter, frames; 0 where only the past is known.
    """
    columns = [[names.index(part) for part in parts] for parts, _ in MATCHED.values()]

    def levels(actions: np.ndarray) -> np.ndarray:
        return np.stack([actions[..., some].mean(-1) for some in columns], -1)

    def filtered(values: np.ndarray) -> np.ndarray:
        return smooth(values, sigma) if sigma else values

    told = levels(readout(codes))  # T 3
    wanted = np.clip(response.at(levels(readout(rest_code))) + filtered(rises), 0, 1)
    missing = np.clip(response.levels(wanted, told) - told, -TRUSTED, TRUSTED)
    along = np.stack([directions[row] for _, row in MATCHED.values()])  # 3 128
    effect = levels(along @ readout.weight.T)  # of each direction on each level
    strengths = np.linalg.lstsq(effect.T, filtered(missing).T, rcond=0.05)[0].T  # T 3
    return np.asarray(codes + np.clip(strengths, -MOST, MOST) @ along, codes.dtype)
