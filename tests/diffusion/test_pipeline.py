"""The sampler: repeatable, guided per factor, long, and clear about bad input."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from safetensors.torch import save_file

from fportrait.bundle import BundleSettings
from fportrait.diffusion.cameras import Cameras
from fportrait.diffusion.codec import BlockCodec, encode_video
from fportrait.diffusion.detail import with_detail
from fportrait.diffusion.pipeline import FactorPortraitPipeline
from fportrait.diffusion.schedule import make_scheduler
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.errors import UserError


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    transformer = FactorPortraitTransformer(
        patch_size=(1, 1, 1),
        num_attention_heads=2,
        attention_head_dim=32,
        text_dim=32,
        ffn_dim=64,
        num_layers=2,
        prompt_tokens=4,
        reference_init="wan",
        controller_init_std=0.3,
    ).eval()
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
            noise,
            torch.tensor([1000.0]),
            encode_video(pipeline.vae, given["reference"]),
            given["rays"],
            encode_video(pipeline.vae, given["normals"]),
            given["codes"],
        )
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


def test_guidance_acts_only_where_little_noise_is_left_and_costs_nothing_elsewhere(pipeline, tmp_path, monkeypatch):
    given = conditions(5)
    parts = pipeline.transformer, pipeline.vae, FlowMatchEulerDiscreteScheduler(shift=5.0)
    limited = FactorPortraitPipeline(*parts, window_frames=13, guidance_below=0.8)
    limited.set_progress_bar_config(disable=True)
    calls, seen = [], []
    forward = pipeline.transformer.forward
    monkeypatch.setattr(pipeline.transformer, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))

    def keep(pipe, step, timestep, state):
        seen.append((float(timestep), state["latents"].clone()))
        return {}

    for guidance in ({}, {"expression": 3.0}):
        sample(limited, given, num_inference_steps=4, guidance=guidance, callback_on_step_end=keep)
    plain, guided = seen[:4], seen[4:]
    below = [timestep <= 800 for timestep, _ in plain]
    assert 0 < sum(below) < 4
    assert len(calls) == 4 + 4 + sum(below)
    for (_, a), (_, b), changed in zip(plain, guided, below, strict=True):
        assert torch.equal(a, b) != changed
    limited.save_pretrained(tmp_path)
    assert FactorPortraitPipeline.from_pretrained(tmp_path).config.guidance_below == 0.8


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


def test_guidance_that_overflows_is_named_with_its_step(pipeline):
    with pytest.raises(UserError, match=r"not finite at step 1 of 2 .*made by guidance"):
        sample(pipeline, conditions(5), num_inference_steps=2, guidance={"view": 1e39})


def test_a_half_precision_overflow_is_named_with_its_layer(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    half = FactorPortraitPipeline.from_pretrained(tmp_path, torch_dtype=torch.float16)
    half.set_progress_bar_config(disable=True)
    assert torch.isfinite(sample(half, conditions(5))).all()
    half.transformer.blocks[1].ffn.net[2].weight.data.mul_(1e6).clamp_(-6e4, 6e4)
    with pytest.raises(UserError, match=r"first in blocks\.1\.ffn\.net\.2, in torch\.float16.* 6\.55e\+04.*bfloat16"):
        sample(half, conditions(5))


def test_frames_may_come_and_go_one_by_one(pipeline, monkeypatch):
    monkeypatch.setattr(BlockCodec, "PART", 3)
    given = conditions(41)
    pixels = ((given["normals"][0].permute(1, 2, 3, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
    whole = sample(pipeline, {**given, "normals": pixels}, output_type="uint8")
    drawn = []

    def draw():
        for frame in pixels:
            drawn.append(1)
            yield frame

    parts = sample(pipeline, {**given, "normals": draw()}, output_type="stream")
    assert len(drawn) == 41, "normal maps are drawn while sampling"
    parts = list(parts)
    assert [part.shape[1] for part in parts] == [9, 12, 12, 8]
    assert np.array_equal(np.concatenate(parts, 1), whole)


@pytest.mark.parametrize(("given_frames", "message"), [(37, "37 normal maps"), (45, "more than 41 normal maps")])
def test_a_stream_of_another_length_is_refused(pipeline, given_frames, message):
    with pytest.raises(UserError, match=message):
        sample(pipeline, {**conditions(41), "normals": iter(np.zeros((given_frames, 32, 32, 3), np.uint8))})


def test_conditions_come_from_files_as_well(pipeline, tmp_path):
    from fportrait.camera.paths import save_camera_path, spin_path
    from fportrait.camera.rays import fold_rays, plucker_rays
    from fportrait.capture.video_io import read_video, write_image, write_video

    rng = np.random.default_rng(0)
    portrait, maps = rng.integers(0, 256, (32, 32, 3), np.uint8), rng.integers(0, 256, (17, 32, 32, 3), np.uint8)
    codes = torch.randn(17, 128)
    cameras, intrinsics = spin_path(17, rng, (0.5, 0.6)), np.array([[40.0, 0, 16], [0, 40, 16], [0, 0, 1]])
    write_image(tmp_path / "portrait.png", portrait)
    write_video(tmp_path / "pose.mp4", maps, fps=25)
    save_camera_path(tmp_path / "camera.json", cameras, intrinsics)
    np.save(tmp_path / "codes.npy", codes.numpy())
    np.savez(tmp_path / "codes.npz", codes=codes.numpy())
    save_file({"codes": codes}, tmp_path / "codes.safetensors")
    from_arrays = sample(
        pipeline,
        {
            "reference": portrait,
            "normals": read_video(tmp_path / "pose.mp4"),
            "codes": codes[None],
            "rays": torch.from_numpy(fold_rays(plucker_rays(cameras, intrinsics, cameras[3], 32, 32)).copy())[None],
        },
    )
    for name in ("codes.npy", "codes.npz", "codes.safetensors"):
        from_files = sample(
            pipeline,
            {
                "reference": tmp_path / "portrait.png",
                "normals": str(tmp_path / "pose.mp4"),
                "codes": tmp_path / name,
                "rays": Cameras.from_file(tmp_path / "camera.json", 17, cameras[3]),
            },
        )
        assert torch.equal(from_files, from_arrays)


def test_one_factor_may_come_from_another_video(pipeline):
    """Cross-reenactment: with another video's codes only what the codes say changes, and both codes lead elsewhere."""
    one, other = conditions(29), conditions(29, seed=1)
    crossed = sample(pipeline, {**one, "codes": other["codes"]})
    assert torch.equal(crossed, sample(pipeline, {**one, "codes": other["codes"].clone()}))
    assert not torch.equal(crossed, sample(pipeline, one)) and not torch.equal(crossed, sample(pipeline, other))
    with pytest.raises(UserError, match="29 normal maps for 25 codes"):
        sample(pipeline, {**one, "codes": conditions(25)["codes"], "rays": conditions(25)["rays"]})


