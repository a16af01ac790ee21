"""Faces in a picture: a detector finds them, a landmark net places 478 points on each, a third net scores expressions.

The three nets are the TFLite files of MediaPipe's face landmarker (`assets/face_landmarker/README.md`), run through
LiteRT on one CPU thread. What stands around them (anchors, suppression, crops, tracking) is here. In video the points
of the frame before give the crop (`previous=`), which is faster and steadier than detecting every frame.

Points are in pixels of the picture, pixel centres at +0.5.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fportrait.errors import UserError
from fportrait.tracking.points import BLENDSHAPE_POINTS, LEFT_EYE_CORNERS, POINT_COUNT, RIGHT_EYE_CORNERS
from fportrait.tracking.unlikeness import (
    DOUBTFUL,
    MARGIN,
    POOR,
    SURE,
    TURNED,
    TURNED_MARGIN,
    WORSE,
    evidence,
    unsteadiness,
)

MODELS_FOLDER = Path(__file__).parent.parent / "assets" / "face_landmarker"
DETECTOR_SIZE = 128
LANDMARK_SIZE = 256
MIN_SCORE = 0.5
CROP_SCALE = 1.5  # side of the landmark net's crop over the face box: what the net was trained with
SAME_FACE_IOU = 0.3
COARSE = 0.25  # of a window's side: half as large a face is still detected there
MIN_TILE = 64  # pixels


@dataclass(frozen=True)
class Face:
    """One face of one picture.

    `landmarks` (478, 2) float32 pixels; `blendshapes` (52,) float32 in [0, 1], named by `points.BLENDSHAPE_NAMES`;
    `confidence` 0 to 1, the landmark net's belief that its crop holds a face.
    """

    landmarks: np.ndarray
    blendshapes: np.ndarray
    confidence: float

    @property
    def size(self) -> float:
        """Longer side of the box around the points, pixels."""
        return float(np.ptp(self.landmarks, axis=0).max())

    @functools.cached_property
    def evidence(self) -> float:
        """Logarithmic odds that this is a face, seen the right way up: see `unlikeness.py`."""
        return evidence(self.landmarks, self.confidence)


@dataclass(frozen=True)
class _Square:
    """A rotated square in the picture: centre and side in pixels, roll in radians (clockwise on screen)."""

    centre: np.ndarray
    side: float
    roll: float

    def to_picture(self, size: int) -> np.ndarray:
        """(2, 3) affine from the pixels of a `size` crop to the picture's, both with pixel centres at +0.5."""
        scale = self.side / size
        cos, sin = np.cos(self.roll) * scale, np.sin(self.roll) * scale
        linear = np.array([[cos, -sin], [sin, cos]])
        return np.column_stack([linear, self.centre - linear @ [size / 2, size / 2]])


def warp(image: np.ndarray, to_picture: np.ndarray, size: int, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
    """Sample a `size` x `size` crop; `to_picture` (2, 3) maps crop to picture, pixel centres at +0.5 in both.

    Shrinks by area averaging first where the crop is much coarser than the picture, so that it does not alias.
    """
    scale = float(np.hypot(*to_picture[:, 0]))
    if scale > 2:
        corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ to_picture.T
        height, width = image.shape[:2]
        left, top = np.clip(np.floor(corners.min(0)).astype(int) - 2, 0, [width, height])
        right, bottom = np.clip(np.ceil(corners.max(0)).astype(int) + 2, 0, [width, height])
        if right > left and bottom > top:
            part = image[top:bottom, left:right]
            factor = 1 / int(scale)
            new = (max(1, round(part.shape[1] * factor)), max(1, round(part.shape[0] * factor)))
            shrink = np.array([new[0] / part.shape[1], new[1] / part.shape[0]])
            image = cv2.resize(part, new, interpolation=cv2.INTER_AREA)
            to_picture = np.column_stack(
                [to_picture[:, :2] * shrink[:, None], (to_picture[:, 2] - [left, top]) * shrink]
            )
    # cv2 puts pixel centres at whole numbers: shift both sides by half a pixel.
    linear, offset = to_picture[:, :2], to_picture[:, 2]
    matrix = np.column_stack([linear, offset + linear @ [0.5, 0.5] - 0.5])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, (size, size), flags=flags, borderMode=border)


