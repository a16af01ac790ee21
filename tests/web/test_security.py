"""What a hostile page, visitor or name server may try against the studio."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import shutil
import urllib.error
import urllib.request
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from fportrait.animate.retarget import SLIDERS
from fportrait.errors import UserError
from fportrait.web.security import (
    COOKIE,
    OTHER_BYTES,
    UPLOAD_BYTES,
    StudioDefence,
    Uploads,
    served_file,
    visitor_of,
)

SCRIPTS = {
    "page.html": b"<script>alert(document.cookie)</script>",
    "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "page.xhtml": b"<html xmlns='http://www.w3.org/1999/xhtml'><script>alert(1)</script></html>",
    "clip.mp4": b"<!doctype html><script>alert(1)</script>",
    "portrait.png": b"<!doctype html><script>alert(1)</script>",
}


class Visitor:
    """A client that keeps its cookies, as a browser does."""

    def __init__(self, server, keeps_cookies: bool = True):
        self.address, self.cookie = urlsplit(server.url).netloc, ""
        if keeps_cookies:
            answer = self.ask("GET", "/")
            found = SimpleCookie(answer.headers["set-cookie"])[COOKIE]
            assert found["httponly"] and found["samesite"] == "Strict"
            self.cookie = f"{COOKIE}={found.value}"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("host", self.address)
        if self.cookie:
            named["cookie"] = self.cookie
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        answer.content = answer.read()  # type: ignore[attr-defined]
        return answer

    def upload(self, name: str, content: bytes, kind: str = "text/html", **headers: str) -> http.client.HTTPResponse:
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\nContent-Type: {kind}\r\n\r\n'
        body = head.encode() + content + b"\r\n--x--\r\n"
        return self.ask("POST", "/gradio_api/upload", body, content_type="multipart/form-data; boundary=x", **headers)

    def fetch(self, path: str) -> http.client.HTTPResponse:
        return self.ask("GET", f"/gradio_api/file={quote(path)}")

    def job(self, portrait: object, **values: object) -> dict:
        """Ask for a video as a page does, with any values; the event that ends the job."""
        given = {
            "kind": "front",
            "keys": "",
            "file": None,
            "steps": 1,
            "frames": 1,
            "seed": 0,
            "neutral": "auto",
        } | values
        data = [portrait, None, None, given["kind"], given["keys"], given["file"], 1, 1, 1, 1]
        data += [given["steps"], given["seed"], given["frames"], given["neutral"], False]
        data += [*(0 for _ in SLIDERS), "square", 64]
        return self.call("generate", data)

    def call(self, name: str, data: list) -> dict:
        """Call a function of the pages' with any values, zeros at the end; the event that ends it."""
        functions = json.loads(self.ask("GET", "/config").content)["dependencies"]
        ((number, inputs),) = [(one["id"], one["inputs"]) for one in functions if one["api_name"] == name]
        data = data + [0] * (len(inputs) - len(data))
        session = secrets.token_hex(6)
        body = json.dumps({"data": data, "fn_index": number, "session_hash": session}).encode()
        joined = self.ask("POST", "/gradio_api/queue/join", body, content_type="application/json")
        assert joined.status == 200, joined.content
        events = self.ask("GET", f"/gradio_api/queue/data?session_hash={session}").content.decode()
        done = [json.loads(line[5:]) for line in events.splitlines() if line.startswith("data:")]
        (end,) = [event for event in done if event["msg"] == "process_completed"]
        return end

    @staticmethod
    def refusal(end: dict) -> str | None:
        assert not end["success"]
        return end["output"]["error"]

    def look_at(self, path: str, meta: bool = True) -> str:
        """What the studio answers when a portrait is said to lie at `path`, through the address that a page uses."""
        value = {"path": path, "orig_name": "x.png"} | ({"meta": {"_type": "gradio.FileData"}} if meta else {})
        return self.refusal(self.job(value))


@pytest.fixture(scope="module")
def visitors(server):
    return Visitor(server), Visitor(server)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_no_upload_is_ever_shown_as_a_page_of_the_studio(visitors, name):
    mine, _ = visitors
    (path,) = json.loads(mine.upload(name, SCRIPTS[name]).content)
    answer = mine.fetch(path)
    assert answer.status == 200 and answer.content == SCRIPTS[name]
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("sandbox")


def test_an_upload_is_its_visitors_alone(visitors):
    mine, other = visitors
    (path,) = json.loads(mine.upload("mine.png", b"mine", "image/png").content)
    absent = path.replace("mine.png", "nothing.png")
    assert mine.fetch(path).status == 200
    stranger, nothing = other.fetch(path), other.fetch(absent)
    assert stranger.status == 404 and nothing.status in (403, 404)
    for named in (path, absent, "/etc/passwd", "/etc/nothing"):
        assert "a portrait that you did not upload" in other.look_at(named, meta=False)


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/nothing", "../../etc/passwd", "{results}/.lock", "."])
@pytest.mark.parametrize("meta", [True, False])
def test_a_path_that_was_never_uploaded_is_neither_read_nor_told_about(server, visitors, path, meta):
    answer = visitors[0].look_at(path.format(results=server.folder), meta)
    assert "passwd" not in (answer or "") and str(server.folder) not in (answer or "")
    if not meta:  # else Gradio itself refuses, without a word
        assert "that you did not upload" in answer


