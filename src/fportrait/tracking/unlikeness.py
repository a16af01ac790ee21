"""How unlike a face what was found is, and which way up it stands.

The landmark network puts 478 points on anything its detector takes for a face: a cat, a coin, a quilted wall, a face
upside down. Three things tell. Its own belief (as the logarithm of its odds: as a number from 0 to 1 it is 1.00 for
most of them); how far the points lie from those of people (`refinement.LandmarkRefiner.strangeness`); and whether it
puts the same points on the same place when its crop is cut otherwise: on a face they stay, on anything else they swim.

Which way up: of the four quarter turns of a face's crop the one with the most `evidence` is right. Of 174 faces
(photographs, paintings, drawings) none came out wrong, and none was closer than 5.

Unlike a face: `unsteadiness`, the mean distance of the points from where five other crops put them, as part of the
face's size. `benchmarks/unlike_faces.py` measures it; docs/real-faces.md has the table behind both limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fportrait.errors import UserError

DOUBTFUL = 0.045  # helmets, masks, hard shadows and very small faces lie above it; faces in full view do not
REFUSED = 0.07  # no face of a person, painted, sculpted or filmed, lay above it; cats, coins and walls do
STRANGE_COST = 8.0  # logarithmic odds that one spread of strangeness takes away
WORST_STRANGENESS = 4.0  # beyond, it says no more
SURE = 4.0  # evidence that no face seen the wrong way up has had
POOR = -16.0  # evidence below which the picture is searched in its other three turns, too: one real face in a hundred
WORSE = 20.0  # evidence that another face of the picture must not lack
MARGIN = 2.0  # evidence by which another crop of the same way up must be better
TURNED, TURNED_MARGIN = (
    -2.0,
    10.0,
)  # evidence of the right way up of a turned face, and by how much it is better than the
# way that was seen: .1 to 18 and 12 to 40 for photographs and paintings; side views, which are upright, have -16 to -8
CROPS = ((20.0, 1.0, 0.0), (-20.0, 1.0, 0.0), (0.0, 0.8, 0.0), (0.0, 1.3, 0.0), (0.0, 1.0, 0.12))
LOOKED_AT = 5  # frames of a clip


def evidence(landmarks: np.ndarray, confidence: float) -> float:
    """Logarithmic odds that points `478 2` are those of a face the right way up."""
    from fportrait.tracking.refinement import shipped_refiner

    odds = math.log(max(confidence, 1e-12)) - math.log(max(1 - confidence, 1e-12))
    strange = float(shipped_refiner().strangeness(landmarks[None])[0])
    return odds - STRANGE_COST * min(strange, WORST_STRANGENESS)


def unsteadiness(
    place: Callable[[float, float, float], np.ndarray], landmarks: np.ndarray, inside: np.ndarray
) -> float:
    """How far the points move when the crop is cut otherwise, as part of the face's size.

    Args:
        place: degrees of roll, factor of the side and shift in sides to the points `478 2` found in that crop.
        landmarks: `478 2`, those found in the crop as it is. inside: `478`, which of them the picture holds: of a face
            that its edge cuts, the others are guessed.
    """
    size, kept = float(np.ptp(landmarks, axis=0).max()), inside if inside.any() else ~inside
    return float(np.mean([np.linalg.norm(place(*crop) - landmarks, axis=1)[kept].mean() / size for crop in CROPS]))


def refuse_unlike(unlike: float, where: str, force: bool) -> str | None:
    """A sentence about what is doubtful; None for a face in full view.

    Args:
        unlike: `unsteadiness`. force: go on with what is no face.

    Raises:
        UserError: less like a face than any face that was measured.
    """
    if unlike > REFUSED and not force:
        raise UserError(
            f"nothing like a face in {where}: the points swim by {100 * unlike:.0f}% of its size",
            f"at most {100 * REFUSED:.0f}%, as on faces that are filmed, painted or sculpted",
            "give one with a face in full view, or go on with --force (track.tracking.force in a project)",
        )
    if unlike > DOUBTFUL:
        return (
            f"{where} shows something little like a face, or a face that is small, covered or in hard shadow "
            f"(points swim by {100 * unlike:.1f}%; {100 * DOUBTFUL:.1f}% and less is usual): expect a poor likeness"
        )
    return None
