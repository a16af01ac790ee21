"""From a download of Wan 2.1, in either layout, to a bundle; what is not that is refused in a sentence."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from fportrait.bundle import read_settings
from fportrait.cli import main
from fportrait.diffusion.codec import load_vae
from fportrait.diffusion.prompt import encode_empty_prompt, read_prompt
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.diffusion.wan_import import ImportSettings, import_wan
from fportrait.errors import UserError
from helpers.wan_downloads import WRITERS, models, write_diffusers

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("downloads")
    return {layout: write(folder / layout) for layout, write in WRITERS.items()}


@pytest.fixture(params=WRITERS)
def download(request, downloads, tmp_path):
    return shutil.copytree(downloads[request.param], tmp_path / "download")


@pytest.fixture
def diffusers(downloads, tmp_path):
    return shutil.copytree(downloads["diffusers"], tmp_path / "download")


@torch.no_grad()
def test_both_layouts_become_a_bundle_that_computes_what_wan_does(download, tmp_path):
    wan, vae = models()
    made = import_wan(download, tmp_path / "wan")
    bundle = tmp_path / "wan"
    settings = read_settings(bundle)
    assert (settings.size, settings.frames, settings.shift, settings.scheduler) == (512, 81, 5.0, "unipc")
    transformer = FactorPortraitTransformer.from_pretrained(bundle / "transformer").eval()
    assert torch.equal(transformer.patch_embedding.weight[:, 16:32], wan.patch_embedding.weight)
    assert made["parameters"] == sum(parameter.numel() for parameter in transformer.parameters())
    prompt = transformer.prompt_embedding
    assert prompt.shape == (1, 512, 32) and prompt[:, 0].any() and not prompt[:, 1:].any()
    generator = torch.Generator().manual_seed(3)
    latents, times = torch.randn(1, 16, 2, 4, 4, generator=generator), torch.tensor([500.0])
    others = [torch.randn(1, c, 2, 4, 4, generator=generator) for c in (24, 16)]
    codes = torch.randn(1, 5, 128, generator=generator)
    ours = transformer(latents, times, torch.randn(1, 16, 1, 4, 4), *others, codes)
    theirs = wan(torch.cat([torch.zeros(1, 16, 1, 4, 4), latents], 2), times, prompt, return_dict=False)[0]
    torch.testing.assert_close(ours, theirs[:, :, 1:], rtol=0, atol=1e-6)
    video = torch.rand(1, 3, 5, 16, 16, generator=generator)
    latent = vae.encode(video).latent_dist.mode()
    torch.testing.assert_close(load_vae(bundle / "vae").encode(video).latent_dist.mode(), latent, rtol=0, atol=1e-6)
    assert not list(tmp_path.glob(".wan*"))
    record = json.loads((bundle / "provenance.json").read_text())
    assert len(record["sources"]) == 3 and all(len(value) == 64 for value in record["sources"].values())


def test_both_layouts_give_the_same_weights_bit_for_bit(downloads, tmp_path):
    for layout, folder in downloads.items():
        import_wan(folder, tmp_path / layout)
    for part in ("transformer", "vae"):
        one, other = (load_file(tmp_path / layout / part / WEIGHTS) for layout in downloads)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_empty_prompt_is_what_umt5_makes_of_it(downloads):
    transformers = pytest.importorskip("transformers")
    config = transformers.UMT5Config(
        **{"vocab_size": 16, "d_model": 32, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_heads": 2, "eos_token_id": 1}
    )
    encoder = transformers.UMT5EncoderModel(config).eval()
    state = load_file(downloads["diffusers"] / "text_encoder/model.safetensors")
    encoder.load_state_dict(state | {"encoder.embed_tokens.weight": state["shared.weight"]})
    with torch.no_grad():
        expected = encoder(input_ids=torch.tensor([[1]])).last_hidden_state
    for source in ("diffusers/text_encoder", "original/models_t5_umt5-xxl-enc-bf16.pth"):
        found = encode_empty_prompt(downloads["diffusers"].parent / source, tokens=4)
        torch.testing.assert_close(found[:, :1], expected, rtol=0, atol=1e-5)
        assert found.shape == (1, 4, 32) and not found[:, 1:].any()


def test_a_ready_embedding_takes_the_text_encoders_place(diffusers, tmp_path):
    shutil.rmtree(diffusers / "text_encoder")
    with pytest.raises(UserError, match="no text encoder"):
        import_wan(diffusers, tmp_path / "wan")
    embedding = torch.randn(1, 1, 32)
    for name, save in (
        ("prompt.safetensors", lambda path: save_file({"prompt": embedding}, path)),
        ("prompt.pt", lambda path: torch.save(embedding[0], path)),
    ):
        save(tmp_path / name)
        import_wan(diffusers, tmp_path / "wan", prompt=tmp_path / name, replace=True)
        model = FactorPortraitTransformer.from_pretrained(tmp_path / "wan/transformer")
        assert torch.equal(model.prompt_embedding[:, :1], embedding)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"prompt": torch.zeros(1, 512, 32)}, "empty prompt of zeros"),
        ({"prompt": torch.ones(1, 600, 32)}, "600 tokens"),
        ({"prompt": torch.full((1, 2, 32), float("nan"))}, "not finite"),
        ({"prompt": torch.ones(2, 3, 32)}, "one embedding"),
        ({"prompt": torch.ones(1, 2, 31)}, "width 31"),
        ({"a": torch.ones(1), "b": torch.ones(1)}, "2 tensors"),
    ],
)
def test_a_strange_embedding_is_refused(diffusers, tmp_path, tensors, words):
    save_file(tensors, tmp_path / "prompt.safetensors")
    with pytest.raises(UserError, match=words):
        import_wan(diffusers, tmp_path / "wan", prompt=tmp_path / "prompt.safetensors")
    assert not (tmp_path / "wan").exists()


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def mark(name, content=None):
    def make(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content or "{}")

    return make


@pytest.mark.parametrize(
    ("layout", "change", "words"),
    [
        ("original", lambda f: edited(f / "config.json", model_type="i2v"), "image-to-video"),
        ("original", lambda f: edited(f / "config.json", model_type="ti2v"), "2.2 TI2V-5B"),
        ("original", lambda f: edited(f / "config.json", model_type="vace"), "VACE"),
        ("original", lambda f: edited(f / "config.json", in_dim=48, out_dim=48), "2.2 TI2V-5B"),
        ("original", lambda f: edited(f / "config.json", in_dim=52), "52 input channels"),
        ("original", mark("high_noise_model/config.json"), "two experts"),
        ("original", mark("Wan2.2_VAE.pth"), "2.2 TI2V-5B"),
        ("diffusers", lambda f: edited(f / "model_index.json", boundary_ratio=0.9), "Wan 2.2"),
        ("diffusers", lambda f: edited(f / "model_index.json", _class_name="WanVACEPipeline"), "WanVACEPipeline"),
        ("diffusers", lambda f: edited(f / "transformer/config.json", image_dim=1280), "image-to-video"),
        ("diffusers", lambda f: edited(f / "transformer/config.json", _class_name="FluxTransformer2DModel"), "Flux"),
        ("diffusers", mark("image_encoder/config.json"), "image-to-video"),
        ("diffusers", lambda f: edited(f / "text_encoder/config.json", model_type="t5"), "umt5"),
        ("diffusers", lambda f: edited(f / "vae/config.json", _class_name="AutoencoderKL"), "AutoencoderKLWan"),
        ("diffusers", lambda f: shutil.rmtree(f / "vae"), "no VAE"),
        ("original", lambda f: (f / "Wan2.1_VAE.pth").unlink(), "no VAE"),
        ("original", lambda f: (f / "config.json").unlink(), "without a config.json"),
        ("original", lambda f: torch.save({"a": torch.ones(1)}, f / "Wan2.1_VAE.pth"), "no VAE in"),
        ("original", lambda f: (f / "Wan2.1_VAE.pth").write_bytes(b"PK half"), "unfinished"),
        ("diffusers", lambda f: (f / f"transformer/{WEIGHTS}").rename(f / "transformer/x.incomplete"), "unfinished"),
        ("diffusers", lambda f: edited(f / "transformer/config.json", num_layers=3), "missing: blocks.2"),
    ],
)
def test_what_is_not_wan_2_1_text_to_video_is_named_before_anything_is_written(
    downloads, tmp_path, layout, change, words
):
    folder = shutil.copytree(downloads[layout], tmp_path / "download")
    change(folder)
    with pytest.raises(UserError, match=words):
        import_wan(folder, tmp_path / "wan")
    assert not (tmp_path / "wan").exists()


@pytest.mark.parametrize("holed", ["transformer", "vae"])
def test_a_download_whose_bytes_are_holes_is_refused_by_its_numbers(diffusers, tmp_path, holed):
    path = diffusers / holed / WEIGHTS
    tensors = load_file(path)
    name = max((n for n in tensors if tensors[n].ndim > 1), key=lambda n: tensors[n].numel())
    tensors[name].view(-1)[tensors[name].numel() // 3 :] = 0
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"67% zeros"):
        import_wan(diffusers, tmp_path / "wan")
    tensors[name].view(-1)[:1] = float("nan")
    save_file(tensors, path)
    with pytest.raises(UserError, match="not finite"):
        import_wan(diffusers, tmp_path / "wan")


def test_a_stopped_import_goes_on_and_other_settings_start_anew(diffusers, tmp_path, monkeypatch):
    from fportrait.diffusion import wan_import

    monkeypatch.setattr(wan_import, "FILE_BYTES", 200_000)

    class Stop(Exception):
        pass

    def stop(what, done, total):
        if what == "widen" and done > total // 2:
            raise Stop

    with pytest.raises(Stop):
        import_wan(diffusers, tmp_path / "wan", report=stop)
    kept = sorted((tmp_path / ".wan.import/transformer").glob("*.safetensors"))
    assert kept and not (tmp_path / "wan").exists()
    before = {path.name: path.stat().st_mtime_ns for path in kept}
    monkeypatch.setattr(wan_import, "encode_empty_prompt", None)  # not computed again
    import_wan(diffusers, tmp_path / "wan")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "wan/transformer").glob("*.safetensors")}
    assert len(after) > len(before) and before.items() <= after.items()
    whole = FactorPortraitTransformer.from_pretrained(tmp_path / "wan/transformer")
    assert torch.equal(whole.proj_out.weight, models()[0].proj_out.weight)

    monkeypatch.undo()
    with pytest.raises(Stop):
        import_wan(diffusers, tmp_path / "half", ImportSettings(dtype="bf16"), report=stop)
    import_wan(diffusers, tmp_path / "half", ImportSettings(dtype="fp16"))
    stored = load_file(tmp_path / "half/transformer" / WEIGHTS)
    assert {value.dtype for value in stored.values()} == {torch.float16}


def test_a_disk_too_small_is_said_before_the_first_byte(diffusers, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**6}))
    with pytest.raises(UserError, match=r"GiB for the bundle"):
        import_wan(diffusers, tmp_path / "wan")
    assert not list(tmp_path.glob(".wan*"))


def test_a_bundle_that_is_there_is_kept_unless_it_is_to_be_replaced(diffusers, tmp_path):
    (tmp_path / "wan").mkdir()
    (tmp_path / "wan/mine").write_text("kept")
    with pytest.raises(UserError, match="--replace"):
        import_wan(diffusers, tmp_path / "wan")
    assert (tmp_path / "wan/mine").read_text() == "kept"


def test_the_command_makes_the_bundle_says_what_to_know_and_prints_the_next_command(tmp_path, monkeypatch):
    shutil.copytree(Path(__file__).parents[2] / "conf", tmp_path / "conf")
    write_diffusers(tmp_path / "Wan")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["weights", "import-wan", "Wan", "--dtype", "bf16"])
    assert result.exit_code == 0, result.output
    assert "next: kedro run --env=paper --pipelines=pretrain\n" in result.output
    assert "train-encoder" in result.output and "are these its weights?" in result.output  # drawn, not trained
    again = CliRunner().invoke(main, ["weights", "import-wan", "Wan", "-o", "other", "--size", "256", "--json"])
    assert json.loads(again.stdout)["next"].endswith("--params=pretrain.source=other")
    assert read_settings(tmp_path / "other").size == 256
    refused = CliRunner().invoke(main, ["weights", "import-wan", "nowhere"])
    assert refused.exit_code == 2 and "no folder nowhere" in refused.output and "Traceback" not in refused.output


def test_arrays_are_read_as_numbers_alone(tmp_path):
    import numpy as np

    np.save(tmp_path / "good.npy", np.ones((1, 2, 4), np.float16))
    assert read_prompt(tmp_path / "good.npy", 3).shape == (1, 3, 4)
    np.save(tmp_path / "bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="broken"):
        read_prompt(tmp_path / "bad.npy")


def test_pretrain_takes_what_was_imported_and_refuses_what_stage_1_would(diffusers, tmp_path, monkeypatch):
    from fportrait.pipelines.pretrain.nodes import pretrain

    def put(source):
        return pretrain(tmp_path / "base", tmp_path / "units", source=str(source), rebuild={})

    import_wan(diffusers, tmp_path / "wan")
    assert put(tmp_path / "wan")["frames"] == 81
    assert (tmp_path / "base/transformer/config.json").is_file()
    with pytest.raises(UserError, match=r"import-wan FOLDER -o .*nowhere"):
        put(tmp_path / "nowhere")

    bare = shutil.copytree(tmp_path / "wan", tmp_path / "bare")
    shutil.rmtree(bare / "transformer")
    shutil.copytree(diffusers / "transformer", bare / "transformer")
    with pytest.raises(UserError, match=r"a WanTransformer3DModel .*import-wan"):
        put(bare)

    monkeypatch.setattr("fportrait.diffusion.base_check.WAN_TEXT_WIDTH", 32)
    zeros = shutil.copytree(tmp_path / "wan", tmp_path / "zeros")
    tensors = load_file(zeros / "transformer" / WEIGHTS)
    tensors["prompt_embedding"] = torch.zeros_like(tensors["prompt_embedding"])
    save_file(tensors, zeros / "transformer" / WEIGHTS)
    with pytest.raises(UserError, match="an empty prompt of zeros"):
        put(zeros)
    del tensors["proj_out.bias"]
    save_file(tensors, zeros / "transformer" / WEIGHTS)
    with pytest.raises(UserError, match=r"1 missing: proj_out\.bias"):
        put(zeros)
    edited(tmp_path / "wan/vae/config.json", z_dim=48)
    with pytest.raises(UserError, match="48 channels beside a transformer of 16"):
        put(tmp_path / "wan")
