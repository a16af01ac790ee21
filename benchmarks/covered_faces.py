"""Is it noticed that a face is covered, and only then? Behind the table of docs/real-faces.md.

    python benchmarks/real_people_set.py --fetch
    python benchmarks/covered_faces.py [--set data/real_people] [--network FILE] [--sheet FILE]

Faces in full view on all pictures of the set's packages (no index lists them: archives are searched) must not be called
covered. A mask, a scarf, dark glasses, a hand cut from a photograph, a microphone and hair over one eye are put on
every second photograph, where its landmarks are, in its light; landmarks are then found anew, as on a user's picture.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from _result import write_result
from PIL import Image
from real_people_set import FOLDER

from fportrait.tracking.covered import CoverNet, covered_parts, covered_shares
from fportrait.tracking.crops import face_crop
from fportrait.tracking.landmarks import shared_landmarker
from fportrait.tracking.unlikeness import DOUBTFUL

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
LONGEST, SMALLEST = 900, 70  # pixels of a picture, and of a face
ALIKE = 0.97  # correlation of two crops from which they are one picture
# Drawn over by landmarks or detectors, averaged, blocked out or no people: neither covered nor in full view.
PUZZLES = (
    *("average.png", "clmtrackr02.jpg", "picasso_drawing_crop.jpg", "vendetta.jpg", "emotions.jpg", "emotions_neg.jpg"),
    *("annotated2_small.jpg", "poisson_face.jpg", "post_deform2.jpg", "post_facedeformation2.jpg", "ml.png", "12.jpg"),
    *("Cascade_Classifier_Tutorial_Result_Haar.jpg", "Cascade_Classifier_Tutorial_Result_LBP.jpg", "ab-1.jpg"),
    *("ab.jpg", "example.jpg", "faceDetection.png", "fisherface_reconstruction_opencv.png", "haar.png"),
    *("visualisation_single_stage.png", "visualisation_video.png", "screenshot-webcam.png"),
)
WORN = (  # dark glasses
    "material-dashboard-3.1.0.tgz:package/assets/img/team-2.jpg",
    "tabler-ui-0.0.34.tgz:package/dist/demo/faces/female/24.jpg",
    "tabler-ui-0.0.34.tgz:package/dist/demo/faces/male/39.jpg",
)
HAND, HAIR = "Image_with_alpha.png", "card-profile4-square.jpg"  # a hand on a forehead; hair over half an eye
DRAWN = ("avatar", "wesnoth")
# The hand's outline, of the picture around the face shrunk to 420 pixels.
HAND_OUTLINE = (
    *((0, 340), (60, 260), (100, 190), (98, 140), (112, 100), (125, 95), (150, 75), (205, 57), (215, 68), (190, 85)),
    *((243, 78), (249, 92), (205, 110), (252, 102), (254, 115), (200, 140), (245, 124), (250, 138), (215, 155)),
    *((190, 170), (165, 190), (140, 210), (70, 300), (20, 380), (0, 400)),
)
COLOURS = np.array([(150, 190, 215), (235, 238, 240), (25, 25, 28), (120, 160, 130), (200, 120, 150)], float)


@dataclass
class Seen:
    """A face `landmarks` `478 2` and the part of its picture around it, `H W 3`."""

    where: str
    image: np.ndarray
    landmarks: np.ndarray

    @property
    def size(self) -> float:
        return float(np.ptp(self.landmarks, axis=0).max())


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """The pictures in an archive, by name."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if name.lower().endswith(SUFFIXES):
                    yield name, wheel.read(name)
        return
    packed: dict[str, Any] = {"name": archive}
    if archive.suffix == ".deb":
        data = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archive)], check=True, capture_output=True).stdout
        packed = {"fileobj": io.BytesIO(data)}
    with tarfile.open(**packed) as package:
        for entry in package:
            content = package.extractfile(entry) if entry.isfile() else None
            if content and entry.name.lower().endswith(SUFFIXES):
                yield entry.name, content.read()


