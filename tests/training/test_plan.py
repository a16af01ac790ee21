"""The plan: counted operations against a formula, and the settings as Kedro would merge them."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fportrait.errors import UserError
from fportrait.training.cost import _counted_bytes, _frozen, learned_parameters, peak_flops, sample_cost
from fportrait.training.plan import (
    METHODS,
    WAN,
    WAN_SHARED,
    WORKSPACE_GIB,
    model_config,
    plan,
    propose,
    read_folder,
    read_section,
    read_stage,
    usual_card,
)
from fportrait.training.stages import check_start, load_start
from helpers.small import same_weights, shards, stage, transformer

ROOT = Path(__file__).resolve().parents[2]


def block_flops(config: dict, frames: int, side: int) -> int:
    """Multiplications and additions of the blocks of a Wan transformer, by hand."""
    tokens = (1 + (frames + 3) // 4) * side * side // 4
    width, prompt = config["num_attention_heads"] * config["attention_head_dim"], config["prompt_tokens"]
    self_attention = 8 * tokens * width**2 + 4 * tokens**2 * width
    cross_attention = 4 * tokens * width**2 + 4 * prompt * width**2 + 4 * tokens * prompt * width
    return config["num_layers"] * (self_attention + cross_attention + 4 * tokens * width * config["ffn_dim"])


@pytest.mark.parametrize("name", ["wan-1.3b", "wan-14b"])
def test_operations_of_the_papers_model_are_those_of_the_formula(name):
    config = {**WAN_SHARED, **WAN[name]}
    cost = sample_cost(config, 81, 64, 64)
    assert cost.tokens == 22_528  # 22 latent frames of 512²
    assert cost.flops == pytest.approx(block_flops(config, 81, 64), rel=0.005)
    assert {"wan-1.3b": 1.4e9, "wan-14b": 14e9}[name] == pytest.approx(cost.parameters, rel=0.06)


def test_recomputing_activations_keeps_a_fraction_of_them():
    config = {**WAN_SHARED, **WAN["wan-1.3b"]}
    kept, recomputed = (sample_cost(config, 13, 64, 64, recompute=r).activation_bytes for r in (False, True))
    assert recomputed < kept / 10


def test_bytes_kept_for_the_backward_pass_are_those_of_a_real_one():
    model, kept = transformer().train(), {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    latents = torch.zeros(1, 16, 3, 4, 4)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(latents, torch.zeros(1), latents[:, :, :1], torch.zeros(1, 24, 3, 4, 4), latents, torch.zeros(1, 9, 128))
    real = sum(size for pointer, (size, _) in kept.items() if pointer not in own)
    assert sample_cost(model.config, 9, 4, 4, "fp32").activation_bytes == pytest.approx(real, rel=0.02)


def test_a_plan_counts_steps_records_and_hours(tmp_path):
    reader = shards(tmp_path / "shards")
    model = transformer()
    cost = plan(stage(frames=9, batch_size=4, iterations=10), model.config, 32, reader, gpu="A100", mfu=0.5)
    assert cost["parameters"] == sum(p.numel() for p in model.parameters())
    assert cost["tokens_per_step"] == 4 * 4 * 16
    assert cost["records"] == {"PhoneCapture": 6, "ViewSweep": 6}
    assert cost["epochs"] == {"PhoneCapture": pytest.approx(20 / 6, abs=0.01), "ViewSweep": pytest.approx(3.33)}
    assert cost["flops_of_stage"] == 10 * cost["flops_per_step"]
    assert cost["gpu_hours"] == pytest.approx(cost["flops_of_stage"] / (312e12 * 0.5) / 3600)
    without = plan(stage(frames=9), model.config, 32)
    assert without["records"] == {"PhoneCapture": 0, "ViewSweep": 0}
    assert without["epochs"] == {}


def test_spreading_eight_bits_and_more_processes_need_less_memory_each():
    config = {**WAN_SHARED, **WAN["wan-1.3b"]}
    settings = {"batch_size": 8, "processes": 8, "frames": 13}
    gib = {
        name: plan(stage(**settings, **changes), config, 512)["state_gib"]
        for name, changes in {
            "whole": {},
            "fsdp2": {"sharding": "fsdp2"},
            "zero2": {"sharding": "zero2"},
            "zero3": {"sharding": "zero3"},
            "8bit": {"optimizer": "adamw8bit"},
        }.items()
    }
    assert gib["fsdp2"] < gib["8bit"] < gib["whole"]
    assert gib["zero3"] == gib["fsdp2"] < gib["zero2"] < gib["whole"]


def test_what_a_deep_model_keeps_is_what_its_blocks_keep():
    config = {**transformer().config, "num_layers": 7}
    counted = _counted_bytes(_frozen(config), 9, 4, 4, "fp32", False)
    assert sample_cost(config, 9, 4, 4, "fp32").activation_bytes == counted


def test_an_adapters_parameters_are_those_that_are_trained():
    from fportrait.diffusion.lora import LoraSettings, add_lora

    for settings in (LoraSettings(rank=3), LoraSettings(rank=2, conditions=False, targets=("to_q",))):
        model = transformer()
        names = add_lora(model, settings)
        learned = sum(value.numel() for name, value in model.named_parameters() if name in names)
        assert learned_parameters(transformer().config, settings) == learned
    assert learned_parameters(transformer().config, None) == sum(p.numel() for p in transformer().parameters())


def test_a_larger_card_is_offered_more_and_a_small_one_recomputes_and_divides_its_batch():
    config, stages = transformer().config, [stage(frames=frames, batch_size=8) for frames in (5, 9)]
    ample = propose(stages, config, 3.0, "H100", pictures=(64, 32))
    assert [row["fits"] for row in ample] == [True] * 6
    assert [(row["picture"], row["method"]) for row in ample[:3]] == [(64, name) for name in METHODS]
    assert all(one["micro_batch"] == 8 and not one["gradient_checkpointing"] for one in ample[0]["stages"])
    full, eight_bit, lora = ({one["stage"]: one["memory_gib"] for one in row["stages"]} for row in ample[:3])
    assert all(eight_bit[name] <= full[name] for name in full) and lora.keys() == full.keys()
    assert ample[2]["gpu_hours"] == pytest.approx(ample[0]["gpu_hours"] * 2 / 3)
    least = min(one["memory_gib"] for one in ample[0]["stages"]) / 2 + WORKSPACE_GIB
    tight = propose(stages, config, least, "H100", pictures=(64,))[0]
    assert any(one["accumulation"] > 1 or one["gradient_checkpointing"] for one in tight["stages"])
    nothing = propose(stages, config, 2.0, "H100", pictures=(64,))[0]
    assert not nothing["fits"] and nothing["memory_gib"] > 2.0
    assert usual_card(24) == "RTX 4090" and usual_card(30) == "H100"


def test_the_papers_settings_are_read_over_the_bases_and_all_stages_are_sound():
    for number in (1, 2, 3, 4):
        for environment in ("base", "paper", "gpu"):
            read_stage(number, environment, ROOT / "conf")
    four = read_stage(4, "paper", ROOT / "conf")
    assert (four.frames, four.iterations, four.batch_size, four.processes * four.nodes) == (81, 30_000, 64, 64)
    assert read_section("encode", "paper", ROOT / "conf")["encoding"]["size"] == 512


@pytest.mark.parametrize("environment", sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir()))
def test_an_environment_that_sets_a_part_of_a_section_keeps_the_rest_of_the_bases(environment):
    base = read_section("encode", "base", ROOT / "conf")["encoding"]
    assert read_section("encode", environment, ROOT / "conf")["encoding"].keys() == base.keys()


def test_folders_are_the_environments_own():
    assert read_folder("shards", "base", ROOT / "conf") == "data/05_model_input/shards"
    assert read_folder("shards", "mini", ROOT / "conf") == "data/mini/05_model_input/shards"
    assert read_folder("shards", "paper", ROOT / "conf") == "data/paper/05_model_input/shards"


def test_what_cannot_be_planned_is_refused_with_what_there_is(tmp_path):
    with pytest.raises(UserError, match=r"base, .*paper"):
        read_stage(1, "papers", ROOT / "conf")
    with pytest.raises(UserError, match=r"wan-1\.3b"):
        model_config(str(tmp_path))
    with pytest.raises(UserError, match="H100"):
        plan(stage(), transformer().config, 32, gpu="abacus")
    with pytest.raises(UserError, match="MFU"):
        plan(stage(), transformer().config, 32, mfu=35)


def test_the_command_prints_all_four_stages(monkeypatch):
    from fportrait.cli import main

    monkeypatch.chdir(ROOT)
    model = str(ROOT / "src/fportrait/assets/base")
    printed = CliRunner().invoke(main, ["plan", "--model", model]).output
    assert all(f"stage{n}" in printed for n in (1, 2, 3, 4))
    assert "H100-hours of all stages" in printed
    answer = CliRunner().invoke(main, ["plan", "--stage", "4", "--model", model, "--json"])
    values = json.loads(answer.output)
    assert [cost["stage"] for cost in values["stages"]] == ["stage4"]
    assert values["gpu_hours"] == values["stages"][0]["gpu_hours"] > 0
    offered = CliRunner().invoke(main, ["plan", "--stage", "1", "--model", model, "--gpu-memory", "24"]).output
    assert "on one card of 24 GB (RTX 4090)" in offered and "train_stage1: {lora: null" in offered
    assert "RTX 4090-hours" in offered
    refused = CliRunner().invoke(main, ["plan", "--env", "papper", "--model", model])
    assert refused.exit_code == 2


def test_a_cpus_peak_is_measured():
    assert 1e8 < peak_flops(torch.device("cpu"), "fp32") < 1e14


def test_a_parent_of_another_architecture_is_refused(tmp_path):
    reader = shards(tmp_path / "shards")
    transformer().save_pretrained(tmp_path / "base/transformer")
    other = type(transformer()).from_config({**transformer().config, "num_layers": 3})
    other.save_pretrained(tmp_path / "stage2/transformer")
    with pytest.raises(UserError, match="num_layers 3"):
        check_start(stage(), tmp_path / "stage2", reader, tmp_path / "base")
    check_start(stage(), tmp_path / "base", reader, tmp_path / "base")
    older = json.loads((tmp_path / "base/transformer/config.json").read_text())
    del older["qk_norm"]  # written before the setting existed: its default is meant
    (tmp_path / "base/transformer/config.json").write_text(json.dumps(older))
    check_start(stage(), tmp_path / "stage2", reader, tmp_path / "stage2")
    other.from_config({**other.config, "num_layers": 2}).save_pretrained(tmp_path / "stage2/transformer")
    check_start(stage(), tmp_path / "stage2", reader, tmp_path / "base")


@pytest.mark.parametrize("variant", ["c2", "c3"])
def test_a_stage_begins_as_its_variant_and_refuses_a_parent_of_another_one(tmp_path, variant, caplog):
    reader = shards(tmp_path / "shards")
    transformer().save_pretrained(tmp_path / "base/transformer")
    planned, full = stage(variant=variant), stage()
    check_start(planned, tmp_path / "base", reader, tmp_path / "base")
    with caplog.at_level("INFO"):
        begun = load_start(planned, tmp_path / "base")
    assert "left out" in caplog.text
    begun.save_pretrained(tmp_path / "stage1/transformer")
    check_start(planned, tmp_path / "stage1", reader, tmp_path / "base")
    assert same_weights(load_start(planned, tmp_path / "stage1"), begun)
    differing = {"c2": "use_normals False", "c3": "expression landmarks"}[variant]
    with pytest.raises(UserError, match=differing):
        check_start(full, tmp_path / "stage1", reader, tmp_path / "base")
    other = stage(variant={"c2": "c3", "c3": "c2"}[variant])
    with pytest.raises(UserError, match=f"as variant {other.variant}"):
        check_start(other, tmp_path / "stage1", reader, tmp_path / "base")
    with pytest.raises(UserError, match="'c4' in variant"):
        stage(variant="c4")