class FaceLandmarker:
    """Face detector, landmark net and blendshape net. Deterministic; one object per process (it cannot be pickled).

    Args:
        folder: where the three TFLite files lie; default the ones shipped with the package.

    Raises:
        UserError: a file is missing.
    """

    def __init__(self, folder: str | Path | None = None):
        folder = Path(folder) if folder is not None else MODELS_FOLDER
        self._detector = load_network(folder / "face_detector.tflite")
        self._landmarker = load_network(folder / "face_landmarks_detector.tflite")
        self._blendshaper = load_network(folder / "face_blendshapes.tflite")
        self._anchors = _anchors()

    def detect(
        self,
        image: np.ndarray,
        max_faces: int = 2,
        previous: Face | None = None,
        known: Face | None = None,
        quick: bool = False,
    ) -> list[Face]:
        """Faces of a picture, largest first.

        Args:
            image: (H, W, 3) uint8 RGB.
            max_faces: at most so many are returned.
            previous: a face of the frame before. Only that face is followed then; the detector runs when it is lost.
            known: a face already found in this very picture: it is returned with the others, unchanged.
            quick: look at the whole picture alone, for faces that stand about upright and are not small.
        """
        image = _checked(image)
        if previous is not None:
            face = self._refine(image, _square_of(previous.landmarks))
            if face is not None:
                return [face]
        if known is not None:  # others stand as this one does
            return self._search(image, max_faces, [known], quarter_turns(known.landmarks) * math.pi / 2)
        faces = self._search(image, max_faces, [], 0.0, quick)
        if not quick and all(face.evidence < POOR for face in faces):
            turned = [face for turns in (2, 1, -1) for face in self._search(image, max_faces, [], turns * math.pi / 2)]
            faces += [face for face in turned if face.evidence > TURNED]
            if all(face.evidence < POOR for face in faces):
                faces += [face for face in turned if self._stands(image, face)]
        return _best(faces, max_faces)

    def _search(
        self, image: np.ndarray, max_faces: int, known: list[Face], roll: float, quick: bool = False
    ) -> list[Face]:
        """`known` and the faces that stand about as `roll` (radians) says, largest first; `quick`: no tiles."""
        faces = list(known)
        for side, windows in islice(_searches(image.shape[0], image.shape[1], roll), 2 if quick else None):
            largest = max((face.size for face in faces), default=0.0)
            # A face this large hides nobody of like size from a window of this side.
            if faces and (len(faces) >= max_faces or largest > COARSE * side):
                continue
            for square in self._candidates(image, windows):
                if any(_inside(square.centre, other) for other in faces):
                    continue
                face = self._look(image, square)
                if face is not None:
                    face = self._upright(image, face)
                    if all(_overlap(face, other) < SAME_FACE_IOU for other in faces):
                        faces.append(face)
        return sorted(faces, key=lambda face: -face.size)[:max_faces]

    def _look(self, image: np.ndarray, square: _Square) -> Face | None:
        """The face in a square. A second look, cropped by the points as in tracking, is steadier than by the box."""
        face = self._refine(image, square)
        return face and (self._refine(image, _square_of(face.landmarks)) or face)

    def _stands(self, image: np.ndarray, face: Face) -> bool:
        """Whether a face that only a turned window shows is an upright one, cut in two by the edge or seen aside."""
        return face.evidence > POOR and upright(face.landmarks) and self.unlikeness(image, face) < DOUBTFUL

    def _upright(self, image: np.ndarray, face: Face) -> Face:
        """The same face seen the right way up: the detector takes one that is upside down for an upright one."""
        best = face
        if face.evidence > SURE:
            return face
        square = _square_of(face.landmarks)
        for eighths in range(8):
            # A face the wrong way up has its points beside it: the detector finds its middle again.
            window = _Square(square.centre, 1.5 * square.side, eighths * math.pi / 4)
            for candidate in self._candidates(image, [window])[:1]:
                other = self._look(image, candidate)
                if other is not None and _overlap(other, face) > 0 and _better(other, best, face):
                    best = other
        return best

    def unlikeness(self, image: np.ndarray, face: Face) -> float:
        """How unlike a face it is: see `unlikeness.unsteadiness`. Five runs of the landmark net."""
        square = _square_of(face.landmarks)
        along = np.array([np.cos(square.roll), np.sin(square.roll)])

        def place(degrees: float, scale: float, shift: float) -> np.ndarray:
            moved = _Square(
                square.centre + shift * square.side * along, scale * square.side, square.roll + math.radians(degrees)
            )
            return self._points(_checked(image), moved)[0]

        landmarks = place(0.0, 1.0, 0.0)
        seen = ((landmarks >= 0) & (landmarks <= [image.shape[1], image.shape[0]])).all(1)
        inside = np.asarray(seen | (face.evidence < POOR))
        return unsteadiness(place, landmarks, inside)

    def follow(self, image: np.ndarray, landmarks: np.ndarray) -> Face | None:
        """The face that lies where `landmarks` (478, 2) say, or None: the landmark net alone, no search elsewhere."""
        return self._refine(_checked(image), _square_of(np.asarray(landmarks)))

    def _candidates(self, image: np.ndarray, windows: list[_Square]) -> list[_Square]:
        """Run the detector on each window; merge; return landmark crops, best score first."""
        scores, boxes, eyes = [], [], []
        for window in windows:
            matrix = window.to_picture(DETECTOR_SIZE)
            pixels = warp(image, matrix, DETECTOR_SIZE).astype(np.float32) / 127.5 - 1
            outputs = _run(self._detector, pixels[None])
            raw, logits = outputs["regressors"][0], outputs["classificators"][0, :, 0]
            score = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
            keep = score > MIN_SCORE
            if not keep.any():
                continue
            raw, anchors = raw[keep], self._anchors[keep]
            scale = window.side / DETECTOR_SIZE
            scores.append(score[keep])
            centre = (raw[:, :2] + anchors) @ matrix[:, :2].T + matrix[:, 2]
            boxes.append(np.column_stack([centre, raw[:, 2:4] * scale]))
            eyes.append((raw[:, 6:8] - raw[:, 4:6]) @ matrix[:, :2].T)  # from the person's right eye to the left one
        if not scores:
            return []
        return _merge(np.concatenate(scores), np.concatenate(boxes), np.concatenate(eyes))

    def _points(self, image: np.ndarray, square: _Square) -> tuple[np.ndarray, np.ndarray, float]:
        """Landmarks `478 2` inside a square in the picture's pixels and in the crop's, and the net's belief in them."""
        matrix = square.to_picture(LANDMARK_SIZE)
        pixels = warp(image, matrix, LANDMARK_SIZE).astype(np.float32) / 255
        outputs = _run(self._landmarker, pixels[None])
        confidence = float(1 / (1 + np.exp(-np.clip(outputs["Identity_1"].item(), -60, 60))))
        points = outputs["Identity"].reshape(POINT_COUNT, 3)[:, :2].astype(np.float64)
        return points @ matrix[:, :2].T + matrix[:, 2], points, confidence

    def _refine(self, image: np.ndarray, square: _Square) -> Face | None:
        """Landmarks and scores inside a square, or None when the net sees no face there."""
        landmarks, points, confidence = self._points(image, square)
        if confidence < MIN_SCORE:
            return None
        scores = next(iter(_run(self._blendshaper, points[BLENDSHAPE_POINTS].astype(np.float32)[None]).values()))
        return Face(landmarks.astype(np.float32), scores.astype(np.float32), confidence)


