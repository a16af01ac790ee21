"""Where a video is seen from: cameras, from which the rays are made when somebody needs them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fportrait.camera.rays import folded_rays
from fportrait.errors import UserError


@dataclass(frozen=True)
class Cameras:
    """Where a video is seen from; its rays are computed when a window needs them.

    `world_to_camera` `T 4 4`; `intrinsics` `3 3` in pixels of the model's picture, or `T 3 3` for a lens that zooms;
    `reference_world_to_camera` `4 4` of the portrait; `reference_intrinsics` `3 3` of it, where they differ.
    """

    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    reference_world_to_camera: np.ndarray
    reference_intrinsics: np.ndarray | None = None

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        frames: int,
        reference_world_to_camera: np.ndarray,
        intrinsics: np.ndarray | None = None,
    ) -> Cameras:
        """The first `frames` cameras of a camera file (`camera.paths`), with its intrinsics unless others are given.

        Raises:
            UserError: the file is no camera file or too short, or nobody gives intrinsics.
        """
        from fportrait.camera.paths import read_camera_file

        content = read_camera_file(path, frames)
        if intrinsics is None:
            if content.intrinsics is None:
                raise UserError(f"no intrinsics in {path}", "intrinsics in the file or as an argument", "add them")
            intrinsics = content.intrinsics
        return cls(content.world_to_camera, np.asarray(intrinsics), np.asarray(reference_world_to_camera))

    def __len__(self) -> int:
        return len(self.world_to_camera)

    def take(self, frames: slice | np.ndarray) -> Cameras:
        """The cameras of some frames, the portrait's as it is."""
        zooms = np.ndim(self.intrinsics) == 3
        return replace(
            self,
            world_to_camera=self.world_to_camera[frames],
            intrinsics=self.intrinsics[frames] if zooms else self.intrinsics,
        )

    def rays(self, channels: int, height: int, width: int) -> torch.Tensor:
        """Folded rays `1 24|6 l h w` for pictures of `height` x `width` pixels."""
        reference = self.reference_world_to_camera
        rays = folded_rays(self.world_to_camera, self.intrinsics, reference, height, width, channels)
        return torch.from_numpy(rays)[None]

    def reference_rays(self, channels: int, height: int, width: int) -> torch.Tensor:
        """The portrait camera's own rays `1 24|6 1 h w`, for models with `reference_rays="identity"`."""
        own = self.reference_intrinsics
        if own is None:
            own = self.intrinsics if np.ndim(self.intrinsics) == 2 else self.intrinsics[0]
        camera = self.reference_world_to_camera
        return Cameras(camera[None], own, camera).rays(channels, height, width)