@pytest.mark.parametrize("name", ["codes.pkl", "codes.npy", "absent.npy"])
def test_files_without_codes_are_named(pipeline, tmp_path, name):
    if name != "absent.npy":
        np.save(tmp_path / "codes.npy", np.array([{"codes": 1}]), allow_pickle=True)
        (tmp_path / "codes.npy").rename(tmp_path / name)
    with pytest.raises(UserError, match=name):
        sample(pipeline, {**conditions(9), "codes": tmp_path / name})


def test_a_lens_may_zoom_frame_by_frame():
    from fportrait.camera.rays import plucker_rays

    cameras = np.tile(np.eye(4), (5, 1, 1))
    cameras[:, 0, 3] = np.arange(5) / 10
    lenses = np.stack([np.array([[f, 0, 16], [0, f, 16], [0, 0, 1.0]]) for f in (20, 25, 30, 35, 40)])
    rays = Cameras(cameras, lenses, cameras[0]).rays(6, 32, 32)
    for latent, frame in ((0, 0), (1, 4)):
        own = plucker_rays(cameras[[frame]], lenses[frame], cameras[0], 32, 32)[0]
        assert np.array_equal(rays[0, :, latent].numpy(), own)
    assert torch.equal(
        Cameras(cameras, lenses[[2] * 5], cameras[0]).rays(24, 32, 32),
        Cameras(cameras, lenses[2], cameras[0]).rays(24, 32, 32),
    )


