"""Loading Wan's weights in both layouts, and refusing what does not fit."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from fportrait.diffusion.checkpoint import open_wan
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.errors import UserError

TINY_WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 32,
    "ffn_dim": 96,
    "num_layers": 2,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def original_name(key):
    """diffusers' name of a Wan tensor to the name in Wan's own release."""
    for diffusers_part, original_part in [
        ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
        ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
        ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
        ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
        ("condition_embedder.time_proj", "time_projection.1"),
        ("attn1.", "self_attn."),
        ("attn2.", "cross_attn."),
        ("to_out.0", "o"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("ffn.net.0.proj", "ffn.0"),
        ("ffn.net.2", "ffn.2"),
        (".norm2.", ".norm3."),
        ("proj_out", "head.head"),
    ]:
        key = key.replace(diffusers_part, original_part)
    if key == "scale_shift_table":
        return "head.modulation"
    return key.replace("scale_shift_table", "modulation")


def original_shapes(dim, ffn_dim, num_layers, text_dim=4096, patch=(1, 2, 2)):
    """Names and shapes of Wan's own release, written out from its model's definition."""

    def linear(name, width, into):
        return {f"{name}.weight": (width, into), f"{name}.bias": (width,)}

    shapes = {"patch_embedding.weight": (dim, 16, *patch), "patch_embedding.bias": (dim,)}
    shapes |= linear("text_embedding.0", dim, text_dim) | linear("text_embedding.2", dim, dim)
    shapes |= linear("time_embedding.0", dim, 256) | linear("time_embedding.2", dim, dim)
    shapes |= linear("time_projection.1", 6 * dim, dim)
    for number in range(num_layers):
        block = f"blocks.{number}"
        shapes[f"{block}.modulation"] = (1, 6, dim)
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                shapes |= linear(f"{block}.{attention}.{part}", dim, dim)
            shapes |= {f"{block}.{attention}.norm_{part}.weight": (dim,) for part in "qk"}
        shapes |= {f"{block}.norm3.weight": (dim,), f"{block}.norm3.bias": (dim,)}
        shapes |= linear(f"{block}.ffn.0", ffn_dim, dim) | linear(f"{block}.ffn.2", dim, ffn_dim)
    shapes |= linear("head.head", 16 * patch[1] * patch[2], dim)
    shapes["head.modulation"] = (1, 2, dim)
    return shapes


ORIGINAL_SIZES = {
    "1.3B": {"dim": 1536, "ffn_dim": 8960, "num_layers": 30, "num_heads": 12},
    "14B": {"dim": 5120, "ffn_dim": 13824, "num_layers": 40, "num_heads": 40},
}
TENSORS = {"1.3B": 825, "14B": 1095}
PARAMETERS = {"1.3B": 1_418_996_800, "14B": 14_288_491_584}


def original_config_file(folder, **size):
    config = {
        "_class_name": "WanModel",
        "_diffusers_version": "0.30.0",
        "model_type": "t2v",
        "text_len": 512,
        "eps": 1e-6,
        "freq_dim": 256,
        "in_dim": 16,
        "out_dim": 16,
        **size,
    }
    (folder / "config.json").write_text(json.dumps(config))


def write_hollow(path, shapes):
    """A safetensors file of full size whose numbers are a hole: headers as real, no bytes on the disk."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)


@pytest.mark.parametrize("name", ORIGINAL_SIZES)
def test_the_released_sizes_are_recognised_key_by_key_in_both_layouts(tmp_path, name):
    size = ORIGINAL_SIZES[name]
    shapes = original_shapes(size["dim"], size["ffn_dim"], size["num_layers"])
    assert len(shapes) == TENSORS[name]
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == PARAMETERS[name]
    original, converted = tmp_path / "original", tmp_path / "diffusers" / "transformer"
    original.mkdir()
    converted.mkdir(parents=True)
    original_config_file(original, **size)
    names = list(shapes)
    for part, kept in enumerate((names[::2], names[1::2])):  # released in several files
        write_hollow(original / f"diffusion_pytorch_model-0000{part + 1}.safetensors", {n: shapes[n] for n in kept})
    found = open_wan(original)
    config = {
        "num_attention_heads": size["num_heads"],
        "attention_head_dim": 128,
        "ffn_dim": size["ffn_dim"],
        "num_layers": size["num_layers"],
    }
    assert {key: found.config[key] for key in config} == config
    with torch.device("meta"):
        wan = WanTransformer3DModel(**config)
    assert found.shapes == {key: tuple(value.shape) for key, value in wan.state_dict().items()}

    wan.save_config(converted)
    write_hollow(converted / WEIGHTS, found.shapes)
    assert open_wan(tmp_path / "diffusers").shapes == found.shapes

    del shapes["blocks.17.cross_attn.norm_k.weight"]
    shapes["blocks.3.ffn.0.bias"], shapes["img_emb.proj.1.bias"] = (7,), (1280,)
    for file in original.glob("*.safetensors"):
        file.unlink()
    write_hollow(original / WEIGHTS, shapes)
    with pytest.raises(UserError) as raised:
        open_wan(original)
    for part in ("1 missing: blocks.17.attn2.norm_k.weight", "1 extra:", "blocks.3.ffn.net.0.proj.bias (7,)"):
        assert part in str(raised.value)


