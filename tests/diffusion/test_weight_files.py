"""Weights as people bring them: prefixes, variants, shards, eight-bit numbers, half downloads."""

import json
import logging
import shutil

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from fportrait.diffusion.checkpoint import check_keys, open_wan
from fportrait.diffusion.codec import BlockCodec, load_vae
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.diffusion.weight_files import pickled_tensors, stored_tensors, weight_files
from fportrait.errors import UserError

TINY_WAN = {"num_attention_heads": 2, "attention_head_dim": 24, "text_dim": 32, "ffn_dim": 96, "num_layers": 3}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wan")
    WanTransformer3DModel(**TINY_WAN).save_pretrained(folder)
    return folder


@pytest.fixture
def wan(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "wan")


def renamed(folder, rename):
    save_file({rename(name): value for name, value in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        (lambda name: f"module.{name}", "module."),
        (lambda name: f"_orig_mod.{name}", "_orig_mod."),
        (lambda name: f"model.diffusion_model.{name}", "model.diffusion_model."),
        (lambda name: f"module._orig_mod.{name}", "module."),
        (lambda name: name.replace("blocks.1.", "blocks.1._orig_mod."), "_orig_mod."),
        (lambda name: name.replace("blocks.1.", "blocks.1._fsdp_wrapped_module."), "_fsdp_wrapped_module."),
    ],
)
def test_what_a_wrapper_put_before_the_names_is_taken_off_and_said(wan, plain, rename, said, caplog):
    renamed(wan, rename)
    with caplog.at_level(logging.WARNING):
        state = open_wan(wan).read()
    assert f"'{said}'" in caplog.text
    expected = load_file(plain / WEIGHTS)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_our_own_models_load_with_prefixes_too(wan, tmp_path, plain):
    model = FactorPortraitTransformer.from_wan(wan)
    model.save_pretrained(tmp_path / "ours")
    BlockCodec(refiner_width=8, refiner_blocks=1).save_pretrained(tmp_path / "vae")
    for folder in (tmp_path / "ours", tmp_path / "vae"):
        renamed(folder, "module.{}".format)
    again = FactorPortraitTransformer.from_pretrained(tmp_path / "ours", torch_dtype=torch.bfloat16)
    assert again.proj_out.weight.dtype == torch.bfloat16 and again.blocks[0].scale_shift_table.dtype == torch.float32
    assert torch.equal(again.proj_out.weight, model.proj_out.weight.bfloat16())
    assert not any(parameter.is_meta for parameter in [*again.parameters(), *again.buffers()])
    assert load_vae(tmp_path / "vae").config.refiner_width == 8


def test_an_unknown_prefix_is_named_and_a_long_list_is_summarised(wan):
    renamed(wan, "student.{}".format)
    with pytest.raises(UserError) as raised:
        open_wan(wan)
    assert "take 'student.' off the names" in str(raised.value)
    assert "more; " in str(raised.value) and len(str(raised.value)) < 1000


def test_the_standard_file_is_meant_where_a_variant_and_an_adapter_lie_beside_it(wan, plain):
    halves = {name: (value * 0).half() for name, value in load_file(wan / WEIGHTS).items()}
    save_file(halves, wan / "diffusion_pytorch_model.fp16.safetensors")
    save_file({"blocks.0.attn1.to_q.lora_A.weight": torch.zeros(4, 48)}, wan / "pytorch_lora_weights.safetensors")
    assert torch.equal(open_wan(wan).read()["proj_out.weight"], load_file(plain / WEIGHTS)["proj_out.weight"])
    (wan / WEIGHTS).unlink()
    with pytest.raises(UserError, match="2 sets of weights"):
        open_wan(wan)
    (wan / "pytorch_lora_weights.safetensors").unlink()
    assert open_wan(wan).read()["proj_out.weight"].dtype == torch.float16  # the only set there is


def test_the_index_says_which_files_are_meant(wan, plain):
    WanTransformer3DModel.from_pretrained(plain).save_pretrained(wan, max_shard_size="100KB")
    (wan / WEIGHTS).unlink(missing_ok=True)
    index = wan / f"{WEIGHTS}.index.json"
    shards = weight_files(wan)
    assert len(shards) > 2
    stray = wan / f"diffusion_pytorch_model.fp16-00001-of-0000{len(shards)}.safetensors"
    shutil.copy(shards[0], stray)
    assert weight_files(wan) == shards
    assert open_wan(wan).shapes == open_wan(plain).shapes
    shards[1].rename(wan / "elsewhere")
    with pytest.raises(UserError, match=f"{len(shards) - 1} of the {len(shards)} files .* missing: {shards[1].name}"):
        open_wan(wan)
    index.write_text(json.dumps({"weight_map": {"a": "../../outside.safetensors"}}))
    with pytest.raises(UserError, match="names of files beside it"):
        open_wan(wan)
    index.write_text("{")
    with pytest.raises(UserError, match="broken"):
        open_wan(wan)


def test_shards_without_an_index_must_be_as_many_as_their_names_say(wan, plain):
    (wan / WEIGHTS).rename(wan / "diffusion_pytorch_model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match="1 of 2 files"):
        open_wan(wan)


def test_numbers_of_eight_bits_are_refused_in_words(wan):
    eighths = {name: value.to(torch.float8_e4m3fn) for name, value in load_file(wan / WEIGHTS).items()}
    save_file(eighths, wan / WEIGHTS)
    with pytest.raises(UserError, match=r"F8_E4M3 .*bf16, fp16 or fp32"):
        open_wan(wan)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n", "git lfs pull"),
        (f"{WEIGHTS}.incomplete", b"half", "unfinished download"),
        ("wan2.1-Q4_K.gguf", b"GGUF", "quantised"),
        ("diffusion_pytorch_model.bin", b"\x80", "import-wan"),
    ],
)
def test_what_stands_in_place_of_weights_is_named(wan, name, content, words):
    (wan / WEIGHTS).unlink()
    (wan / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        open_wan(wan)


def test_a_pth_is_read_as_numbers_alone(tmp_path):
    class Runs:
        def __reduce__(self):
            return (print, ("ran",))

    good, bad, half = tmp_path / "good.pth", tmp_path / "bad.pth", tmp_path / "half.pth"
    torch.save({"state_dict": {"module.a": torch.ones(3, dtype=torch.bfloat16)}}, good)
    stored = pickled_tensors(good)["a"]
    assert stored.shape == (3,) and torch.equal(stored.read(), torch.ones(3, dtype=torch.bfloat16))
    torch.save({"a": Runs()}, bad)
    with pytest.raises(UserError, match="more than numbers"):
        pickled_tensors(bad)
    half.write_bytes(good.read_bytes()[:200])
    with pytest.raises(UserError, match="unfinished"):
        pickled_tensors(half)
    torch.save({"a": torch.ones(3).to(torch.float8_e5m2)}, half)
    with pytest.raises(UserError, match="float8"):
        pickled_tensors(half)


def test_one_name_in_two_files_is_refused(tmp_path):
    for name in ("a", "b"):
        save_file({"same": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match="same twice"):
        stored_tensors([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    save_file({"module.x": torch.zeros(1), "module._orig_mod.x": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="differ by"):
        stored_tensors([tmp_path / "a.safetensors"])


def test_a_fitting_checkpoint_passes_and_names_what_is_misshapen():
    check_keys({"a": (1, 2)}, {"a": (1, 2)}, "here")
    with pytest.raises(UserError, match=r"1 misshapen: a \(1, 2\) instead of \(2, 1\)"):
        check_keys({"a": (1, 2)}, {"a": (2, 1)}, "here")
