"""The studio without a browser: uploads, turns, results, and what a hostile client may send."""

from __future__ import annotations

import io
import json
import threading
import urllib.error
import urllib.request
import zipfile
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fportrait.animate import Request
from fportrait.animate.adapters import FOLDER, base_of, delete
from fportrait.atomic_io import write_json
from fportrait.bundle import SHIPPED_BASE
from fportrait.diffusion.lora import LoraSettings
from fportrait.errors import UserError
from fportrait.web.results import ResultStore, file_names, stem_of
from fportrait.web.uploads import PICTURE_BYTES, check_camera, check_picture, check_video

pytest.importorskip("gradio", reason="the extra 'web' is not installed")
from fportrait.web.handlers import Handlers
from fportrait.web.studio import SHAPES, WAITING, Cancelled, Drawing, Studio, describe


@pytest.fixture
def turns(tmp_path) -> Studio:
    """A studio's turns alone: no model is needed to stand in line."""
    studio = Studio.__new__(Studio)
    studio._turn, studio._queue, studio._cancelled = threading.Condition(), deque(), set()
    return studio


def silent(what: str, done: int, total: int) -> None:
    pass


def test_of_ten_requests_at_once_nine_take_turns_and_one_is_turned_away_with_a_sentence(turns):
    running, peak, refused, done = [0], [0], [], []
    started, release = threading.Barrier(11), threading.Event()

    def user(name: str) -> None:
        started.wait()
        try:
            with turns.job(name, silent):
                running[0] += 1
                peak[0] = max(peak[0], running[0])
                release.wait(20)
                running[0] -= 1
                done.append(name)
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=user, args=(f"user{i}",)) for i in range(10)]
    for thread in threads:
        thread.start()
    started.wait()
    while len(turns._queue) + len(refused) < 10:
        pass
    release.set()
    for thread in threads:
        thread.join(20)
    assert len(done) == WAITING + 1 and peak[0] == 1
    assert len(refused) == 1 and "jobs before yours" in refused[0]


