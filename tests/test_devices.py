"""One rule for where numbers are computed, and nothing left behind on the way; every card's complaint in a sentence."""

import json
import os

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import AutoencoderKLWan

from fportrait.bundle import SHIPPED_BASE
from fportrait.cli import main
from fportrait.devices import (
    VARIABLE,
    at_device,
    device_error,
    device_errors,
    pick_device,
    sampling_dtype,
    use_device,
)
from fportrait.diffusion.codec import BlockCodec
from fportrait.diffusion.pipeline import FactorPortraitPipeline
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.errors import UserError
from helpers.fake_card import fake_card


@pytest.fixture
def card(monkeypatch):
    with fake_card(monkeypatch) as mode:
        yield mode


def test_the_fake_card_refuses_what_a_card_refuses(card):
    there, here = torch.ones(2, 3).to("cuda"), torch.ones(2, 3)
    assert there.device.type == "cuda" and here.device.type == "cpu"
    assert (there + 1).device.type == "cuda" and torch.zeros(2, device="cuda").device.type == "cuda"
    assert (there.sum() + torch.tensor(1.0)).device.type == "cuda"  # scalars may meet
    for refused in (lambda: there + here, lambda: torch.cat([there, here]), lambda: here @ there.T):
        with pytest.raises(AssertionError, match="left behind"):
            refused()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert isinstance(there.cpu().numpy(), np.ndarray)
    layer = torch.nn.Linear(3, 2).to("cuda")
    assert layer.weight.device.type == "cuda" and layer(there).device.type == "cuda"
    with pytest.raises(AssertionError, match="left behind"):
        layer(here)


@pytest.fixture(params=["block", "wan"])
def vae(request):
    torch.manual_seed(0)
    if request.param == "wan":
        return AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()
    return BlockCodec(refiner_width=8, refiner_blocks=1).eval()


def test_sampling_leaves_nothing_behind_and_gives_the_cpus_pictures(vae, card):
    torch.manual_seed(0)
    transformer = FactorPortraitTransformer(
        num_attention_heads=2, attention_head_dim=12, text_dim=16, ffn_dim=32, num_layers=2, prompt_tokens=3,
        controller_init_std=0.02,
    ).eval()  # fmt: skip
    pictures = np.random.default_rng(0).integers(0, 255, (13, 32, 32, 3), np.uint8)
    given = {
        "reference": pictures[0],
        "rays": torch.randn(1, 24, 4, 4, 4),
        "normals": iter(pictures),
        "codes": torch.randn(1, 13, 128),
        "guidance": {"expression": 2.0},
        "window_frames": 9,
        "num_inference_steps": 2,
    }
    outputs = []
    for device in ("cpu", "cuda"):
        pipeline = FactorPortraitPipeline.of(transformer, vae, 5.0, scheduler="unipc").to(device)
        pipeline.set_progress_bar_config(disable=True)
        given["normals"] = iter(pictures)
        outputs.append(pipeline(**given, generator=torch.Generator().manual_seed(1)).frames)
    assert card.moved > 20
    np.testing.assert_allclose(outputs[0].astype(int), outputs[1], atol=1)


def test_the_shipped_bundle_goes_to_the_card_whole(card):
    from fportrait.animate.animator import Animator

    animator = Animator(SHIPPED_BASE)
    pipeline = animator.pipeline
    for module in (pipeline.transformer, pipeline.vae, animator.encoder):
        assert {tensor.device.type for tensor in [*module.parameters(), *module.buffers()]} == {"cuda"}
    codes = animator.encoder.encode(np.zeros((2, *[animator.encoder.crop_size] * 2, 3), np.uint8))
    assert codes.shape == (2, 128)
    assert {tensor.device.type for tensor in FactorPortraitPipeline.from_bundle(SHIPPED_BASE).vae.buffers()} == {"cpu"}


def test_windows_are_encoded_on_the_card_and_come_back(vae, card):
    from fportrait.dataset.encode import EncodeConfig, encode_windows

    video = np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3), np.uint8)
    config = EncodeConfig(size=16, window=5, encode_batch=2)
    on_cpu = encode_windows(vae, video, [0, 2, 4], config)
    on_card = encode_windows(vae.to("cuda"), video, [0, 2, 4], config)
    for one, other in zip(on_cpu, on_card, strict=True):
        assert other.device.type == "cpu"
        torch.testing.assert_close(one, other)


def test_a_metrics_network_takes_and_returns_what_lies_on_the_cpu(card):
    network = at_device(torch.nn.Linear(3, 2))
    assert network.weight.device.type == "cuda"
    assert network(torch.ones(1, 3)).device.type == "cpu"


