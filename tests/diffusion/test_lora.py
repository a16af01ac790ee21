"""LoRA through peft: it starts as nothing, learns alone, travels as a file and merges into an ordinary model."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from fportrait.diffusion.checkpoint import cast
from fportrait.diffusion.lora import (
    LoraSettings,
    adapter_name,
    add_lora,
    apply_adapter,
    load_lora,
    merge_lora,
    merged_weights,
    save_lora,
    weights_hash,
)
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
    with pytest.raises(UserError, match=r"rank of 100000.*at most"):
        add_lora(tiny(), LoraSettings(rank=100_000))
    model = tiny()
    add_lora(model)
    with pytest.raises(UserError, match="has an adapter"):
        add_lora(model)
    for call in (lambda: merge_lora(tiny()), lambda: save_lora(tiny(), tmp_path / "none")):
        with pytest.raises(UserError, match="without LoRA"):
            call()
    with pytest.raises(UserError, match=r"adapter\.json"):
        load_lora(tiny(), tmp_path / "none")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with an adapter of `tiny()`, as a stage leaves it, and the merged weights."""
    stage = tmp_path_factory.mktemp("stage")
    model, settings = tiny(), LoraSettings(rank=3, alpha=6)
    add_lora(model, settings)
    learn(model)
    save_lora(model, stage / "adapter")
    return stage, merged_weights(model.state_dict(), settings)


def test_an_adapter_is_applied_without_peft_as_training_merges_it(trained, monkeypatch):
    stage, merged = trained
    monkeypatch.setitem(sys.modules, "peft", None)
    for source in (stage, stage / "adapter", stage / "adapter" / "adapter.safetensors"):
        model = tiny()
        assert apply_adapter(model, source).base == weights_hash(tiny()) == adapter_name(source)["base"]
        assert all(torch.equal(value, merged[name]) for name, value in model.state_dict().items())
        assert model.state_dict().keys() == merged.keys()


def test_a_model_in_memory_is_cast_as_it_would_have_been_loaded(tmp_path):
    tiny().save_pretrained(tmp_path)
    loaded = FactorPortraitTransformer.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).state_dict()
    for name, value in cast(tiny(), torch.bfloat16).state_dict().items():
        assert value.dtype == loaded[name].dtype and torch.equal(value, loaded[name]), name


def test_an_adapter_that_does_not_fit_is_refused_in_a_sentence_and_the_model_stays_as_it_was(trained, tmp_path):
    stage, _ = trained

    def refusal(source, model=None):
        model = model or tiny()
        before = weights_hash(model)
        with pytest.raises(UserError) as caught:
            apply_adapter(model, source)
        assert weights_hash(model) == before and len(str(caught.value)) < 800
        return str(caught.value)

    def changed(name, change):
        folder = shutil.copytree(stage / "adapter", tmp_path / name)
        change(folder)
        return folder

    def tensors(folder, change):
        state = load_file(folder / "adapter.safetensors")
        change(state)
        save_file(state, folder / "adapter.safetensors")

    name = "blocks.0.attn1.to_q.lora_A.default.weight"
    for model in (tiny(seed=1), tiny(num_layers=3)):
        assert "the base that the adapter was trained on" in refusal(stage, model)
    assert "adapter.json" in refusal(tmp_path / "none")
    assert "broken" in refusal(changed("json", lambda f: (f / "adapter.json").write_text("[1")))
    assert "without its base" in refusal(changed("base", lambda f: (f / "adapter.json").write_text('{"rank": 3}')))
    assert "1 missing: " + name in refusal(changed("lost", lambda f: tensors(f, lambda state: state.pop(name))))
    assert "not finite" in refusal(changed("nan", lambda f: tensors(f, lambda state: state[name].fill_(torch.nan))))
    half = changed("half", lambda f: (f / "adapter.safetensors").write_bytes(
        (stage / "adapter" / "adapter.safetensors").read_bytes()[:-8]))  # fmt: skip
    assert "unfinished" in refusal(half)
    assert "misshapen" in refusal(changed("rank", lambda f: (f / "adapter.json").write_text(
        (f / "adapter.json").read_text().replace('"rank": 3', '"rank": 4'))))  # fmt: skip
