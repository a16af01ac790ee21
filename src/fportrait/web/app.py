"""The pages of the web studio (Gradio), and the server."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before Gradio is imported: nothing here may call home.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr

from fportrait.animate import Request
from fportrait.animate.viewpoint import CAMERAS, parse_keys, viewpoint
from fportrait.bundle import BundleSettings
from fportrait.diffusion.factors import FACTORS
from fportrait.errors import UserError
from fportrait.web.results import Result
from fportrait.web.samples import PORTRAITS, VIDEOS, sample_files
from fportrait.web.scene import angle_map, camera_scene, to_angles
from fportrait.web.security import StudioDefence, Uploads, visitor_of
from fportrait.web.studio import Cancelled, Studio, describe
from fportrait.web.uploads import VIDEO_BYTES, browsers_play, check_camera, check_picture, check_video

OWN, FILE = "own path", "file"
GUIDED = tuple(reversed(FACTORS))  # the face first
ETHICS = (
    "Animate only people who agreed to it. Every video made here says in its metadata that it is synthetic; do not "
    "remove that, and do not pass a video off as a recording."
)
CSS = """
.gradio-container {max-width: 1280px !important; margin: 0 auto !important}
footer {display: none !important}
#angle-map img {cursor: crosshair}
"""
log = logging.getLogger(__name__)


def sentences(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A mistake becomes one sentence on the page; a fault says that it is one, with its details in the server's log."""

    @functools.wraps(handler)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except Cancelled:
            raise gr.Error("Cancelled.", duration=5, print_exception=False, title="Stopped") from None
        except UserError as error:
            raise gr.Error(without_folders(str(error), args), duration=None, print_exception=False) from None
        except Exception:
            log.exception("a fault in the studio")
            text = "A fault of fportrait's, not of your files. The server's log has the details."
            raise gr.Error(text, duration=None, print_exception=False) from None

    return wrapped


def without_folders(message: str, values: Any) -> str:
    """The message with uploaded files under their names, without the server's folders."""
    for value in values:
        if isinstance(value, str | Path) and os.sep in str(value):
            message = message.replace(str(value), Path(value).name)
    return message


def unopened(component: Any) -> Any:
    """Let an upload component hand over the path as it is; `Uploads` and `check_*` decide what is opened.

    (A subclass would do, but Gradio writes a `.pyi` file beside every module that defines one.)
    """
    component.preprocess = lambda payload: payload.path if payload is not None else None
    return component


def visitor(session: gr.Request) -> str:
    """Whose request it is, as `StudioDefence` tells visitors apart."""
    return visitor_of(session.headers.get("cookie", ""))


def own_path(settings: BundleSettings) -> str:
    """Key positions to begin with: slow enough for a driving video as long as a trained clip."""
    yaw = round(min(settings.trained_yaw, 0.4 * settings.trained_turn * (settings.frames - 1)))
    return f"-{yaw},0; 0,{min(8, settings.trained_elevation):g},0.95; {yaw},0"


def chosen_camera(kind: str, keys: str, file: str | None) -> str:
    """What `viewpoint` understands, from the three camera inputs."""
    if kind == OWN:
        parse_keys(keys)
        return keys
    return str(check_camera(file)) if kind == FILE else kind


