"""Video codecs behind one interface: diffusers' `AutoencoderKLWan`, or a small closed-form `BlockCodec`.

Both are causal in time with stride 4 (the first frame alone, then groups of four), 8 in space; with C channels (Wan
2.1: 16; the embedded base: 48) video `B 3 T H W` in [-1, 1] with T = 4k+1 becomes latents `B C l H/8 W/8`.

`BlockCodec` projects 8x8 blocks (of one frame, or of four frames) onto their principal components; its decoder is the
inverse projection plus a small residual network that sees the neighbours and removes block edges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from fportrait.devices import device_of
from fportrait.diffusion import checkpoint
from fportrait.diffusion.shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE, check_picture_size, latent_frames, video_frames
from fportrait.diffusion.wan_decoding import decode_wan
from fportrait.errors import UserError

BLOCK = 3 * SPATIAL_STRIDE * SPATIAL_STRIDE  # numbers in one frame's block


def frames_to_blocks(video: torch.Tensor) -> torch.Tensor:
    """`B 3 T H W` to `B T H/8 W/8 192`."""
    blocks = video.unfold(3, SPATIAL_STRIDE, SPATIAL_STRIDE).unfold(4, SPATIAL_STRIDE, SPATIAL_STRIDE)
    return blocks.permute(0, 2, 3, 4, 1, 5, 6).flatten(4)


def blocks_to_frames(blocks: torch.Tensor) -> torch.Tensor:
    """`B T h w 192` to `B 3 T 8h 8w`."""
    pixels = blocks.unflatten(4, (3, SPATIAL_STRIDE, SPATIAL_STRIDE))  # B T h w 3 y x
    return pixels.permute(0, 4, 1, 2, 5, 3, 6).flatten(5).flatten(3, 4)


def group_blocks(blocks: torch.Tensor) -> torch.Tensor:
    """The later frames' blocks `B 4g h w 192` to groups `B g h w 768`."""
    return blocks.unflatten(1, (-1, TEMPORAL_STRIDE)).permute(0, 1, 3, 4, 2, 5).flatten(4)


def ungroup_blocks(groups: torch.Tensor) -> torch.Tensor:
    """Inverse of `group_blocks`."""
    return groups.unflatten(4, (TEMPORAL_STRIDE, BLOCK)).permute(0, 1, 4, 2, 3, 5).flatten(1, 2)


class Refiner(nn.Module):
    """Residual correction of decoded pixels from those pixels and the latents, at a quarter of their resolution.

    Pixels are folded 4x4 (48 channels), latents repeated to the same grid; spatial and temporal convolutions
    alternate. The output layer starts at zero, so an untrained refiner changes nothing.
    """

    FOLD = 4

    def __init__(self, latent_channels: int, width: int, blocks: int):
        super().__init__()
        folded = 3 * self.FOLD * self.FOLD
        # Two inputs say where a frame stands in its group; all groups but the first frame look alike otherwise.
        self.input = nn.Conv3d(folded + latent_channels + TEMPORAL_STRIDE + 1, width, (1, 3, 3), padding=(0, 1, 1))
        self.spatial = nn.ModuleList([nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1)) for _ in range(blocks)])
        self.temporal = nn.ModuleList([nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0)) for _ in range(blocks)])
        self.output = nn.Conv3d(width, folded, (1, 3, 3), padding=(0, 1, 1))
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    def forward(self, video: torch.Tensor, latents: torch.Tensor, from_start: bool = True) -> torch.Tensor:
        """The correction `B 3 T H W` for decoded `video` `B 3 T H W`, given normalised `latents` `B C l h w`.

        Without `from_start` every latent is a group of four: the part begins inside a longer video.
        """
        batch, _, frames = video.shape[:3]
        folded = F.pixel_unshuffle(video.transpose(1, 2).flatten(0, 1), self.FOLD)
        folded = folded.unflatten(0, (batch, frames)).transpose(1, 2)
        head = 1 if from_start else 0
        per_frame = torch.cat([latents[:, :, :head], latents[:, :, head:].repeat_interleave(TEMPORAL_STRIDE, 2)], 2)
        scale = SPATIAL_STRIDE // self.FOLD
        per_frame = per_frame.repeat_interleave(scale, 3).repeat_interleave(scale, 4)
        place = (torch.arange(frames, device=video.device) - head) % TEMPORAL_STRIDE + 1
        place[:head] = 0
        place = F.one_hot(place, TEMPORAL_STRIDE + 1).T.to(folded)[None, :, :, None, None]
        place = place.expand(batch, -1, -1, *folded.shape[3:])
        hidden = self.input(torch.cat([folded, per_frame.to(folded), place], 1))
        for spatial, temporal in zip(self.spatial, self.temporal, strict=True):
            hidden = hidden + temporal(F.gelu(spatial(F.gelu(hidden))))
        correction = self.output(F.gelu(hidden)).transpose(1, 2).flatten(0, 1)
        correction = F.pixel_shuffle(correction, self.FOLD)
        return correction.unflatten(0, (batch, frames)).transpose(1, 2)


