"""The studio's page Live: inputs, the picture, the sliders that steer it, and what the buttons do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from fportrait.bundle import BundleSettings
from fportrait.errors import UserError
from fportrait.web.handlers import Handlers, sentences, visitor
from fportrait.web.live import LiveDesk
from fportrait.web.pages import sample_buttons, unopened
from fportrait.web.samples import PORTRAITS, VIDEOS
from fportrait.web.uploads import check_picture, check_video

CAMERA, VIDEO = "this page's camera", "a video, played as a camera"
SCRIPT = Path(__file__).parent.parent / "assets" / "live.js"
STEERED = ("yaw", "elevation", "distance", "expression", "pose")
QUICK: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
CSS = """
#live-view {position: relative; width: 100%; max-width: 480px; margin: 0 auto}
#live-frame {aspect-ratio: 1; background: #8882; border-radius: 6px; overflow: hidden; position: relative}
#live-image {width: 100%; height: 100%; cursor: grab; touch-action: none; user-select: none}
#live-own {position: absolute; right: 8px; bottom: 8px; width: 26%; border-radius: 4px; transform: scaleX(-1)}
#live-state {white-space: pre-line; min-height: 3em; margin: .4em 0 0}
"""
VIEW = """<div id="live-view"><div id="live-frame">
<img id="live-image" alt="The animated portrait" draggable="false" hidden>
<video id="live-own" aria-label="What the camera sees" muted playsinline hidden></video></div>
<p id="live-state">Choose a portrait and a driver, then press Start.</p></div>"""


@dataclass
class LivePage:
    """What the page holds."""

    portrait: Any
    portrait_samples: Any
    kind: Any
    driving: Any
    video: Any
    video_samples: Any
    start: Any
    stop: Any
    record: Any
    keep: Any
    recorded: Any
    sliders: list[Any]
    key: Any


def live_page(settings: BundleSettings) -> LivePage:
    """Inputs on the left, the picture in the middle, sliders on the right."""
    gr.Markdown(
        "A portrait that moves while its driver does. When this computer is too slow frames are left out, never queued."
    )
    with gr.Row():
        with gr.Column(scale=3, min_width=260):
            portrait = unopened(
                gr.Image(label="Portrait", sources=["upload"], type="filepath", height=220, elem_id="live-portrait")
            )
            portrait_samples = sample_buttons("live-portrait-sample", "Portrait", len(PORTRAITS))
            kind = gr.Radio([CAMERA, VIDEO], value=CAMERA, label="Driver", elem_id="live-kind")
            with gr.Column(visible=False) as driving:
                video = unopened(gr.Video(label="Video", sources=["upload"], height=200, elem_id="live-video"))
                video_samples = sample_buttons("live-video-sample", "Driving", len(VIDEOS))
        with gr.Column(scale=4, min_width=320):
            gr.HTML(VIEW, elem_id="live-picture")
            with gr.Row():
                start = gr.Button("Start", variant="primary", min_width=80, elem_id="live-start")
                stop = gr.Button("Stop", min_width=80, elem_id="live-stop")
                record = gr.Button("Record", min_width=80, elem_id="live-record")
                keep = gr.Button("Save", min_width=80, elem_id="live-keep")
            recorded = gr.File(label="Recording", interactive=False, elem_id="live-recorded")
        with gr.Column(scale=3, min_width=260):
            yaw, height = settings.trained_yaw, settings.trained_elevation
            sliders = [
                gr.Slider(-yaw, yaw, 0, step=1, label="Camera yaw", info="or drag the picture", elem_id="live-yaw"),
                gr.Slider(-height, height, 0, step=1, label="Camera elevation", elem_id="live-elevation"),
                gr.Slider(0.8, 1.25, 1, step=0.01, label="Camera distance", elem_id="live-distance"),
                gr.Slider(
                    0,
                    2,
                    1,
                    step=0.05,
                    label="Expression",
                    info="0: at rest, 1: the driver's",
                    elem_id="live-expression",
                ),
                gr.Slider(
                    0, 1.5, 1, step=0.05, label="Head pose", info="0: straight, 1: the driver's", elem_id="live-pose"
                ),
            ]
    key = gr.Textbox(visible="hidden", elem_id="live-key")
    return LivePage(
        portrait,
        portrait_samples,
        kind,
        driving,
        video,
        video_samples,
        start,
        stop,
        record,
        keep,
        recorded,
        sliders,
        key,
    )


class LiveHandlers:
    """What the page's inputs do."""

    def __init__(self, do: Handlers, desk: LiveDesk):
        self.do, self.desk = do, desk

    @sentences
    def start(self, portrait: Any, kind: str, video: Any, session: gr.Request, *values: float) -> str:
        """The key of a stream that has begun."""
        who = visitor(session)
        chosen = check_picture(self.do.uploads.check(who, portrait, "portrait"))
        driving = check_video(self.do.uploads.check(who, video, "driving video")) if kind == VIDEO else None
        key, notes = self.desk.start(
            str(session.session_hash), who, chosen, driving, dict(zip(STEERED, values, strict=True))
        )
        for note in notes:
            gr.Info(f"{note[:1].upper()}{note[1:]}.", duration=20)
        return key

    def stop(self, session: gr.Request) -> Any:
        """End this page's stream; the recording that ran is there."""
        self.desk.stop(str(session.session_hash))
        path = self._kept(session)
        return gr.skip() if path is None else path

    def steer(self, session: gr.Request, *values: float) -> None:
        self.desk.steer(str(session.session_hash), **dict(zip(STEERED, values, strict=True)))

    @sentences
    def record(self, session: gr.Request) -> None:
        self.desk.record(str(session.session_hash))

    @sentences
    def keep(self, session: gr.Request) -> str:
        """The finished recording, which is its visitor's."""
        path = self._kept(session)
        if path is None:
            raise UserError("no recording of yours", "one that was begun", "press Record first, then Save")
        return path

    def closed(self, session: gr.Request) -> None:
        """The page was left."""
        self.desk.stop(str(session.session_hash))

    def _kept(self, session: gr.Request) -> str | None:
        path = self.desk.finish_recording(str(session.session_hash))
        if path is None:
            return None
        self.do.uploads.record(visitor(session), [path])
        return str(path)


