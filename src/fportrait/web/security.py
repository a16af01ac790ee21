"""What stands between the studio and everyone else: which names it answers to, whose files are whose, how files leave.

Gradio alone answers any `Host`, serves uploads inline on the studio's own origin, and takes a path for a file that was
uploaded. So every request passes `StudioDefence` first:

- **Host.** A name that an attacker lets point here (DNS rebinding) is refused; addresses and listed names are answered.
- **Origin.** What another site's page asks for is refused, uploads included.
- **Addresses.** Gradio has some sixty; those that the pages and a script need are answered, all others are not there.
- **Bodies.** They are counted while they arrive, all files of a request together, and uploads have one space in all.
- **Uploads.** They belong to the visitor who made them, told apart by a cookie; others can neither fetch nor use them.
  They leave as attachments in a sandbox, so that no script within them ever runs on this origin.
- **Results.** Of a result's folder the video, the pictures and the conditions leave, and nothing else.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import threading
from collections.abc import Callable, Collection, Iterable
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fportrait.errors import UserError
from fportrait.web.uploads import MIB, VIDEO_BYTES

COOKIE = "fportrait_visitor"
SANDBOX = "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"
EVERYWHERE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "SAMEORIGIN",
}
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# What is answered, without `/gradio_api`. Left out on purpose: `file/` and `proxy=` (other ways to files and servers),
# `component_server`, `process_recording`, `deep_link`, `dev/`, `vibe`, `profiling`, `monitoring`, `run-history`.
ADDRESSES = {
    *("", "config", "info", "theme.css", "favicon.ico", "manifest.json", "robots.txt", "login", "logout"),
    *("login_check", "user", "app_id", "upload", "upload_progress", "queue/join", "queue/data", "cancel", "reset"),
    *("startup-events", "live/frame", "live/picture", "live/stop"),
}
FOLDERS = ("static/", "assets/", "svelte/", "heartbeat/", "call/", "run/", "api/", "stream/", "file=")
UPLOAD_BYTES, OTHER_BYTES = VIDEO_BYTES + MIB, 4 * MIB  # of one request: all files together; anything else
SPACE = 20 * VIDEO_BYTES  # for the uploads of everyone; those of a day ago go
SERVED = (".mp4", ".png", ".zip", ".gif")  # of a result's folder


class Uploads:
    """Who uploaded what. What the studio itself puts into the folder (samples, overlays) belongs to nobody.

    Args:
        folder: where Gradio keeps uploads. shared: folders that every visitor may use, such as the samples.
        results: the folder of the results' folders, which everyone sees.
    """

    def __init__(self, folder: Path, shared: Iterable[Path] = (), results: Path | None = None):
        self.folder, self.shared = folder.resolve(), [path.resolve() for path in shared]
        self.results = results.resolve() if results else None
        self._owners: dict[Path, set[str]] = {}
        self._lock = threading.Lock()

    def record(self, visitor: str, paths: Iterable[str | Path]) -> None:
        with self._lock:
            for path in paths:
                self._owners.setdefault(Path(path).resolve(), set()).add(visitor)

    def may_use(self, visitor: str, path: str | Path) -> bool:
        """Whether a visitor's request may name this path. Nothing is said of whether there is such a file."""
        real = Path(path).resolve()  # links are followed before anything is compared
        if any(real.is_relative_to(folder) for folder in self.shared):
            return True
        if not real.is_relative_to(self.folder):
            return False
        with self._lock:
            owners = self._owners.get(real)
        return visitor in owners if owners else real.is_file()

    def may_fetch(self, visitor: str, path: str | Path) -> bool:
        """Whether a visitor's browser may have this file: what it may use, and the results' videos and pictures."""
        real = Path(path).resolve()
        name = real.parent.name
        if self.results and real.parent.parent == self.results and not name.startswith("."):
            return real.suffix in SERVED
        return self.may_use(visitor, path)

    def full(self) -> bool:
        """Whether all uploads together have used their space."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()) > SPACE

    def check(self, visitor: str, path: str | None, what: str) -> str | None:
        """The path, unchanged, when the visitor may use it; nothing chosen passes.

        Raises:
            UserError: the path is not the visitor's upload; the same words whether or not there is such a file.
        """
        if path and not self.may_use(visitor, path):
            raise UserError(f"a {what} that you did not upload", "an upload of yours, or a sample", "upload the file")
        return path


class StudioDefence:
    """ASGI middleware; see the module's text.

    Args:
        uploads: whose files are whose. names: host names, besides addresses and localhost, that the studio answers to.
    """

    def __init__(self, app: Any, uploads: Uploads, names: Collection[str] = ()):
        self.app, self.uploads = app, uploads
        self.names = {name.lower() for name in (*names, "localhost")}

    async def __call__(self, scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        known = visitor_of(headers.get("cookie", ""))
        file = served_file(scope["path"])
        uploading = scope.get("method") == "POST" and scope["path"].rstrip("/").endswith("/upload")
        limit = UPLOAD_BYTES if uploading else OTHER_BYTES
        refusal = self._refusal(scope, headers) or self._no_room(headers, uploading, limit)
        if refusal is None and file is not None and not self.uploads.may_fetch(known, file):
            refusal = (404, "Not found.")  # the same as for a file that is not there
        if refusal is not None:
            await respond(scope, send, *refusal)
            return
        visitor = known or secrets.token_urlsafe(24)
        answer, body = bytearray(), Counted(receive, limit)
        started = False

        async def guarded(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                extra = dict(EVERYWHERE)
                if file is not None:
                    extra["content-security-policy"] = SANDBOX
                    if self._is_upload(file):
                        extra["content-disposition"] = "attachment"
                if not known:
                    extra["set-cookie"] = f"{COOKIE}={visitor}; Path=/; HttpOnly; SameSite=Strict"
                replaced = {name.encode() for name in extra if name != "set-cookie"}
                kept = [(key, value) for key, value in message["headers"] if key.lower() not in replaced]
                message["headers"] = kept + [(key.encode(), value.encode()) for key, value in extra.items()]
            elif uploading and message["type"] == "http.response.body":
                answer.extend(message.get("body", b""))
                if not message.get("more_body"):  # before the browser learns the name, so that no request comes earlier
                    self.uploads.record(visitor, uploaded_paths(bytes(answer)))
                    if not known:  # a client that keeps no cookie comes back without one
                        self.uploads.record("", uploaded_paths(bytes(answer)))
            await send(message)

        try:
            await self.app(scope, body.receive, guarded)
        except Exception:
            if not body.over or started:
                raise
        if body.over and not started:
            await respond(scope, send, *too_large(limit))

    def _refusal(self, scope: Any, headers: dict[str, str]) -> tuple[int, str] | None:
        host, method = headers.get("host", ""), scope.get("method", "GET")
        for name in (host, headers.get("x-forwarded-host", host)):  # Gradio writes the latter into its pages
            if not self.answers_to(name):
                return 421, f"This studio does not answer to the name {name!r}. Start it with --name to allow one."
        if not answered(scope["path"]):
            return 404, "Not found."
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "Requests from other sites are refused."
        # Another site may link here, and that is all: no picture, script or form of it reaches the studio.
        linked = method in SAFE_METHODS and headers.get("sec-fetch-mode", "navigate") == "navigate"
        linked = linked and headers.get("sec-fetch-dest", "document") == "document"
        if not linked and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "Requests from other sites are refused."
        return None

    def _no_room(self, headers: dict[str, str], uploading: bool, limit: int) -> tuple[int, str] | None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            return too_large(limit)
        if uploading and self.uploads.full():
            return 507, "The studio's space for uploads is full. Uploads go a day after they came; try again later."
        return None

    def answers_to(self, host: str) -> bool:
        """Whether a `Host` header is an address, or a name of this studio's."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            return name in self.names
        return True  # nobody can let an address point elsewhere

    def _is_upload(self, file: str) -> bool:
        return Path(file).resolve().is_relative_to(self.uploads.folder)


