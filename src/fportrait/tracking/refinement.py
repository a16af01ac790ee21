"""Landmarks moved to where they lie on this face: a small network that has seen where the landmark network errs.

The landmark network puts its points a few hundredths of an eye distance beside their places, alike in all frames of a
person: a lip line too low stays too low. `calibration` takes away what is the same for everyone. What is this person's,
view's and expression's own shows in the picture, and a convolutional network on the roll-normalised face crop, with
the landmarks beside it, tells it, as weights of the modes in which departures vary among rendered people.

It knows rendered people only, and knows that: `strangeness` says how far a face's landmarks lie from those it learned
on. `track` keeps the landmarks of a person who is stranger than `STRANGE` as they came, as it does for photographs.

`fportrait.tracking.making.refinement` trains it.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fportrait.atomic_io import write_safetensors
from fportrait.devices import pick_device
from fportrait.errors import UserError
from fportrait.pixels import to_model_range
from fportrait.tracking.crops import face_frame

SHIPPED = Path(__file__).parent.parent / "assets" / "landmark_refinement.safetensors"
CROP = 112
MODES, COMPONENTS = 40, 80
STRANGE = 0.96  # of the tenth of a person's pictures that look least strange; photographs start at 1.01
CHANNELS = ((16, 2), (32, 2), (48, 1), (64, 2), (64, 1), (96, 2), (96, 1), (64, 1))  # and strides, from 112² to 7²


class LandmarkRefiner(nn.Module):
    """Face crops and landmarks in, the landmarks' departures from their places out.

    `valid` `L`: the landmarks that have a place on the mesh; the others are left as they are. `modes` `M 2L` and `mean`
    `2L`: departures in eye distances along and across the line of the eyes. `points_mean`, `points_std` `956`;
    `whitening` `956 80`: to the principal components of the points, each of unit spread.
    """

    valid: Tensor
    modes: Tensor
    mean: Tensor
    points_mean: Tensor
    points_std: Tensor
    whitening: Tensor

    def __init__(self, landmarks: int, modes: int = MODES):
        super().__init__()
        layers: list[nn.Module] = []
        last = 3
        for channels, stride in CHANNELS:
            layers += [nn.Conv2d(last, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
            last = channels
        self.picture = nn.Sequential(*layers)
        self.points = nn.Sequential(nn.Linear(956, 64), nn.ReLU())
        self.hidden = nn.Sequential(nn.Dropout(0.3), nn.Linear(last * 49 + 64, 128), nn.ReLU())
        self.head = nn.Linear(128, modes)
        self.register_buffer("valid", torch.zeros(landmarks, dtype=torch.int64))
        self.register_buffer("modes", torch.zeros(modes, 2 * landmarks))
        self.register_buffer("mean", torch.zeros(2 * landmarks))
        self.register_buffer("points_mean", torch.zeros(956))
        self.register_buffer("points_std", torch.ones(956))
        self.register_buffer("whitening", torch.zeros(956, COMPONENTS))

    def forward(self, crops: Tensor, points: Tensor) -> Tensor:
        """Weights of the modes, `N M`, of crops `N 3 112 112` in [−1, 1] and points `N 956` of `face_points`."""
        points = self.points((points - self.points_mean) / self.points_std)
        return self.head(self.hidden(torch.cat([self.picture(crops).flatten(1), points], 1)))

    @torch.no_grad()
    def refine(self, landmarks: np.ndarray, crops: np.ndarray, batch: int = 64) -> np.ndarray:
        """Landmarks `N 478 2` pixels (NaN where there is no face, and then left so), each moved to its place.

        Args:
            crops: `N 112 112 3` uint8, `face_crop` of the same frames.
        """
        refined = landmarks.astype(np.float32)
        found = np.flatnonzero(np.isfinite(landmarks).all((1, 2)))
        for start in range(0, len(found), batch):
            rows = found[start : start + batch]
            points, scales, axes = face_points(landmarks[rows])
            weights = self(
                to_model_range(crops[rows]).to(self.mean.device), torch.from_numpy(points).to(self.mean.device)
            )
            departure = (weights @ self.modes + self.mean).cpu().numpy().reshape(len(rows), -1, 2)
            refined[rows[:, None], self.valid.cpu().numpy()] -= (departure * scales[:, None, None]) @ axes
        return refined

    def strangeness(self, landmarks: np.ndarray) -> np.ndarray:
        """Distance `N` of faces `N 478 2` (finite) from the mean face, in root mean square spreads of those seen in
        training: about 1 for them, and up to 2 when seen from the side."""
        points, _, _ = face_points(landmarks)
        points_here = torch.from_numpy(points).to(self.mean.device)
        return ((points_here - self.points_mean) @ self.whitening).square().mean(1).sqrt().cpu().numpy()

    def save(self, path: str | Path) -> None:
        """Write safetensors, matrices in half precision."""
        write_safetensors(
            path,
            {
                name: value.half() if value.dtype == torch.float32 and value.ndim > 1 else value
                for name, value in self.state_dict().items()
            },
        )

    @classmethod
    def load(cls, path: str | Path = SHIPPED) -> LandmarkRefiner:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, or its tensors are not this network's.
        """
        path, fix = Path(path), "rebuild it: python -m fportrait.tracking.making.refinement"
        if not path.is_file():
            raise UserError(f"no file {path}", "a landmark refiner", fix)
        state = load_file(path)
        if "valid" not in state or "modes" not in state:
            raise UserError(f"the tensors {sorted(state)} in {path}", "a landmark refiner's", fix)
        model = cls(len(state["valid"]), len(state["modes"]))
        wanted = {name: value.shape for name, value in model.state_dict().items()}
        if {name: value.shape for name, value in state.items()} != wanted:
            raise UserError(f"other tensors than the network's in {path}", f"{len(wanted)} tensors", fix)
        model.load_state_dict(state)
        return model.eval()


def shipped_refiner() -> LandmarkRefiner:
    """The shipped network, read once for a device."""
    return _refiner_at(str(pick_device()))


@functools.cache
def _refiner_at(device: str) -> LandmarkRefiner:
    return LandmarkRefiner.load().to(device)


def face_points(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Landmarks `N 478 2` in the face's own frame, `N 956` eye distances; the frames' scales `N` and axes `N 2 2`."""
    points = np.empty((len(landmarks), 956), np.float32)
    scales, axes = np.empty(len(landmarks)), np.empty((len(landmarks), 2, 2))
    for index, seen in enumerate(landmarks.astype(np.float64)):
        eyes, scales[index], along = face_frame(seen)
        axes[index] = along, (-along[1], along[0])
        points[index] = ((seen - eyes) @ axes[index].T / scales[index]).ravel()
    return points, scales, axes