@torch.no_grad()
def test_cameras_bring_the_portraits_own_rays_where_a_model_wants_them(pipeline):
    from fportrait.camera.rays import fold_rays, plucker_rays

    torch.manual_seed(1)
    transformer = FactorPortraitTransformer(**{**pipeline.transformer.config, "reference_rays": "identity"}).eval()
    torch.nn.init.normal_(transformer.patch_embedding.weight, std=0.1)
    wanting = FactorPortraitPipeline(transformer, pipeline.vae, pipeline.scheduler, window_frames=13)
    wanting.set_progress_bar_config(disable=True)
    cameras, lens = np.tile(np.eye(4), (5, 1, 1)), np.array([[20.0, 0, 16], [0, 20, 16], [0, 0, 1]])
    cameras[:, 0, 3] = np.arange(5) / 10
    given = conditions(5)
    own = torch.from_numpy(fold_rays(plucker_rays(cameras[2:3], lens, cameras[2], 32, 32)).copy())[None]
    path = torch.from_numpy(fold_rays(plucker_rays(cameras, lens, cameras[2], 32, 32)).copy())[None]
    by_cameras = sample(wanting, {**given, "rays": Cameras(cameras, lens, cameras[2])})
    assert torch.equal(by_cameras, sample(wanting, {**given, "rays": path}, reference_rays=own))
    assert not torch.equal(by_cameras, sample(wanting, {**given, "rays": path}, reference_rays=0 * own))


@pytest.mark.parametrize("frames", [9, 29])
@pytest.mark.parametrize("scheduler", ["euler", "unipc", "dpm++"])
def test_a_bridge_starts_at_the_noised_painted_portrait_and_takes_as_many_steps_as_asked(pipeline, frames, scheduler):
    """A model that says at every level "what you see is where you began, and the picture is the painted one" gives back
    the painted portrait, over the seams of windows too."""
    config = {**pipeline.transformer.config, "warped_reference": True, "bridge_level": 0.6}
    levels = []

    class Oracle(FactorPortraitTransformer):
        def forward(self, latents, times, warped=None, **given):
            levels.append(float(times[0]) / 1000)
            return (latents - warped) / (times / 1000)[:, None, None, None, None]

    given, painted = conditions(frames), torch.rand(1, 3, frames, 32, 32) * 2 - 1
    oracle = Oracle(**config).eval()
    made = FactorPortraitPipeline(oracle, pipeline.vae, make_scheduler(scheduler, 5.0), window_frames=13)
    made.set_progress_bar_config(disable=True)
    for steps in (1, 3):
        levels.clear()
        sampled = sample(made, given, warped=painted, num_inference_steps=steps)
        assert levels[0] == pytest.approx(0.6, abs=2e-3) and len(set(levels)) == steps
        target = encode_video(pipeline.vae, painted[:, :, :13])
        torch.testing.assert_close(sampled[:, :, :2], target[:, :, :2], rtol=0, atol=0.02)


def test_painted_pictures_give_their_detail_back_and_larger_ones_their_size(pipeline, monkeypatch):
    config = {**pipeline.transformer.config, "warped_reference": True, "bridge_level": 0.6}
    transformer = FactorPortraitTransformer(**config).eval()
    torch.nn.init.constant_(transformer.painted_gate.bias, -50.0)  # keeps what is painted
    made = FactorPortraitPipeline(transformer, pipeline.vae, make_scheduler("euler", 5.0), window_frames=13)
    made.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(0)
    large = np.repeat(np.repeat(rng.integers(0, 255, (29, 32, 32, 3), np.uint8), 2, 1), 2, 2)
    small, asked = large[:, ::2, ::2], {**conditions(29), "num_inference_steps": 1, "output_type": "uint8"}
    video = made(**asked, warped=iter(small)).frames[0]
    assert np.abs(video.astype(int) - small).max() <= 1
    assert np.array_equal(made(**asked, warped=small).frames[0], video)
    made.register_to_config(detail=False)
    assert np.abs(made(**asked, warped=small).frames[0].astype(int) - small).mean() > 10  # the codec alone
    made.register_to_config(detail=True)
    enlarged = made(**asked, warped=small, larger=iter(large)).frames[0]
    assert enlarged.shape == (29, 64, 64, 3) and np.abs(enlarged.astype(int) - large).mean() < 2
    trusted = []
    drawn = (trusted.append(np.full(picture.shape[:2], 255, np.uint8)) or picture for picture in small)
    seen = []
    monkeypatch.setattr(
        "fportrait.diffusion.pipeline.with_detail",
        lambda result, *rest: seen.append(rest[-1]) or with_detail(result, *rest),
    )
    made(**asked, warped=drawn, trusted=trusted)  # the list fills while they are read
    monkeypatch.undo()
    assert len(trusted) == sum(trust.shape[2] for trust in seen) == len(small)
    assert all((trust == 1).all() for trust in seen)
    with pytest.raises(UserError, match="trust in painted pictures"):
        made(**asked | conditions(9), warped=torch.zeros(1, 16, 3, 4, 4), trusted=trusted)
    with pytest.raises(UserError, match="larger painted pictures"):
        made(**asked | conditions(9), warped=torch.zeros(1, 16, 3, 4, 4), larger=iter(large[:9]))


