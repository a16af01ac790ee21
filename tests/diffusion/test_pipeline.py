"""The sampler: repeatable, guided per factor, long, and clear about bad input."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from fportrait.diffusion.codec import BlockCodec, encode_video
from fportrait.diffusion.pipeline import FactorPortraitPipeline
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.errors import UserError


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    transformer = FactorPortraitTransformer(
        patch_size=(1, 1, 1), num_attention_heads=2, attention_head_dim=32, text_dim=32, ffn_dim=64, num_layers=2,
        prompt_tokens=4, reference_init="wan", controller_init_std=0.3,
    ).eval()  # fmt: skip
    torch.nn.init.normal_(transformer.patch_embedding.weight, std=0.1)
    codec = BlockCodec(refiner_width=8, refiner_blocks=1).fit_pca([torch.rand(4, 3, 9, 32, 32) * 2 - 1]).eval()
    made = FactorPortraitPipeline(transformer, codec, FlowMatchEulerDiscreteScheduler(shift=5.0), window_frames=13)
    made.set_progress_bar_config(disable=True)
    return made


def conditions(frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    latent = (frames + 3) // 4
    return {
        "reference": torch.rand(1, 3, 1, 32, 32, generator=generator) * 2 - 1,
        "rays": torch.randn(1, 24, latent, 4, 4, generator=generator),
        "normals": torch.rand(1, 3, frames, 32, 32, generator=generator) * 2 - 1,
        "codes": torch.randn(1, frames, 128, generator=generator),
    }


def sample(pipeline, given, seed=0, **kwargs):
    kwargs = {"num_inference_steps": 3, "output_type": "latent", **kwargs}
    return pipeline(**given, generator=torch.Generator().manual_seed(seed), **kwargs).frames


@pytest.mark.parametrize("frames", [9, 29])
def test_one_seed_gives_the_same_bits_and_another_seed_others(pipeline, frames):
    given = conditions(frames)
    assert torch.equal(sample(pipeline, given), sample(pipeline, given))
    assert not torch.equal(sample(pipeline, given), sample(pipeline, given, seed=1))


def test_output_types_agree(pipeline):
    given = conditions(5)
    pixels = sample(pipeline, given, output_type="uint8")
    video = sample(pipeline, given, output_type="pt")
    assert pixels.shape == (1, 5, 32, 32, 3) and pixels.dtype == np.uint8
    torch.testing.assert_close(
        torch.from_numpy(pixels).permute(0, 4, 1, 2, 3).float() / 127.5 - 1, video, atol=0.5 / 127.5 + 1e-6, rtol=0
    )


def test_pictures_and_latents_are_the_same_condition(pipeline):
    given = conditions(5)
    encoded = {**given, **{key: encode_video(pipeline.vae, given[key]) for key in ("reference", "normals")}}
    assert torch.equal(sample(pipeline, given), sample(pipeline, encoded))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    as_tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
    assert torch.equal(
        sample(pipeline, {**given, "reference": pixels}), sample(pipeline, {**given, "reference": as_tensor})
    )


def test_one_euler_step_is_noise_minus_velocity(pipeline):
    given = conditions(5)
    noise = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        velocity = pipeline.transformer(
            noise, torch.tensor([1000.0]),
            encode_video(pipeline.vae, given["reference"]), given["rays"],
            encode_video(pipeline.vae, given["normals"]), given["codes"],
        )  # fmt: skip
    torch.testing.assert_close(sample(pipeline, given, num_inference_steps=1), noise - velocity)


@pytest.mark.parametrize("factor", ["expression", "pose", "view", "identity"])
def test_guidance_follows_its_formula_and_scale_one_costs_nothing(pipeline, factor, monkeypatch):
    given = conditions(5)
    calls = []
    forward = pipeline.transformer.forward
    monkeypatch.setattr(pipeline.transformer, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    plain = sample(pipeline, given, num_inference_steps=1)
    assert torch.equal(sample(pipeline, given, num_inference_steps=1, guidance={factor: 1.0}), plain)
    assert len(calls) == 2
    none, double = (sample(pipeline, given, num_inference_steps=1, guidance={factor: g}) for g in (0.0, 2.0))
    assert len(calls) == 6
    torch.testing.assert_close(double - plain, plain - none, atol=1e-4, rtol=1e-3)
    assert (plain - none).abs().max() > 1e-4


def test_a_window_as_long_as_the_video_equals_no_windows(pipeline):
    given = conditions(13)
    assert torch.equal(sample(pipeline, given), sample(pipeline, given, window_frames=13, overlap_frames=4))


def test_in_a_long_video_a_late_condition_leaves_far_frames_alone(pipeline):
    """Windows are 13 frames; information crosses overlaps one window per step, so one step keeps it local."""
    given = conditions(41)
    moved = {**given, "codes": given["codes"].clone()}
    moved["codes"][:, -1] += 3
    one, other = (sample(pipeline, c, num_inference_steps=1) for c in (given, moved))
    changed = (one != other).any(1).any(-1).any(-1)[0]
    assert one.shape[2] == 11 and not changed[:8].any() and changed[-1]


def test_a_saved_pipeline_samples_the_same(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = FactorPortraitPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    given = conditions(29)
    assert loaded.config.window_frames == 13
    assert torch.equal(sample(loaded, given), sample(pipeline, given))
    with pytest.raises(UserError, match="model_index"):
        FactorPortraitPipeline.from_pretrained(tmp_path / "nowhere")


def test_the_callback_sees_every_step_and_may_change_latents(pipeline):
    steps = []

    def zero(_, step, timestep, values):
        steps.append((step, float(timestep)))
        return {"latents": torch.zeros_like(values["latents"])} if step == 2 else None

    latents = sample(pipeline, conditions(5), callback_on_step_end=zero)
    assert [step for step, _ in steps] == [0, 1, 2] and steps[0][1] == 1000
    assert not latents.any()


def test_a_bfloat16_model_samples_finite_values(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    half = FactorPortraitPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    given = conditions(5)
    exact = sample(pipeline, given)
    assert (sample(half, given) - exact).abs().max() < 0.15 * exact.abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": torch.zeros(1, 8, 128)}, "use 5 or 9 frames"),
        ({"codes": torch.zeros(1, 9, 64)}, "codes of shape"),
        ({"codes": torch.zeros(9, 128)}, "codes of shape"),
        ({"rays": torch.zeros(1, 24, 2, 4, 4)}, "one camera per driving frame"),
        ({"normals": torch.zeros(1, 3, 5, 32, 32)}, "normals of shape"),
        ({"reference": np.zeros((32, 32), np.uint8)}, "reference of uint8"),
        ({"reference": np.zeros((30, 32, 3), np.uint8)}, "divide by 8"),
        ({"codes": torch.full((1, 9, 128), torch.nan)}, "codes that are not finite"),
        ({"normals": None}, "no normals"),
    ],
)
def test_bad_input_is_named(pipeline, change, message):
    with pytest.raises(UserError, match=message):
        sample(pipeline, {**conditions(9), **change})


def test_unknown_factors_and_output_types_are_refused(pipeline):
    with pytest.raises(UserError, match="rename it to 'expression'"):
        sample(pipeline, conditions(5), guidance={"expresion": 2.0})
    with pytest.raises(UserError, match="output_type"):
        sample(pipeline, conditions(5), output_type="pil")


def test_long_videos_want_normals_as_pixels_of_their_length(pipeline):
    given = conditions(29)
    with pytest.raises(UserError, match="as pixels"):
        sample(pipeline, {**given, "normals": encode_video(pipeline.vae, given["normals"])})
    with pytest.raises(UserError, match="25 normal maps for 29 codes"):
        sample(pipeline, {**given, "normals": given["normals"][:, :, :25]})


def test_an_overflow_is_named_with_its_step(pipeline):
    with pytest.raises(UserError, match="not finite after step 1 of 2"):
        sample(pipeline, conditions(5), num_inference_steps=2, guidance={"view": 1e39})