def test_tracking_refines_on_the_card(card):
    from fportrait.tracking.refinement import LandmarkRefiner

    refiner = LandmarkRefiner.load()
    landmarks = np.random.default_rng(0).uniform(20, 90, (2, 478, 2))
    crops = np.zeros((2, 112, 112, 3), np.uint8)
    expected = refiner.refine(landmarks, crops), refiner.strangeness(landmarks)
    refiner.to("cuda")
    np.testing.assert_allclose(refiner.refine(landmarks, crops), expected[0], atol=1e-3)
    np.testing.assert_allclose(refiner.strangeness(landmarks), expected[1], rtol=1e-4)


def test_auto_is_the_card_where_there_is_one_and_the_variable_or_the_caller_decides_otherwise(card, monkeypatch):
    assert pick_device() == torch.device("cuda", 0) and pick_device("cpu").type == "cpu"
    with use_device("cpu"):
        assert pick_device().type == "cpu" and os.environ[VARIABLE] == "cpu"  # as worker processes will find it
        with use_device("auto"):
            assert pick_device().type == "cpu"
    assert VARIABLE not in os.environ and pick_device().type == "cuda"
    with pytest.raises(UserError, match="cuda:3 on a machine with 1 GPUs"):
        pick_device("cuda:3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match="cuda:1"):
        pick_device()


def test_a_card_without_native_bfloat16_samples_in_float32_and_says_so_once(card, monkeypatch, caplog):
    assert sampling_dtype(torch.device("cpu")) == torch.float32
    for _ in range(2):
        assert sampling_dtype(torch.device("cuda")) == torch.float32
    assert caplog.text.count("no native bfloat16") <= 1
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    assert sampling_dtype(torch.device("cuda")) == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_card_that_cannot_be_used_is_one_sentence(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert pick_device().type == "cpu"
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match="built without CUDA"):
        pick_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.8")

    def no_driver():
        raise RuntimeError("Found no NVIDIA driver on your system. Please check that you have one.\nMore")

    monkeypatch.setattr(torch.cuda, "init", no_driver)
    with pytest.raises(UserError, match=r"CUDA cannot be used \(Found no NVIDIA driver"):
        pick_device("cuda")
    with pytest.raises(UserError, match="cuda:N"):
        pick_device("gpu")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"), "a card too small"),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), "failed or disappeared"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "failed or disappeared"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "no code for"),
        (RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."), "update the driver"),
    ],
)
def test_what_a_card_says_is_told_in_one_sentence(error, words, monkeypatch):
    told = device_error(error)
    assert words in str(told) and "\n" not in str(told)
    with pytest.raises(UserError, match=words), device_errors():
        raise error
    monkeypatch.setattr("fportrait.ops.doctor.examine", lambda: (_ for _ in ()).throw(error))
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 2 and words in result.output and "Traceback" not in result.output


def test_other_errors_pass_through():
    assert device_error(RuntimeError("shapes cannot be multiplied")) is None
    with pytest.raises(RuntimeError, match="multiplied"), device_errors():
        raise RuntimeError("shapes cannot be multiplied")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
@pytest.mark.parametrize("command", ["animate", "evaluate", "track", "web"])
def test_every_command_that_runs_networks_takes_a_device(command):
    assert "--device" in CliRunner().invoke(main, [command, "--help"]).output
    result = CliRunner().invoke(main, [command, "--device", "gpu"])
    assert result.exit_code == 2 and "auto, cpu, cuda" in result.output
    assert VARIABLE not in os.environ


def test_a_gpu_that_disappears_stops_the_run_and_what_was_finished_is_kept(tmp_path):
    from fportrait.scale.map_engine import map_units

    def encode(unit, folder):
        if unit == "second" and not (tmp_path / "back").exists():
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        return unit

    units = ["first", "second", "third"]
    with pytest.raises(UserError, match=r"failed or disappeared.*what was finished is kept"):
        map_units(encode, units, cache_folder=tmp_path / "units", key=str)
    (tmp_path / "back").touch()
    report = map_units(encode, units, cache_folder=tmp_path / "units", key=str)
    assert [result.cached for result in report.results] == [True, False, False]


def test_training_in_bf16_is_float32_where_the_card_only_emulates_it_and_its_record_says_so(card, monkeypatch, caplog):
    from fportrait import devices
    from fportrait.training.loop import as_the_card_computes
    from helpers.small import stage

    monkeypatch.setattr(devices, "_said", set())
    asked = stage(precision="bf16")
    assert as_the_card_computes(asked).learned_from()["precision"] == "fp32"
    assert "no native bfloat16: float32 is used" in caplog.text
    with use_device("cpu"):
        assert as_the_card_computes(asked) is asked
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 9))
    assert as_the_card_computes(asked) is asked


def test_a_unit_that_a_card_refuses_is_a_failure_with_its_reason_and_the_rest_goes_on(tmp_path):
    from fportrait.scale.map_engine import map_units

    def encode(unit, folder):
        if unit == "large":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return unit

    report = map_units(encode, ["small", "large"], cache_folder=tmp_path, key=str)
    assert [result.value for result in report.results] == ["small"]
    assert "a card too small" in report.failures[0].reason
    assert json.loads((tmp_path / "failures.json").read_text())[0]["unit"] == "large"
