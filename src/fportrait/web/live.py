"""The one stream of a studio: who has it, its addresses, its recording. The page is `web.live_page`.

A stream begins with an event of the page, which has passed logins and the check of uploads, and is given a key. With
the key, and as the visitor who was given it, a page sends frames and fetches pictures:

    POST /live/frame?key=K&t=MS    a JPEG of 640×480, taken at the page's millisecond `t`
    GET  /live/picture?key=K&after=N   the newest picture if it is newer than number N (else 204), state in `x-live`
    POST /live/stop?key=K

A page that asks for nothing for a few seconds was closed: its stream ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import cv2
import numpy as np

from fportrait.animate.animator import Animator
from fportrait.animate.driving import Steering
from fportrait.animate.live import Live
from fportrait.animate.recording import Recording
from fportrait.animate.sources import FileSource, PushedSource
from fportrait.animate.stream import PortraitStream
from fportrait.bundle import BundleSettings, read_settings
from fportrait.errors import UserError
from fportrait.provenance import provenance_tags
from fportrait.web.security import respond, visitor_of
from fportrait.web.studio import Studio

FOLDER = "/live/"
FRAME_BYTES = 1024 * 1024  # of a frame's JPEG
FRAME = (640, 480)
SHOWN, QUALITY = 384, 85  # pixels of the picture on the page, and of its JPEG
CLOSED_AFTER = 10.0  # seconds in which a page that is open asks for a picture
WAIT, LOOK = 0.5, 0.01  # seconds a page waits for a new picture, and between looks
KEPT_TIMES = 512  # frames whose page's time is remembered


@dataclass
class Seat:
    """A page's stream."""

    session: str
    visitor: str
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    live: Live | None = None
    source: Any = None
    tags: dict[str, str] = field(default_factory=dict)
    recording: Recording | None = None
    recorded: Path | None = None
    newest: tuple[int, np.ndarray | None, float | None] = (0, None, None)  # number, picture, its page's time
    times: OrderedDict[float, float] = field(default_factory=OrderedDict)
    asked: float = field(default_factory=time.monotonic)
    note: str = ""  # what ended it
    ended: bool = False


