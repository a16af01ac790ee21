"""The studio's tab *Live*: a portrait animated while its driver moves, steered by sliders; one stream at a time.

Camera and files are this computer's own, so the tab works on a loopback address alone. Pictures go to the page inside
the stream of its own event; no address is added to the studio's.
"""

from __future__ import annotations

import base64
import html
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np

from fportrait.animate.animator import Animator
from fportrait.animate.driving import Steering
from fportrait.animate.live import Live, Status
from fportrait.animate.recording import Recording
from fportrait.animate.stream import PortraitStream
from fportrait.bundle import BundleSettings, read_settings
from fportrait.capture.sources import CameraSource, FileSource
from fportrait.errors import UserError
from fportrait.provenance import provenance_tags
from fportrait.web.handlers import sentences, visitor
from fportrait.web.pages import unopened
from fportrait.web.security import Uploads
from fportrait.web.uploads import check_picture, check_video

CAMERA, VIDEO = "camera", "video, played as a camera"
SHOWN = 448  # pixels of the picture on the page
QUALITY = 85  # of its JPEG
TOLD = 0.25  # seconds after which the page is told of a stream that shows nothing new
QUICK: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class LiveDesk:
    """The one stream of a server, and who has it.

    Args:
        model: a bundle, a student's where time counts; loaded when the first stream starts. folder: for recordings.
    """

    def __init__(self, model: Path, folder: Path):
        self.model, self.folder = Path(model), folder
        self.settings: BundleSettings = read_settings(self.model)
        self.steering = Steering()
        self._lock = threading.Lock()
        self._owner: str | None = None
        self._live: Live | None = None
        self._animator: Animator | None = None
        self._recording: Recording | None = None
        self._tags: dict[str, str] = {}
        self._newest: np.ndarray | None = None
        self._kept: dict[str, Path] = {}  # finished recordings by session
        self._fresh = threading.Event()

    @property
    def running(self) -> bool:
        return self._owner is not None

    def frames(
        self, session: str, portrait: Path, opened: Callable[[], Any], driving: Path | None
    ) -> Iterator[tuple[Any, Status]]:
        """Start, and give the newest picture `S S 3` (None: nothing yet) with the state, until the stream ends.

        Whatever ends the iteration, a closed tab too, ends the stream. `opened` gives the source.

        Raises:
            UserError: another tab has a stream, the portrait shows no face, the source gave nothing.
        """
        with self._lock:
            if self._owner is not None:
                raise UserError(
                    "a stream that runs in another tab", "one at a time", "press Stop there, or close that tab"
                )
            self._owner = session
        live = None
        try:
            if self._animator is None:
                self._animator = Animator(self.model)
            stream = PortraitStream(self._animator, portrait)
            stream.warm_up()
            inputs = {"portrait": portrait, **({} if driving is None else {"driving": driving})}
            self._tags = provenance_tags(self.model, inputs, stream.settings_tags())
            live = Live(stream, opened(), self._sink, self.steering)
            with self._lock:
                if self._owner != session:  # stopped while the model was loaded
                    return
                self._live = live.start()
            while live.running and self.owns(session):
                self._fresh.wait(TOLD)
                self._fresh.clear()
                yield self._newest, live.status
            if self.owns(session):
                live.wait()
                yield self._newest, live.status
        finally:
            if live is not None:
                live.stop()
            self.stop(session)

    def _sink(self, frame: np.ndarray, at: float) -> None:
        recording = self._recording
        if recording is not None:
            recording(frame, at)
        self._newest = frame
        self._fresh.set()

    def owns(self, session: str) -> bool:
        return self._owner == session

    def stop(self, session: str) -> bool:
        """End a session's stream and finish its recording; whether it had one."""
        with self._lock:
            if self._owner != session:
                return False
            live, self._live, self._newest = self._live, None, None
        if live is not None:
            live.stop()
        self.finish_recording(session)
        with self._lock:
            self._owner = None
        return True

    def record(self, session: str) -> None:
        """Begin to record.

        Raises:
            UserError: the session has no stream.
        """
        if not self.owns(session) or self._live is None:
            raise UserError("no stream of yours to record", "one that runs", "press Start first")
        if self._recording is None:
            path = self.folder / f"live-{secrets.token_hex(8)}" / "live.mp4"
            path.parent.mkdir(parents=True)
            scale = max(1, 512 // self.settings.size)
            self._recording = Recording(path, self._live.fps, self._tags, scale)

    def finish_recording(self, session: str) -> Path | None:
        """The session's last recording, finished; None without one, or with nothing in it."""
        if self.owns(session) and self._recording is not None:
            recording, self._recording = self._recording, None
            path = recording.close()
            if path is not None:
                self._kept[session] = path
        return self._kept.get(session)


@dataclass
class LivePage:
    """What the tab shows."""

    portrait: Any
    kind: Any
    number: Any
    video: Any
    start: Any
    stop: Any
    record: Any
    keep: Any
    picture: Any
    sliders: list[Any]
    recorded: Any


def live_page(settings: BundleSettings) -> LivePage:
    """Inputs, buttons, sliders and the picture."""
    with gr.Row():
        with gr.Column(scale=4, min_width=280):
            portrait = unopened(
                gr.Image(label="Portrait", sources=["upload"], type="filepath", height=200, elem_id="live-portrait")
            )
            kind = gr.Radio([CAMERA, VIDEO], value=CAMERA, label="Driver", elem_id="live-kind")
            number = gr.Number(0, label="Camera's number", precision=0, minimum=0, maximum=63, elem_id="live-number")
            video = unopened(
                gr.Video(label="Video", sources=["upload"], height=200, visible=False, elem_id="live-video")
            )
        with gr.Column(scale=5, min_width=320):
            picture = gr.HTML(idle(), elem_id="live-picture")
            with gr.Row():
                start = gr.Button("Start", variant="primary", elem_id="live-start")
                stop = gr.Button("Stop", elem_id="live-stop")
                record = gr.Button("Record", elem_id="live-record")
                keep = gr.Button("Finish recording", elem_id="live-keep")
            recorded = gr.File(label="Recording", interactive=False, elem_id="live-recorded")
        with gr.Column(scale=3, min_width=240):
            yaw, height = settings.trained_yaw, settings.trained_elevation
            sliders = [
                gr.Slider(-yaw, yaw, 0, step=1, label="Camera, left to right (°)", elem_id="live-yaw"),
                gr.Slider(-height, height, 0, step=1, label="Camera, down to up (°)", elem_id="live-elevation"),
                gr.Slider(0.8, 1.25, 1, step=0.01, label="Camera's distance", elem_id="live-distance"),
                gr.Slider(0, 2, 1, step=0.05, label="Expression", elem_id="live-expression"),
                gr.Slider(0, 1.5, 1, step=0.05, label="Head pose", elem_id="live-pose"),
            ]
    return LivePage(portrait, kind, number, video, start, stop, record, keep, picture, sliders, recorded)


def connect_live(desk: LiveDesk, uploads: Uploads, pages: gr.Blocks, page: LivePage) -> None:
    """What the tab's buttons and sliders do; a tab that is closed or left ends its stream."""

    @sentences
    def start(portrait: Any, kind: str, number: Any, video: Any, session: gr.Request) -> Iterator[Any]:
        return stream_of(str(session.session_hash), visitor(session), portrait, kind, number, video)

    def stream_of(key: str, who: str, portrait: Any, kind: str, number: Any, video: Any) -> Iterator[Any]:
        uploads.check(who, portrait, "portrait")
        chosen = check_picture(portrait)
        driving = check_video(uploads.check(who, video, "driving video")) if kind == VIDEO else None

        def opened() -> Any:
            return CameraSource(int(number or 0)) if driving is None else FileSource(driving, loop=True)

        for frame, status in desk.frames(key, chosen, opened, driving):
            yield shown(frame, status)
        yield idle("The stream has ended.")

    def guarded(portrait: Any, kind: str, number: Any, video: Any, session: gr.Request) -> Iterator[Any]:
        making = start(portrait, kind, number, video, session)
        step = sentences(lambda: next(making, None))
        try:
            while (value := step()) is not None:
                yield value
        finally:
            making.close()

    def steer(session: gr.Request, *values: float) -> None:
        if desk.running and not desk.owns(str(session.session_hash)):
            return
        for name, value in zip(("yaw", "elevation", "distance", "expression", "pose"), values, strict=True):
            setattr(desk.steering, name, float(value))

    def stop(session: gr.Request) -> None:
        if not desk.stop(str(session.session_hash)):
            gr.Info("No stream of this tab is running.")

    @sentences
    def record(session: gr.Request) -> None:
        desk.record(str(session.session_hash))
        gr.Info("Recording.")

    @sentences
    def keep(session: gr.Request) -> Any:
        path = desk.finish_recording(str(session.session_hash))
        if path is None:
            raise UserError("no recording of yours", "one that was begun", "press Record while a stream runs")
        uploads.record(visitor(session), [path])
        return str(path)

    def closed(session: gr.Request) -> None:
        desk.stop(str(session.session_hash))

    page.start.click(
        guarded,
        [page.portrait, page.kind, page.number, page.video],
        page.picture,
        concurrency_limit=None,
        **QUICK,
    )
    page.stop.click(stop, None, None, queue=False, **QUICK)
    page.record.click(record, None, None, queue=False, **QUICK)
    page.keep.click(keep, None, page.recorded, queue=False, **QUICK)
    page.kind.change(
        lambda kind: (gr.update(visible=kind == CAMERA), gr.update(visible=kind == VIDEO)),
        page.kind,
        [page.number, page.video],
        **QUICK,
    )
    gr.on([slider.change for slider in page.sliders], steer, page.sliders, None, trigger_mode="always_last", **QUICK)
    pages.unload(closed)


def shown(frame: np.ndarray | None, status: Status) -> str:
    """The picture and its state, as HTML."""
    line = (
        f"{status.rate:.0f} frames a second · {1000 * status.latency:.0f} ms · {status.dropped} dropped · "
        f"{html.escape(status.state)}"
    )
    note = f"<p>{html.escape(status.note)}</p>" if status.note else ""
    if frame is None:
        return idle("Getting ready …")
    large = cv2.resize(frame, (SHOWN, SHOWN), interpolation=cv2.INTER_CUBIC)
    good, coded = cv2.imencode(".jpg", large[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert good
    data = base64.b64encode(coded.tobytes()).decode()
    return (
        f'<img src="data:image/jpeg;base64,{data}" width="{SHOWN}" height="{SHOWN}" '
        f'style="max-width:100%;height:auto" alt="the animated portrait">'
        f'<p id="live-state" data-time="{time.monotonic():.3f}">{line}</p>{note}'
    )


def idle(text: str = "Choose a portrait and a driver, then press Start.") -> str:
    """The place of the picture, without one."""
    return (
        f'<div style="width:{SHOWN}px;max-width:100%;aspect-ratio:1;display:flex;align-items:center;'
        f'justify-content:center;background:#8882"><p id="live-state">{html.escape(text)}</p></div>'
    )