def test_a_bridge_is_refused_without_a_painted_portrait_and_with_levels_of_another_rule(pipeline):
    with pytest.raises(UserError, match="warped_reference"):
        FactorPortraitTransformer(**{**pipeline.transformer.config, "bridge_level": 0.6})
    config = {**pipeline.transformer.config, "warped_reference": True, "bridge_level": 0.6}
    karras = FlowMatchEulerDiscreteScheduler(shift=5.0, use_karras_sigmas=True)
    made = FactorPortraitPipeline(FactorPortraitTransformer(**config), pipeline.vae, karras, window_frames=13)
    with pytest.raises(UserError, match="make_scheduler"):
        sample(made, conditions(5), warped=torch.zeros(1, 3, 5, 32, 32))
    unpainted = FactorPortraitPipeline(made.transformer, pipeline.vae, make_scheduler("euler", 5.0), window_frames=13)
    with pytest.raises(UserError, match="no painted portrait"):
        sample(unpainted, conditions(5))


@torch.no_grad()
def test_a_bundle_makes_a_pipeline_that_samples_as_the_bundle_says(tmp_path):
    from fportrait.bundle import SHIPPED_BASE, read_settings

    shipped, settings = FactorPortraitPipeline.from_bundle(SHIPPED_BASE), read_settings(SHIPPED_BASE)
    made = make_scheduler(settings.scheduler, settings.shift)
    assert type(shipped.scheduler) is type(made) and shipped.scheduler.config == made.config
    assert not shipped.transformer.training
    shipped.save_pretrained(tmp_path)
    for pipeline in (shipped, FactorPortraitPipeline.from_pretrained(tmp_path)):
        config = pipeline.config
        assert (config.window_frames, config.steps, config.guidance) == (17, settings.steps, settings.guidance)


@torch.no_grad()
def test_a_call_that_does_not_say_takes_the_pipelines_own_steps_and_guidance(pipeline):
    parts = (pipeline.transformer, pipeline.vae, pipeline.scheduler)
    own = FactorPortraitPipeline(*parts, window_frames=13, steps=2, guidance={"view": 2.0})
    own.set_progress_bar_config(disable=True)
    given = conditions(5)
    guided = sample(own, given, num_inference_steps=None)
    assert torch.equal(guided, sample(pipeline, given, num_inference_steps=2, guidance={"view": 2.0}))
    assert torch.equal(sample(own, given, guidance={}), sample(pipeline, given))
    assert BundleSettings.steps == pipeline.config.steps


def test_too_few_cameras_are_named(pipeline):
    cameras = Cameras(np.tile(np.eye(4), (5, 1, 1)), np.eye(3), np.eye(4))
    with pytest.raises(UserError, match="5 cameras for 9 codes"):
        sample(pipeline, {**conditions(9), "rays": cameras})


@pytest.mark.parametrize("tiled", [False, True])
def test_wans_own_autoencoder_fits_the_pipeline_and_its_folder(pipeline, tmp_path, tiled):
    vae = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()
    FactorPortraitPipeline(pipeline.transformer, vae, pipeline.scheduler, window_frames=13).save_pretrained(tmp_path)
    wan = FactorPortraitPipeline.from_pretrained(tmp_path)
    wan.set_progress_bar_config(disable=True)
    assert isinstance(wan.vae, AutoencoderKLWan)
    if tiled:
        wan.vae.enable_tiling(24, 24, 16, 16)
    given = conditions(17)
    whole = sample(wan, given, output_type="pt")
    parts = list(sample(wan, given, output_type="stream"))
    assert whole.shape == (1, 3, 17, 32, 32) and [part.shape[1] for part in parts] == [1, 4, 4, 4, 4]


def test_another_flow_scheduler_of_diffusers_samples_as_well(pipeline):
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0, num_train_timesteps=1000
    )
    other = FactorPortraitPipeline(pipeline.transformer, pipeline.vae, scheduler, window_frames=13)
    other.set_progress_bar_config(disable=True)
    given = conditions(29)
    sampled = sample(other, given, num_inference_steps=6)
    assert torch.isfinite(sampled).all() and torch.equal(sampled, sample(other, given, num_inference_steps=6))
    many = sample(pipeline, given, num_inference_steps=60)
    few = sample(pipeline, given, num_inference_steps=6)
    assert (sampled - many).square().mean() < (few - many).square().mean(), "a second-order scheduler is more exact"