def faces_on(where: str, data: bytes) -> list[Seen]:
    """Faces in full view, large enough and surely faces, of a picture."""
    try:
        opened = Image.open(io.BytesIO(data))
        if min(opened.size) < 100 or max(opened.size) > 6000:
            return []
        picture = np.asarray(opened.convert("RGB"))
    except (OSError, ValueError):
        return []
    factor = min(1.0, LONGEST / max(picture.shape[:2]))
    picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else picture
    found = []
    for face in shared_landmarker().detect(picture, max_faces=4, quick=True):
        low, high = face.landmarks.min(0), face.landmarks.max(0)
        if face.size < SMALLEST or (low < 0).any() or (high > picture.shape[1::-1]).any():
            continue
        if shared_landmarker().unlikeness(picture, face) > DOUBTFUL:
            continue
        x0, y0 = np.maximum((low + high) / 2 - 1.2 * face.size, 0).astype(int)
        x1, y1 = ((low + high) / 2 + 1.2 * face.size).astype(int)
        found.append(Seen(where, picture[y0:y1, x0:x1].copy(), face.landmarks.astype(np.float64) - (x0, y0)))
    return found


def all_faces(folder: Path) -> list[Seen]:
    """Of all archives and installed pictures, each once."""
    pictures = [(archive.name, members(archive)) for archive in sorted((folder / "packages").iterdir())]
    here = [(path.name, path.read_bytes()) for path in sorted((folder / "photographs").glob("*.png"))]
    found: list[Seen] = []
    known: set[str] = set()
    shown: list[np.ndarray] = []
    for package, some in [*pictures, ("set", iter(here))]:
        for name, data in some:
            key = hashlib.sha256(data).hexdigest()
            if key in known or len(data) < 4000:
                continue
            known.add(key)
            for face in faces_on(f"{package}:{name}", data):
                small = cv2.resize(
                    cv2.cvtColor(face_crop(face.image, face.landmarks, 64, 1.2), cv2.COLOR_RGB2GRAY), (12, 12)
                )
                small = (small - small.mean()) / max(float(small.std()), 1e-6)
                if all((small * other).mean() < ALIKE for other in shown):
                    shown.append(small)
                    found.append(face)
    return found


def area(shape: tuple[int, ...], points: np.ndarray, soft: float) -> np.ndarray:
    mask = cv2.fillPoly(np.zeros(shape[:2], np.float32), [np.round(points).astype(np.int32)], (1.0,))
    return cv2.GaussianBlur(mask, (0, 0), soft)


def over(image: np.ndarray, mask: np.ndarray, thing: np.ndarray) -> np.ndarray:
    return np.clip(image * (1 - mask[..., None]) + thing * mask[..., None], 0, 255).astype(np.uint8)