def test_a_second_job_of_one_session_is_refused_and_a_waiting_one_can_be_cancelled(turns):
    with turns.job("a", silent) as report:
        with pytest.raises(UserError, match="one at a time"), turns.job("a", silent):
            pass
        outcome = []

        def waiting() -> None:
            try:
                with turns.job("b", silent):
                    outcome.append("ran")
            except Cancelled:
                outcome.append("cancelled")

        thread = threading.Thread(target=waiting)
        thread.start()
        while "b" not in turns._queue:
            pass
        assert turns.cancel("b") and not turns.cancel("nobody")
        thread.join(20)
        assert outcome == ["cancelled"]
        turns.cancel("a")
        with pytest.raises(Cancelled):
            report("sample", 1, 2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.png", b"hello", "not a picture"),
        ("empty.png", b"", "an empty portrait"),
        ("archive.png", zipfile.ZipFile.__doc__.encode(), "not a picture"),
        ("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        ("huge.png", b"\x89PNG" + b"0" * PICTURE_BYTES, "at most 20 MiB"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        check_picture(tmp_path / name)


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
    Image.fromarray(np.zeros((8000, 8000), np.uint8)).save(tmp_path / "bomb.png")  # 64 megapixels in a few kilobytes
    assert (tmp_path / "bomb.png").stat().st_size < 200_000
    with pytest.raises(UserError, match="50 megapixels"):
        check_picture(tmp_path / "bomb.png")


def test_a_progressive_picture_of_hundreds_of_scans_is_refused_before_it_is_decoded(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    last = whole[whole.rindex(b"\xff\xda") : -2]
    (tmp_path / "scans.jpg").write_bytes(whole[:-2] + last * 200 + whole[-2:])
    (tmp_path / "usual.jpg").write_bytes(whole)
    assert check_picture(tmp_path / "usual.jpg")
    with pytest.raises(UserError, match="scans"):
        check_picture(tmp_path / "scans.jpg")


@pytest.mark.parametrize(
    "content", [b"#EXTM3U\n/etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n", b"\0" * 64]
)
def test_playlists_and_noise_never_reach_the_video_library(tmp_path, content, monkeypatch):
    import av

    monkeypatch.setattr(av, "open", lambda *a, **k: pytest.fail("it was opened"))
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(UserError, match="not a video"):
        check_video(tmp_path / "clip.mp4")


@pytest.mark.parametrize(
    ("portrait", "stem"),
    [
        ("me.jpg", "me"),
        ("../a b/Zoë 2.png", "Zoë-2"),
        ("<img src=x>.png", "img-src-x"),
        ("...png", "portrait"),
        ("a" * 99, "a" * 60),
    ],
)
def test_downloads_are_named_after_the_portrait_and_never_lead_elsewhere(tmp_path, portrait, stem):
    assert stem_of(portrait) == stem
    assert all("/" not in name and stem in name for name in file_names(stem))


def test_a_result_of_before_files_had_names_is_still_found(tmp_path):
    store = ResultStore(tmp_path)
    old = tmp_path / "20200101-000000-abcdef"
    old.mkdir()
    for name in ("video.mp4", "picture.png"):
        (old / name).write_bytes(b"x")
    (old / "settings.json").write_text('{"seed": 1}')
    (tmp_path / "list").mkdir()
    (tmp_path / "list/settings.json").write_text("[]")
    assert [result.name for result in store.list()] == [old.name] and store.list()[0].video.name == "video.mp4"


def test_nothing_uploaded_is_a_sentence_for_each_input():
    for check in (check_picture, check_video, check_camera):
        with pytest.raises(UserError, match="upload"):
            check(None)


def write(folder: Path) -> None:
    for name in file_names("me")[:2]:
        (folder / name).write_bytes(b"v")
    (folder / "conditions").mkdir()
    (folder / "conditions/codes.npy").write_bytes(b"c")


def test_results_are_kept_newest_first_up_to_a_number_and_outlive_the_server(tmp_path):
    store = ResultStore(tmp_path, keep=2)
    names = [store.add(write, {"seed": seed, "files": "me"}).name for seed in range(3)]
    kept = {result.name: result.settings["seed"] for result in store.list()}
    assert len(kept) == 2 and set(kept) <= set(names)
    with zipfile.ZipFile(store.list()[0].conditions) as conditions:
        assert conditions.namelist() == ["codes.npy"]
    with pytest.raises(UserError, match="another studio"):
        ResultStore(tmp_path)
    store.close()
    (tmp_path / ".tmp-half").mkdir()
    assert len(ResultStore(tmp_path).list()) == 2 and not (tmp_path / ".tmp-half").exists()


def test_a_failure_while_writing_leaves_no_result(tmp_path):
    store = ResultStore(tmp_path)

    def broken(folder: Path) -> None:
        write(folder)
        raise Cancelled

    with pytest.raises(Cancelled):
        store.add(broken, {"files": "me"})
    assert store.list() == [] and not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("name", ["../outside", "/etc", "", "."])
def test_a_result_is_never_found_outside_the_folder(tmp_path, name):
    (tmp_path / "outside").mkdir()
    with pytest.raises(UserError, match="gone"):
        ResultStore(tmp_path / "results").delete(name)
    assert (tmp_path / "outside").is_dir()


@pytest.fixture
def project(tmp_path):
    """A project with an adapter of the shipped base (without numbers), one of another base, and a studio over it."""
    for name, base in (("anna", base_of(SHIPPED_BASE)), ("ben", "0" * 64)):
        folder = tmp_path / FOLDER / name
        folder.mkdir(parents=True)
        write_json(folder / "adapter.json", {**LoraSettings(rank=2, conditions=False).as_dict(), "base": base})
        save_file({name: torch.zeros(2)}, folder / "adapter.safetensors")
    store = ResultStore(tmp_path / "results")
    yield Studio(SHIPPED_BASE, store, home=tmp_path)
    store.close()


def test_the_list_of_adapters_follows_what_is_there_and_offers_none_of_another_base(project, tmp_path):
    do = Handlers(project, None)
    shown = do.adapters("anna")
    assert [value for _, value in shown["choices"]] == ["", "anna"] and shown["value"] == "anna" and shown["visible"]
    assert project.with_adapter("") is project.animator and project.animator.adapter is None
    adapted = project.with_adapter("anna")
    assert adapted.adapter == tmp_path / FOLDER / "anna" and adapted._kept is project.animator._kept
    assert project.with_adapter("anna") is adapted, "the weights are loaded once"
    save_file({"anna": torch.ones(2)}, tmp_path / FOLDER / "anna/adapter.safetensors")  # trained again
    again = project.with_adapter("anna")
    assert again is not adapted and again.made_by["hash"] != adapted.made_by["hash"]
    delete("anna", tmp_path)
    shown = do.adapters("anna")
    assert shown["value"] == "" and not shown["visible"], "what was chosen is gone"
    with pytest.raises(UserError, match="it may be deleted"):
        project.with_adapter("anna")
    assert project._adapted is None, "a face stays in memory"


@pytest.mark.parametrize("name", ["ben", "../results", "/etc", "data/06_models/adapters/anna", "anna/", "x" * 9000])
def test_a_visitor_names_an_adapter_of_the_list_and_never_a_path(project, name):
    with pytest.raises(UserError, match="no adapter") as error:
        project.with_adapter(name)
    assert len(str(error.value)) < 300


def test_a_visitor_draws_the_shapes_and_sizes_of_the_lists_and_no_others(project):
    do = Handlers(project, None)
    assert do.drawing_of("16:9") == Drawing(64, "16:9")
    assert do.drawing_of("square", 64) == Drawing(64, None) and do.drawing_of("3:4", 128) == Drawing(128, "3:4")
    for shape, size in (
        (0, 64),
        (None, 64),
        ("9:17", 64),
        ([], 64),
        ("square", 96),
        ("square", True),
    ):
        with pytest.raises(UserError, match="not on the list"):
            do.drawing_of(shape, size)


def test_a_shape_shares_what_is_loaded_and_tracked_and_its_pixels_count_in_the_seconds(project, tmp_path):
    Image.new("RGB", (300, 400)).save(tmp_path / "tall.png")
    like = Drawing(64, SHAPES["as the portrait"])
    assert [project.pixels(like, sides) for sides in (None, (300, 400), (400, 300), (9, 900))] == [
        *(64 * 64, 64 * 88, 88 * 64, 64 * 112)
    ]
    assert project.seconds(17, 1, {}, 2 * 64 * 64) > project.seconds(17, 1, {}) == project.seconds(17, 1, {}, 64 * 64)
    own, request = project.animator, Request(tmp_path / "tall.png", tmp_path / "none.mp4")
    assert project.drawing(own, Drawing(64), request) is own
    own.__dict__["pipeline"] = object()  # not what this looks at: it takes seconds to load
    upright = project.drawing(own, Drawing(128, "9:16"), request)
    assert upright.picture.across_by_down == "128x224" and own.picture.across_by_down == "64x64"
    assert upright.pipeline is own.pipeline and upright._kept is own._kept


def test_names_of_files_are_shown_as_text_and_not_as_markup():
    text = describe({"portrait": "<img src=x onerror=alert(1)>.png", "driving": "[a](http://b)"})
    assert "<img" not in text and "[a](" not in text


def test_a_client_can_neither_read_other_files_nor_choose_where_uploads_go(server):
    for path in ("/etc/passwd", str(server.log), "../../../../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{server.url}gradio_api/file={path}")
    body = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="../../../evil.png"\r\n'
        b"Content-Type: image/png\r\n\r\nhello\r\n--x--\r\n"
    )
    head = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request(f"{server.url}gradio_api/upload", body, head)
    stored = [Path(path) for path in json.load(urllib.request.urlopen(request))]
    assert stored and all(path.resolve().is_relative_to(server.folder / ".uploads") for path in stored)


def test_more_bytes_than_allowed_are_refused_while_they_arrive(server):
    from fportrait.web.uploads import VIDEO_BYTES

    start = b'--x\r\nContent-Disposition: form-data; name="files"; filename="big.mp4"\r\n\r\n'
    size = len(start) + VIDEO_BYTES + 2**20
    stream = io.BytesIO(start + bytes(VIDEO_BYTES + 2**20))
    head = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(size)}
    with pytest.raises((urllib.error.HTTPError, urllib.error.URLError, OSError)):
        urllib.request.urlopen(urllib.request.Request(f"{server.url}gradio_api/upload", stream, head))
    assert not [path for path in server.folder.rglob("big.mp4") if path.stat().st_size > VIDEO_BYTES]
    assert server.answers()  # refused, not fallen over