def connect_live(do: Handlers, desk: LiveDesk, pages: gr.Blocks, page: LivePage, sample: Any, no_toasts: str) -> None:
    """Buttons, sliders and samples; the script moves frames and pictures between the page and `LiveAddresses`."""
    handlers = LiveHandlers(do, desk)
    pages.load(None, None, None, js=SCRIPT.read_text(encoding="utf-8"), **QUICK)
    for button, name in zip(page.portrait_samples, PORTRAITS, strict=True):
        button.click(sample(name), None, page.portrait, api_visibility="private")
    for button, name in zip(page.video_samples, VIDEOS, strict=True):
        button.click(sample(name), None, page.video, api_visibility="private")
    for component, check, what in (
        (page.portrait, check_picture, "portrait"),
        (page.video, check_video, "driving video"),
    ):
        component.upload(do.looked_at(check, what), component, component, **QUICK)
    page.kind.change(lambda kind: gr.update(visible=kind == VIDEO), page.kind, page.driving, **QUICK)
    page.start.click(None, None, None, js=no_toasts, **QUICK)
    page.start.click(None, None, None, js="() => window.fportraitLive.getReady()", **QUICK)
    begun = page.start.click(
        handlers.start,
        [page.portrait, page.kind, page.video, *page.sliders],
        page.key,
        concurrency_limit=None,
        **QUICK,
    )
    begun.success(
        None,
        [page.key, page.kind],
        None,
        js=f"(key, kind) => {{ window.fportraitLive.begin(key, kind === {CAMERA!r}) }}",
        **QUICK,
    )
    begun.failure(None, None, None, js="() => window.fportraitLive.notStarted()", **QUICK)
    page.stop.click(None, None, None, js="() => window.fportraitLive.end()", **QUICK)
    page.stop.click(handlers.stop, None, page.recorded, queue=False, **QUICK)
    page.record.click(handlers.record, None, None, queue=False, **QUICK)
    page.keep.click(handlers.keep, None, page.recorded, queue=False, **QUICK)
    gr.on(
        [slider.change for slider in page.sliders],
        handlers.steer,
        page.sliders,
        None,
        trigger_mode="always_last",
        **QUICK,
    )
    pages.unload(handlers.closed)