def light(face: Seen) -> np.ndarray:
    """The picture's own light on a thing before the face, about 1, `H W 1`."""
    grey = cv2.cvtColor(face.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    soft = cv2.GaussianBlur(grey, (0, 0), face.size * 0.15)
    return np.clip(soft / soft.mean(), 0.5, 1.4)[..., None]


def places(face: Seen) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows in face sizes."""
    y, x = np.mgrid[: face.image.shape[0], : face.image.shape[1]]
    return x / face.size, y / face.size


def mask(face: Seen, n: int, hand: Seen, hair: Seen) -> np.ndarray:
    points, bridge = face.landmarks, face.landmarks[195] - face.landmarks[6]
    rim = points[[6, 122, 50, 234, 58, 172, 136, 149, 152, 378, 365, 397, 288, 454, 280, 351]].copy()
    rim[[0, 1, 15]] += bridge * [[0.6], [0.5], [0.5]]
    rim[6:11] += (points[152] - points[1]) * 0.06
    folds = 1 + 0.07 * np.sin(places(face)[1] * 45)[..., None] * (n % 2 == 0)
    return over(face.image, area(face.image.shape, rim, face.size * 0.006), COLOURS[n % 5] * light(face) * folds)


def scarf(face: Seen, n: int, hand: Seen, hair: Seen) -> np.ndarray:
    points, low = face.landmarks, np.array([0, 0.1 * face.size])
    height, width = face.image.shape[:2]
    left, right, nose = points[234] + low, points[454] + low, 0.4 * points[1] + 0.6 * points[2]
    rim = np.array([[0, left[1]], left, nose, right, [width, right[1]], [width, height], [0, height]])
    x, y = places(face)
    weave = 40 * np.sin(60 * x) * np.sin(60 * y) * (n % 3 > 0) + 30 * np.sin(9 * y + 3 * np.sin(4 * x))
    cloth = (COLOURS[(n + 2) % 5] + weave[..., None]) * light(face)
    return over(face.image, area(face.image.shape, rim, face.size * 0.008), cloth)


def dark_glasses(face: Seen, n: int, hand: Seen, hair: Seen) -> np.ndarray:
    points, glass = face.landmarks, np.zeros(face.image.shape[:2], np.float32)
    tilt = float(np.degrees(np.arctan2(*(points[263] - points[33])[::-1])))
    for corners in ((33, 133, 159, 145), (263, 362, 386, 374)):
        x, y = points[list(corners)].mean(0) + np.array([0, 0.02 * face.size])
        wide = float(np.linalg.norm(points[corners[0]] - points[corners[1]]))
        reach = (int(wide * 0.85), int(wide * (0.62 + 0.1 * (n % 2))))
        cv2.ellipse(glass, (int(x), int(y)), reach, tilt, 0, 360, (1.0,), -1)
    ends = [tuple(map(int, points[corner])) for corner in (133, 362)]
    cv2.line(glass, ends[0], ends[1], (1.0,), max(1, int(0.02 * face.size)))
    glass = cv2.GaussianBlur(glass, (0, 0), face.size * 0.005) * (0.97 if n % 3 else 0.9)
    paler = np.clip((places(face)[1] - points[105, 1] / face.size) / 0.25, 0, 1)[..., None]
    return over(face.image, glass, np.array([(20, 20, 24), (60, 40, 25), (30, 45, 70)][n % 3]) * (1 + 0.8 * paler))


def before_mouth(face: Seen, n: int, hand: Seen, hair: Seen) -> np.ndarray:
    """The photographed hand, in the colour of the face's cheek, with its shadow."""
    picture = cv2.resize(hand.image, (420, 420))
    outline, middle = area(picture.shape, np.array(HAND_OUTLINE), 1.5), np.array([190.0, 120.0])
    skin = np.median(picture[140:190, 120:160].reshape(-1, 3), 0)
    if n % 2:
        picture, outline, middle = picture[:, ::-1], outline[:, ::-1], np.array([230.0, 120.0])
    scale, mouth = face.size / (230 if n % 2 else 200), face.landmarks[[13, 14]].mean(0)
    move = np.column_stack([np.eye(2) * scale, mouth - scale * middle])
    size = face.image.shape[1::-1]
    moved = cv2.warpAffine(np.ascontiguousarray(picture), move, size).astype(float)
    there = cv2.warpAffine(np.ascontiguousarray(outline), move, size)
    down = np.array([[1, 0, 0], [0, 1, 0.03 * face.size]])
    shadow = cv2.GaussianBlur(cv2.warpAffine(there, down, size), (0, 0), 0.03 * face.size)
    x, y = face.landmarks[50].astype(int)
    own = np.median(face.image[max(y - 2, 0) : y + 3, max(x - 3, 0) : x + 4].reshape(-1, 3), 0)
    return over((face.image * (1 - 0.35 * shadow[..., None])).astype(np.uint8), there, moved * (own / skin))


def microphone(face: Seen, n: int, hand: Seen, hair: Seen) -> np.ndarray:
    size, way = face.size, n % 3 - 1
    head = face.landmarks[[13, 14]].mean(0) + np.array([0.03 * size * way, 0.05 * size])
    foot, there = head + np.array([0.25 * size * way, 0.9 * size]), np.zeros(face.image.shape[:2], np.float32)
    cv2.line(there, tuple(map(int, head)), tuple(map(int, foot)), (1.0,), int(0.14 * size))
    cv2.circle(there, tuple(map(int, head)), int(0.15 * size), (1.0,), -1)
    x, y = places(face)
    at = head / size
    shine = 60 * np.exp(-((x - at[0] + 0.05) ** 2 + (y - at[1] + 0.06) ** 2) / 0.05**2)
    mesh = 25 * np.sin(120 * x) * np.sin(120 * y)
    thing = np.array([(40, 40, 44), (130, 130, 135)][n % 2]) + (shine + mesh)[..., None]
    return over(face.image, cv2.GaussianBlur(there, (0, 0), 0.004 * size), thing)


def hair_over_an_eye(face: Seen, n: int, hand: Seen, hair: Seen) -> np.ndarray:
    strand = cv2.resize(hair.image, (420, 420))[210:400, 300:400]
    corners = [263, 362, 386, 374] if n % 2 else [33, 133, 159, 145]
    x, y = face.landmarks[corners].mean(0)
    wide, top, size = 0.17 * face.size, face.landmarks[10, 1] - 0.1 * face.size, face.size
    rim = [(x - wide, top), (x + wide, top), (x + 1.1 * wide, y), (x + 0.9 * wide, y + 0.35 * size)]
    rim += [(x + 0.2 * wide, y + 0.45 * size), (x - 0.8 * wide, y + 0.3 * size)]
    thing = cv2.resize(strand, face.image.shape[1::-1]) * [1.0, 0.6, 1.6][n % 3]
    return over(face.image, area(face.image.shape, np.array(rim), 0.01 * size), thing)


Cover = Callable[[Seen, int, Seen, Seen], np.ndarray]
COVERS: dict[str, tuple[Cover, str]] = {
    "mask": (mask, "mouth"),
    "scarf": (scarf, "mouth"),
    "dark glasses": (dark_glasses, "eyes"),
    "hand": (before_mouth, "mouth"),
    "microphone": (microphone, "mouth"),
    "hair over one eye": (hair_over_an_eye, "eyes"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, default=FOLDER, dest="folder")
    parser.add_argument("--network", type=Path, help="default: the shipped one")
    parser.add_argument("--sheet", type=Path, help="a picture of the covered faces, to look at")
    arguments = parser.parse_args()
    network = CoverNet.load(arguments.network) if arguments.network else None
    faces = all_faces(arguments.folder)
    name = {id(face): face.where.rsplit("/", 1)[-1].rsplit(":", 1)[-1] for face in faces}
    hand, hair = (next(face for face in faces if name[id(face)] == wanted) for wanted in (HAND, HAIR))
    free = [face for face in faces if name[id(face)] not in (*PUZZLES, HAND, HAIR) and face.where not in WORN]
    drawn = [face for face in free if any(word in face.where for word in DRAWN)]
    people = [face for face in free if not any(face is other for other in drawn)]
    alarms: dict[str, list[str]] = {"photographs": [], "paintings": []}
    for kind, some in (("photographs", people), ("paintings", drawn)):
        for face in some:
            parts = covered_parts(covered_shares(face.image, face.landmarks, network))
            alarms[kind] += [f"{name[id(face)]}: {', '.join(parts)}"] * bool(parts)
    worn = [face for face in faces if face.where in WORN]
    shares = [covered_shares(face.image, face.landmarks, network) for face in worn]
    hits: dict[str, float] = {
        "dark glasses worn, three photographs": float(np.mean(["eyes" in covered_parts(one) for one in shares]))
    }
    rows = []
    for kind, (put, part) in COVERS.items():
        told, row = [], []
        for n, face in enumerate(people[::2]):
            picture = put(face, n, hand, hair)
            found = shared_landmarker().detect(picture, max_faces=1)
            told.append(bool(found) and part in covered_parts(covered_shares(picture, found[0].landmarks, network)))
            if found and len(row) < 14:
                row.append(face_crop(picture, found[0].landmarks, 96, 1.2))
        hits[kind] = round(float(np.mean(told)), 2)
        rows.append(np.hstack(row))
    if arguments.sheet:
        Image.fromarray(np.vstack([row[:, : min(r.shape[1] for r in rows)] for row in rows])).save(arguments.sheet)
    result = write_result(
        "covered_faces",
        "photographs and paintings of uncovered faces that are called covered",
        float(len(alarms["photographs"]) + len(alarms["paintings"])),
        "pictures",
        2,
        len(people) + len(drawn),
        photographs=len(people),
        paintings=len(drawn),
        alarms=alarms,
        covered_on=len(people[::2]),
        noticed=hits,
    )
    for key in ("ours", "photographs", "paintings", "alarms", "covered_on", "noticed"):
        print(f"{key}: {result[key]}")


if __name__ == "__main__":
    main()
