"""The block codec, and one interface over it and Wan's VAE."""

import itertools

import pytest
import torch
from diffusers import AutoencoderKLWan

from fportrait.diffusion.codec import BlockCodec, decode_latents, encode_video, load_vae
from fportrait.diffusion.codec_training import train_refiner
from fportrait.errors import UserError


def moving_blobs(clips, frames=9, size=32, seed=0):
    """Smooth pictures that drift: `B 3 T H W` in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    time = torch.arange(frames)[None, None, :, None, None] / frames
    video = torch.zeros(clips, 3, frames, size, size)
    for _ in range(4):
        frequency, phase, speed = torch.randn(3, clips, 3, 1, 1, 1, generator=generator).unbind()
        direction = torch.randn(clips, 3, 1, 1, 1, generator=generator)
        video += torch.sin(6 * frequency * x + 6 * direction * y + 6 * phase + speed * time)
    return (video / 3).clamp(-1, 1)


def psnr(one, other):
    return (10 * torch.log10(4 / (one - other).square().mean())).item()


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return BlockCodec(refiner_width=16, refiner_blocks=1).fit_pca(moving_blobs(48).split(16)).eval()


def test_latents_have_the_vaes_shape_and_unit_scale(codec):
    latents = encode_video(codec, moving_blobs(48))
    assert latents.shape == (48, 16, 3, 4, 4)
    groups = latents[:, :, 1:].transpose(0, 1).flatten(1)
    torch.testing.assert_close(groups.mean(1), torch.zeros(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(groups.std(1), torch.ones(16), atol=1e-2, rtol=0)


def test_unseen_clips_survive_the_round_trip(codec):
    video = moving_blobs(8, seed=1)
    decoded = decode_latents(codec, encode_video(codec, video))
    assert decoded.shape == video.shape
    assert psnr(decoded, video) > 28  # 29.6 here: 16 numbers stand for 768


def test_the_projection_is_the_best_of_its_rank():
    """No other 16 numbers per group can reconstruct the fitted clips better: compare with the singular values."""
    video = moving_blobs(12)
    fitted = BlockCodec(refiner_blocks=0).fit_pca([video])
    error = (fitted.decode_blocks(fitted.encode(video).latent_dist.mode()) - video)[:, :, 1:].square().sum()
    from fportrait.diffusion.codec import frames_to_blocks, group_blocks

    groups = group_blocks(frames_to_blocks(video)[:, 1:] - fitted.block_mean).flatten(0, 3).double()
    tail = torch.linalg.svdvals(groups)[16:].square().sum()
    assert error.item() == pytest.approx(tail.item(), rel=1e-3)


def test_a_still_picture_codes_alike_alone_and_in_a_group():
    """The channels of a portrait mean what the channels of the video mean."""
    still = moving_blobs(32)[:, :, :1]
    mixed = torch.cat([moving_blobs(32), still.expand(-1, -1, 9, -1, -1)])
    fitted = BlockCodec(refiner_blocks=0).fit_pca([mixed])
    latents = encode_video(fitted, still.expand(-1, -1, 5, -1, -1))
    first, group = latents[:, :, 0].flatten(), latents[:, :, 1].flatten()
    assert torch.nn.functional.cosine_similarity(first, group, dim=0) > 0.9


def test_time_is_causal(codec):
    video = moving_blobs(1)
    changed = video.clone()
    changed[:, :, 5:] = 0
    one, other = encode_video(codec, video), encode_video(codec, changed)
    assert torch.equal(one[:, :, :2], other[:, :, :2]) and not torch.equal(one[:, :, 2], other[:, :, 2])


def test_an_untrained_refiner_changes_nothing_and_training_improves_unseen_clips(codec):
    torch.manual_seed(0)
    # Noise-free but busy: sharp edges are what 16 numbers per block lose.
    train, test = ((moving_blobs(24, size=32, seed=seed) * 4).clamp(-1, 1) for seed in (2, 3))
    fitted = BlockCodec(refiner_width=24, refiner_blocks=1).fit_pca([train]).eval()
    latents = fitted.encode(test).latent_dist.mode()
    assert torch.equal(fitted.decode(latents).sample, fitted.decode_blocks(latents).clamp(-1, 1))
    before = psnr(decode_latents(fitted, encode_video(fitted, test)), test)
    losses = train_refiner(fitted, itertools.cycle(train.split(8)), steps=60, lr=3e-3, seed=0)
    assert len(losses) == 60
    assert psnr(decode_latents(fitted, encode_video(fitted, test)), test) > before + 0.5


@torch.no_grad()
def test_a_long_video_decoded_in_parts_has_no_seam(monkeypatch):
    torch.manual_seed(0)
    fitted = BlockCodec(refiner_width=8, refiner_blocks=4).fit_pca([moving_blobs(8)]).eval()
    for parameter in fitted.refiner.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    latents = encode_video(fitted, moving_blobs(1, frames=61, seed=1))
    whole = decode_latents(fitted, latents)
    monkeypatch.setattr(BlockCodec, "PART", 3)
    torch.testing.assert_close(decode_latents(fitted, latents), whole, atol=1e-5, rtol=0)


def test_refiner_training_repeats_bit_for_bit():
    video = moving_blobs(8, frames=5, size=16)
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        fitted = BlockCodec(refiner_width=8, refiner_blocks=1).fit_pca([video])
        train_refiner(fitted, itertools.repeat(video), steps=3, seed=1)
        states.append(fitted.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_too_few_clips_to_train_on_are_named():
    fitted = BlockCodec(refiner_width=8, refiner_blocks=1)
    with pytest.raises(UserError, match="1 batches"):
        train_refiner(fitted, [moving_blobs(1, frames=5, size=16)], steps=2)
    with pytest.raises(UserError, match="refiner"):
        train_refiner(BlockCodec(refiner_blocks=0), [], steps=1)
    with pytest.raises(UserError, match="five frames"):
        BlockCodec(refiner_blocks=0).fit_pca([moving_blobs(1, frames=1, size=16)])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 8, 32, 32), "use 5 or 9 frames"),
        ((1, 3, 2, 32, 32), "use 1 or 5 frames"),
        ((1, 3, 5, 30, 32), "crop to 32x32"),
    ],
)
def test_lengths_and_sizes_that_do_not_divide_are_refused(codec, shape, message):
    with pytest.raises(UserError, match=message):
        encode_video(codec, torch.zeros(shape))
    with pytest.raises(UserError, match=message):
        codec.encode(torch.zeros(shape))


def test_a_saved_codec_loads_by_its_class_name(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    loaded = load_vae(tmp_path)
    assert isinstance(loaded, BlockCodec)
    video = moving_blobs(2)
    assert torch.equal(encode_video(loaded, video), encode_video(codec, video))


def test_wans_vae_loads_through_the_same_door(tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.5] * 4, latents_std=[2.0] * 4
    ).eval()
    vae.save_pretrained(tmp_path)
    loaded = load_vae(tmp_path)
    assert isinstance(loaded, AutoencoderKLWan)
    video = moving_blobs(1, frames=5)
    latents = encode_video(loaded, video)
    assert latents.shape == (1, 4, 2, 4, 4)
    with torch.no_grad():
        mode = vae.encode(video).latent_dist.mode()
        torch.testing.assert_close(latents, (mode - 0.5) / 2)
        torch.testing.assert_close(decode_latents(loaded, latents), vae.decode(mode).sample.clamp(-1, 1))
    with pytest.raises(UserError, match="use 5 or 9 frames"):
        encode_video(loaded, torch.zeros(1, 3, 8, 32, 32))


def test_a_folder_of_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(UserError, match="UNet2DModel"):
        load_vae(tmp_path)
