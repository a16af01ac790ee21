"""Widening a base: what it knew stays exactly as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fportrait.diffusion.codec import BlockCodec, encode_video
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.training.widen import adopt_codes, widen_codec, widen_transformer

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "latent_channels": 4,
    "text_dim": 8,
    "ffn_dim": 32,
    "num_layers": 2,
    "prompt_tokens": 1,
    "code_dim": 6,
    "controller_init_std": 0.1,
}


@pytest.fixture(scope="module")
def videos() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(6, 3, 9, 8, 8, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (9, 32, 32), mode="trilinear")
    return [(fine + 0.2 * torch.randn(fine.shape, generator=generator)).clamp(-1, 1)]


@pytest.fixture(scope="module")
def codec(videos) -> BlockCodec:
    torch.manual_seed(0)
    codec = BlockCodec(z_dim=4, refiner_width=8, refiner_blocks=1).fit_pca(videos).eval()
    torch.nn.init.normal_(codec.refiner.output.weight, std=0.01)
    return codec


def test_the_first_latents_of_a_wider_codec_are_the_old_ones_and_the_rest_adds_detail(codec, videos):
    wide = widen_codec(codec, 12, videos, whitening=0.5).eval()
    old, new = encode_video(codec, videos[0]), encode_video(wide, videos[0])
    assert torch.allclose(old, new[:, :4], atol=1e-5)
    for basis in (wide.frame_basis, wide.group_basis):
        assert torch.allclose(basis.T @ basis, torch.eye(12), atol=1e-4)

    def error(codec):
        return (codec.decode_blocks(codec.encode(videos[0]).latent_dist.mode()) - videos[0]).square().mean()

    assert error(wide) < 0.8 * error(codec)
    whitened = new[:, 4:].std((0, 2, 3, 4)) * torch.tensor(wide.config.latents_std[4:])
    assert torch.allclose(whitened**0.5, torch.tensor(wide.config.latents_std[4:]), rtol=0.2)


def test_the_wider_codecs_refiner_corrects_as_the_old_one_until_it_is_trained(codec, videos):
    wide = widen_codec(codec, 12, videos, whitening=0.5)
    latents = torch.randn(2, 12, 3, 4, 4)
    pixels = torch.randn(2, 3, 9, 32, 32)
    assert torch.allclose(wide.refiner(pixels, latents), codec.refiner(pixels, latents[:, :4]), atol=1e-6)


@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize("use_normals", [True, False])
def test_a_wider_transformer_computes_what_the_old_one_did_and_listens_to_new_noise(patch, use_normals):
    torch.manual_seed(1)
    model = FactorPortraitTransformer(**SMALL, patch_size=patch, use_normals=use_normals).eval()
    wide = widen_transformer(model, 7).eval()
    latents, reference, normals = torch.randn(2, 7, 3, 4, 4), torch.randn(2, 7, 1, 4, 4), torch.randn(2, 7, 3, 4, 4)
    latents[:, 4:] = 0
    rays, codes, times = torch.randn(2, 24, 3, 4, 4), torch.randn(2, 9, 6), torch.tensor([300.0, 900.0])
    with torch.no_grad():
        before = model(latents[:, :4], times, reference[:, :4], rays, normals[:, :4] if use_normals else None, codes)
        after = wide(latents, times, reference, rays, normals if use_normals else None, codes)
    assert after.shape[1] == 7 and torch.allclose(after[:, :4], before, atol=1e-5)
    assert not after[:, 4:].any() and before.std() > 0.01
    latents[:, 4:] = torch.randn(2, 3, 3, 4, 4)
    with torch.no_grad():
        moved = wide(latents, times, reference, rays, normals if use_normals else None, codes)
    assert not torch.allclose(moved[:, :4], before, atol=1e-3)


def test_another_encoders_codes_move_the_controller_as_the_old_ones_did():
    torch.manual_seed(2)
    model = FactorPortraitTransformer(**SMALL)
    old = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    new = (old @ np.random.default_rng(1).normal(size=(6, 6)) + 3.0).astype(np.float32)  # says the same otherwise
    with torch.no_grad():
        before = model.controller(torch.from_numpy(old[None, :9]))
        share = adopt_codes(model, new, old, ridge=1e-8)
        after = model.controller(torch.from_numpy(new[None, :9]))
    assert share > 0.999 and torch.allclose(before, after, atol=1e-3) and before.std() > 0.01