@pytest.mark.parametrize(
    "address",
    [
        *(
            "/gradio_api/file/etc/passwd",
            "/gradio_api/proxy=http://127.0.0.1:1/",
            "/gradio_api/dev/reload",
            "/monitoring",
        ),
        *("/gradio_api/openapi.json", "/openapi.json", "/gradio_api/deep_link?session_hash=x", "/gradio_api/vibe-code"),
        *("/gradio_api/component_server", "/gradio_api/process_recording", "/gradio_api/token", "/docs"),
        *("/gradio_api/file=http://127.0.0.1:1/x", "/gradio_api/file=/etc/passwd", "/custom_component/x/y/z/passwd"),
    ],
)
def test_what_gradio_offers_beside_the_pages_is_not_there(visitors, address):
    for method in ("GET", "POST"):
        answer = visitors[0].ask(method, address)
        assert (answer.status, answer.content) == (404, b"Not found.")


def test_of_a_result_its_files_leave_and_not_its_settings_nor_the_studios_lock(server, visitors):
    result = server.folder / "20260101-000000-abcdef"
    result.mkdir()
    try:
        for name in ("video.mp4", "picture.png", "settings.json"):
            (result / name).write_bytes(b"x")
        assert visitors[0].fetch(str(result / "video.mp4")).status == 200
        for path in (result / "settings.json", server.folder / ".lock", result / "../.lock", result):
            assert visitors[0].fetch(str(path)).status == 404
    finally:
        shutil.rmtree(result)


