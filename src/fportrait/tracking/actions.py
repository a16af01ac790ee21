"""What expression codes tell of the body's facial actions: how the body acts that a portrait is painted on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from fportrait.errors import UserError

READOUT = "readout.safetensors"


@dataclass(frozen=True)
class ActionReadout:
    """Facial actions of the embedded body from standardised codes: a = clip(W c + b, 0, 1).

    Attributes:
        weight: `52 128`. bias: `52`.
    """

    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def beside(cls, folder: str | Path) -> ActionReadout | None:
        """The readout in an encoder's folder, which encoders of other makers lack.

        Raises:
            UserError: tensors missing, of another shape, or not finite.
        """
        file = Path(folder) / READOUT
        if not file.is_file():
            return None
        tensors = {name: np.asarray(tensor, np.float32) for name, tensor in load_file(file).items()}
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        if shapes.keys() != {"weight", "bias"} or shapes["weight"] != (*shapes["bias"], 128):
            raise UserError(f"{shapes} in {file}", "weight (actions, 128) and bias (actions)", "write the bundle anew")
        if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
            raise UserError(f"numbers that are not finite in {file}", "a readout", "write the bundle anew")
        return cls(tensors["weight"], tensors["bias"])

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Actions `... 52` in 0..1 of codes `... 128`."""
        return np.clip(np.asarray(codes, np.float32) @ self.weight.T + self.bias, 0.0, 1.0)


def told_actions(readout: ActionReadout | None, codes: np.ndarray) -> list[np.ndarray | None]:
    """Actions `52` of each of the codes `T 128`; None for all without a readout."""
    return [None] * len(codes) if readout is None else list(readout(codes))
