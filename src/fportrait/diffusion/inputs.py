"""What the pipeline is given (files, arrays, streams, tensors), as conditions, window by window of a long video.

Each condition stands alone, so one can come from one video and another from elsewhere: expression from a driver, pose
drawn with the portrait's own body, the view from a camera file. All they share is the number of frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fportrait.diffusion.cameras import Cameras
from fportrait.diffusion.codec import encode_video
from fportrait.diffusion.conditions import BY_NAME, Conditions, Reads, cut
from fportrait.diffusion.shapes import SPATIAL_STRIDE, latent_frames
from fportrait.diffusion.windows import Window
from fportrait.errors import UserError
from fportrait.pixels import to_model_range

Pictures = torch.Tensor | np.ndarray | str | Path


class FrameStream:
    """Frames `H W 3` uint8 that come one by one; slices are served in order and only their overlap is kept."""

    def __init__(self, frames: Iterable[np.ndarray], name: str):
        self.frames, self.name = iter(frames), name
        self.kept: deque[np.ndarray] = deque()
        self.first = 0  # number of the oldest frame kept

    def take(self, window: slice) -> np.ndarray:
        """Frames `T H W 3` of a window that starts no earlier than the one before.

        Raises:
            UserError: the stream ends within the window.
        """
        assert window.start >= self.first, "windows come in order"
        while self.kept and self.first < window.start:
            self.kept.popleft()
            self.first += 1
        self.kept.extend(islice(self.frames, window.stop - self.first - len(self.kept)))
        if len(self.kept) < window.stop - self.first:
            raise UserError(
                f"{self.first + len(self.kept)} {self.name} for {window.stop} frames or more",
                "one per driving frame",
                "extend them, or cut the driving video",
            )
        return np.stack(list(self.kept))

    def check_end(self, frames: int) -> None:
        """Raise `UserError` when more than `frames` frames come: the conditions would not belong together."""
        if next(self.frames, None) is not None:
            raise UserError(
                f"more than {frames} {self.name} for {frames} driving frames", "one per frame", "cut the longer one"
            )


def read_codes(path: str | Path) -> torch.Tensor:
    """Expression codes `1 T 128` of a `.npy` file, or the tensor `codes` of a `.npz` or `.safetensors` file.

    Raises:
        UserError: no such file, another format, no `codes` in it, or another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file {path}", "expression codes as .npy, .npz or .safetensors", "check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            codes = load_file(path)["codes"]
        elif path.suffix in (".npy", ".npz"):
            values = np.load(path, allow_pickle=False)
            codes = torch.from_numpy(values if path.suffix == ".npy" else values["codes"])
        else:
            raise UserError(f"the codes {path}", "a .npy, .npz or .safetensors file", "convert it")
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"no codes in {path} ({error})", "numbers `T 128`, named 'codes'", "write them again") from None
    if codes.ndim == 2:
        codes = codes[None]
    if codes.ndim != 3 or not codes.is_floating_point():
        raise UserError(f"codes of {codes.dtype} {tuple(codes.shape)} in {path}", "floats T 128", "convert them")
    return codes.float()


def as_video(value: Pictures, name: str) -> torch.Tensor:
    """A picture file or uint8 pictures `T H W 3` as `1 3 T H W` in [-1, 1]; tensors of five axes as they are.

    Raises:
        UserError: another type or shape.
    """
    if isinstance(value, str | Path):
        from fportrait.capture.video_io import read_image

        value = read_image(value)
    if isinstance(value, np.ndarray):
        pictures = value[None] if value.ndim == 3 else value
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise UserError(f"{name} of {value.dtype} {value.shape}", "uint8 T H W 3", "convert it to RGB pictures")
        return to_model_range(pictures[None])
    if not isinstance(value, torch.Tensor) or value.ndim != 5:
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise UserError(f"{name} of shape {shape}", "B 3 T H W or B C l h w", f"reshape {name}")
    return value


def as_latents(vae: Any, value: Pictures, name: str, device: torch.device) -> torch.Tensor:
    """Normalised latents of pictures; what already has latent channels passes."""
    video = as_video(value, name).to(device)
    return encode_video(vae, video).float() if video.shape[1] == 3 else video.float()


def check_finite(values: torch.Tensor, name: str) -> torch.Tensor:
    if not torch.isfinite(values).all():
        raise UserError(f"{name} that are not finite", "finite numbers", f"look for NaN where {name} are made")
    return values


