"""Which number tells a face from what a detector takes for one? Behind the limits of `tracking/unlikeness.py`.

    python benchmarks/real_people_set.py --fetch
    python benchmarks/unlike_faces.py [--set data/real_people]

Every photograph and painting of the set must stay below `REFUSED`, everything that is none above it. Also turns every
photograph by 0 to 330 degrees and counts the faces that are not found upright.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from _result import write_result
from real_people_set import FOLDER, entries

from fportrait.capture.image_io import read_image
from fportrait.tracking.landmarks import roll_of, shared_landmarker
from fportrait.tracking.unlikeness import DOUBTFUL, REFUSED

LONGEST = 900  # pixels; larger pictures are shrunk to it
ROLLED = 6  # photographs that are turned


def turned(picture: np.ndarray, degrees: float) -> np.ndarray:
    """A picture turned clockwise on a canvas that holds all of it."""
    height, width = picture.shape[:2]
    side = int(np.hypot(height, width)) + 2
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1)
    matrix[:, 2] += [(side - width) / 2, (side - height) / 2]
    return cv2.warpAffine(picture, matrix, (side, side))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, default=FOLDER, dest="folder")
    arguments = parser.parse_args()
    landmarker = shared_landmarker()
    values: dict[str, dict[str, float]] = {"photographs": {}, "not_faces": {}}
    wrong, tried = [], 0
    for entry in entries(arguments.folder):
        if entry.kind not in values or not entry.path.is_file():
            continue
        picture = read_image(entry.path)
        factor = min(1.0, LONGEST / max(picture.shape[:2]))
        picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        faces = landmarker.detect(picture)
        if not faces:
            continue
        values[entry.kind][entry.name] = round(landmarker.unlikeness(picture, faces[0]), 4)
        if entry.kind == "photographs" and tried < 11 * ROLLED:
            upright = np.degrees(roll_of(faces[0].landmarks))
            for degrees in range(30, 360, 30):
                tried += 1
                found = landmarker.detect(turned(picture, degrees))
                off = np.degrees(roll_of(found[0].landmarks)) - upright - degrees if found else 180.0
                if abs((off + 180) % 360 - 180) > 12:
                    wrong.append([entry.name, degrees])
    people, others = (np.array(list(some.values())) for some in values.values())
    result = write_result(
        "unlike_faces",
        "photographs and paintings refused, and non-faces let through, of those a face was detected in",
        float((people > REFUSED).sum() + (others <= REFUSED).sum()),
        "pictures",
        0,
        len(people) + len(others),
        refused_above=REFUSED,
        doubtful_above=DOUBTFUL,
        photographs=values["photographs"],
        not_faces=values["not_faces"],
        turned=tried,
        turned_wrong=wrong,
    )
    for key in ("ours", "n", "photographs", "not_faces", "turned", "turned_wrong"):
        print(f"{key}: {result[key]}")


if __name__ == "__main__":
    main()