class LiveDesk:
    """The stream of a server: one at a time.

    Args:
        studio: whose turns it takes while it reads a portrait. model: the bundle that streams; loaded at the first
            start. folder: for recordings. adapter: LoRA weights over the model.
    """

    def __init__(self, studio: Studio, model: Path, folder: Path, adapter: str | Path | None = None):
        self.studio, self.model, self.folder, self.adapter = studio, Path(model), folder, adapter
        self.settings: BundleSettings = read_settings(self.model)
        self.steering = Steering()
        self._lock = threading.RLock()
        self._seat: Seat | None = None
        self._last: Seat | None = None
        self._animator: Animator | None = None

    def start(
        self, session: str, visitor: str, portrait: Path, driving: Path | None, steering: Mapping[str, float]
    ) -> tuple[str, list[str]]:
        """Begin; returns the stream's key and what a viewer should know. `driving`: None takes the page's camera.

        Raises:
            UserError: another page has the stream, the portrait shows no face, or it was stopped meanwhile.
        """
        with self._lock:
            if self._seat is not None:
                raise UserError(
                    "a stream that runs in another tab", "one at a time", "stop it there, or close that tab"
                )
            seat = self._seat = Seat(session, visitor)
        try:
            with self.studio.job(f"{session} live", lambda what, done, total: None):
                if self._animator is None:
                    self._animator = Animator(self.model, adapter=self.adapter)
                stream = PortraitStream(self._animator, portrait)
                stream.warm_up()
            inputs = {"portrait": portrait, **({} if driving is None else {"driving": driving})}
            seat.tags = provenance_tags(self.model, inputs, stream.settings_tags())
            seat.source = PushedSource(FRAME) if driving is None else FileSource(driving, loop=True)
            self.steering = Steering(**{name: float(value) for name, value in steering.items()})
            live = Live(stream, seat.source, lambda frame, at: self._show(seat, frame, at), self.steering)
            with self._lock:
                if seat.ended:
                    raise UserError("a stream that was stopped before it began", "one that runs", "press Start again")
                seat.live, seat.asked = live.start(), time.monotonic()
        except BaseException:
            self._end(seat)
            raise
        threading.Thread(target=self._watch, args=(seat,), name="live watch", daemon=True).start()
        return seat.key, stream.notes

    def find(self, key: str, visitor: str) -> Seat | None:
        """The stream, running or the last one, of a key and of the visitor who was given it."""
        for seat in (self._seat, self._last):
            if seat is not None and seat.visitor == visitor and secrets.compare_digest(seat.key.encode(), key.encode()):
                return seat
        return None

    def of_session(self, session: str) -> Seat | None:
        """The stream that runs, if it is a session's."""
        seat = self._seat
        return seat if seat is not None and seat.session == session else None

    def stop(self, session: str) -> bool:
        """End a session's stream and finish its recording; whether it had one."""
        seat = self.of_session(session)
        if seat is not None:
            self._end(seat)
        return seat is not None

    def steer(self, session: str, **values: float) -> None:
        """Change the running stream; of a page that has none, nothing."""
        if self.of_session(session) is not None:
            for name, value in values.items():
                setattr(self.steering, name, float(value))

    def record(self, session: str) -> None:
        """Begin to record.

        Raises:
            UserError: the session has no stream.
        """
        seat = self.of_session(session)
        if seat is None or seat.live is None:
            raise UserError("no stream of yours to record", "one that runs", "press Start first")
        with self._lock:
            if seat.recording is None:
                path = self.folder / f"live-{secrets.token_hex(8)}" / "live.mp4"
                path.parent.mkdir(parents=True)
                seat.recording = Recording(path, seat.live.fps, seat.tags, max(1, 512 // self.settings.size))

    def finish_recording(self, session: str) -> Path | None:
        """The session's last recording, finished; None without one, or with nothing in it."""
        seat = self.of_session(session) or self._last
        if seat is None or seat.session != session:
            return None
        self._finish(seat)
        return seat.recorded

    def state(self, seat: Seat) -> dict[str, Any]:
        """What the page is told, beside the picture."""
        number, _, taken = seat.newest
        told = {} if seat.live is None else asdict(seat.live.status)
        if seat.ended:
            told |= {"running": False, "note": seat.note}
        return {**told, "number": number, "t": taken, "recording": seat.recording is not None}

    def push(self, seat: Seat, body: bytes, taken: float) -> str:
        """Take a frame of the page's camera; what is wrong with it, or ""."""
        if not isinstance(seat.source, PushedSource) or not math.isfinite(taken):
            return "no camera's frame is asked for"
        if jpeg_size(body) != FRAME:  # before anything is decoded
            return f"a frame that is no JPEG of {FRAME[0]}×{FRAME[1]}"
        image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            return "a JPEG that cannot be read"
        now = time.monotonic()
        seat.times[now] = taken
        while len(seat.times) > KEPT_TIMES:
            seat.times.popitem(last=False)
        seat.source.put(np.ascontiguousarray(image[..., ::-1]), now)
        return ""

    def _show(self, seat: Seat, frame: np.ndarray, at: float) -> None:
        recording = seat.recording
        if recording is not None:
            recording(frame, at)
        seat.newest = seat.newest[0] + 1, frame, seat.times.get(at)

    def _watch(self, seat: Seat) -> None:
        while seat.live is not None and seat.live.running and not seat.ended:
            if time.monotonic() - seat.asked > CLOSED_AFTER:
                seat.note = f"The page asked for nothing for {CLOSED_AFTER:g} s."
                break
            time.sleep(0.2)
        self._end(seat)

    def _end(self, seat: Seat) -> None:
        with self._lock:
            if seat.ended:
                return
            seat.ended = True
        if seat.live is not None:
            seat.note = seat.note or (seat.live.status.note if not seat.live.running else "")
            if isinstance(seat.source, PushedSource):
                seat.source.close()
            seat.live.stop()
        with contextlib.suppress(Exception):  # what broke the recording broke the stream, which has told it
            self._finish(seat)
        with self._lock:
            if self._seat is seat:
                self._seat, self._last = None, seat

    def _finish(self, seat: Seat) -> None:
        with self._lock:
            recording, seat.recording = seat.recording, None
        if recording is not None:
            seat.recorded = recording.close() or seat.recorded


def jpeg_size(body: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG states, or None for anything else."""
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(body), formats=("JPEG",)) as opened:
            return opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def coded(frame: np.ndarray) -> bytes:
    """A picture for the page, as JPEG."""
    large = cv2.resize(frame, (SHOWN, SHOWN), interpolation=cv2.INTER_CUBIC)
    _, jpeg = cv2.imencode(".jpg", large[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return bytes(jpeg.tobytes())


class LiveAddresses:
    """ASGI middleware, within `StudioDefence`, that answers a stream's addresses; see the module's text."""

    def __init__(self, app: Any, desk: LiveDesk):
        self.app, self.desk = app, desk

    async def __call__(self, scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(FOLDER):
            await self.app(scope, receive, send)
            return
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
        headers = {key.lower(): value.decode("latin-1") for key, value in scope["headers"]}
        seat = self.desk.find(query.get("key", ""), visitor_of(headers.get(b"cookie", "")))
        if seat is None:
            await respond(scope, send, 403, "No stream of yours has this key.")
            return
        what = scope["method"], scope["path"].removeprefix(FOLDER)
        if what == ("POST", "frame"):
            await self._frame(seat, query.get("t", ""), scope, receive, send)
        elif what == ("GET", "picture"):
            await self._picture(seat, query.get("after", ""), send)
        elif what == ("POST", "stop"):
            await asyncio.to_thread(self.desk.stop, seat.session)
            await answer(send, 204)
        else:
            await respond(scope, send, 405, "Not that way.")

    async def _frame(self, seat: Seat, taken: str, scope: Any, receive: Any, send: Any) -> None:
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body.extend(message.get("body", b""))
            more = message.get("more_body", False)
            if len(body) > FRAME_BYTES:
                await respond(scope, send, 413, f"More than {FRAME_BYTES // 1024} KiB are no frame.")
                return
        try:
            moment = float(taken)
        except ValueError:
            moment = math.nan
        wrong = await asyncio.to_thread(self.desk.push, seat, bytes(body), moment)
        if wrong:
            await respond(scope, send, 400, wrong)
        else:
            await answer(send, 204)

    async def _picture(self, seat: Seat, after: str, send: Any) -> None:
        shown = int(after) if after.isdecimal() else 0
        until = time.monotonic() + WAIT
        seat.asked = time.monotonic()
        while seat.newest[0] <= shown and not seat.ended and time.monotonic() < until:
            await asyncio.sleep(LOOK)
        number, frame, _ = seat.newest
        state = json.dumps(self.desk.state(seat))
        if number <= shown or frame is None:
            await answer(send, 204, state)
        else:
            await answer(send, 200, state, await asyncio.to_thread(coded, frame))


async def answer(send: Any, status: int, state: str | None = None, jpeg: bytes = b"") -> None:
    headers = {"cache-control": "no-store"}
    if state is not None:
        headers["x-live"] = state
    if jpeg:
        headers |= {"content-type": "image/jpeg", "content-length": str(len(jpeg))}
    pairs = [(name.encode(), value.encode("ascii")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": jpeg})
