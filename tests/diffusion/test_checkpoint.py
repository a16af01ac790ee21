"""Loading Wan's weights in both layouts, and refusing what does not fit."""

import json
import shutil

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.errors import UserError

TINY_WAN = {
    "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 16, "out_channels": 16, "text_dim": 32,
    "ffn_dim": 96, "num_layers": 2,
}  # fmt: skip
WEIGHTS = "diffusion_pytorch_model.safetensors"


def original_name(key):
    """diffusers' name of a Wan tensor to the name in Wan's own release."""
    for diffusers_part, original_part in [
        ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
        ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
        ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
        ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
        ("condition_embedder.time_proj", "time_projection.1"),
        ("attn1.", "self_attn."), ("attn2.", "cross_attn."),
        ("to_out.0", "o"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
        ("ffn.net.0.proj", "ffn.0"), ("ffn.net.2", "ffn.2"),
        (".norm2.", ".norm3."), ("proj_out", "head.head"),
    ]:  # fmt: skip
        key = key.replace(diffusers_part, original_part)
    if key == "scale_shift_table":
        return "head.modulation"
    return key.replace("scale_shift_table", "modulation")


@pytest.fixture
def wan():
    torch.manual_seed(0)
    return WanTransformer3DModel(**TINY_WAN).eval()


@pytest.fixture
def wan_folder(wan, tmp_path):
    wan.save_pretrained(tmp_path / "wan" / "transformer")
    return tmp_path / "wan"


def same_weights(model, wan):
    mine = model.state_dict()
    theirs = wan.state_dict()
    assert torch.equal(mine["patch_embedding.weight"][:, 16:32], theirs.pop("patch_embedding.weight"))
    return all(torch.equal(mine[key], value) for key, value in theirs.items())


def test_diffusers_layout_loads_from_the_pipeline_folder_and_the_transformers_own(wan, wan_folder):
    assert same_weights(FactorPortraitTransformer.from_wan(wan_folder), wan)
    model = FactorPortraitTransformer.from_wan(wan_folder / "transformer", ray_channels=6, torch_dtype=torch.bfloat16)
    assert model.config.ray_channels == 6
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_sharded_weights_load(wan, tmp_path):
    wan.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert same_weights(FactorPortraitTransformer.from_wan(tmp_path), wan)


def test_the_original_layout_loads(wan, tmp_path):
    config = {
        "_class_name": "WanModel", "model_type": "t2v", "dim": 48, "num_heads": 2, "ffn_dim": 96, "num_layers": 2,
        "in_dim": 16, "out_dim": 16, "text_len": 512, "text_dim": 32, "freq_dim": 256, "eps": 1e-6,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    named = {original_name(key): value for key, value in wan.state_dict().items()}
    assert "blocks.0.self_attn.q.weight" in named and "head.modulation" in named and "blocks.1.modulation" in named
    save_file(named, tmp_path / WEIGHTS)
    assert same_weights(FactorPortraitTransformer.from_wan(tmp_path), wan)


def test_the_source_model_and_the_widened_one_share_no_memory(wan):
    model = FactorPortraitTransformer.from_wan(wan)
    model.proj_out.weight.data.zero_()
    assert wan.proj_out.weight.abs().sum() > 0


def test_missing_extra_and_misshapen_keys_are_all_listed(wan_folder):
    path = wan_folder / "transformer" / WEIGHTS
    tensors = load_file(path)
    del tensors["blocks.1.attn1.to_q.weight"], tensors["proj_out.bias"]
    tensors["blocks.0.mystery"] = torch.zeros(2)
    tensors["proj_out.weight"] = torch.zeros(3, 3)
    save_file(tensors, path)
    with pytest.raises(UserError) as raised:
        FactorPortraitTransformer.from_wan(wan_folder)
    for part in (
        "2 missing: blocks.1.attn1.to_q.weight, proj_out.bias",
        "1 extra: blocks.0.mystery",
        "1 misshapen: proj_out.weight (3, 3) instead of (64, 48)",
    ):
        assert part in str(raised.value)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
def test_a_pickle_is_refused_unopened(wan_folder, suffix):
    folder = wan_folder / "transformer"
    (folder / WEIGHTS).unlink()
    (folder / f"diffusion_pytorch_model{suffix}").write_bytes(b"not even a pickle")
    with pytest.raises(UserError, match="pickle"):
        FactorPortraitTransformer.from_wan(wan_folder)


def test_image_to_video_weights_are_refused(tmp_path):
    WanTransformer3DModel(**TINY_WAN, image_dim=8, added_kv_proj_dim=48).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="text-to-video"):
        FactorPortraitTransformer.from_wan(tmp_path)


def test_broken_files_and_wrong_folders_are_user_errors(wan_folder, tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        FactorPortraitTransformer.from_wan(tmp_path / "nowhere")
    with pytest.raises(UserError, match="WanTransformer3DModel"):
        FactorPortraitTransformer.from_pretrained(wan_folder / "transformer")
    (wan_folder / "transformer" / WEIGHTS).write_bytes(b"\x10" * 64)
    with pytest.raises(UserError, match="broken"):
        FactorPortraitTransformer.from_wan(wan_folder)
    (wan_folder / "transformer" / "config.json").write_text("{")
    with pytest.raises(UserError, match="broken"):
        FactorPortraitTransformer.from_wan(wan_folder)


def test_its_own_checkpoints_are_checked_key_by_key(wan, tmp_path):
    FactorPortraitTransformer.from_wan(wan).save_pretrained(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "holed")
    tensors = load_file(tmp_path / "holed" / WEIGHTS)
    del tensors["controller.output.weight"]
    save_file(tensors, tmp_path / "holed" / WEIGHTS)
    FactorPortraitTransformer.from_pretrained(tmp_path / "whole")
    with pytest.raises(UserError, match=r"1 missing: controller\.output\.weight"):
        FactorPortraitTransformer.from_pretrained(tmp_path / "holed")
