"""The transformer against bare Wan, and what each condition may and may not touch."""

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode

from fportrait.diffusion.checkpoint import empty_model
from fportrait.diffusion.conditions import Conditions
from fportrait.diffusion.controller import group_frames
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.errors import UserError
from fportrait.tracking.points import SUBSET_238, landmark_codes

TINY_WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 32,
    "ffn_dim": 96,
    "num_layers": 2,
}
TINY = {
    "patch_size": (1, 1, 1),
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "text_dim": 32,
    "ffn_dim": 96,
    "num_layers": 2,
    "prompt_tokens": 4,
}
WAN_1_3B = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30}
WAN_14B = {"num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824, "num_layers": 40}


def inputs(frames, batch=1, size=4, ray_channels=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    latent = (frames + 3) // 4

    def draw(*shape):
        return torch.randn(batch, *shape, generator=generator)

    return {
        "latents": draw(16, latent, size, size),
        "timestep": torch.rand(batch, generator=generator) * 1000,
        "reference": draw(16, 1, size, size),
        "rays": draw(ray_channels, latent, size, size),
        "normals": draw(16, latent, size, size),
        "codes": draw(frames, 128),
    }


def tiny(**config):
    torch.manual_seed(0)
    return FactorPortraitTransformer(**{**TINY, **config}).eval()


@pytest.mark.parametrize(("frames", "batch"), [(1, 1), (5, 2), (9, 1), (13, 2), (25, 1), (49, 1), (81, 1)])
@torch.no_grad()
def test_at_initialisation_it_is_bare_wan_with_a_zero_frame_prepended_bit_for_bit(frames, batch):
    torch.manual_seed(0)
    wan = WanTransformer3DModel(**TINY_WAN).eval()
    model = FactorPortraitTransformer.from_wan(wan)
    given = inputs(frames, batch, size=8)
    prompt = torch.randn(batch, 7, 32)
    zero_frame = torch.zeros(batch, 16, 1, 8, 8)
    theirs = wan(torch.cat([zero_frame, given["latents"]], 2), given["timestep"], prompt, return_dict=False)[0]
    ours = model(**given, prompt=prompt)
    assert ours.shape == given["latents"].shape
    assert (ours - theirs[:, :, 1:]).abs().max() == 0
    assert ours.abs().max() > 0.1


@torch.no_grad()
def test_reference_init_wan_copies_the_noise_columns():
    wan = WanTransformer3DModel(**TINY_WAN).eval()
    model = FactorPortraitTransformer.from_wan(wan, reference_init="wan")
    weight = model.patch_embedding.weight
    assert weight.shape[1] == 72
    assert torch.equal(weight[:, :16], wan.patch_embedding.weight)
    assert torch.equal(weight[:, 16:32], wan.patch_embedding.weight)
    assert not weight[:, 32:].any()


@pytest.mark.parametrize("frames", [13, 25, 49, 81])
@torch.no_grad()
def test_one_driving_frame_changes_only_its_own_latent_frames_modulation(frames):
    model = tiny(controller_init_std=0.5)
    for layer in model.controller.layers:  # temporal attention becomes the identity
        torch.nn.init.zeros_(layer.to_out.weight)
        torch.nn.init.zeros_(layer.to_out.bias)
    codes = torch.randn(1, frames, 128)
    timestep = torch.tensor([400.0])
    _, before = model.modulation(timestep, codes)
    assert before.shape == (1, 1 + (frames + 3) // 4, 6, 64)
    for frame in (0, 1, 4, 5, frames // 2, frames - 1):
        moved = codes.clone()
        moved[:, frame] += 1
        _, after = model.modulation(timestep, moved)
        changed = (after != before).any(-1).any(-1)[0].nonzero().flatten().tolist()
        assert changed == [1 + (frame + 3) // 4]  # 1 + : the reference frame stands first, and has no expression


@torch.no_grad()
def test_temporal_attention_lets_frames_see_each_other():
    model = tiny(controller_init_std=0.5)
    codes = torch.randn(1, 13, 128)
    moved = codes.clone()
    moved[:, 12] += 1
    before, after = (model.modulation(torch.tensor([400.0]), value)[1] for value in (codes, moved))
    changed = (after != before).any(-1).any(-1)[0].tolist()
    assert changed == [False, True, True, True, True]


def test_groups_repeat_the_first_frame_and_keep_frame_order():
    grouped = group_frames(torch.arange(9.0)[None, :, None])
    assert grouped.tolist() == [[[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]]


@torch.no_grad()
def test_channel_groups_lie_in_the_published_order():
    model = tiny()
    given = inputs(9)
    fused = model.fuse_conditions(
        given["latents"], Conditions(*(given[name] for name in ("reference", "rays", "normals", "codes")))
    )
    zero = torch.zeros_like(fused[:, :, :1])
    expected = torch.cat(
        [
            torch.cat([given["reference"], torch.zeros(1, 16, 3, 4, 4)], 2),
            torch.cat([zero[:, :16], given["latents"]], 2),
            torch.cat([zero[:, :24], given["rays"]], 2),
            torch.cat([zero[:, :16], given["normals"]], 2),
        ],
        1,
    )
    assert torch.equal(fused, expected)


@pytest.mark.parametrize("name", ["reference", "rays", "normals", "codes"])
def test_every_condition_reaches_the_output_and_is_learned(name):
    model = tiny(reference_init="wan", controller_init_std=0.1)
    torch.nn.init.normal_(model.patch_embedding.weight, std=0.1)
    given = inputs(5)
    given[name].requires_grad_()
    model(**given).square().mean().backward()
    assert given[name].grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in model.parameters())


def c3_inputs(frames, batch=1, points=238, size=4):
    given = inputs(frames, batch, size)
    return {**given, "codes": torch.rand(batch, frames, 2 * points, generator=torch.Generator().manual_seed(1)) * 2 - 1}


@pytest.mark.parametrize("frames", [1, 9])
@torch.no_grad()
def test_with_landmarks_it_also_starts_as_bare_wan_bit_for_bit(frames):
    torch.manual_seed(0)
    wan = WanTransformer3DModel(**TINY_WAN).eval()
    model = FactorPortraitTransformer.from_wan(wan, expression="landmarks")
    given = c3_inputs(frames, batch=2, size=8)
    prompt = torch.randn(2, 7, 32)
    theirs = wan(
        torch.cat([torch.zeros(2, 16, 1, 8, 8), given["latents"]], 2), given["timestep"], prompt, return_dict=False
    )[0]
    assert (model(**given, prompt=prompt) - theirs[:, :, 1:]).abs().max() == 0
    assert model.controller is None and not any(p.isnan().any() for p in model.parameters())
    assert (
        sum(layer.over_time for layer in model.landmark_encoder.layers) == 2 == len(model.landmark_encoder.layers) / 2
    )


@torch.no_grad()
def test_landmarks_reach_their_own_latent_frames_tokens_and_no_others():
    model = tiny(expression="landmarks", landmarks=5, num_layers=1)
    for layer in model.landmark_encoder.layers[1::2]:  # temporal attention becomes the identity
        torch.nn.init.zeros_(layer.to_out.weight)
        torch.nn.init.zeros_(layer.to_out.bias)
    attention = model.blocks[0].landmark_attention
    torch.nn.init.normal_(attention.attention.to_out[0].weight)
    codes = torch.rand(1, 13, 10)
    hidden = torch.randn(1, 5, 16, 64)  # the reference and four latent frames of sixteen tokens
    before = attention(hidden, model.landmark_encoder(codes))
    assert torch.equal(before[:, 0], hidden[:, 0]), "the portrait's own tokens see no landmarks"
    for frame, latent in [(0, 1), (1, 2), (4, 2), (5, 3), (12, 4)]:
        moved = codes.clone()
        moved[:, frame, 3] += 1
        after = attention(hidden, model.landmark_encoder(moved))
        assert (after != before).any(-1).any(-1)[0].nonzero().flatten().tolist() == [latent]


def test_landmarks_are_learned_from():
    model = tiny(expression="landmarks", reference_init="wan")
    for block in model.blocks:
        torch.nn.init.normal_(block.landmark_attention.attention.to_out[0].weight, std=0.1)
    given = c3_inputs(5)
    given["codes"].requires_grad_()
    model(**given).square().mean().backward()
    assert given["codes"].grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(UserError, match=r"codes of shape .* 476"):
        model(**inputs(5))


@torch.no_grad()
def test_a_landmark_model_saves_loads_and_keeps_its_kind(tmp_path):
    model = tiny(expression="landmarks")
    model.save_pretrained(tmp_path)
    loaded = FactorPortraitTransformer.from_pretrained(tmp_path)
    assert loaded.expression_width == 476
    assert torch.equal(loaded(**c3_inputs(5)), model(**c3_inputs(5)))


def test_landmark_codes_are_238_points_from_edge_to_edge():
    points = np.zeros((3, 478, 2))
    points[:, SUBSET_238[7]] = (64, 16)
    codes = landmark_codes(points, size=64)
    assert codes.shape == (3, 476) and codes.dtype == np.float32
    assert codes[0, 14:16].tolist() == [1.0, -0.5] and (np.delete(codes, [14, 15], 1) == -1).all()


@torch.no_grad()
def test_without_normals_the_model_takes_none():
    model = tiny(use_normals=False)
    assert model.patch_embedding.in_channels == 56
    assert model(**{**inputs(5), "normals": None}).shape == (1, 16, 2, 4, 4)


@torch.no_grad()
def test_six_ray_channels_and_the_identity_cameras_rays():
    model = tiny(ray_channels=6, reference_rays="identity")
    torch.nn.init.normal_(model.patch_embedding.weight, std=0.1)
    given = inputs(5, ray_channels=6)
    with pytest.raises(UserError, match="reference_rays"):
        model(**given)
    one = model(**given, reference_rays=torch.zeros(1, 6, 1, 4, 4))
    other = model(**given, reference_rays=torch.ones(1, 6, 1, 4, 4))
    assert (one - other).abs().max() > 0


@torch.no_grad()
def test_the_cached_prompt_gives_the_same_velocity():
    model = tiny(controller_init_std=0.1)
    model.prompt_embedding.normal_()
    given = inputs(9, batch=2)
    assert torch.equal(model(**given), model(**given, prompt_cache=model.prompt_key_values()))


def test_gradient_checkpointing_changes_no_gradient():
    model = tiny(controller_init_std=0.1)
    given = inputs(5)
    gradients = []
    for enable in (False, True):
        model.gradient_checkpointing = False
        if enable:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        model.train()(**given).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@torch.no_grad()
def test_bfloat16_stays_close_to_float32():
    model = tiny(reference_init="wan", controller_init_std=0.1)
    given = inputs(5)
    exact = model(**given)
    half = model.to(torch.bfloat16)(**given)
    assert half.dtype == torch.bfloat16
    assert (half - exact).abs().max() < 0.05 * exact.abs().max()


@torch.no_grad()
def test_a_saved_model_loads_as_it_was(tmp_path):
    model = tiny(reference_init="wan", controller_init_std=0.1)
    model.prompt_embedding.normal_()
    model.save_pretrained(tmp_path)
    loaded = FactorPortraitTransformer.from_pretrained(tmp_path)
    given = inputs(5)
    assert torch.equal(loaded(**given), model(**given))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("codes", (1, 9, 64)),
        ("codes", (1, 8, 128)),
        ("rays", (1, 24, 2, 4, 4)),
        ("rays", (1, 6, 3, 4, 4)),
        ("normals", (1, 16, 3, 4, 5)),
        ("reference", (1, 16, 2, 4, 4)),
    ],
)
def test_a_condition_of_the_wrong_shape_is_named(name, shape):
    with pytest.raises(UserError, match=name):
        tiny()(**{**inputs(9), name: torch.zeros(shape)})


def test_latents_that_do_not_divide_into_patches_are_refused():
    with pytest.raises(UserError, match="5x5"):
        tiny(patch_size=(1, 2, 2))(**inputs(5, size=5))


@pytest.mark.parametrize(
    "switch", [{"ray_channels": 12}, {"reference_init": "ones"}, {"reference_rays": "wan"}, {"expression": "text"}]
)
def test_an_unknown_switch_is_refused(switch):
    with pytest.raises(UserError, match=next(iter(switch))):
        tiny(**switch)


@pytest.mark.parametrize("config", [WAN_1_3B, WAN_14B], ids=["1.3B", "14B"])
def test_conditioning_adds_at_most_one_percent_of_parameters(config):
    bare = empty_model(WanTransformer3DModel, config)
    ours = empty_model(FactorPortraitTransformer, config)
    theirs, added = (sum(p.numel() for p in model.parameters()) for model in (bare, ours))
    assert 0 < added - theirs < 0.01 * theirs
    mine, wans = ours.state_dict(), bare.state_dict()
    assert {key for key in mine if key not in wans and not key.startswith("controller.")} == {"prompt_embedding"}
    assert [key for key in wans if mine[key].shape != wans[key].shape] == ["patch_embedding.weight"]


def test_conditioning_adds_at_most_a_thousandth_of_the_operations_at_full_size():
    """1.3B, 512 x 512, 81 frames: 21 latent frames and the reference, against bare Wan on 22 (22,528 tokens)."""
    with torch.device("meta"):
        bare, ours = WanTransformer3DModel(**WAN_1_3B), FactorPortraitTransformer(**WAN_1_3B)
        given = {
            "latents": torch.empty(1, 16, 21, 64, 64), "timestep": torch.empty(1),
            "reference": torch.empty(1, 16, 1, 64, 64), "rays": torch.empty(1, 24, 21, 64, 64),
            "normals": torch.empty(1, 16, 21, 64, 64), "codes": torch.empty(1, 81, 128),
        }  # fmt: skip
        counts = []
        with torch.no_grad():
            with FlopCounterMode(display=False) as counter:
                bare(torch.empty(1, 16, 22, 64, 64), torch.empty(1), torch.empty(1, 512, 4096))
            counts.append(counter.get_total_flops())
            with FlopCounterMode(display=False) as counter:
                ours(**given)
            counts.append(counter.get_total_flops())
    assert counts[0] > 1e14
    assert 1 < counts[1] / counts[0] < 1.001


@torch.no_grad()
def test_the_gate_goes_from_the_models_own_velocity_to_the_one_that_ends_at_the_painted_portrait():
    torch.manual_seed(0)
    model = tiny(warped_reference=True, bridge_level=0.6).eval()
    given = inputs(9, batch=2) | {"warped": torch.randn(2, 16, 3, 4, 4)}
    given["timestep"] = torch.tensor([600.0, 30.0])
    gate = model.painted_gate
    assert model.proj_out.out_features == gate.out_features
    velocities = {}
    for bias in (50.0, -50.0, 0.0):
        torch.nn.init.constant_(gate.bias, bias)
        velocities[bias] = model(**given)
    model.painted_gate = None
    torch.testing.assert_close(velocities[50.0], model(**given))
    away = given["latents"] - given["warped"]
    torch.testing.assert_close(velocities[-50.0][0], away[0] / 0.6)
    torch.testing.assert_close(velocities[-50.0][1], away[1] / 0.05)  # nearly clean: no larger than at .05
    torch.testing.assert_close(velocities[0.0], (velocities[50.0] + velocities[-50.0]) / 2, rtol=1e-4, atol=1e-5)


def test_the_gate_learns_and_reads_a_level_for_every_latent():
    model = tiny(warped_reference=True, bridge_level=0.6)
    given = inputs(9) | {"warped": torch.randn(1, 16, 3, 4, 4), "timestep": torch.tensor([[0.0, 300.0, 600.0]])}
    model(**given).square().mean().backward()
    assert model.painted_gate.weight.grad.abs().max() > 0 and model.painted_gate.bias.grad.abs().max() > 0
    with torch.no_grad():
        torch.nn.init.constant_(model.painted_gate.bias, -50.0)
        velocity, away = model(**given), given["latents"] - given["warped"]
    torch.testing.assert_close(velocity[:, :, 2], away[:, :, 2] / 0.6)
    torch.testing.assert_close(velocity[:, :, 1], away[:, :, 1] / 0.3)


def test_only_models_that_start_from_the_painted_portrait_have_a_gate():
    assert tiny().painted_gate is None and tiny(warped_reference=True).painted_gate is None
    for level in (0.0, -1.0, 1.5):
        with pytest.raises(UserError, match="bridge_level"):
            tiny(warped_reference=True, bridge_level=level)
