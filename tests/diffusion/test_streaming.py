"""The model as a stream runs it, against the original."""

import pytest
import torch

from fportrait.bundle import SHIPPED_BASE
from fportrait.diffusion.codec import BlockCodec, decode_latents, denormalise, encode_video, load_vae
from fportrait.diffusion.pipeline import FactorPortraitPipeline
from fportrait.diffusion.schedule import make_scheduler
from fportrait.diffusion.streaming import decoded_beside, product_type, streamed
from fportrait.diffusion.transformer import FactorPortraitTransformer

TINY = {
    "patch_size": (1, 1, 1),
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "text_dim": 32,
    "ffn_dim": 96,
    "num_layers": 2,
    "prompt_tokens": 4,
    "controller_init_std": 0.3,
}


def pipeline(prompt="alike", **config):
    torch.manual_seed(0)
    transformer = FactorPortraitTransformer(**{**TINY, **config}).eval()
    torch.nn.init.normal_(transformer.patch_embedding.weight, std=0.1)
    if transformer.landmark_encoder is not None:
        for block in transformer.blocks:
            torch.nn.init.normal_(block.landmark_attention.attention.to_out[0].weight, std=0.3)
    if prompt == "words":
        torch.nn.init.normal_(transformer.prompt_embedding)
    codec = BlockCodec(refiner_width=8, refiner_blocks=1).eval()
    return FactorPortraitPipeline(transformer, codec, make_scheduler("euler", 5.0), window_frames=13, steps=2)


def inputs(batch, width=128, times=None):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(batch, *shape, generator=generator)

    return {
        "latents": draw(16, 3, 4, 4),
        "timestep": torch.full((batch,), 600.0) if times is None else torch.tensor([times] * batch),
        "reference": draw(16, 1, 4, 4),
        "rays": draw(24, 3, 4, 4),
        "normals": draw(16, 3, 4, 4),
        "codes": draw(9, width),
    }


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("prompt", ["alike", "words"])
@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_the_streamed_transformer_says_what_the_original_says(dtype, share, prompt, batch):
    original = pipeline(prompt)
    made, given = streamed(original, dtype), inputs(batch)
    theirs = original.transformer(**given, prompt_cache=original.transformer.prompt_key_values())
    for _ in range(2):  # what a prompt adds is kept
        ours = made.transformer(**given, prompt_cache=made.transformer.prompt_key_values())
        assert (ours - theirs).abs().max() < share * theirs.std()
    assert theirs.std() > 0.1
    again = original.transformer(**given, prompt_cache=original.transformer.prompt_key_values())
    assert torch.equal(again, theirs), "the original was changed"


@torch.no_grad()
def test_only_the_portraits_frame_is_kept_from_call_to_call_and_another_portrait_is_another_frame():
    original = pipeline()
    made, first = streamed(original, torch.float32).transformer, inputs(1)
    generator = torch.Generator().manual_seed(3)
    other = {**first, "reference": torch.randn(first["reference"].shape, generator=generator)}
    later = {**first, "timestep": first["timestep"] / 2}
    for given in (first, other, later, first):
        theirs = original.transformer(**given)
        ours = made(**given, prompt_cache=made.prompt_key_values())
        assert (ours - theirs).abs().max() < 1e-5 * theirs.std()
    (blocks,) = made.blocks
    assert len(blocks.kept) == 3
    # Of another window the portrait's tokens would have been others: a part of what the window itself changes.
    moved = {**first, "latents": torch.randn(first["latents"].shape, generator=generator)}
    theirs, before = original.transformer(**moved), original.transformer(**first)
    ours = made(**moved, prompt_cache=made.prompt_key_values())
    assert 0 < (ours - theirs).std() < 0.05 * (theirs - before).std()
    assert len(blocks.kept) == 3
    for number in range(2 * blocks.KEPT):
        made(**{**first, "timestep": torch.tensor([float(number)])}, prompt_cache=made.prompt_key_values())
    assert len(blocks.kept) == blocks.KEPT


@torch.no_grad()
def test_a_video_and_its_painted_portrait_share_the_correction_and_nothing_else():
    codec = load_vae(SHIPPED_BASE / "vae")
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, codec.config.z_dim, 2, 4, 4, generator=generator)
    painted = torch.rand(1, 3, 5, 32, 32, generator=generator) * 2 - 1
    video, coded = decoded_beside(codec, latents, painted)
    assert (video - decode_latents(codec, latents)).abs().max() < 1e-5
    theirs = decode_latents(codec, encode_video(codec, painted))
    plain = codec.decode_blocks(denormalise(codec, encode_video(codec, painted))).clamp(-1, 1)
    assert (coded - theirs).abs().mean() < (plain - theirs).abs().mean() + (video - plain).abs().mean()
    assert coded.shape == theirs.shape == video.shape
    same, own = decoded_beside(codec, encode_video(codec, painted), painted)
    assert torch.equal(same, own)
    long = torch.randn(1, codec.config.z_dim, 14, 4, 4, generator=generator)
    video, coded = decoded_beside(codec, long, torch.zeros(1, 3, 53, 32, 32))
    assert (video - decode_latents(codec, long)).abs().max() < 1e-5
    assert (coded - decode_latents(codec, encode_video(codec, torch.zeros(1, 3, 53, 32, 32)))).abs().max() < 1e-5


@torch.no_grad()
def test_landmarks_and_levels_of_single_latents_reach_the_streamed_transformer():
    original = pipeline("words", expression="landmarks", landmarks=10)
    given = inputs(1, 20, times=[0.0, 600.0, 600.0])
    made = streamed(original, torch.float32).transformer
    theirs, ours = original.transformer(**given), made(**given, prompt_cache=made.prompt_key_values())
    assert (ours - theirs).abs().max() < 1e-5 * theirs.std()
    moved = {**given, "codes": given["codes"] + 1}
    assert (made(**moved, prompt_cache=made.prompt_key_values()) - ours).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_pictures_of_the_shipped_codec_differ_by_less_than_a_grey_level(dtype):
    codec = load_vae(SHIPPED_BASE / "vae")
    made = streamed(FactorPortraitPipeline(pipeline().transformer, codec, make_scheduler("euler", 5.0)), dtype).vae
    latents = torch.randn(2, codec.config.z_dim, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    theirs, ours = decode_latents(codec, latents), decode_latents(made, latents)
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() * 127.5 < 1
    assert made.dtype == codec.dtype == torch.float32


def test_a_streamed_pipeline_keeps_its_settings_and_the_seed_its_bits():
    original = pipeline()
    made = streamed(original)
    assert (made.config.steps, made.config.window_frames) == (2, 13)
    given = inputs(1)
    call = {name: given[name] for name in ("reference", "rays", "normals", "codes")}
    first, second = (
        made(**call, generator=torch.Generator().manual_seed(0), output_type="latent").frames for _ in range(2)
    )
    assert torch.equal(first, second)
    assert product_type() in (torch.float32, torch.bfloat16)
