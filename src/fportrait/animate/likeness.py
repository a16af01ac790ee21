"""Whether pictures show one person, by dlib's network where it is installed (`pip install 'fportrait[identity]'`).

Without it nothing tells: the body's shape, which every install fits, separates pairs of photographs of one person from
those of two with an area under the curve of .73, and lies nearest in the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fportrait.tracking.landmarks import Face, shared_landmarker

# Cosines of 33 pairs of pictures of one person: .922 to .995; of 292 pairs of two people: at most .912. Of photographs
# alone, 9 pairs of one person: .951 to .973; 342 of two: 98.5% of them below .9, at most .933.
OTHER, SAME = 0.90, 0.93


def embedding(picture: np.ndarray, face: Face) -> np.ndarray | None:
    """Who it is, unit length, by the network whose numbers the limits above are of; None where it is not installed."""
    from fportrait.evaluation.metrics.csim import default_identity

    network = default_identity()
    if network is None or not network.backbone.name.startswith("dlib"):
        return None
    return network.embed(picture, face.landmarks)


def alike(first: np.ndarray, second: np.ndarray) -> float | None:
    """The likeness of two upright pictures' largest faces; None where nothing tells, and 0 where one has no face."""
    found = []
    for picture in (first, second):
        faces = shared_landmarker().detect(picture, max_faces=1)
        one = embedding(picture, faces[0]) if faces else np.zeros(1)
        if one is None:
            return None
        found.append(one)
    return float(found[0] @ found[1]) if found[0].shape == found[1].shape else 0.0


def strangers(portraits: Sequence[tuple[Path, np.ndarray]]) -> list[str]:
    """A sentence for each further portrait (a file and its upright picture `H W 3`) that looks like somebody else than
    the first; none where no network is installed that tells."""
    known = []
    for path, picture in portraits:
        faces = shared_landmarker().detect(picture, max_faces=1)
        found = embedding(picture, faces[0]) if faces else None
        known += [] if found is None else [(path, found)]
    if not known or known[0][0] != portraits[0][0]:
        return []
    (first, own), *others = known
    return [
        f"{path.name} looks like another person than {first.name} (likeness {float(own @ found):.2f}; pictures of one "
        f"person have {SAME} and more): its colours are painted on {first.name}'s face"
        for path, found in others
        if float(own @ found) < OTHER
    ]