@pytest.mark.parametrize("name", ORIGINAL_SIZES)
@torch.no_grad()
def test_a_small_checkpoint_of_the_released_names_loads_runs_and_starts_as_wan(tmp_path, name):
    """All blocks and names of the release, at a width of 48."""
    size = {**ORIGINAL_SIZES[name], "dim": 48, "ffn_dim": 64, "num_heads": 2, "text_dim": 32}
    generator = torch.Generator().manual_seed(0)
    shapes = original_shapes(48, 64, size["num_layers"], text_dim=32)
    state = {key: 0.2 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    original_config_file(tmp_path, **size)
    save_file(state, tmp_path / WEIGHTS)
    model = FactorPortraitTransformer.from_wan(tmp_path)
    assert len(model.blocks) == size["num_layers"]
    state_dict = model.state_dict()
    assert torch.equal(state_dict["blocks.29.attn2.to_out.0.weight"], state["blocks.29.cross_attn.o.weight"])
    assert torch.equal(state_dict["blocks.2.scale_shift_table"], state["blocks.2.modulation"])
    assert torch.equal(state_dict["blocks.1.norm2.bias"], state["blocks.1.norm3.bias"])
    assert torch.equal(state_dict["scale_shift_table"], state["head.modulation"])
    latents, prompt = torch.randn(1, 16, 2, 4, 4, generator=generator), torch.randn(1, 3, 32, generator=generator)
    # In a file's memory map tensors lie unaligned, and a matrix product's last bits depend on that: take fresh memory.
    model.load_state_dict({key: value.clone() for key, value in state_dict.items()}, assign=True)
    ours = model(latents, torch.tensor([500.0]), torch.zeros(1, 16, 1, 4, 4), torch.randn(1, 24, 2, 4, 4),
                 torch.randn(1, 16, 2, 4, 4), torch.randn(1, 5, 128), prompt)  # fmt: skip
    wan = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, text_dim=32, ffn_dim=64, num_layers=size["num_layers"]
    ).eval()
    wan.load_state_dict(
        {
            key: state_dict[key] if key != "patch_embedding.weight" else state_dict[key][:, 16:32]
            for key in wan.state_dict()
        }
    )
    theirs = wan(torch.cat([torch.zeros(1, 16, 1, 4, 4), latents], 2), torch.tensor([500.0]), prompt, return_dict=False)
    assert torch.equal(ours, theirs[0][:, :, 1:])


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


def test_diffusers_layout_loads_from_the_pipeline_folder_and_the_transformers_own(wan, wan_folder, caplog):
    assert same_weights(FactorPortraitTransformer.from_wan(wan_folder), wan)
    assert "without its empty prompt" in caplog.text
    caplog.clear()
    prompt = torch.randn(1, 3, 32)
    assert torch.equal(FactorPortraitTransformer.from_wan(wan_folder, prompt).prompt_embedding, prompt)
    assert not caplog.text
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
        "_class_name": "WanModel",
        "model_type": "t2v",
        "dim": 48,
        "num_heads": 2,
        "ffn_dim": 96,
        "num_layers": 2,
        "in_dim": 16,
        "out_dim": 16,
        "text_len": 512,
        "text_dim": 32,
        "freq_dim": 256,
        "eps": 1e-6,
    }
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
    whole = (wan_folder / "transformer" / WEIGHTS).read_bytes()
    for broken, message in (
        (b"\x10" * 64, "header of"),
        (whole[:-9], "unfinished"),
        (whole[:3], "header"),
        ((4).to_bytes(8, "little") + b"[{}]", "broken"),
    ):
        (wan_folder / "transformer" / WEIGHTS).write_bytes(broken)
        with pytest.raises(UserError, match=f"broken.*{message}|{message}"):
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
