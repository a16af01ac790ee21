"""What stands between the studio and everyone else: which names it answers to, whose files are whose, how files leave.

Gradio alone answers any `Host`, serves uploads inline on the studio's own origin, and takes a path for a file that was
uploaded. So every request passes `StudioDefence` first:

- **Host.** A name that an attacker lets point here (DNS rebinding) is refused; addresses and listed names are answered.
- **Origin.** What another site's page asks for is refused, uploads included.
- **Uploads.** They belong to the visitor who made them, told apart by a cookie; others can neither fetch nor use them.
  They leave as attachments in a sandbox, so that no script within them ever runs on this origin.
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

COOKIE = "fportrait_visitor"
SANDBOX = "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"
EVERYWHERE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "SAMEORIGIN",
}
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class Uploads:
    """Who uploaded what. What the studio itself puts into the folder (samples, overlays) belongs to nobody.

    Args:
        folder: where Gradio keeps uploads. shared: folders that every visitor may use, such as the samples.
    """

    def __init__(self, folder: Path, shared: Iterable[Path] = ()):
        self.folder, self.shared = folder.resolve(), [path.resolve() for path in shared]
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
        method = scope.get("method", "GET")
        refusal = self._refusal(headers, method)
        known = visitor_of(headers.get("cookie", ""))
        file = served_file(scope["path"])
        if refusal is None and file is not None and self._foreign(known, file):
            refusal = (404, "Not found.")  # the same as for a file that is not there
        if refusal is not None:
            await respond(scope, send, *refusal)
            return
        visitor = known or secrets.token_urlsafe(24)
        uploading = method == "POST" and scope["path"].rstrip("/").endswith("/upload")
        body = bytearray()

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
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
                body.extend(message.get("body", b""))
                if not message.get("more_body"):  # before the browser learns the name, so that no request comes earlier
                    self.uploads.record(visitor, uploaded_paths(bytes(body)))
                    if not known:  # a client that keeps no cookie comes back without one
                        self.uploads.record("", uploaded_paths(bytes(body)))
            await send(message)

        await self.app(scope, receive, guarded)

    def _refusal(self, headers: dict[str, str], method: str) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self.answers_to(host):
            return 421, f"This studio does not answer to the name {host!r}. Start it with --name to allow one."
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "Requests from other sites are refused."
        if method not in SAFE_METHODS and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "Requests from other sites are refused."
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

    def _foreign(self, visitor: str, file: str) -> bool:
        return self._is_upload(file) and not self.uploads.may_use(visitor, file)


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
