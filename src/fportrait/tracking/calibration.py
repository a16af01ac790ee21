"""Where the landmark network puts its points on this body, measured on rendered people.

The embedding says where each of the 478 landmarks should lie on the mesh. The network, trained on photographs, has its
own idea of them, the same for everyone: uncorrected, this turns every head by a constant pitch. What it puts where is
measured on rendered people (`fportrait.tracking.making.calibration`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fportrait.atomic_io import atomic_path
from fportrait.errors import UserError

SHIPPED = Path(__file__).parent.parent / "assets" / "landmark_calibration.npz"


@dataclass(frozen=True)
class Calibration:
    """`offsets` `478 3` metres in the head's axes at rest; `sigmas` `478` in eye distances."""

    offsets: np.ndarray
    sigmas: np.ndarray

    @classmethod
    def none(cls) -> Calibration:
        """The embedding as it is, every landmark alike."""
        return cls(np.zeros((478, 3)), np.full(478, 0.02))

    def save(self, path: str | Path) -> None:
        with atomic_path(path) as temporary, open(temporary, "wb") as sink:
            np.savez_compressed(sink, offsets=self.offsets.astype(np.float32), sigmas=self.sigmas.astype(np.float32))

    @classmethod
    def load(cls, path: str | Path = SHIPPED) -> Calibration:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, holds other arrays, or numbers that are not finite.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"no file {path}", "a calibration", "run `python -m fportrait.tracking.making.calibration`")
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name].astype(np.float64) for name in data.files}
        shapes = {name: value.shape for name, value in arrays.items()}
        if shapes != {"offsets": (478, 3), "sigmas": (478,)} or not all(np.isfinite(v).all() for v in arrays.values()):
            raise UserError(f"{shapes} in {path}", "finite offsets 478 3 and sigmas 478", "rebuild the file")
        return cls(**arrays)