class BlockCodec(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Principal components of video blocks, with `AutoencoderKLWan`'s interface.

    Args:
        z_dim: latent channels.
        latents_mean, latents_std: per channel, written by `fit_pca`; `encode_video` normalises with them.
        refiner_width, refiner_blocks: size of the decoder's residual network; 0 blocks leave it out.
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 16,
        latents_mean: tuple[float, ...] | None = None,
        latents_std: tuple[float, ...] | None = None,
        refiner_width: int = 96,
        refiner_blocks: int = 4,
    ):
        super().__init__()
        if latents_mean is None or latents_std is None:
            self.register_to_config(latents_mean=[0.0] * z_dim, latents_std=[1.0] * z_dim)
        self.register_buffer("block_mean", torch.zeros(BLOCK))
        self.register_buffer("frame_basis", torch.zeros(BLOCK, z_dim))
        self.register_buffer("group_basis", torch.zeros(TEMPORAL_STRIDE * BLOCK, z_dim))
        self.refiner = Refiner(z_dim, refiner_width, refiner_blocks) if refiner_blocks else None

    # The bases are orthonormal. A group's latents are halved, so that a still picture codes alike alone and in a group.
    GROUP_SCALE = TEMPORAL_STRIDE**-0.5
    PART = 12  # latent frames decoded at once, at most: more only costs memory
    PART_CELLS = 12 * 8 * 8  # their latent cells; at least 4 frames, because every part decodes its context again

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        """`B 3 T H W` in [-1, 1] to a distribution over `B C l H/8 W/8`, of which only `.mode()` carries anything.

        Raises:
            UserError: T is not 4k+1, or a side does not divide by 8.
        """
        latent_frames(x.shape[2])
        check_picture_size(x.shape[3], x.shape[4])
        blocks = frames_to_blocks(x) - self.block_mean
        latents = blocks[:, :1] @ self.frame_basis
        if x.shape[2] > 1:
            groups = group_blocks(blocks[:, 1:]) @ self.group_basis * self.GROUP_SCALE
            latents = torch.cat([latents, groups], 1)
        mode = latents.permute(0, 4, 1, 2, 3).contiguous()
        posterior = DiagonalGaussianDistribution(torch.cat([mode, torch.full_like(mode, -30.0)], 1))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: torch.Tensor, return_dict: bool = True) -> Any:
        """`B C l h w` to `.sample` `B 3 T 8h 8w`, clipped to [-1, 1] unless in training mode.

        Long videos are decoded in parts whose seams have all the context the refiner sees.
        """
        step = z.shape[2] if self.training else self.part(z.shape[3] * z.shape[4])
        starts = range(0, z.shape[2], step)
        video = torch.cat([self.decode_part(*self.with_context(z, start, start + step)) for start in starts], 2)
        sample = video.clamp(-1, 1) if not self.training else video
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def part(self, cells: int) -> int:
        """Latent frames of `cells` = h w cells to decode at once: fewer of large pictures."""
        return min(self.PART, max(4, self.PART_CELLS // cells))

    def with_context(self, z: torch.Tensor, start: int, stop: int) -> tuple[torch.Tensor, int, int, int]:
        """What `decode_part` needs for latents `start` ... `stop`-1: one latent of context per four refiner blocks."""
        stop = min(stop, z.shape[2])
        context = -(-self.config.refiner_blocks // TEMPORAL_STRIDE)
        low = max(0, start - context)
        return z[:, :, low : stop + context], low, start, stop

    def decode_part(self, part: torch.Tensor, low: int, start: int, stop: int) -> torch.Tensor:
        """The frames of latents `start` ... `stop`-1 of a video, unclipped; `part` holds its latents from `low` on."""
        video = self.decode_blocks(part, low == 0)
        if self.refiner is not None:
            video = video + self.refiner(video, normalise(self, part), low == 0)
        begin, end = (max(0, TEMPORAL_STRIDE * index - (TEMPORAL_STRIDE - 1)) for index in (start, stop))
        offset = max(0, TEMPORAL_STRIDE * low - (TEMPORAL_STRIDE - 1))
        return video[:, :, begin - offset : end - offset]

    def decode_blocks(self, z: torch.Tensor, from_start: bool = True) -> torch.Tensor:
        """The inverse projection alone, unclipped; without `from_start` every latent is a group of four."""
        latents = z.permute(0, 2, 3, 4, 1)
        head = 1 if from_start else 0
        blocks = latents[:, :head] @ self.frame_basis.T
        if z.shape[2] > head:
            groups = latents[:, head:] @ self.group_basis.T / self.GROUP_SCALE
            blocks = torch.cat([blocks, ungroup_blocks(groups)], 1)
        return blocks_to_frames(blocks + self.block_mean)

    def forward(self, sample: torch.Tensor) -> Any:
        return self.decode(self.encode(sample).latent_dist.mode())

    @torch.no_grad()
    def fit_pca(self, videos: Iterable[torch.Tensor], keep: int = 0) -> BlockCodec:
        """Fit bases, mean and latent statistics in one pass over `videos` (each `B 3 T H W` in [-1, 1], T = 4k+1 > 1).

        RGB clips and normal-map clips may be mixed: one codec serves both. The first `keep` components and the mean
        stay as they are; the others become the principal components of what those leave behind.

        Raises:
            UserError: no clip with a group of four frames was given.
        """
        frame, group = _Moments(BLOCK), _Moments(TEMPORAL_STRIDE * BLOCK)
        for video in videos:
            latent_frames(video.shape[2])
            check_picture_size(video.shape[3], video.shape[4])
            blocks = frames_to_blocks(video.double())
            frame.add(blocks.flatten(0, 3))
            if video.shape[2] > 1:
                group.add(group_blocks(blocks[:, 1:]).flatten(0, 3))
        if not group.count:
            raise UserError(
                "no clip of five frames or more", "clips to fit the codec on", "give video, not only pictures"
            )
        mean = self.block_mean.double() if keep else frame.mean()
        frame_basis = _principal(frame.covariance(mean), self.config.z_dim, self.frame_basis[:, :keep])
        group_mean = mean.repeat(TEMPORAL_STRIDE)
        group_covariance = group.covariance(group_mean)
        group_basis = _principal(group_covariance, self.config.z_dim, self.group_basis[:, :keep])
        # Any rotation of the basis reconstructs equally well: take the one (Procrustes) nearest to the frame's basis
        # held still for four frames, so that a channel means the same in the portrait and in the video.
        still = frame_basis[:, keep:].repeat(TEMPORAL_STRIDE, 1) * self.GROUP_SCALE
        left, _, right = torch.linalg.svd(group_basis[:, keep:].T @ still)
        group_basis[:, keep:] = group_basis[:, keep:] @ (left @ right)

        # Statistics of the group latents: they are most of every clip. (Of the frame's, when they are larger.)
        group_variance = torch.einsum("ik,ij,jk->k", group_basis, group_covariance, group_basis) * self.GROUP_SCALE**2
        offset = (group.mean() - group_mean) @ group_basis * self.GROUP_SCALE
        self.block_mean.copy_(mean)
        self.frame_basis.copy_(frame_basis)
        self.group_basis.copy_(group_basis)
        std = (group_variance - offset**2).clamp_min(1e-12).sqrt()
        kept = {name: list(self.config[name][:keep]) for name in ("latents_mean", "latents_std")}
        self.register_to_config(
            latents_mean=kept["latents_mean"] + offset[keep:].tolist(),
            latents_std=kept["latents_std"] + std[keep:].tolist(),
        )
        return self


class _Moments:
    """Sums for a mean and a covariance, in float64."""

    def __init__(self, size: int):
        self.count = 0
        self.sum = torch.zeros(size, dtype=torch.float64)
        self.products = torch.zeros(size, size, dtype=torch.float64)

    def add(self, rows: torch.Tensor) -> None:
        rows = rows.double().cpu()
        self.count += len(rows)
        self.sum += rows.sum(0)
        self.products += rows.T @ rows

    def mean(self) -> torch.Tensor:
        return self.sum / self.count

    def covariance(self, centre: torch.Tensor) -> torch.Tensor:
        """Second moments about `centre` (which need not be the mean)."""
        mean = self.mean()
        about_mean = self.products / self.count - torch.outer(mean, mean)
        return about_mean + torch.outer(mean - centre, mean - centre)


def _principal(covariance: torch.Tensor, count: int, kept: torch.Tensor) -> torch.Tensor:
    """`count` orthonormal columns: `kept`, then the leading eigenvectors of what those leave behind.

    They are signed so that their sum is positive: fits are repeatable.
    """
    kept = kept.double()
    rest = torch.eye(len(covariance), dtype=torch.float64) - kept @ kept.T
    vectors = torch.linalg.eigh(rest @ covariance @ rest).eigenvectors.flip(1)[:, : count - kept.shape[1]]
    return torch.cat([kept, vectors * torch.where(vectors.sum(0) < 0, -1.0, 1.0)], 1)


def _statistics(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean = torch.tensor(vae.config.latents_mean).to(like).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).to(like).view(1, -1, 1, 1, 1)
    return mean, std


def normalise(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """(mode - mean) / std with the constants of the codec's own configuration."""
    mean, std = _statistics(vae, latents)
    return (latents - mean) / std


def denormalise(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Inverse of `normalise`."""
    mean, std = _statistics(vae, latents)
    return latents * std + mean


@torch.no_grad()
def encode_video(vae: Any, video: torch.Tensor) -> torch.Tensor:
    """`B 3 T H W` in [-1, 1] to normalised latents `B C l H/8 W/8`.

    A video in the CPU's memory is computed where the VAE lies, and its latents come back to it.

    Raises:
        UserError: T is not 4k+1 (Wan's VAE would drop frames in silence), or a side does not divide by 8.
    """
    latent_frames(video.shape[2])
    check_picture_size(video.shape[3], video.shape[4])
    there = device_of(vae) if video.device.type == "cpu" else video.device  # a VAE that is offloaded waits on the CPU
    return normalise(vae, vae.encode(video.to(there, vae.dtype)).latent_dist.mode()).to(video.device)


@torch.no_grad()
def decode_parts(vae: Any, latents: torch.Tensor) -> Iterator[torch.Tensor]:
    """Normalised latents `B C l h w` to video part by part, `B 3 t 8h 8w` in [-1, 1]: a long one is never whole."""
    if isinstance(vae, BlockCodec):
        step = vae.part(latents.shape[3] * latents.shape[4])
        for start in range(0, latents.shape[2], step):
            needed, *where = vae.with_context(latents, start, start + step)
            yield vae.decode_part(denormalise(vae, needed).to(vae.dtype), *where).clamp(-1, 1)
    else:
        yield from decode_wan(vae, denormalise(vae, latents).to(vae.dtype))


def decode_latents(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Normalised latents `B C l h w` to video `B 3 T 8h 8w`, T = 4(l-1)+1, in [-1, 1]; see `encode_video` for where."""
    there = device_of(vae) if latents.device.type == "cpu" else latents.device
    video = torch.cat([part.to(latents.device) for part in decode_parts(vae, latents.to(there))], 2)
    assert video.shape[2] == video_frames(latents.shape[2])
    return video


def load_vae(folder: str | Path, torch_dtype: torch.dtype | None = None) -> Any:
    """The codec in `folder`: `BlockCodec` or `AutoencoderKLWan`, as its `config.json` says, in evaluation mode.

    Raises:
        UserError: another class, a pickle, or keys missing, extra or misshapen (all listed).
    """
    location = checkpoint.model_folder(folder)
    config = checkpoint.read_config(location)
    classes = {"BlockCodec": BlockCodec, "AutoencoderKLWan": AutoencoderKLWan}
    name = config.get("_class_name")
    if name not in classes:
        raise UserError(f"a {name} in {location}", " or ".join(classes), "point to the folder of a video VAE")
    return checkpoint.load_model(classes[name], location, classes[name].from_pretrained, torch_dtype).eval()
