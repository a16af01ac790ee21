"""The codec's lost detail, given back where the result is what the codec makes of the painted portrait."""

import numpy as np
import pytest
import torch

from fportrait.bundle import SHIPPED_BASE
from fportrait.diffusion.codec import decode_latents, encode_video, load_vae
from fportrait.diffusion.detail import with_detail


def test_where_the_result_agrees_the_picture_itself_comes_back_and_where_it_does_not_nothing_changes():
    torch.manual_seed(0)
    painted = torch.rand(2, 3, 5, 32, 32) * 0.6 - 0.3
    coded = painted + 0.05 * torch.randn_like(painted)
    result = coded.clone()
    result[..., 16:] += 0.55  # another picture on the right
    found = with_detail(result, painted, coded)
    assert torch.allclose(found[..., :12], painted[..., :12], atol=1e-6)
    assert (found - result)[..., 20:].abs().max() < 5e-3
    assert found.abs().max() <= 1


@torch.no_grad()
def test_of_a_portrait_at_rest_more_comes_back_than_the_codec_can_carry():
    from skimage.data import astronaut

    vae = load_vae(SHIPPED_BASE / "vae")
    picture = torch.from_numpy(astronaut()[0:256:4, 96:352:4].copy()).permute(2, 0, 1).float() / 127.5 - 1
    painted = picture[None, :, None].repeat(1, 1, 5, 1, 1)
    coded = decode_latents(vae, encode_video(vae, painted))
    result = (coded + 0.02 * torch.randn_like(coded)).clamp(-1, 1)  # a model's own small errors
    before, after = (
        (video - painted).square().mean().item() for video in (result, with_detail(result, painted, coded))
    )
    assert 10 * np.log10(before / after) > 3


@pytest.mark.parametrize("frames", [1, 9])
def test_it_takes_any_number_of_frames_and_clips_of_a_batch_do_not_meet(frames):
    one, two = torch.rand(2, 1, 3, frames, 16, 24).unbind()
    together = with_detail(torch.cat([one, two]), torch.cat([two, one]), torch.cat([one, two]))
    assert torch.equal(together[:1], with_detail(one, two, one))


def test_drawn_larger_the_result_is_as_sharp_as_what_is_drawn_where_nothing_changed():
    torch.manual_seed(0)
    larger = torch.rand(1, 3, 5, 64, 64) * 0.6 - 0.3
    painted = torch.nn.functional.avg_pool3d(larger, (1, 4, 4))
    coded = painted + 0.05 * torch.randn_like(painted)
    result = coded.clone()
    result[..., 8:] += 0.55
    found = with_detail(result, painted, coded, larger)
    assert found.shape == larger.shape
    assert torch.allclose(found[..., :16], larger[..., :16], atol=1e-3)
    changed = found[..., 44:]  # a blurred picture, which nothing of the larger one has come into
    assert changed.diff(dim=-1).abs().mean() < 0.3 * larger[..., 44:].diff(dim=-1).abs().mean()


def test_where_the_painted_picture_is_trusted_it_is_kept_against_a_model_that_differs_from_it():
    torch.manual_seed(0)
    painted = torch.rand(1, 3, 5, 32, 32) * 0.2
    result = painted + 0.25  # 32 grey levels
    trusted = torch.zeros(1, 1, 5, 32, 32)
    assert torch.equal(with_detail(result, painted, painted, trusted=trusted), with_detail(result, painted, painted))
    trusted[..., 16:] = 1
    kept = (with_detail(result, painted, painted, trusted=trusted) - painted).abs().mean((0, 1, 2, 3))
    assert kept[:14].min() > 0.2 > 0.1 > kept[18:].max()
    larger = painted.repeat_interleave(4, 3).repeat_interleave(4, 4)
    assert with_detail(result, painted, painted, larger, trusted).shape == larger.shape
