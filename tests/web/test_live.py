"""The stream of a studio: one at a time, its visitor's alone, by its key alone, and gone when its page is."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.helpers.live import FakeStream

pytest.importorskip("gradio", reason="the extra 'web' is not installed")

from fportrait.bundle import SHIPPED_BASE
from fportrait.capture.video_io import read_video
from fportrait.errors import UserError
from fportrait.provenance import read_provenance
from fportrait.web import live as web_live
from fportrait.web.live import FRAME_BYTES, LiveAddresses, LiveDesk
from fportrait.web.results import ResultStore
from fportrait.web.security import COOKIE, StudioDefence, Uploads
from fportrait.web.studio import Studio

STILL = {"yaw": 0.0, "elevation": 0.0, "distance": 1.0, "expression": 1.0, "pose": 1.0}


class Stream(FakeStream):
    """What a desk asks of a stream beside its frames."""

    notes = ()

    def __init__(self, animator, portrait):
        super().__init__()

    def warm_up(self):
        pass

    def settings_tags(self):
        return {"live": True}


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.setattr(web_live, "PortraitStream", Stream)
    monkeypatch.setattr(web_live, "CLOSED_AFTER", 1.5)
    store = ResultStore(tmp_path / "results", 3)
    studio = Studio(SHIPPED_BASE, store)
    made = LiveDesk(studio, SHIPPED_BASE, tmp_path / "uploads")
    made._animator = studio.animator
    yield made
    if made._seat is not None:
        made.stop(made._seat.session)
    store.close()


@pytest.fixture
def portrait(tmp_path) -> Path:
    path = tmp_path / "portrait.png"
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    return path


def jpeg(width=640, height=480) -> bytes:
    return cv2.imencode(".jpg", np.full((height, width, 3), 90, np.uint8))[1].tobytes()


def ask(app, method: str, path: str, visitor: str = "me", body: bytes = b"", **headers: str):
    """Status, headers and body of a request, as a server hands it to the application."""
    path, _, query = path.partition("?")
    given = {"host": "localhost", "cookie": f"{COOKIE}={visitor}", **headers}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()],
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:])


async def nothing(scope, receive, send):
    raise AssertionError(f"{scope['path']} went past the stream's addresses")


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_frames_go_up_pictures_come_down_and_a_recording_says_that_it_is_synthetic(desk, portrait):
    app = LiveAddresses(nothing, desk)
    key, _ = desk.start("one", "me", portrait, None, STILL)
    desk.record("one")
    number, taken = 0, []
    for count in range(40):
        assert ask(app, "POST", f"/live/frame?key={key}&t={count}.5", body=jpeg())[0] == 204
        status, told, body = ask(app, "GET", f"/live/picture?key={key}&after={number}")
        state = json.loads(told["x-live"])
        assert state["running"] and state["recording"] and told["cache-control"] == "no-store"
        if status == 200:
            number = state["number"]
            taken += [state["t"]] * (state["t"] is not None)  # none, where no frame came in time
            assert cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR).shape == (384, 384, 3)
        if len(taken) > 4:
            break
    assert len(taken) > 4 and taken == sorted(taken) and taken[0] % 1 == 0.5  # the page's own times
    assert ask(app, "POST", f"/live/stop?key={key}")[0] == 204
    assert json.loads(ask(app, "GET", f"/live/picture?key={key}")[1]["x-live"])["running"] is False
    path = desk.finish_recording("one")
    assert len(read_video(path)) >= 4 and read_provenance(path)["settings"]["live"] is True
    assert desk.finish_recording("another") is None


def test_one_stream_at_a_time_and_a_closed_page_ends_its_own(desk, portrait):
    desk.start("one", "me", portrait, None, STILL)
    with pytest.raises(UserError, match="another tab"):
        desk.start("two", "other", portrait, None, STILL)
    assert not desk.stop("two")
    live = desk.of_session("one").live
    until(lambda: desk.of_session("one") is None)  # whose page asks for no picture
    assert not live.running
    key, _ = desk.start("two", "other", portrait, None, STILL)
    assert desk.find(key, "other") and desk.stop("two") and not desk.stop("two")


def test_a_portrait_that_is_refused_leaves_the_place_free(desk, portrait, monkeypatch):
    def refuse(*_):
        raise UserError("no face", "one face", "take another picture")

    monkeypatch.setattr(web_live, "PortraitStream", refuse)
    for _ in range(2):
        with pytest.raises(UserError, match="no face"):
            desk.start("one", "me", portrait, None, STILL)


def test_sliders_of_a_page_without_the_stream_move_nothing(desk, portrait):
    desk.start("one", "me", portrait, None, {**STILL, "pose": 0.5})
    desk.steer("two", yaw=30)
    assert desk.steering.yaw == 0 and desk.steering.pose == 0.5
    desk.steer("one", yaw=30)
    assert desk.steering.yaw == 30 and desk.of_session("one").live.steering.yaw == 30


def test_only_the_visitor_with_the_key_reaches_a_stream_and_only_with_frames(desk, portrait):
    app = LiveAddresses(nothing, desk)
    key, _ = desk.start("one", "me", portrait, None, STILL)
    for path in (f"/live/frame?key={key}&t=1", f"/live/picture?key={key}", f"/live/stop?key={key}"):
        method = "GET" if "picture" in path else "POST"
        assert ask(app, method, path, visitor="other", body=jpeg())[0] == 403
        assert ask(app, method, path.replace(key, "x\u00e9"), body=jpeg())[0] == 403
        assert ask(app, method, path.partition("?")[0], body=jpeg())[0] == 403
    frame = f"/live/frame?key={key}&t=1"
    assert ask(app, "POST", frame, body=b"\0" * (FRAME_BYTES + 1))[0] == 413
    assert ask(app, "POST", frame, body=b"GIF89a")[0] == 400
    assert ask(app, "POST", frame, body=b"")[0] == 400
    assert ask(app, "POST", frame, body=jpeg(320, 240))[0] == 400
    assert ask(app, "POST", frame, body=jpeg()[:400])[0] in (204, 400)  # a cut one: decoded as far as it goes, or not
    for moment in ("", "nan", "inf", "x"):
        assert ask(app, "POST", f"/live/frame?key={key}&t={moment}", body=jpeg())[0] == 400
    assert ask(app, "GET", frame)[0] == 405 and ask(app, "POST", f"/live/else?key={key}")[0] == 405
    assert ask(app, "GET", f"/live/picture?key={key}&after=-1")[0] in (200, 204)
    assert desk.of_session("one").live.running


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"content_length": str(10**9)}, 413),
        ({}, 204),
    ],
)
def test_the_studios_defence_stands_before_a_streams_addresses(desk, portrait, tmp_path, headers, status):
    app = StudioDefence(LiveAddresses(nothing, desk), Uploads(tmp_path))
    key, _ = desk.start("one", "me", portrait, None, STILL)
    got, told, _ = ask(app, "POST", f"/live/frame?key={key}&t=1", body=jpeg(), **headers)
    assert got == status and told["x-content-type-options"] == "nosniff"


def test_a_real_server_answers_no_stream_without_a_key(server):
    request = urllib.request.Request(f"{server.url}live/frame?key=&t=1", data=jpeg(), method="POST")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)


def test_a_camera_drives_a_portrait_in_the_page_and_a_second_tab_is_told_to_wait(
    server, page, files, wait_for, tmp_path
):
    def state(of):
        return of.one("#live-state").text

    def begin(of):
        of.open(server)
        of.tab("Live")
        of.upload("live-portrait", files["portrait"])
        of.click("#live-start")

    begin(page)
    wait_for(lambda: "following" in state(page) and "frames a second" in state(page), "pictures of a followed face")
    assert page.one("#live-image").get_attribute("src").startswith("blob:") and page.one("#live-own").is_displayed()
    page.click("#live-record")
    wait_for(lambda: "recording" in state(page), "the recording")
    page.set_number("live-yaw", 25)
    time.sleep(3)
    page.click("#live-keep")
    selector = "#live-recorded a[href]"
    link = wait_for(lambda: page.all(selector), "the file")[0].get_attribute("href")
    video = tmp_path / "live.mp4"
    cookie = f"{COOKIE}={page.driver.get_cookie(COOKIE)['value']}"
    video.write_bytes(urllib.request.urlopen(urllib.request.Request(link, headers={"cookie": cookie})).read())
    assert read_video(video).std() > 10 and read_provenance(video)["settings"]["live"] is True
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(link)  # another visitor
    assert not page.errors(), page.errors()

    second = page.beside(server)
    try:
        begin(second)
        wait_for(lambda: "one at a time" in second.errors(), "the refusal")
    finally:
        second.close()
        page.open(server)  # a page that is left ends its stream, which else would go on beside every later test