class WindowConditions:
    """The conditions by window: normal maps are encoded once, in order; the rest is cut when asked.

    Args as of `FactorPortraitPipeline.__call__`; `reads` is the transformer's, `portrait` are the reference's latents.
    """

    def __init__(
        self,
        vae: Any,
        reads: Reads,
        windows: list[Window],
        portrait: torch.Tensor,
        rays: torch.Tensor | Cameras,
        normals: Pictures | Iterable[np.ndarray] | None,
        codes: torch.Tensor,
        reference_rays: torch.Tensor | None,
        device: torch.device,
        reference_normals: Pictures | None = None,
        warped: Pictures | Iterable[np.ndarray] | None = None,
    ):
        self.windows, self.device = windows, device
        self.painted: list[
            torch.Tensor
        ] = []  # uint8 `B 3 t H W` of every window's new frames, where pictures were given
        self.size = (reads.ray_channels, *(SPATIAL_STRIDE * side for side in portrait.shape[3:]))
        self.portrait = check_finite(portrait, "reference")
        self.codes = check_finite(codes.float(), "codes")
        self.rays = self._check_rays(rays)
        if reference_rays is None and isinstance(rays, Cameras) and reads.reference_rays == "identity":
            reference_rays = rays.reference_rays(*self.size).expand(len(codes), -1, -1, -1, -1)
        self.reference_rays = reference_rays
        self.reference_normals: torch.Tensor | None = None
        if BY_NAME["reference_normals"].read(reads) and reference_normals is not None:
            latents = as_latents(vae, reference_normals, "reference_normals", device)
            self.reference_normals = check_finite(latents, "reference_normals")
        self.normals, self.warped = (
            self._by_window(vae, name, value if BY_NAME[name].read(reads) else None)
            for name, value in (("normals", normals), ("warped", warped))
        )

    def __getitem__(self, index: int) -> Conditions:
        window = self.windows[index]
        if isinstance(self.rays, Cameras):
            rays = self.rays.take(window.frames).rays(*self.size).expand(len(self.codes), -1, -1, -1, -1)
        else:
            rays = cut(BY_NAME["rays"], self.rays, window)
        codes = cut(BY_NAME["codes"], self.codes, window)
        conditions = Conditions(self.portrait, rays.float(), self.normals[index], codes, self.reference_rays)
        conditions = replace(conditions, reference_normals=self.reference_normals, warped=self.warped[index])
        return conditions.to(self.device)

    def _check_rays(self, rays: torch.Tensor | Cameras) -> torch.Tensor | Cameras:
        frames, total = self.codes.shape[1], self.windows[-1].stop
        fix = "extend the camera path or cut the driving video"
        if isinstance(rays, Cameras):
            if len(rays) != frames:
                raise UserError(f"{len(rays)} cameras for {frames} codes", "one camera per driving frame", fix)
            return rays
        if rays.ndim != 5 or rays.shape[2] != total:
            count = rays.shape[2] if rays.ndim == 5 else tuple(rays.shape)
            raise UserError(
                f"rays of {count} latent frames for {frames} codes ({total} latent frames)",
                "one camera per driving frame",
                fix,
            )
        return check_finite(rays, "rays")

    def _by_window(
        self, vae: Any, name: str, value: Pictures | Iterable[np.ndarray] | None
    ) -> list[torch.Tensor | None]:
        """Latents of each window of pictures that follow the video; None where nothing is given."""
        if value is None:
            return [None] * len(self.windows)
        return [check_finite(part, name) for part in self._encoded(vae, name, value)]

    def _encoded(self, vae: Any, name: str, value: Pictures | Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
        frames = self.codes.shape[1]
        title = {"normals": "normal maps", "warped": "painted portraits"}[name]
        if isinstance(value, str | Path):
            from fportrait.capture.video_io import iter_video

            value = iter_video(value)
        if not isinstance(value, torch.Tensor | np.ndarray):
            stream = FrameStream(value, title)
            for window in self.windows:
                taken = stream.take(window.frames)
                self._keep(name, window, taken)
                yield as_latents(vae, taken, name, self.device)
            stream.check_end(frames)
            return
        if isinstance(value, np.ndarray) and value.ndim == 3:
            value = value[None]
        pictures = isinstance(value, np.ndarray) or (value.ndim == 5 and value.shape[1] == 3)
        if not pictures:
            latents = as_latents(vae, value, name, self.device)
            whole = len(self.windows) == 1
            yield from (latents if whole else cut(BY_NAME[name], latents, window) for window in self.windows)
            return
        count = len(value) if isinstance(value, np.ndarray) else value.shape[2]
        if len(self.windows) > 1 and count != frames:
            raise UserError(f"{count} {title} for {frames} codes", "one per frame", "cut the longer one")
        latent_frames(count)
        for window in self.windows:
            part = slice(None) if len(self.windows) == 1 else window.frames
            own = value[part] if isinstance(value, np.ndarray) else value[:, :, part]
            self._keep(name, window, own)
            yield as_latents(vae, own, name, self.device)

    def _keep(self, name: str, window: Window, pictures: np.ndarray | torch.Tensor) -> None:
        """Remember the painted portrait's pictures, whose detail is given back to the result."""
        if name == "warped":
            whole = as_video(pictures, name)[:, :, sum(part.shape[2] for part in self.painted) - window.frames.start :]
            self.painted.append(((whole + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
