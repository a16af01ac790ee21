"""Wan's VAE frame by frame against its own decode."""

import pytest
import torch
from diffusers import AutoencoderKLWan

from fportrait.diffusion.codec import decode_parts, denormalise


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.5] * 4, latents_std=[2.0] * 4
    ).eval()


@pytest.mark.parametrize("tiling", [False, True])
@pytest.mark.parametrize("slicing", [False, True])
@torch.no_grad()
def test_the_parts_are_the_frames_of_the_whole_video(vae, tiling, slicing):
    latents = torch.randn(2, 4, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    vae.disable_tiling()
    vae.disable_slicing()
    if tiling:
        vae.enable_tiling(32, 32, 24, 24)
    if slicing:
        vae.enable_slicing()
    whole = vae.decode(denormalise(vae, latents)).sample
    parts = list(decode_parts(vae, latents))
    assert [part.shape[2] for part in parts] == [1, 4, 4, 4]
    assert torch.equal(torch.cat(parts, 2), whole)
    if tiling:  # the tiles were really used
        vae.disable_tiling()
        assert not torch.equal(vae.decode(denormalise(vae, latents)).sample, whole)


@torch.no_grad()
def test_a_stopped_decoding_leaves_nothing_behind(vae):
    vae.disable_tiling()
    latents = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    whole = torch.cat(list(decode_parts(vae, latents)), 2)
    next(iter(decode_parts(vae, -latents)))
    assert torch.equal(torch.cat(list(decode_parts(vae, latents)), 2), whole)