@functools.cache
def shared_landmarker() -> FaceLandmarker:
    """The process's own `FaceLandmarker` with the shipped models."""
    return FaceLandmarker()


def load_network(path: Path) -> Any:
    """A shipped TFLite network, ready to run on one thread. Raises `UserError` where the file is missing."""
    from ai_edge_litert.interpreter import Interpreter

    if not path.is_file():
        raise UserError(
            f"no file {path}", "a network that ships with fportrait", "restore the file or reinstall fportrait"
        )
    with _quiet_stderr():
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
    return interpreter


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """LiteRT greets on file descriptor 2 from C++, past Python's logging; there is no switch for it."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def _run(interpreter: Any, value: np.ndarray) -> dict[str, np.ndarray]:
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], value)
    interpreter.invoke()
    return {detail["name"]: interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()}


def _anchors() -> np.ndarray:
    """(896, 2) anchor centres in detector pixels: 2 per cell at stride 8, 6 per cell at stride 16, all of one size."""
    grids = []
    for stride, repeat in ((8, 2), (16, 6)):
        centres = (np.arange(DETECTOR_SIZE // stride) + 0.5) * stride
        y, x = np.meshgrid(centres, centres, indexing="ij")
        grids.append(np.repeat(np.column_stack([x.ravel(), y.ravel()]), repeat, axis=0))
    return np.concatenate(grids)


def _better(other: Face, best: Face, seen: Face) -> bool:
    """Whether another look at the face that was `seen` is better than the `best` so far.

    Another way up needs more to speak for it than another crop.
    """
    turn = abs(math.remainder(_square_of(other.landmarks).roll - _square_of(seen.landmarks).roll, math.tau))
    needed = max(TURNED, seen.evidence + TURNED_MARGIN) if turn > math.pi / 3 else -math.inf
    return other.evidence > max(needed, best.evidence + MARGIN)


def _searches(height: int, width: int, roll: float = 0.0) -> Iterator[tuple[float, list[_Square]]]:
    """Windows for the detector, and the side of the windows before: the whole picture, a wider canvas (for a face that
    fills it), then tiles of half and of a quarter of its longer side. All are rolled by `roll` radians."""
    side = float(max(height, width))
    centre = np.array([width / 2, height / 2])
    yield side, [_Square(centre, side, roll)]
    yield 0.0, [_Square(centre, side * wider, roll) for wider in (1.5, 2.5)]
    for fraction in (0.5, 0.25):
        tile = side * fraction
        if tile < MIN_TILE:
            return
        xs, ys = (np.arange(tile / 2, max(length - tile / 2, tile / 2) + 1, tile / 2) for length in (width, height))
        yield 2 * tile, [_Square(np.array([x, y]), tile, roll) for y in ys for x in xs]


def _merge(scores: np.ndarray, boxes: np.ndarray, eyes: np.ndarray) -> list[_Square]:
    """Weighted non-maximum suppression (as BlazeFace: overlapping boxes are averaged by score, less jitter)."""
    squares = []
    left = np.argsort(-scores, kind="stable")
    while len(left):
        same = _box_iou(boxes[left[0]], boxes[left]) > SAME_FACE_IOU
        same[0] = True
        group = left[same]
        weight = scores[group] / scores[group].sum()
        box, (dx, dy) = weight @ boxes[group], weight @ eyes[group]
        squares.append(_Square(box[:2], CROP_SCALE * max(box[2:]), float(np.arctan2(dy, dx))))
        left = left[~same]
    return squares


def _box_iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of one (centre x, centre y, width, height) with many."""
    low = np.maximum(box[:2] - box[2:] / 2, others[:, :2] - others[:, 2:] / 2)
    high = np.minimum(box[:2] + box[2:] / 2, others[:, :2] + others[:, 2:] / 2)
    common = np.prod(np.clip(high - low, 0, None), axis=1)
    return common / (np.prod(box[2:]) + np.prod(others[:, 2:], axis=1) - common)


