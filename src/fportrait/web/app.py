"""The pages of the web studio (Gradio), and the server."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before Gradio is imported: nothing here may call home.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr

from fportrait.web.edit import connect_editing, editing
from fportrait.web.handlers import Handlers, add_key, camera_inputs, clips_long, drop_key
from fportrait.web.live import LiveAddresses, LiveDesk
from fportrait.web.live_page import CSS as LIVE_CSS
from fportrait.web.live_page import connect_live, live_page
from fportrait.web.pages import (
    Camera,
    Output,
    Past,
    Sampling,
    Sources,
    Trace,
    camera,
    intro,
    output,
    past,
    sampling,
    sources,
    trace,
)
from fportrait.web.samples import PORTRAITS, VIDEOS, sample_files, thumbnail_style
from fportrait.web.security import StudioDefence, Uploads
from fportrait.web.studio import Studio
from fportrait.web.uploads import VIDEO_BYTES, check_picture, check_video

ETHICS = (
    "Animate only people who agreed to it. Every video made here says in its metadata that it is synthetic; do not "
    "remove that, and do not pass a video off as a recording."
)
QUICK: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
CSS = """
.gradio-container {max-width: 1280px !important; margin: 0 auto !important}
footer {display: none !important}
#angle-map img {cursor: crosshair}
#example {margin: 0} #example img {width: 100%; max-width: 760px; border-radius: 6px}
#example figcaption {font-size: .85em; opacity: .85}
.samples button {min-height: 60px; padding-left: 66px; text-align: left; justify-content: flex-start;
  background-repeat: no-repeat; background-position: 4px center; background-size: 52px 52px}
