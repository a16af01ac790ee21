"""Ablations begun from a full model: what both have is taken, the rest is new, and nothing else may differ."""

import pytest
import torch

from fportrait.diffusion.architectures import change_architecture, variant_of, whole_config
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.errors import UserError

TINY = {
    "patch_size": (1, 1, 1),
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "text_dim": 32,
    "ffn_dim": 48,
    "num_layers": 2,
    "prompt_tokens": 4,
    "latent_channels": 6,
    "controller_init_std": 0.1,
}


def full():
    torch.manual_seed(0)
    model = FactorPortraitTransformer(**TINY).eval()
    torch.nn.init.normal_(model.patch_embedding.weight, std=0.1)
    return model


def inputs(model, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(2, *shape, generator=generator)

    return {
        "latents": draw(6, 2, 4, 4), "timestep": torch.tensor([300.0, 700.0]), "reference": draw(6, 1, 4, 4),
        "rays": draw(24, 2, 4, 4), "normals": draw(6, 2, 4, 4), "codes": draw(5, model.expression_width),
    }  # fmt: skip


@torch.no_grad()
def test_without_normal_maps_it_computes_what_the_full_model_does_for_maps_of_zeros(tmp_path):
    model = full()
    model.save_pretrained(tmp_path)
    variant = variant_of(tmp_path, "c2").eval()
    given = inputs(model)
    expected = model(**{**given, "normals": torch.zeros_like(given["normals"])})
    torch.testing.assert_close(variant(**{**given, "normals": None}), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(model(**given), expected, atol=1e-3)


@torch.no_grad()
def test_with_landmarks_it_begins_as_the_full_model_without_expression(tmp_path):
    model = full()
    model.save_pretrained(tmp_path)
    variant = variant_of(tmp_path, "c3").eval()
    given = inputs(variant)
    assert given["codes"].shape == (2, 5, 476)
    for part in (model.controller.output.weight, model.controller.output.bias):
        part.zero_()
    expected = model(**{**given, "codes": torch.zeros(2, 5, 128)})
    torch.testing.assert_close(variant(**given), expected, atol=1e-5, rtol=1e-4)
    for block in variant.blocks:  # one learned step of the new output layers, and the points matter
        torch.nn.init.normal_(block.landmark_attention.attention.to_out[0].weight, std=0.1)
    assert not torch.allclose(variant(**given), variant(**{**given, "codes": given["codes"] * 0.5}), atol=1e-4)


def test_new_layers_are_drawn_from_the_seed(tmp_path):
    full().save_pretrained(tmp_path)
    one, two, other = (variant_of(tmp_path, "c3", seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    drawn = "landmark_encoder.point.weight"
    assert not torch.equal(one[drawn], other[drawn])


def test_a_variant_is_loaded_as_it_is_and_the_full_model_too(tmp_path):
    model = full()
    model.save_pretrained(tmp_path / "full")
    again = variant_of(tmp_path / "full", "full")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    variant = variant_of(tmp_path / "full", "c3")
    variant.save_pretrained(tmp_path / "c3")
    assert whole_config(tmp_path / "c3")["expression"] == "landmarks"
    again = variant_of(tmp_path / "c3", "c3", seed=9)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in variant.state_dict().items())


def test_another_size_and_an_unknown_variant_are_refused(tmp_path):
    model = full()
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="key 'c33' in variant"):
        variant_of(tmp_path, "c33")
    for change in ({"num_layers": 3}, {"ffn_dim": 64}, {"latent_channels": 8}):
        with pytest.raises(UserError, match="cannot be taken"):
            change_architecture(model, {**whole_config(tmp_path), **change})
