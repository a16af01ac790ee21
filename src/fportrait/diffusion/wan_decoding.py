"""Wan's VAE decoded one latent frame at a time: the frames of its own `decode`, without holding the whole video.

It is causal in time and carries a cache of features from frame to frame. With tiling every tile has a cache of its own,
with slicing every sample. (Written against diffusers' `AutoencoderKLWan._decode` and `tiled_decode`; a test compares.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def decode_wan(vae: Any, z: torch.Tensor) -> Iterator[torch.Tensor]:
    """`AutoencoderKLWan`'s latents `B C l h w` to `B 3 1 8h 8w`, then `B 3 4 8h 8w` l-1 times, in [-1, 1]."""
    if hasattr(vae, "_hf_hook"):  # what `vae.decode` does for a model that is offloaded
        vae._hf_hook.pre_forward(vae)
    samples = [slice(i, i + 1) for i in range(len(z))] if vae.use_slicing else [slice(None)]
    places, stride = _tiles(vae, *z.shape[3:])
    vae.clear_cache()
    caches = {(number, place): list(vae._feat_map) for number in range(len(samples)) for place in places}
    for frame in range(z.shape[2]):
        decoded = []
        for number, sample in enumerate(samples):
            tiles = {
                place: vae.decoder(
                    vae.post_quant_conv(z[(sample, slice(None), slice(frame, frame + 1), *window)]),
                    feat_cache=caches[number, place],
                    feat_idx=[0],
                    first_chunk=frame == 0,
                )
                for place, window in places.items()
            }
            decoded.append(_join_tiles(vae, tiles, stride, z.shape[3:]))
        yield torch.cat(decoded).clamp(-1, 1)


def _tiles(vae: Any, height: int, width: int) -> tuple[dict[tuple[int, int], tuple[slice, slice]], tuple[int, int]]:
    """The tiles of `AutoencoderKLWan.tiled_decode`, by row and column, and their stride in pixels."""
    scale = vae.spatial_compression_ratio
    size = (vae.tile_sample_min_height // scale, vae.tile_sample_min_width // scale)
    if not vae.use_tiling or (height <= size[0] and width <= size[1]):
        return {(0, 0): (slice(None), slice(None))}, (height * scale, width * scale)
    stride = (vae.tile_sample_stride_height // scale, vae.tile_sample_stride_width // scale)
    places = {
        (row, column): (slice(y, y + size[0]), slice(x, x + size[1]))
        for row, y in enumerate(range(0, height, stride[0]))
        for column, x in enumerate(range(0, width, stride[1]))
    }
    return places, (stride[0] * scale, stride[1] * scale)


def _join_tiles(
    vae: Any, tiles: dict[tuple[int, int], torch.Tensor], stride: tuple[int, int], latent_size: torch.Size
) -> torch.Tensor:
    if len(tiles) == 1:
        return tiles[0, 0]
    blend_height, blend_width = vae.tile_sample_min_height - stride[0], vae.tile_sample_min_width - stride[1]
    rows: dict[int, list[torch.Tensor]] = {}
    for (row, column), tile in tiles.items():  # row by row: blending changes a tile before its neighbours see it
        if row > 0:
            tile = vae.blend_v(tiles[row - 1, column], tile, blend_height)
        if column > 0:
            tile = vae.blend_h(tiles[row, column - 1], tile, blend_width)
        rows.setdefault(row, []).append(tile[..., : stride[0], : stride[1]])
    height, width = (side * vae.spatial_compression_ratio for side in latent_size)
    return torch.cat([torch.cat(row, -1) for row in rows.values()], -2)[..., :height, :width]
