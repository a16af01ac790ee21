"""`fportrait animate` as a user calls it: a real photograph, a driving video, the shipped model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from fportrait.animate import animate, camera_path
from fportrait.animate.animator import Animator
from fportrait.atomic_io import write_json
from fportrait.body.model import load_body
from fportrait.bundle import SHIPPED_BASE, BundleSettings, read_settings
from fportrait.camera.paths import front_path, save_camera_path
from fportrait.capture.people import sample_person
from fportrait.capture.video_io import probe, read_image, read_video, write_image, write_video
from fportrait.capture.world import sample_training_clip
from fportrait.cli import main
from fportrait.diffusion.lora import LoraSettings, adapter_name, add_lora, save_lora
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.errors import UserError
from fportrait.provenance import read_provenance


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    data = pytest.importorskip("skimage.data")
    folder = tmp_path_factory.mktemp("animate")
    body = load_body()
    clip = sample_training_clip(np.random.default_rng(4), body, "phone", 7, 192, person=sample_person(12, body))
    write_video(folder / "driving.mp4", clip["video"])
    write_image(folder / "portrait.png", data.astronaut())
    write_image(folder / "wall.png", np.full((96, 96, 3), 120, np.uint8))
    two = np.concatenate([data.astronaut()[:256, 128:384]] * 2, axis=1)
    write_image(folder / "two.png", two)
    (folder / "broken.mp4").write_bytes((folder / "driving.mp4").read_bytes()[:900])
    return {path.stem: path for path in folder.iterdir()} | {"folder": folder}


def run(files: dict[str, Path], name: str, camera: str = "front", **changes) -> dict[str, Path]:
    arguments = {"portrait": files["portrait"], "driving": files["driving"], "steps": 2} | changes
    return animate(camera=camera, output=files["folder"] / f"{name}.mp4", model=SHIPPED_BASE, **arguments)


def test_a_photograph_is_animated_frame_for_frame_and_the_video_says_that_it_is_synthetic(files):
    written = run(files, "out")
    info = probe(written["video"])
    assert (info.frames, info.width) == (7, 256) and info.fps == pytest.approx(25.0)
    assert "synthetic" in str(info.metadata)
    assert read_image(written["picture"]).shape == (3 * 128, 8 * 128, 3)
    assert read_video(written["video"]).std() > 10  # a picture, not a grey square


def test_the_same_seed_gives_the_same_bytes_and_another_camera_another_video(files):
    first, again = run(files, "a")["video"].read_bytes(), run(files, "b")["video"].read_bytes()
    assert first == again
    front, spin = (read_video(run(files, name, name)["video"]).astype(int) for name in ("front", "spin"))
    assert np.abs(front - spin).mean() > 2


def test_a_larger_video_is_sharper_than_a_small_one_enlarged(files):
    from fportrait.animate.pictures import enlarge

    large = read_video(run(files, "large", scale=4)["video"]).astype(float)
    small = read_video(run(files, "small", scale=1)["video"])
    enlarged = np.stack([enlarge(frame, 4) for frame in small]).astype(float)
    assert large.shape == enlarged.shape
    sharp, soft = (np.abs(np.diff(video[:, 64:192, 64:192], axis=2)).mean() for video in (large, enlarged))
    assert sharp > 1.1 * soft
    assert np.abs(large - enlarged).mean() < 12  # of the same person, in the same pose


def test_more_portraits_are_read_and_named_and_a_picture_of_nobody_is_refused(files, tmp_path):
    from PIL import Image

    more = tmp_path / "again.png"
    Image.open(files["portrait"]).rotate(4).save(more)
    alone = run(files, "alone", "spin")["video"]
    both = run(files, "both", "spin", more=(more,))["video"]
    assert not np.array_equal(read_video(alone), read_video(both))
    assert set(read_provenance(both)["inputs"]) == {*read_provenance(alone)["inputs"], "portrait 2"}
    Image.new("RGB", (200, 200)).save(tmp_path / "wall.png")
    with pytest.raises(UserError, match=r"wall\.png"):
        run(files, "wall", more=(tmp_path / "wall.png",))


def test_the_models_own_guidance_is_used_unless_another_is_asked_for(files):
    own = run(files, "own")["video"]
    more = run(files, "more", guidance={"expression": 6.0})["video"]
    shipped = read_settings(SHIPPED_BASE).guidance
    assert read_provenance(own)["settings"]["guidance"] == shipped
    assert read_provenance(more)["settings"]["guidance"] == shipped | {"expression": 6.0}
    assert not np.array_equal(read_video(own), read_video(more))


def test_an_adapter_changes_the_video_of_its_own_base_and_another_base_is_refused_before_any_tracking(files, tmp_path):
    pytest.importorskip("peft")
    base = FactorPortraitTransformer.from_pretrained(SHIPPED_BASE / "transformer")
    add_lora(base, LoraSettings(rank=2, conditions=False))
    with torch.no_grad():
        for name, value in base.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.2, generator=torch.Generator().manual_seed(0))
    adapter = save_lora(base, tmp_path / "adapter")
    still = {"driving": files["portrait"], "steps": 1}
    plain, adapted = run(files, "plain", **still), run(files, "adapted", adapter=adapter, **still)
    assert np.abs(read_video(plain["video"]).astype(int) - read_video(adapted["video"])).mean() > 1
    said = read_provenance(adapted["video"])
    assert said["adapter"] == adapter_name(adapter) and "adapter" not in read_provenance(plain["video"])
    other = json.loads((adapter / "adapter.json").read_text()) | {"base": "0" * 64}
    write_json(adapter / "adapter.json", other)
    arguments = ["animate", "--portrait", files["wall"], "--driving", files["portrait"], "--model", SHIPPED_BASE]
    arguments += ["--adapter", adapter / "adapter.safetensors", "-o", tmp_path / "out.mp4"]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 2 and "of the base 0000000000000000" in result.output
    assert not (tmp_path / "out.mp4").exists()


def test_a_still_drives_a_video_of_one_frame(files):
    assert probe(run(files, "still", driving=files["portrait"])["video"]).frames == 1


def test_another_size_is_drawn_where_the_model_was_trained_at_it_and_refused_where_not(files, tmp_path):
    two = shutil.copytree(SHIPPED_BASE, tmp_path / "two")
    stated = json.loads((two / "bundle.json").read_text())
    write_json(two / "bundle.json", stated | {"size": 64, "sizes": [128]})
    output = files["folder"] / "large.mp4"
    written = animate(files["portrait"], files["portrait"], "front", output, two, size=128, steps=1, scale=1)
    assert probe(written["video"]).width == 128
    assert read_provenance(output)["settings"]["size"] == 128
    with pytest.raises(UserError, match=r"trained at: 64, 128"):
        animate(files["portrait"], files["portrait"], "front", output, two, size=96, steps=1)
    assert Animator(two).settings.size == 64


def test_a_file_of_the_front_cameras_gives_the_front_video(files):
    settings = BundleSettings()
    path = save_camera_path(files["folder"] / "path.json", front_path(7, settings.camera_distance))
    assert np.allclose(camera_path(str(path), 7, settings, 0), camera_path("front", 7, settings, 5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"portrait": "wall"}, "no face"),
        ({"portrait": "two"}, "two faces"),
        ({"driving": "broken"}, "broken.mp4"),
        ({"camera": "spinn"}, "write 'spin'"),
        ({"camera": "nowhere.json"}, "no camera file"),
    ],
)
def test_bad_input_is_one_message_and_leaves_no_output(files, changes, message):
    changes = {key: files.get(value, value) for key, value in changes.items()}
    with pytest.raises(UserError, match=message):
        run(files, "bad", **changes)
    assert not (files["folder"] / "bad.mp4").exists()


def test_the_command_line_prints_the_message_without_a_traceback_and_exits_with_two(files):
    arguments = ["animate", "--portrait", str(files["wall"]), "--driving", str(files["driving"])]
    result = CliRunner().invoke(main, [*arguments, "-o", str(files["folder"] / "x.mp4"), "--model", str(SHIPPED_BASE)])
    assert result.exit_code == 2
    assert "Found no face" in result.output and "Traceback" not in result.output


def test_help_and_import_pull_in_neither_torch_nor_an_orchestrator():
    program = (
        "import sys, json, fportrait, fportrait.cli; from click.testing import CliRunner; "
        "r = CliRunner().invoke(fportrait.cli.main, ['--help']); "
        "print(json.dumps([r.exit_code, [m for m in ('torch', 'mlflow', 'kedro', 'dvc') if m in sys.modules]]))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == [0, []]


def test_where_the_matting_network_knows_nobody_the_portrait_is_painted_without_a_backdrop(files, monkeypatch):
    known = run(files, "known", "spin")["video"]
    monkeypatch.setattr("fportrait.tracking.matting.matte", lambda picture: np.zeros(picture.shape[:2], np.float32))
    unknown = run(files, "unknown", "spin")["video"]
    assert probe(unknown).frames == probe(known).frames
    assert not np.array_equal(read_video(known), read_video(unknown))
