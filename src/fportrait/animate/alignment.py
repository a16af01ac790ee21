"""The track of a video of the portrait's own scene, brought to where the portrait's pixels fit the video's.

Landmarks tell where a head is to a third of a pixel, and the jitter of that is all that a video shows in which a head
hardly moves. Where portrait and video show the same person in the same scene (`together`), pixels tell more: the
portrait is painted on its body as the track has it, and head pose and expression are changed until the picture is the
frame's. Direct alignment (Lucas and Kanade 1981; with a robust norm and the frame's own gain and offset of light, Baker
and Matthews 2004) over the face alone, with a prior that holds what pixels do not tell at the track's value, and lips
and lids held to their landmarks.

Of eight talking clips against their own first frames this is worth .6 to 3.0 dB (docs/real-faces.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from fportrait.animate.tracked import Report, Tracked, portrait_painter
from fportrait.body.eyelids import MARGINS
from fportrait.body.model import BodyModel
from fportrait.body.painting import PortraitPainter, acting_vertices
from fportrait.body.pose import rotation_matrix
from fportrait.body.warping import on_surface, project
from fportrait.camera.cameras import crop_intrinsics, in_camera
from fportrait.dataset.crops import crop_picture
from fportrait.tracking.fit import bridge_gaps, to_pose
from fportrait.tracking.segments import LOOK_AT

SIZE = 128  # pixels of the pictures that are aligned
BLUR = 1.3  # pixels; deviation of the Gaussian before two pictures are compared
ROUNDS, LIGHT_ROUNDS = 3, 4  # of Gauss-Newton, and in each of the light's reweighted least squares
ROBUST = 8.0  # grey levels from which on a difference counts as an occlusion, and only in proportion (Huber 1964)
NOISE = 16.0  # variance of grey levels that are explained: what the prior is weighed against
# What tracks are off by, standard deviations: radians about the camera's axes, metres along them (depth the worst), and
# strengths of each direction of expression. And how far each is moved to see what the picture does.
TRACK_SPREAD = np.array([0.03, 0.03, 0.03, 0.004, 0.004, 0.02])
CODE_SPREAD = 0.05
STEPS = np.array([0.01, 0.01, 0.01, 0.001, 0.001, 0.004])
CODE_STEP = 0.1
# Landmarks of the lips' inner edge: what lies between them, teeth and shadow, is nobody's to align. A painted portrait
# shows its own there, and a mouth was closed until the frame's was matched.
INNER_LIPS = [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95]
OUTER_LIPS = [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146]
LIDS = sorted({point for eye in MARGINS for margin in eye for point in margin})
MARKS = np.array([*OUTER_LIPS, *INNER_LIPS, *LIDS])
# A painted smile has no folds and shades no cheek: pixels alone take back what they cannot show. So lips and lids are
# held to their landmarks, with so many squared grey levels for a squared pixel; proportionally beyond so many pixels.
MARKED, ASTRAY = 400.0, 1.5
# A frame this near (degrees of the head, and any action) to one whose derivatives are known takes those.
NEAR_DEGREES, NEAR_ACTION = 3.0, 0.3


@dataclass
class Scene:
    """What is aligned: a portrait's `painter` (pictures of `SIZE`), its body `shape` and `offsets`, and the video's
    `camera` `4 4` and `lens` `3 3` of the same size.

    Attributes:
        tell: the actions `52` of a code `128`. along: directions of expression, `K 128`. beside: how far the portrait's
            lips and lids lie beside its body's, `L 2` pixels.
    """

    body: BodyModel
    painter: PortraitPainter
    shape: np.ndarray
    offsets: np.ndarray | None
    camera: np.ndarray
    lens: np.ndarray
    tell: Callable[[np.ndarray], np.ndarray]
    along: np.ndarray
    beside: np.ndarray

    def moved(self, rotation: np.ndarray, translation: np.ndarray, change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A head's pose, turned by `change[:3]` about its middle and shifted by `change[3:6]`, in the camera's axes."""
        axes = self.camera[:3, :3]
        turned = axes.T @ rotation_matrix(change[:3]) @ axes @ rotation
        middle = translation + rotation @ LOOK_AT + axes.T @ change[3:6]
        return turned, middle - turned @ LOOK_AT

    def draw(
        self, rotation: np.ndarray, translation: np.ndarray, code: np.ndarray, change: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The portrait so, `SIZE SIZE 3` float32, softened; and where its lips and lids are, `L 2` pixels."""
        rotation, translation = self.moved(rotation, translation, change)
        pose = to_pose(self.body, self.shape, rotation, translation)
        vertices = acting_vertices(self.body, self.shape, self.tell(code + change[6:] @ self.along), pose)
        if self.offsets is not None:
            vertices = vertices + self.offsets @ rotation.T
        seen = in_camera(vertices, self.camera)
        return softened(self.painter(seen, self.lens)), marks(self.body, seen, self.lens) + self.beside


def marks(body: BodyModel, vertices: np.ndarray, lens: np.ndarray) -> np.ndarray:
    """Where a body at `vertices` `V 3` before the camera has its lips and lids, `L 2` pixels."""
    triangles, weights = body.landmark_triangles[MARKS], body.landmark_barycentric[MARKS]
    points, _ = on_surface(vertices, body.faces, triangles, np.asarray(weights, np.float32))
    return project(points, lens)


def softened(picture: np.ndarray) -> np.ndarray:
    """Float32, without what two pictures of one thing never share."""
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), BLUR))


def over_face(points: np.ndarray) -> np.ndarray:
    """Weights `SIZE SIZE` in 0..1 of the hull of landmarks `478 2`, less what lies between the lips; soft at edges."""
    face, mouth = (filled(some) for some in (points, points[INNER_LIPS]))
    mouth = cv2.dilate(mouth, np.ones((3, 3), np.uint8))
    return np.asarray(_soft(face) * (1 - _soft(mouth)))


def filled(points: np.ndarray) -> np.ndarray:
    """1 inside the hull of points `N 2`, `SIZE SIZE` uint8."""
    hull = cv2.convexHull(points.astype(np.float32)).astype(np.int32)
    return np.asarray(cv2.fillConvexPoly(np.zeros((SIZE, SIZE), np.uint8), hull, (1,)))


def _soft(inside: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 1.0))


def in_other_light(light: np.ndarray, missing: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights `N` of a robust norm, and what is left of differences `N`, when a gain and an offset have taken what
    they can: else another exposure would look like an occlusion everywhere.

    Args:
        light: `N 2`, what gain and offset do. missing: the differences. weights: of the pixels.
    """
    robust, rest = weights, missing
    for _ in range(LIGHT_ROUNDS):
        weighed = light * robust[:, None]
        rest = missing - light @ np.linalg.solve(weighed.T @ light + 1e-6 * np.eye(2), weighed.T @ missing)
        robust = weights / np.maximum(1, abs(rest) / ROBUST)
    return robust, rest


class Aligner:
    """Changes `6 + K` of one frame after another, each from its own start, sharing derivatives between like ones."""

    def __init__(self, scene: Scene):
        self.scene = scene
        spread = np.concatenate([TRACK_SPREAD, np.full(len(scene.along), CODE_SPREAD)])
        self._steps = np.concatenate([STEPS, np.full(len(scene.along), CODE_STEP)])
        self._prior = np.concatenate([NOISE / spread**2, [1e-6, 1e-6]])  # light may be anything
        self._slopes: tuple[np.ndarray, np.ndarray] | None = None
        self._at: tuple[np.ndarray, np.ndarray] | None = None  # the head's rotation and the actions of `_slopes`

    def __call__(
        self, frame: np.ndarray, points: np.ndarray, rotation: np.ndarray, translation: np.ndarray, code: np.ndarray
    ) -> np.ndarray:
        """The change of this frame: zeros where none makes the picture more like it.

        Args:
            frame: `SIZE SIZE 3`. points: its landmarks `478 2`. rotation, translation, code: what the track says.
        """
        pose, none = (rotation, translation, code), np.zeros(len(self._steps))
        weights = np.repeat(over_face(points).ravel(), 3)
        inside = weights > 0.02
        if inside.sum() < 16 * len(none):  # hardly a face
            return none
        weights, wanted, told = weights[inside], softened(frame).ravel()[inside], points[MARKS]
        change = kept = none
        least = math.inf
        for left_over in reversed(range(ROUNDS + 1)):
            drawn, marked = self.scene.draw(*pose, change)
            astray = (told - marked).ravel()
            shown = drawn.ravel()[inside]
            light, missing = np.stack([shown / 100, np.ones_like(shown)], 1), wanted - shown
            robust, rest = in_other_light(light, missing, weights)
            trusted = MARKED / np.maximum(1, abs(astray) / ASTRAY)
            cost = float((weights * np.minimum(rest**2, ROBUST * abs(rest))).sum() + trusted @ astray**2)
            if cost < least:
                least, kept = cost, change
            if not left_over:
                break
            by_pixel, by_mark = self._derivatives(pose, drawn, marked)
            slopes = np.concatenate([by_pixel[inside], light], 1)
            weighed, held = slopes * robust[:, None], by_mark * trusted[:, None]
            pull, known = weighed.T @ missing, weighed.T @ slopes + np.diag(self._prior)
            pull[:-2] += held.T @ astray - self._prior[:-2] * change
            known[:-2, :-2] += held.T @ by_mark
            change = change + np.linalg.solve(known, pull)[: len(none)]
        return kept

    def _derivatives(
        self, pose: tuple[np.ndarray, np.ndarray, np.ndarray], drawn: np.ndarray, marked: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """By each change, of the picture `3 SIZE SIZE x C` and of the places `2 L x C`; of this frame or a like one."""
        actions = self.scene.tell(pose[2])
        if self._at is not None:
            cosine = (np.trace(pose[0] @ self._at[0].T) - 1) / 2
            turn = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
            if turn < NEAR_DEGREES and abs(actions - self._at[1]).max() < NEAR_ACTION:
                assert self._slopes is not None
                return self._slopes
        columns = []
        for change, step in zip(np.diag(self._steps), self._steps, strict=True):
            picture, places = self.scene.draw(*pose, change)
            columns.append((((picture - drawn) / step).ravel(), ((places - marked) / step).ravel()))
        by_pixel, by_mark = zip(*columns, strict=True)
        self._slopes, self._at = (np.stack(by_pixel, 1), np.stack(by_mark, 1)), (pose[0], actions)
        return self._slopes


def aligned(
    body: BodyModel,
    person: Tracked,
    image: np.ndarray,
    drive: Tracked,
    codes: np.ndarray,
    tell: Callable[[np.ndarray], np.ndarray],
    along: np.ndarray,
    own_actions: np.ndarray | None,
    report: Report,
) -> Tracked:
    """The video with its poses and expressions as the portrait's pixels tell them.

    Args:
        person, image: the portrait's track, with its own face's offsets, and upright picture. drive: of its own scene.
        codes: the video's, `T 128`. tell: actions `52` of a code. along: directions of expression, `K 128`.
        own_actions: `52`, of the portrait.
    """
    seen = drive.track.seen[0]
    found = np.flatnonzero(seen.confidence > 0)
    painter = portrait_painter(body, person, crop_picture(image, person.crop, SIZE), own_actions, samples=1)
    camera, lens = drive.track.cameras[0], crop_intrinsics(drive.intrinsics, drive.crop, SIZE)
    own = marks(body, painter.vertices, painter.intrinsics)
    beside = person.landmarks(SIZE)[0][MARKS] - own
    scene = Scene(body, painter, person.shape, person.offsets, camera, lens, tell, along, beside)
    align, points, changes = Aligner(scene), drive.landmarks(SIZE), []
    for number, frame in zip(found, drive.each_crop(found.tolist(), SIZE), strict=True):
        pose = drive.track.rotations[number], drive.track.translations[number]
        changes.append(align(frame, points[number], *pose, codes[number]))
        report("align", len(changes), len(found))
    every = bridge_gaps(found, np.stack(changes), len(drive))
    poses = [scene.moved(*pose) for pose in zip(drive.track.rotations, drive.track.translations, every, strict=True)]
    rotations, translations = (np.stack(part) for part in zip(*poses, strict=True))
    track = replace(drive.track, rotations=rotations, translations=translations)
    return replace(drive, track=track, code_changes=(every[:, 6:] @ along).astype(codes.dtype))
