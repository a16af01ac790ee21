"""What a parametric body must offer so that normal maps can be drawn from it."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fportrait.body.pose import Pose


class Body(Protocol):
    """A mesh as a function of identity, expression and pose.

    Points are metres in the world convention: y up, +z out of the face, origin at the centre of the template's head.

    Attributes:
        name: as in the `body_model` column of the identities table. template: `V 3`, the mean identity at rest.
        faces: `F 3` int32. weld: `V` int32; vertices with equal numbers are one point, split by a texture seam.
        identity_dim, expression_dim: lengths of the two vectors.
    """

    name: str
    template: np.ndarray
    faces: np.ndarray
    weld: np.ndarray

    @property
    def identity_dim(self) -> int: ...

    @property
    def expression_dim(self) -> int: ...

    def neutral(self, identity: np.ndarray, /) -> np.ndarray:
        """Vertices `V 3` at rest without expression."""

    def vertices(self, identity: np.ndarray, expression: np.ndarray | None, pose: Pose, /) -> np.ndarray:
        """Posed vertices `V 3`, world, float32; `expression` None is the expression-neutral mesh."""

    def head_centre(self, identity: np.ndarray, pose: Pose, /) -> np.ndarray:
        """Where the rest origin is carried by the head bone, `3`."""