def _best(faces: list[Face], most: int) -> list[Face]:
    """The largest faces of different places, without those that are far less of a face than the best."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.evidence):
        apart = all(
            _overlap(face, other) < SAME_FACE_IOU and not _inside(face.landmarks.mean(0), other) for other in kept
        )
        if apart and (not kept or face.evidence > kept[0].evidence - WORSE):
            kept.append(face)
    return sorted(kept, key=lambda face: -face.size)[:most]


def _overlap(face: Face, other: Face) -> float:
    boxes = [
        np.concatenate([(f.landmarks.min(0) + f.landmarks.max(0)) / 2, np.ptp(f.landmarks, axis=0)])
        for f in (face, other)
    ]
    return float(_box_iou(boxes[0], boxes[1][None])[0])


def _inside(point: np.ndarray, face: Face) -> bool:
    return bool((point >= face.landmarks.min(0)).all() and (point <= face.landmarks.max(0)).all())


def roll_of(landmarks: np.ndarray) -> float:
    """Roll of a face `478 2` in radians, clockwise on screen: the direction of the line of its outer eye corners."""
    dx, dy = landmarks[LEFT_EYE_CORNERS[0]].astype(np.float64) - landmarks[RIGHT_EYE_CORNERS[0]]
    return float(np.arctan2(dy, dx))


def upright(landmarks: np.ndarray) -> bool:
    """Whether a face `478 2` stands within 60 degrees of upright."""
    return abs(roll_of(landmarks)) < math.pi / 3


def quarter_turns(landmarks: np.ndarray) -> int:
    """Quarter turns, clockwise on screen and from -1 to 2, by which a face `478 2` is rolled."""
    turns = round(roll_of(landmarks) / (math.pi / 2))
    return 2 if turns == -2 else turns


def _square_of(landmarks: np.ndarray) -> _Square:
    """The landmark net's crop around known points: their box, rolled so that the eye line is level."""
    points, roll = landmarks.astype(np.float64), roll_of(landmarks)
    cos, sin = np.cos(roll), np.sin(roll)
    upright = points @ np.array([[cos, -sin], [sin, cos]])
    low, high = upright.min(0), upright.max(0)
    centre = np.array([[cos, -sin], [sin, cos]]) @ ((low + high) / 2)
    return _Square(centre, CROP_SCALE * float((high - low).max()), float(roll))


def _checked(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise UserError(
            f"a picture of shape {image.shape} and type {image.dtype}", "H x W x 3 uint8 RGB", "convert it to RGB first"
        )
    return np.ascontiguousarray(image)
