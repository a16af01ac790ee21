"""Which parts of a face something stands before: a mask, a scarf, dark glasses.

Landmarks are put on a covered mouth as on any other, and hardly swim, so they do not tell. A small U-Net (Ronneberger
et al. 2015) on the roll-normalised face crop does: for every pixel, whether it shows the face or something before it.
It learned from rendered people with random things in front of them, after Voo et al. 2022 ("Delving into High-Quality
Synthetic Face Occlusion Segmentation Datasets"), and from no photograph; spectacles through which eyes are seen, beards
and make-up are parts of a face to it. `fportrait.tracking.making.covered` trains it, `benchmarks/covered_faces.py`
tells what it sees and what it does not: of hands and microphones it misses most.
"""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fportrait.atomic_io import write_safetensors
from fportrait.errors import UserError
from fportrait.tracking.crops import BELOW_EYES, FACE_WIDTH, face_crop, face_frame

SHIPPED = Path(__file__).parent.parent / "assets" / "covered_faces.safetensors"
CROP, WIDER = 64, 1.2  # pixels, and side over an encoder's crop
CHANNELS = (24, 48, 64)  # at 32², 16² and 8²
# Shares from which a part counts as covered; of eyes, of both: no photograph of an uncovered face had as much.
MOUTH_COVERED, NOSE_COVERED, EYES_COVERED = 0.5, 0.5, 0.7
# Landmarks whose convex hull a part is, the left and right being the person's.
PARTS = {
    "mouth": (61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91),
    "nose": (98, 97, 2, 326, 327, 4, 5, 195, 45, 275),
    "left eye": (263, 466, 387, 386, 384, 398, 362, 381, 374, 390),
    "right eye": (33, 246, 160, 159, 157, 173, 133, 154, 145, 163),
}


class CoverNet(nn.Module):
    """Face crops `N 3 64 64` in [−1, 1] in; logits `N 64 64` of something in front of the face out."""

    def __init__(self) -> None:
        super().__init__()
        ins = (12, *CHANNELS[:-1])
        self.down = nn.ModuleList(_block(a, b) for a, b in zip(ins, CHANNELS, strict=True))
        wide, narrow = CHANNELS[:0:-1], CHANNELS[-2::-1]
        self.up = nn.ModuleList(_block(a + b, b) for a, b in zip(wide, narrow, strict=True))
        self.head = nn.Conv2d(CHANNELS[0], 4, 1)

    def forward(self, crops: Tensor) -> Tensor:
        seen, crops = list[Tensor](), nn.functional.pixel_unshuffle(crops, 2)
        for index, block in enumerate(self.down):
            crops = block(crops if index == 0 else nn.functional.max_pool2d(crops, 2))
            seen.append(crops)
        for block, beside in zip(self.up, seen[-2::-1], strict=True):
            crops = block(torch.cat([nn.functional.interpolate(crops, scale_factor=2.0, mode="bilinear"), beside], 1))
        return nn.functional.pixel_shuffle(self.head(crops), 2)[:, 0]

    def save(self, path: str | Path) -> None:
        """Write safetensors, kernels in half precision."""
        state = self.state_dict()
        write_safetensors(path, {name: value.half() if value.ndim > 1 else value for name, value in state.items()})

    @classmethod
    def load(cls, path: str | Path = SHIPPED) -> CoverNet:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, or its tensors are not this network's.
        """
        path, fix, model = Path(path), "rebuild it: python -m fportrait.tracking.making.covered", cls()
        if not path.is_file():
            raise UserError(f"no file {path}", "the network that tells what covers a face", fix)
        state = load_file(path)
        if {n: v.shape for n, v in state.items()} != {n: v.shape for n, v in model.state_dict().items()}:
            raise UserError(f"other tensors than the network's in {path}", "those of its own", fix)
        model.load_state_dict(state)
        return model.eval()


def _block(ins: int, outs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a in (ins, outs):
        layers += [nn.Conv2d(a, outs, 3, 1, 1, bias=False), nn.BatchNorm2d(outs), nn.ReLU()]
    return nn.Sequential(*layers)


@functools.cache
def shipped_cover_net() -> CoverNet:
    """The shipped network, read once."""
    return CoverNet.load()


@torch.no_grad()
def covered_shares(image: np.ndarray, landmarks: np.ndarray, network: CoverNet | None = None) -> dict[str, float]:
    """How much of each of `PARTS` is covered, 0 to 1.

    Args:
        image: `H W 3` uint8. landmarks: `478 2` of a face in it, pixels. network: default the shipped one.
    """
    crop = face_crop(image, landmarks, CROP, WIDER)
    pixels = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 127.5 - 1
    found = torch.sigmoid((network or shipped_cover_net())(pixels))[0].numpy()
    points = in_crop(landmarks)
    shares = {}
    for name, corners in PARTS.items():
        hull = cv2.convexHull(np.round(8 * points[list(corners)]).astype(np.int32))
        inside = cv2.fillConvexPoly(np.zeros((8 * CROP, 8 * CROP), np.float32), hull, 1.0)
        weights = cv2.resize(inside, (CROP, CROP), interpolation=cv2.INTER_AREA)
        shares[name] = float((weights * found).sum() / max(float(weights.sum()), 1e-6))
    return shares


def covered_parts(shares: dict[str, float]) -> list[str]:
    """What is covered for certain, of `covered_shares`: `mouth`, then perhaps `nose`, and `eyes`.

    One eye alone is not told: hard light hides one on many faces. Nor is a nose below which the mouth shows.
    """
    found = ["mouth"] if shares["mouth"] > MOUTH_COVERED else []
    if found and shares["nose"] > NOSE_COVERED:
        found.append("nose")
    return found + ["eyes"] * (min(shares["left eye"], shares["right eye"]) > EYES_COVERED)


def cover_note(parts: list[str], name: str) -> str | None:
    """A sentence on which `covered_parts` the face in a picture `name` has; None of one that shows itself."""
    if not parts:
        return None
    verb, it = ("is", "it") if parts == ["mouth"] else ("are", "them")
    return (
        f"the {' and '.join(parts)} of the face in {name} {verb} covered: what is behind is not known, "
        f"and what covers {it} moves as the face does"
    )


def in_crop(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks `478 2` in pixels of the network's crop."""
    eyes, scale, axis = face_frame(landmarks)
    axes = np.stack([axis, (-axis[1], axis[0])])
    local = (np.asarray(landmarks, np.float64) - eyes) @ axes.T / scale - (0, BELOW_EYES)
    return np.asarray(local / (FACE_WIDTH * WIDER) * CROP + CROP / 2)