class Counted:
    """An ASGI `receive` that hangs up once a body is longer than `limit` bytes, which then is `over`."""

    def __init__(self, receive: Callable[..., Any], limit: int):
        self._receive, self._left, self.over = receive, limit, False

    async def receive(self) -> Any:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            self.over = self._left < 0
        return {"type": "http.disconnect"} if self.over else message


def too_large(limit: int) -> tuple[int, str]:
    return 413, f"More than {limit // MIB} MiB at once are not taken."


def answered(path: str) -> bool:
    """Whether the studio has this address; Gradio has many more."""
    path = path.removeprefix("/gradio_api").strip("/") if served_file(path) is None else "file="
    return path in ADDRESSES or path.startswith(FOLDERS)


def visitor_of(cookies: str) -> str:
    """The visitor's mark in a `Cookie` header; "" for a client that keeps none: all such clients are one visitor."""
    try:
        found = SimpleCookie(cookies).get(COOKIE)
    except Exception:  # a cookie that is none; http.cookies has several errors for it
        return ""
    return found.value if found else ""


def served_file(path: str) -> str | None:
    """The file that a Gradio address serves (`…/file=PATH`), or None for another address."""
    _, mark, file = path.partition("/file=")
    return file if mark else None


def uploaded_paths(body: bytes) -> list[str]:
    """The paths in Gradio's answer to an upload."""
    try:
        content = json.loads(body)
    except ValueError:
        return []
    return [path for path in content if isinstance(path, str)] if isinstance(content, list) else []


async def respond(scope: Any, send: Callable[..., Any], status: int, text: str) -> None:
    """A plain answer of one line."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = {**EVERYWHERE, "content-type": "text/plain; charset=utf-8", "content-length": str(len(text.encode()))}
    pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": text.encode()})