#scene .modebar {display: none !important}
@media (max-width: 640px) {#gallery .grid-container {grid-template-columns: repeat(2, minmax(0, 1fr)) !important}}
.or, .min_value, .max_value {color: var(--body-text-color-subdued) !important}
.dark a.download-link {color: var(--primary-300) !important}
#downloads .label-clear-button, #past-files .label-clear-button {display: none}
button[role=tab].selected {color: var(--primary-700) !important}
.dark button[role=tab].selected {color: var(--primary-300) !important}
.tabitem, .tabitem > * {min-width: 0; max-width: 100%}
"""
SAMPLED = {
    "portrait": PORTRAITS,
    "edit": PORTRAITS,
    "driving": VIDEOS,
    "live-portrait": PORTRAITS,
    "live-video": VIDEOS,
}  # whose buttons show what they stand for
# Gradio's buttons around pictures have no name for those who hear the page: they get their block's label.
NAMES = """() => {
  const name = () => document.querySelectorAll('button:has(> .image-frame):not([aria-label])').forEach(button => {
    const label = button.closest('.block')?.querySelector('label, [data-testid=block-label]');
    button.setAttribute('aria-label', 'Picture: ' + (label?.innerText || 'uploaded').trim());
  });
  new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
  name();
}"""
# What an earlier attempt was told has been read by the time of the next one.
NO_TOASTS = "() => { document.querySelectorAll('.toast-close').forEach(button => button.click()) }"


NO_CAMERA = (
    "There is one stream, and browsers give a page the camera on this computer only: start the studio on 127.0.0.1 to "
    "use this page. `fportrait live` does the same without a browser."
)


def build(studio: Studio, samples: Path, uploads: Uploads, desk: LiveDesk | None = None) -> gr.Blocks:
    """All pages and what their buttons do; without a desk there is no stream, and its page says why."""
    do = Handlers(studio, uploads)
    with gr.Blocks(title="fportrait studio", analytics_enabled=False, delete_cache=(3600, 86400)) as pages:
        gr.Markdown(
            f"## fportrait studio\nIdentity, expression, head pose and viewpoint, each from its own source. {ETHICS}"
        )
        settings = studio.animator.settings
        with gr.Tab("Animate"):
            intro(settings, studio.seconds(clips_long(settings, 3), settings.steps, settings.guidance))
            with gr.Row():
                given = sources()
                with gr.Column(scale=5, min_width=300):
                    path = camera(settings)
                    chosen = sampling(settings)
                made = output(settings)
            found = trace()
        with gr.Tab("Edit"):
            edited = editing(settings)
        with gr.Tab("Live"):
            streamed = live_page(desk.settings) if desk else None
            if streamed is None:
                gr.Markdown(NO_CAMERA)
        with gr.Tab("Gallery") as gallery_tab:
            kept = past()
        pages.load(None, None, None, js=NAMES, **QUICK)
        connect_sources(do, given, samples)
        connect_camera(do, pages, path, chosen, made)
        connect_plan(do, pages, given, chosen, made)
        connect_editing(do, edited, functools.partial(sample_path, samples))
        if desk and streamed:
            connect_live(do, desk, pages, streamed, functools.partial(sample_path, samples), NO_TOASTS)
        connect_making(do, pages, given, path, chosen, made, found)
        connect_gallery(do, gallery_tab, kept)
    return pages


def connect_sources(do: Handlers, given: Sources, samples: Path) -> None:
    """Sample buttons, and a look at every upload."""

    for button, name in zip(given.portrait_samples, PORTRAITS, strict=True):
        button.click(sample_path(samples, name), None, given.portrait, api_visibility="private")
    for button, name in zip(given.driving_samples, VIDEOS, strict=True):
        button.click(sample_path(samples, name), None, given.driving, api_visibility="private")
    for component, check, what in (
        (given.portrait, check_picture, "portrait"),
        (given.driving, check_video, "driving video"),
        (given.expression, check_video, "expression video"),
    ):
        component.upload(None, None, None, js=NO_TOASTS, **QUICK)
        component.upload(do.looked_at(check, what), component, component, **QUICK)


def sample_path(samples: Path, name: str) -> Callable[[], str]:
    """What a sample's button puts into its component."""
    return lambda: str(sample_files(samples)[name])


def connect_plan(do: Handlers, pages: gr.Blocks, given: Sources, chosen: Sampling, made: Output) -> None:
    """The line beside Generate follows everything that it tells of."""
    gr.on(
        [
            *(pages.load, given.driving.change, given.expression.change, made.frames.change, chosen.steps.change),
            *(given.portrait.change, chosen.shape.change, chosen.size.change),
            *(scale.change for scale in chosen.scales),
        ],
        do.plan,
        [
            *(given.portrait, chosen.shape, chosen.size, given.driving, given.expression, made.frames, chosen.steps),
            *chosen.scales,
        ],
        made.plan,
        trigger_mode="always_last",
        **QUICK,
    )


def connect_camera(do: Handlers, pages: gr.Blocks, path: Camera, chosen: Sampling, made: Output) -> None:
    """Every change of the path is drawn; clicks add to an own path."""
    gr.on(
        [pages.load, path.kind.change, path.keys.change, path.camera_file.upload],
        do.draw_camera,
        [path.kind, path.keys, path.camera_file, chosen.seed, made.frames],
        [path.scene, path.clicks],
        trigger_mode="always_last",
        **QUICK,
    )
    path.kind.change(camera_inputs, path.kind, [path.own, path.camera_file], **QUICK)
    path.clicks.select(add_key, path.keys, path.keys, **QUICK)
    path.undo.click(drop_key, path.keys, path.keys, **QUICK)
    path.clear.click(lambda: "", None, path.keys, **QUICK)


def connect_making(
    do: Handlers, pages: gr.Blocks, given: Sources, path: Camera, chosen: Sampling, made: Output, found: Trace
) -> None:
    """Generate, preview and cancel; a visitor who leaves cancels too."""
    everything = [given.portrait, given.driving, given.expression, path.kind, path.keys, path.camera_file]
    everything += [*chosen.scales, chosen.steps, chosen.seed, made.frames, chosen.neutral, chosen.force]
    everything += [*chosen.adjust, chosen.shape, chosen.size]
    shown = [made.video, found.strip, made.downloads, made.facts]
    for button in (made.run, made.look):
        button.click(None, None, None, js=NO_TOASTS, **QUICK)
    # Turns are kept by the studio, which can cancel; Gradio only has to let everyone in.
    made.run.click(
        do.generate, [*everything, chosen.adapter], shown, show_progress_on=made.video, concurrency_limit=None
    )
    gr.on([pages.load, chosen.adapter.focus], do.adapters, chosen.adapter, chosen.adapter, **QUICK)
    made.look.click(lambda: gr.update(open=True), None, found.tracking, **QUICK)
    made.look.click(
        do.preview,
        everything,
        [found.overlays, found.normals, found.tracked_facts],
        concurrency_limit=None,
        show_progress_on=found.overlays,
        api_visibility="private",
    )
    made.stop.click(do.cancel, None, None, queue=False, **QUICK)
    pages.unload(do.closed)


def connect_gallery(do: Handlers, tab: gr.Tab, kept: Past) -> None:
    """Opening the tab lists results; a click opens one, a button deletes it."""
    opened = [kept.gallery, kept.names, kept.selected, kept.video, kept.files, kept.facts]
    tab.select(do.gallery_items, None, opened, **QUICK)
    kept.gallery.select(do.open_result, kept.names, opened[2:], api_visibility="private")
    kept.delete.click(do.delete_result, kept.selected, opened, api_visibility="private")


def theme() -> gr.themes.Base:
    """System fonts only: no page may ask another server for anything."""
    # Darker buttons than Gradio's: white on them shall be read by everyone (contrast 4.5 and more).
    red = {
        f"button_cancel_{name}{mode}": "#b91c1c"
        for name in ("background_fill", "border_color")
        for mode in ("", "_dark")
    }
    return gr.themes.Default(
        primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_cancel_text_color="#ffffff",
        button_cancel_text_color_dark="#ffffff",
        **red,
    )


def serve(
    studio: Studio,
    samples: Path,
    uploads: Path,
    host: str,
    port: int | None,
    logins: list[tuple[str, str]] | None,
    block: bool = True,
    names: Sequence[str] = (),
    browser: bool = False,
    live: Path | None = None,
) -> str:
    """Run the server, which answers to its address and to `names`; returns its address when `block` is false.

    Args:
        browser: open the page in this computer's browser. live: the bundle that streams; None: there is no stream.
    """
    from starlette.middleware import Middleware

    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    owned = Uploads(uploads, shared=[samples], results=studio.store.folder)
    buttons = {
        f"{kind}-sample-{index + 1}": name for kind, names_of in SAMPLED.items() for index, name in enumerate(names_of)
    }
    style = CSS + LIVE_CSS + thumbnail_style(samples, buttons)
    desk = LiveDesk(studio, live, owned.folder / "live", studio.animator.adapter) if live else None
    within = [Middleware(StudioDefence, uploads=owned, names=[host, *names])]
    if desk:
        within.append(Middleware(LiveAddresses, desk=desk))
    pages = build(studio, samples, owned, desk)
    pages.queue(default_concurrency_limit=8, max_size=64)
    _, address, _ = pages.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        inbrowser=False,
        max_file_size=VIDEO_BYTES,
        allowed_paths=[str(studio.store.folder)],
        footer_links=[],
        auth=logins,
        theme=theme(),
        css=style,
        app_kwargs={"middleware": within},
        enable_monitoring=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        run_history=False,
    )
    if browser:
        import webbrowser

        webbrowser.open(address.replace("0.0.0.0", "127.0.0.1"))
    if block:
        print(f"fportrait studio: {address}  (model {studio.animator.model.name}, results in {studio.store.folder})")
        pages.block_thread()
    return address
