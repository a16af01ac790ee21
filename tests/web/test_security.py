"""What a hostile page, visitor or name server may try against the studio."""

from __future__ import annotations

import http.client
import json
import secrets
import urllib.error
import urllib.request
from http.cookies import SimpleCookie
from urllib.parse import quote, urlsplit

import pytest

from fportrait.errors import UserError
from fportrait.web.security import COOKIE, StudioDefence, Uploads, served_file, visitor_of

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

    def look_at(self, path: str, meta: bool = True) -> str:
        """What the studio answers when a portrait is said to lie at `path`, through the address that a page uses."""
        value = {"path": path, "orig_name": "x.png"} | ({"meta": {"_type": "gradio.FileData"}} if meta else {})
        data = [value, None, None, "front", "", None, 1, 1, 1, 1, 1, 0, 1, "auto", False]
        functions = json.loads(self.ask("GET", "/config").content)["dependencies"]
        (number,) = [one["id"] for one in functions if one["api_name"] == "generate"]
        session = secrets.token_hex(6)
        body = json.dumps({"data": data, "fn_index": number, "session_hash": session}).encode()
        joined = self.ask("POST", "/gradio_api/queue/join", body, content_type="application/json")
        assert joined.status == 200, joined.content
        events = self.ask("GET", f"/gradio_api/queue/data?session_hash={session}").content.decode()
        done = [json.loads(line[5:]) for line in events.splitlines() if line.startswith("data:")]
        (end,) = [event for event in done if event["msg"] == "process_completed"]
        assert not end["success"]
        return end["output"]["error"]


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
