"""LoRA through peft: it starts as nothing, learns alone, travels as a file and merges into an ordinary model."""

import json

import pytest
import torch

from fportrait.diffusion.lora import LoraSettings, add_lora, load_lora, merge_lora, merged_weights, save_lora
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
    "reference_init": "wan",
}


def tiny(seed=0, **config):
    torch.manual_seed(seed)
    return FactorPortraitTransformer(**{**TINY, **config}).eval()


def inputs(width=128):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(1, *shape, generator=generator)

    return {
        "latents": draw(16, 2, 4, 4), "timestep": torch.tensor([300.0]), "reference": draw(16, 1, 4, 4),
        "rays": draw(24, 2, 4, 4), "normals": draw(16, 2, 4, 4), "codes": draw(5, width),
    }  # fmt: skip


def learn(model, steps=3):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(steps):
        loss = (model(**inputs()) - 1).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_it_starts_as_the_model_it_adapts_and_only_the_adapter_learns():
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        plain = model(**inputs())
        names = add_lora(model, LoraSettings(rank=4, conditions=False))
        assert torch.equal(model(**inputs()), plain)
    assert len(names) == 2 * 2 * 10 and all("lora_" in name for name in names)
    losses = learn(model)
    assert losses[-1] < losses[0]
    after = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items()), "the base is frozen"


@pytest.mark.parametrize("expression", ["codes", "landmarks"])
def test_what_wan_does_not_have_is_trained_whole(expression):
    model = tiny(expression=expression)
    names = add_lora(model)
    whole = {name.split(".")[0] for name in names if "lora_" not in name}
    new = {"controller"} if expression == "codes" else {"landmark_encoder", "blocks"}
    assert whole == {"patch_embedding"} | new
    assert not any("landmark_attention" in name for name in names if "lora_" in name)


def test_a_saved_adapter_gives_the_same_velocity_on_a_fresh_base_and_when_merged(tmp_path):
    model, settings = tiny(), LoraSettings(rank=3, alpha=6)
    add_lora(model, settings)
    learn(model)
    save_lora(model, tmp_path / "adapter")
    fresh = tiny()
    assert load_lora(fresh, tmp_path / "adapter").rank == 3
    with torch.no_grad():
        adapted = model(**inputs())
        assert torch.equal(fresh(**inputs()), adapted)
        merged = merge_lora(fresh)
        torch.testing.assert_close(merged(**inputs()), adapted, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(tiny()(**inputs()), adapted, atol=1e-3)
    merged.save_pretrained(tmp_path / "merged")
    again = FactorPortraitTransformer.from_pretrained(tmp_path / "merged")  # refuses any key that is not its own
    assert all(torch.equal(again.state_dict()[name], value) for name, value in merged.state_dict().items())
    spread = merged_weights(model.state_dict(), settings)  # the same from tensors alone
    assert spread.keys() == merged.state_dict().keys()
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(spread[name], value, atol=1e-6, rtol=1e-6)


def test_an_adapter_of_another_base_is_refused_key_by_key(tmp_path):
    model = tiny()
    add_lora(model)
    save_lora(model, tmp_path)
    with pytest.raises(UserError, match=r"missing: blocks\.2\.attn1"):
        load_lora(tiny(num_layers=3), tmp_path)
    with pytest.raises(UserError, match="the base that the adapter was trained on"):
        load_lora(tiny(seed=1), tmp_path)
    (tmp_path / "adapter.json").write_text(json.dumps({"ranks": 4}))
    with pytest.raises(UserError, match="rename it to 'rank'"):
        load_lora(tiny(), tmp_path)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="match nothing: to_z"):
        add_lora(tiny(), LoraSettings(targets=("to_q", "to_z")))
    with pytest.raises(UserError, match="rank of 0"):
        add_lora(tiny(), LoraSettings(rank=0))
    model = tiny()
    add_lora(model)
    with pytest.raises(UserError, match="has an adapter"):
        add_lora(model)
    for call in (lambda: merge_lora(tiny()), lambda: save_lora(tiny(), tmp_path / "none")):
        with pytest.raises(UserError, match="without LoRA"):
            call()
    with pytest.raises(UserError, match=r"adapter\.json"):
        load_lora(tiny(), tmp_path / "none")
