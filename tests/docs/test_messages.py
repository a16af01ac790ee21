"""The messages that docs/troubleshooting.md shows are the ones that are printed."""

from __future__ import annotations

import re
import socket
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fportrait.animate.run import check_output
from fportrait.animate.viewpoint import viewpoint
from fportrait.capture.video_io import probe, read_image, write_video
from fportrait.cli import main
from fportrait.errors import UserError

PAGE = " ".join((Path(__file__).parents[2] / "docs/troubleshooting.md").read_text(encoding="utf-8").split())
SHOWN = [text.strip() for text in re.findall(r"`` (Found .+?) ``|`(Found [^`]+)`", PAGE) for text in text if text]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rng = np.random.default_rng(0)
    write_video(Path("talk.mp4"), rng.integers(0, 255, (17, 64, 64, 3), dtype=np.uint8))
    Path("text.mp4").write_text("hello")
    Path("noise.mp4").write_bytes(bytes(range(256)) * 9)
    return tmp_path


def said(action) -> str:
    with pytest.raises(UserError) as caught:
        action()
    return str(caught.value)


def test_messages_about_files():
    assert said(lambda: probe(Path("text.mp4"))) in SHOWN
    assert said(lambda: probe(Path("noise.mp4"))) in SHOWN
    assert said(lambda: read_image(Path("talk.mp4"))) in SHOWN
    whole = Path("talk.mp4").read_bytes()
    Path("clip.mp4").write_bytes(whole[: len(whole) // 2])
    message = re.sub(r"frame \d+", "frame 5", said(lambda: probe(Path("clip.mp4"))))
    assert message in SHOWN
    assert said(lambda: check_output(Path("out.txt"), [])) in SHOWN


def test_messages_about_cameras():
    from fportrait.bundle import SHIPPED_BASE, read_settings

    settings = read_settings(SHIPPED_BASE)
    assert said(lambda: viewpoint("spinn", 17, settings, 0)) in SHOWN
    camera = '{"world_to_camera": [[1,0,0,0],[0,1,0,0],[0,0,1,0.6],[0,0,0,1]]}'
    Path("path.json").write_text(f'{{"frames": [{",".join([camera] * 5)}]}}')
    assert said(lambda: viewpoint("path.json", 17, settings, 0)) in SHOWN


def test_messages_of_commands(folder, monkeypatch):
    monkeypatch.setattr("fportrait.ops.store.LOCK_SECONDS", 0.1)

    def printed(*arguments: str) -> str:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        return result.output.strip().removeprefix("fportrait: ")

    assert printed("status") in SHOWN
    assert printed("web", "--host", "0.0.0.0") in SHOWN
    (folder / "mlruns").mkdir()
    database = sqlite3.connect(folder / "mlruns/mlflow.db", isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    assert printed("rollback").replace(f"{Path.cwd()}/", "") in SHOWN
    database.close()


def test_messages_of_the_studio():
    pytest.importorskip("gradio", reason="the extra 'web' is not installed")
    from fportrait.web.results import ResultStore

    store = ResultStore(Path("results"))
    assert said(lambda: ResultStore(Path("results"))).replace(str(Path.cwd()), "/home/me") in SHOWN
    store.close()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(main, ["web", "--results", "results", "--port", str(port)])
    message = result.output.strip().rpartition("fportrait: ")[2].replace(f"port {port} ", "port 7860 ")
    assert result.exit_code == 2 and message in SHOWN


@pytest.mark.parametrize(
    "output", ["talk.mp4", "here.mp4", "talk.mp4/out.mp4", "/proc/nowhere/out.mp4", "/proc/out.mp4"]
)
def test_an_output_that_would_overwrite_an_input_or_cannot_be_written_is_refused_before_any_work(folder, output):
    (folder / "here.mp4").mkdir()
    assert "cannot be written" in (text := said(lambda: check_output(Path(output), [Path("talk.mp4")]))) or (
        "would overwrite talk.mp4" in text
    )
    check_output(Path("new/out.mp4"), [Path("talk.mp4"), None])
    assert "change --conditions" in said(lambda: check_output(Path("new/out.mp4"), [], Path("talk.mp4")))
    check_output(Path("new/out.mp4"), [], Path("new/conditions"))