def build(studio: Studio, samples: Path, uploads: Uploads) -> gr.Blocks:
    """All pages and what their buttons do."""
    settings = studio.animator.settings

    def clips_long(count: int) -> int:
        """Frames of a video as long as so many of the clips that the model was trained on."""
        return count * (settings.frames - 1) + 1

    def request_of(
        who: str, portrait: Any, driving: Any, expression: Any, kind: str, keys: str, file: Any, *rest: Any
    ) -> Request:
        for path, what in ((portrait, "portrait"), (driving, "driving video"), (expression, "expression video")):
            uploads.check(who, path, what)
        if kind == FILE:
            uploads.check(who, file, "camera file")
        scales, (steps, seed, frames) = rest[:4], rest[4:]
        guidance = dict(zip(GUIDED, map(float, scales), strict=True))
        return Request(
            check_picture(portrait),
            check_video(driving),
            chosen_camera(kind, keys, file),
            check_video(expression, "expression video") if expression else None,
            guidance,
            int(steps),
            int(seed),
            max(1, 512 // settings.size),
            int(frames),
        )

    def looked_at(check: Callable[..., Path], what: str) -> Callable[[str | None, gr.Request], Any]:
        """Says what is wrong with a file as soon as it is there, and takes it away: no player need try it."""

        def look_at(path: str | None, session: gr.Request) -> Any:
            if path is None:
                return gr.skip()
            try:
                checked = check(uploads.check(visitor(session), path, what), what)
            except UserError as error:
                gr.Warning(without_folders(str(error), [path]), duration=None, title="Not used")
                return None
            if check is check_video and not browsers_play(checked):
                gr.Info("Browsers may not play this kind of video. It is used all the same.", title=what.capitalize())
            return gr.skip()

        return look_at

    @sentences
    def draw_camera(kind: str, keys: str, file: str | None, seed: float, frames: float, session: gr.Request) -> Any:
        if kind == FILE:
            uploads.check(visitor(session), file, "camera file")
        points = parse_keys(keys) if keys.strip() else []
        if kind == OWN and not points:
            kind = "front"
        path = viewpoint(
            chosen_camera(kind, keys, file), min(int(frames), clips_long(3)), settings, int(seed)
        ).world_to_camera
        return camera_scene(path), angle_map(points if kind == OWN else [], path)

    def camera_inputs(kind: str) -> Any:
        return gr.update(visible=kind == OWN), gr.update(visible=kind == FILE)

    def add_key(keys: str, event: gr.SelectData) -> str:
        yaw, elevation = to_angles(*event.index)
        return f"{keys}; {yaw:g},{elevation:g}".lstrip("; ")

    def drop_key(keys: str) -> str:
        return "; ".join(part.strip() for part in keys.split(";")[:-1])

    def reporter(progress: gr.Progress) -> Callable[[str, int, int], None]:
        def report(what: str, done: int, total: int) -> None:
            progress((done, total) if total > 1 else 0.0, desc=what, unit="frames" if "track" in what else "steps")

        return report

    @sentences
    def preview(session: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        shown = studio.preview(str(session.session_hash), request_of(visitor(session), *values), reporter(progress))
        notes = [f"{len(shown.prepared)} frames.", *shown.prepared.notes]
        return shown.overlays, shown.normals, " ".join(notes)

    @sentences
    def generate(session: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        request = request_of(visitor(session), *values)
        names = {"portrait": request.portrait.name, "driving": request.driving.name}
        if request.expression is not None:
            names["expression"] = request.expression.name
        if values[3] == FILE:
            names["camera_file"] = Path(values[5]).name
        result = studio.generate(str(session.session_hash), request, reporter(progress), names)
        return show(result)

    def show(result: Result) -> Any:
        files = [str(path) for path in (result.video, result.picture, result.conditions) if path.is_file()]
        return str(result.video), str(result.picture), files, describe(dict(result.settings))

    def cancel(session: gr.Request) -> None:
        if not studio.cancel(str(session.session_hash)):
            gr.Info("Nothing is running.")

    def closed(session: gr.Request) -> None:
        studio.cancel(str(session.session_hash))

    def gallery_items() -> Any:
        results = studio.store.list()
        captions = [f"{r.settings.get('created', '')} · {r.settings.get('camera', '')}" for r in results]
        items = [(str(r.thumbnail), caption) for r, caption in zip(results, captions, strict=True)]
        return gr.update(value=items, selected_index=None), [r.name for r in results], "", None, None, ""

    @sentences
    def open_result(names: list[str], event: gr.SelectData) -> Any:
        result = studio.store.get(names[int(event.index)])
        video, _, files, text = show(result)
        return result.name, video, files, text

    @sentences
    def delete_result(name: str) -> Any:
        if name:
            studio.store.delete(name)
        return gallery_items()

    with gr.Blocks(title="fportrait studio", analytics_enabled=False, delete_cache=(3600, 86400)) as pages:
        gr.Markdown(
            f"## fportrait studio\nIdentity, expression, head pose and viewpoint, each from its own source. {ETHICS}"
        )
        with gr.Tab("Animate"):
            with gr.Row():
                with gr.Column(scale=5, min_width=300):
                    portrait = unopened(
                        gr.Image(
                            label="Portrait: identity",
                            sources=["upload"],
                            type="filepath",
                            height=230,
                            elem_id="portrait",
                        )
                    )
                    with gr.Row():
                        portrait_samples = [
                            gr.Button(
                                f"Sample {index + 1}", size="sm", min_width=80, elem_id=f"portrait-sample-{index + 1}"
                            )
                            for index in range(len(PORTRAITS))
                        ]
                    driving = unopened(
                        gr.Video(
                            label="Driving video: pose, and expression",
                            sources=["upload"],
                            height=230,
                            elem_id="driving",
                            include_audio=True,
                        )
                    )
                    with gr.Row():
                        driving_samples = [
                            gr.Button(
                                f"Sample {index + 1}", size="sm", min_width=80, elem_id=f"driving-sample-{index + 1}"
                            )
                            for index in range(len(VIDEOS))
                        ]
                    with gr.Accordion("Expression from another video", open=False):
                        expression = unopened(
                            gr.Video(
                                label="Expression video (optional)",
                                sources=["upload"],
                                height=200,
                                elem_id="expression",
                                include_audio=True,
                            )
                        )
                with gr.Column(scale=5, min_width=300):
                    kind = gr.Radio([*CAMERAS, OWN, FILE], value="front", label="Camera path", elem_id="camera")
                    scene = gr.Plot(label="Cameras around the head", elem_id="scene")
                    with gr.Group(visible=False) as own:
                        keys = gr.Textbox(
                            own_path(settings),
                            label="Key positions: yaw, elevation[, distance]; …",
                            elem_id="keys",
                        )
                        clicks = gr.Image(
                            angle_map(parse_keys(own_path(settings))),
                            label="Click to add a position",
                            interactive=False,
                            buttons=[],
                            elem_id="angle-map",
                        )
                        with gr.Row():
                            undo = gr.Button("Remove last", size="sm")
                            clear = gr.Button("Start again", size="sm")
                    camera_file = unopened(
                        gr.File(
                            label="Camera file (.json)",
                            file_types=[".json"],
                            visible=False,
                            elem_id="camera-file",
                            height=110,
                        )
                    )
                    with gr.Accordion("Guidance and sampling", open=False, elem_id="sampling"):
                        scales = [
                            gr.Slider(
                                0,
                                5,
                                settings.guidance.get(name, 1.0),
                                step=0.1,
                                label=f"Guidance: {name}",
                                elem_id=f"guidance-{name}",
                            )
                            for name in GUIDED
                        ]
                        gr.Markdown(
                            "1 is the model without guidance and costs nothing; each other value costs one more "
                            "pass in each guided step (the small base: the last three of six)."
                        )
                        steps = gr.Slider(
                            1, 10 * settings.steps, settings.steps, step=1, label="Sampling steps", elem_id="steps"
                        )
                        frames = gr.Slider(
                            1, clips_long(10), clips_long(3), step=1, label="Frames at most", elem_id="frames"
                        )
                        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1, elem_id="seed")
                with gr.Column(scale=5, min_width=300):
                    result_video = gr.Video(
                        label="Result",
                        interactive=False,
                        autoplay=True,
                        loop=True,
                        height=300,
                        elem_id="result",
                        buttons=["download"],
                    )
                    with gr.Row():
                        run = gr.Button("Generate", variant="primary", min_width=80, elem_id="generate")
                        stop = gr.Button("Cancel", min_width=80, elem_id="cancel")
                    look = gr.Button("Only show tracking and normals", size="sm", elem_id="preview")
                    downloads = gr.File(label="Download", interactive=False, elem_id="downloads", height=190)
                    facts = gr.Markdown(elem_id="facts")
            strip = gr.Image(label="Driving, pose, result over time", interactive=False, elem_id="strip")
            with gr.Accordion("Tracking and normals", open=False, elem_id="tracking") as tracking:
                tracked_facts = gr.Markdown()
                overlays = gr.Gallery(
                    label="What the tracker found", columns=4, height=320, elem_id="overlays", object_fit="contain"
                )
                normals = gr.Gallery(
                    label="Pose as normal maps", columns=6, height=200, elem_id="normals", object_fit="contain"
                )
        with gr.Tab("Gallery") as gallery_tab:
            names = gr.State([])
            selected = gr.State("")
            gallery = gr.Gallery(
                label="Past results, newest first",
                columns=5,
                fit_columns=False,
                height=300,
                allow_preview=False,
                elem_id="gallery",
                object_fit="contain",
            )
            with gr.Row():
                with gr.Column(min_width=300):
                    past_video = gr.Video(
                        interactive=False, label="Result", height=280, elem_id="past-video", loop=True
                    )
                with gr.Column(min_width=300):
                    past_files = gr.File(label="Download", interactive=False, elem_id="past-files", height=190)
                    past_facts = gr.Markdown(elem_id="past-facts")
                    delete = gr.Button("Delete this result", size="sm", variant="stop", elem_id="delete")

        def sample(name: str) -> Callable[[], str]:
            return lambda: str(sample_files(samples)[name])

        for button, name in zip(portrait_samples, PORTRAITS, strict=True):
            button.click(sample(name), None, portrait, api_visibility="private")
        for button, name in zip(driving_samples, VIDEOS, strict=True):
            button.click(sample(name), None, driving, api_visibility="private")

        path_inputs = [kind, keys, camera_file, seed, frames]
        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        portrait.upload(looked_at(check_picture, "portrait"), portrait, portrait, **quick)
        driving.upload(looked_at(check_video, "driving video"), driving, driving, **quick)
        expression.upload(looked_at(check_video, "expression video"), expression, expression, **quick)
        gr.on(
            [pages.load, kind.change, keys.change, camera_file.upload],
            draw_camera,
            path_inputs,
            [scene, clicks],
            trigger_mode="always_last",
            **quick,
        )
        kind.change(camera_inputs, kind, [own, camera_file], **quick)
        clicks.select(add_key, keys, keys, **quick)
        undo.click(drop_key, keys, keys, **quick)
        clear.click(lambda: "", None, keys, **quick)

        everything = [portrait, driving, expression, kind, keys, camera_file, *scales, steps, seed, frames]
        shown = [result_video, strip, downloads, facts]
        # Turns are kept by the studio, which can cancel; Gradio only has to let everyone in.
        run.click(generate, everything, shown, show_progress_on=result_video, concurrency_limit=None)
        look.click(lambda: gr.update(open=True), None, tracking, **quick)
        look.click(
            preview,
            everything,
            [overlays, normals, tracked_facts],
            concurrency_limit=None,
            show_progress_on=overlays,
            api_visibility="private",
        )
        stop.click(cancel, None, None, queue=False, **quick)
        pages.unload(closed)
        opened = [gallery, names, selected, past_video, past_files, past_facts]
        gallery_tab.select(gallery_items, None, opened, **quick)
        gallery.select(open_result, names, [selected, past_video, past_files, past_facts], api_visibility="private")
        delete.click(delete_result, selected, opened, api_visibility="private")
    return pages


def theme() -> gr.themes.Base:
    """System fonts only: no page may ask another server for anything."""
    return gr.themes.Default(
        primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
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
) -> str:
    """Run the server, which answers to its address and to `names`; returns its address when `block` is false."""
    from starlette.middleware import Middleware

    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    owned = Uploads(uploads, shared=[samples])
    pages = build(studio, samples, owned)
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
        css=CSS,
        app_kwargs={"middleware": [Middleware(StudioDefence, uploads=owned, names=[host, *names])]},
        enable_monitoring=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        run_history=False,
    )
    if block:
        print(f"fportrait studio: {address}  (model {studio.animator.model.name}, results in {studio.store.folder})")
        pages.block_thread()
    return address
