"""AED: mean absolute difference of expression coefficients between the frames of the same time.

Time-aligned: frame t against frame t, never the nearest of a clip. Deep3DFaceRecon's 64 coefficients with the user's
weights; offline the 52 blendshape scores of MediaPipe, which see mouth and lids well and brows and cheeks hardly.
"""

from __future__ import annotations

import functools

import numpy as np

from fportrait.evaluation.faces import shared_finder
from fportrait.evaluation.frames import check_videos
from fportrait.evaluation.weights import Backbone, load

FACE_SHARE = 102 / 224  # of Deep3DFaceRecon's crop: scale of the five points in it
CROP = 224
# Deep3DFaceRecon's five points (its `similarity_Lm3D_all.mat`): how far its eyes lie above the origin, before it, and
# above the mouth. Croppers of three-dimensional GANs move the same points down by .2; the network was trained without.
EYES_UP, EYES_FORWARD, EYES_TO_MOUTH = 0.2900, 0.1328, 0.6714


class ExpressionDistance:
    """Per frame; NaN where a face is missing in either picture."""

    needs_face = True

    def __init__(self, backbone: str):
        self.kind = backbone
        if backbone == "deep3d":
            self.model, self.backbone = load("deep3d")
        else:
            from fportrait.atomic_io import file_hash
            from fportrait.tracking.landmarks import MODELS_FOLDER

            self.backbone = Backbone(
                "MediaPipe blendshapes, 52 scores", file_hash(MODELS_FOLDER / "face_blendshapes.tflite")
            )

    def __call__(self, produced: np.ndarray, truth: np.ndarray, near: np.ndarray | None = None) -> np.ndarray:
        """Distances `T`; both `T H W 3` uint8. `near` `T 478 2`: where the faces are looked for, if that is known.

        Raises:
            UserError: sizes, lengths or types differ.
        """
        check_videos(produced, truth)
        values = []
        for t, (ours, theirs) in enumerate(zip(produced, truth, strict=True)):
            place = None if near is None else near[t]
            one, two = self.coefficients(ours, place), self.coefficients(theirs, place)
            values.append(np.nan if one is None or two is None else float(np.abs(one - two).mean()))
        return np.array(values)

    def coefficients(self, frame: np.ndarray, near: np.ndarray | None = None) -> np.ndarray | None:
        """Expression of a picture, or None without a face."""
        face = shared_finder()(frame, near)
        if face is None:
            return None
        if self.kind == "blendshapes":
            return face.blendshapes.astype(np.float64)
        import torch

        crop = aligned_face(frame, face.landmarks)
        with torch.no_grad():
            return self.model(torch.from_numpy(crop).permute(2, 0, 1)[None])[0, self.model.expression].double().numpy()


def aligned_face(picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Deep3DFaceRecon's `224 224 3` crop in [0, 1] of a picture `H W 3` uint8 with landmarks `478 2`."""
    from fportrait.evaluation.metrics.csim import aligned

    return aligned(picture, face_matrix(landmarks), CROP).astype(np.float32) / 255


def face_matrix(landmarks: np.ndarray) -> np.ndarray:
    """From a picture's pixels to the crop's, `2 3`: five points fitted to a mean head under weak perspective.

    The head is the embedded body's, because the original's five points belong to the Basel model, which may not be
    shipped. Its size and its origin, which becomes the crop's middle, are the original's: the network knows no other
    framing.
    """
    from fportrait.evaluation.metrics.csim import five_points

    points, head = five_points(landmarks), _mean_head()
    flipped = head * [1, -1, -1]  # the picture's y runs down
    # Weak perspective (POS): u = s·(r1·X) + tx, v = s·(r2·X) + ty, by least squares.
    design = np.column_stack([flipped, np.ones(5)])
    solution = np.linalg.lstsq(design, points, rcond=None)[0]
    scale = float(np.linalg.norm(solution[:3], axis=0).mean())
    zoom = FACE_SHARE * CROP / scale
    return np.array([[zoom, 0, CROP / 2 - zoom * solution[3, 0]], [0, zoom, CROP / 2 - zoom * solution[3, 1]]])


@functools.cache
def _mean_head() -> np.ndarray:
    """The five points of the mean head `5 3`, as large and around the same origin as the original's."""
    from fportrait.body.model import load_body

    body = load_body()
    return as_published(five_points_3d(body.landmarks(body.template)))


def five_points_3d(points: np.ndarray) -> np.ndarray:
    """Eyes, tip of the nose and corners of the mouth, `5 3` from `478 3`."""
    return np.stack([points[[33, 133]].mean(0), points[[263, 362]].mean(0), points[1], points[61], points[291]])


def as_published(points: np.ndarray) -> np.ndarray:
    """Five points `5 3` (y up, z out of the face) scaled and moved to where the original has its eyes and mouth."""
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    scaled = (points - eyes) * (EYES_TO_MOUTH / (eyes[1] - mouth[1]))
    middle = (scaled[:2, 0].mean() + scaled[3:, 0].mean()) / 2
    return scaled + np.array([-middle, EYES_UP, EYES_FORWARD])


def make(backbone: str) -> ExpressionDistance:
    return ExpressionDistance(backbone)