def test_many_files_in_one_request_count_as_one_upload(server, visitors):
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="f.png"\r\n\r\n' + bytes(2**20) + b"\r\n"
    kind = "multipart/form-data; boundary=x"
    announced = visitors[0].ask("POST", "/gradio_api/upload", part, content_type=kind, content_length=str(2**30))
    assert announced.status == 413

    def endless():  # without a Content-Length, as a stranger's client may send it
        for _ in range(UPLOAD_BYTES // len(part) + 8):
            yield part

    with contextlib.suppress(OSError):  # the studio may hang up while we still send
        sent = visitors[0].ask("POST", "/gradio_api/upload", endless(), content_type=kind, transfer_encoding="chunked")
        assert sent.status >= 400
    assert sum(path.stat().st_size for path in server.folder.rglob("*") if path.is_file()) < UPLOAD_BYTES
    assert visitors[0].ask("POST", "/gradio_api/queue/join", b" " * (OTHER_BYTES + 1)).status == 413
    assert server.answers()


def test_a_full_space_for_uploads_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("fportrait.web.security.SPACE", 10)
    (tmp_path / "x.png").write_bytes(b"x" * 11)
    defence = StudioDefence(None, Uploads(tmp_path))
    assert defence._no_room({}, True, UPLOAD_BYTES)[0] == 507 and defence._no_room({}, False, OTHER_BYTES) is None


def test_a_proxys_word_for_the_name_is_checked_like_the_name(visitors):
    assert visitors[0].ask("GET", "/", x_forwarded_host="evil.example").status == 421


@pytest.mark.parametrize(
    ("mode", "dest", "status"), [("no-cors", "image", 403), ("navigate", "iframe", 403), ("navigate", "document", 200)]
)
def test_another_site_may_link_to_the_studio_and_that_is_all(visitors, mode, dest, status):
    headers = {"sec_fetch_site": "cross-site", "sec_fetch_mode": mode, "sec_fetch_dest": dest}
    assert visitors[0].ask("GET", "/", **headers).status == status


@pytest.mark.parametrize(
    "values",
    [
        *({"steps": 10**9}, {"frames": 10**9}, {"seed": -5}, {"seed": 1e308}, {"kind": "/etc/passwd.json"}),
        *(
            {"neutral": "9" * 5000},
            {"kind": "own path", "keys": "0,0;" * 100_000},
            {"kind": "own path", "keys": "nan,1"},
        ),
    ],
)
def test_values_that_no_slider_has_are_refused(visitors, values, tmp_path):
    refusal = visitors[0].refusal(visitors[0].job(None, **values))
    assert "fault" not in (refusal or "").lower() and "Traceback" not in (refusal or "")


# kind, keys, camera file, seed, length: a field that was emptied gives None, and Gradio's limits let NaN through
@pytest.mark.parametrize(
    "values",
    [
        *([None, "", None, 0, 9], ["own path", "\0", None, 0, 9], ["front", None, None, None, 9]),
        ["front", "", None, 0, float("nan")],
    ],
)
def test_an_emptied_field_is_named_and_is_no_fault(visitors, values):
    refusal = visitors[0].refusal(visitors[0].call("draw_camera", values))
    assert refusal and refusal.startswith("Found") and "fault" not in refusal


def test_the_line_beside_generate_stays_silent_about_fields_that_are_no_numbers(visitors):
    for values in (["square", 64, None, None, float("nan"), 4], ["square", 64, None, None, 9, float("nan")]):
        assert visitors[0].call("plan", [None, *values, 1, 1, 1, 1])["output"]["data"] == [""]


@pytest.mark.parametrize("name", ["..", "../..", "../results", "/etc", ".lock", "", "\0", "x" * 4000])
def test_a_result_is_deleted_by_its_own_name_alone(server, visitors, name):
    before = sorted(server.folder.parent.rglob("*"))
    visitors[0].call("delete_result", [name])
    assert sorted(server.folder.parent.rglob("*")) == before and server.answers()


NAMES = ("../../x.png", "ü 😀 \u202egnp.png", "." * 200 + ".png", ".png", "a\\b.png", "%2e%2e%2fx.png")


@pytest.mark.parametrize("name", NAMES)
def test_an_upload_of_any_name_lies_in_the_uploads(server, visitors, name):
    answer = visitors[0].upload(name, b"x", "image/png")
    assert answer.status == 200
    (path,) = json.loads(answer.content)
    assert "/../" not in path and Path(path).resolve().is_relative_to(server.folder / ".uploads")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil", "", "["]
)
def test_a_name_that_is_not_the_studios_gets_no_answer(visitors, host):
    assert visitors[0].ask("GET", "/", host=host).status in (400, 421)
    assert visitors[0].upload("x.png", b"x", host=host).status in (400, 421)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost"])
def test_what_another_sites_page_asks_for_is_refused(visitors, origin):
    mine, _ = visitors
    assert mine.upload("x.png", b"x", origin=origin).status == 403
    assert mine.ask("GET", "/config", origin=origin).status == 403
    assert mine.upload("x.png", b"x", sec_fetch_site="cross-site").status == 403


def test_the_studios_own_page_may_upload(server, visitors):
    assert visitors[0].upload("x.png", b"x", origin=server.url.rstrip("/"), sec_fetch_site="same-origin").status == 200


def test_a_client_without_cookies_may_use_what_it_uploaded(server):
    plain = Visitor(server, keeps_cookies=False)
    (path,) = json.loads(plain.upload("plain.png", b"plain", "image/png").content)
    assert plain.fetch(path).status == 200
    assert "not a picture" in plain.look_at(path)


def test_every_answer_forbids_guessing_kinds_and_framing_by_others(server):
    headers = urllib.request.urlopen(server.url).headers
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "SAMEORIGIN"


def test_a_link_out_of_the_folder_is_followed_before_it_is_judged(tmp_path):
    (tmp_path / "uploads").mkdir()
    for name in ("secret", "samples/portrait.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "uploads/link").symlink_to(tmp_path / "secret")
    uploads = Uploads(tmp_path / "uploads", [tmp_path / "samples"])
    assert not uploads.may_use("me", tmp_path / "uploads/link")
    assert uploads.may_use("me", tmp_path / "samples/portrait.png")
    with pytest.raises(UserError, match="did not upload"):
        uploads.check("me", str(tmp_path / "uploads/../secret"), "portrait")
    assert uploads.check("me", None, "portrait") is None


def test_two_visitors_who_upload_the_same_bytes_both_own_them(tmp_path):
    uploads = Uploads(tmp_path)
    uploads.record("a", [tmp_path / "x.png"])
    assert not uploads.may_use("b", tmp_path / "x.png")
    uploads.record("b", [tmp_path / "x.png"])
    assert uploads.may_use("a", tmp_path / "x.png") and uploads.may_use("b", tmp_path / "x.png")


def test_addresses_and_listed_names_are_answered(tmp_path):
    defence = StudioDefence(None, Uploads(tmp_path), names=["Portraits.example.org"])
    for host in ("127.0.0.1:7860", "[::1]:7860", "10.0.0.7", "localhost", "portraits.example.org:443", "LOCALHOST:1"):
        assert defence.answers_to(host), host
    for host in ("", "example.org", "portraits.example.org.evil.example", "127.0.0.1.nip.example", "[::1", "a b"):
        assert not defence.answers_to(host), host


@pytest.mark.parametrize("cookies", ["", "other=1", f"{COOKIE}=abc; other=1", '"', "a=b=c;;;", f"{COOKIE}="])
def test_cookies_of_any_shape_are_read(cookies):
    assert visitor_of(cookies) == ("abc" if "abc" in cookies else "")


def test_the_file_in_an_address_is_found_under_every_prefix():
    assert served_file("/gradio_api/file=/tmp/x y.html") == "/tmp/x y.html"
    assert served_file("/file=a/file=b") == "a/file=b" and served_file("/config") is None
