"""The inputs and outputs of the studio's pages: what is there, not what it does."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from fportrait.animate.retarget import MOST, SLIDERS
from fportrait.animate.viewpoint import CAMERAS, parse_keys
from fportrait.bundle import BundleSettings
from fportrait.web.handlers import FILE, GUIDED, NO_ADAPTER, OWN, SHOWN, clips_long, own_path
from fportrait.web.samples import PORTRAITS, VIDEOS
from fportrait.web.scene import angle_map
from fportrait.web.studio import SHAPES, SQUARE, sizes_of

EXAMPLE = Path(__file__).parent.parent / "assets" / "studio_example.webp"  # tools/studio_pictures.py


def unopened(component: Any) -> Any:
    """Let an upload component hand over the path as it is; `Uploads` and `check_*` decide what is opened.

    (A subclass would do, but Gradio writes a `.pyi` file beside every module that defines one.)
    """
    component.preprocess = lambda payload: payload.path if payload is not None else None
    return component


def unchecked(choice: Any) -> Any:
    """Let a list hand over what was chosen as it is: what is on it changes, and the studio knows what there is."""
    choice.preprocess = lambda payload: payload
    return choice


@dataclass
class Sources:
    """Where identity, pose and expression come from."""

    portrait: Any
    portrait_samples: Any
    driving: Any
    driving_samples: Any
    expression: Any


@dataclass
class Camera:
    """The camera path and its picture."""

    kind: Any
    scene: Any
    own: Any
    keys: Any
    clicks: Any
    undo: Any
    clear: Any
    camera_file: Any


@dataclass
class Sampling:
    """How strongly the model is guided, and how long it samples."""

    scales: Any
    steps: Any
    seed: Any
    neutral: Any
    force: Any
    adjust: Any
    shape: Any
    size: Any
    adapter: Any


@dataclass
class Output:
    """The result and the buttons that make it."""

    video: Any
    frames: Any
    plan: Any
    run: Any
    stop: Any
    look: Any
    downloads: Any
    facts: Any


@dataclass
class Trace:
    """What was found and given to the model."""

    strip: Any
    tracking: Any
    tracked_facts: Any
    overlays: Any
    normals: Any


@dataclass
class Past:
    """The gallery of results."""

    names: Any
    selected: Any
    gallery: Any
    video: Any
    files: Any
    facts: Any
    delete: Any


def strength_sliders(prefix: str) -> list[Any]:
    """A slider for each expression that codes can be moved to."""
    return [
        gr.Slider(-MOST, MOST, 0, step=0.05, label=name.capitalize(), info=what, elem_id=f"{prefix}-{name}")
        for name, (_, _, what) in SLIDERS.items()
    ]


def shapes(name: str) -> Any:
    """The list of shapes that a picture may have."""
    return unchecked(
        gr.Radio(
            list(SHAPES),
            value=SQUARE,
            label="Shape",
            info="Upright or wide shows more of the portrait above and below, or beside, the head",
            elem_id=name,
        )
    )


def sample_buttons(prefix: str, what: str, count: int) -> list[Any]:
    """A button per sample, which its thumbnail is drawn on (`samples.thumbnail_style`)."""
    with gr.Row(elem_classes="samples"):
        return [
            gr.Button(f"{what} {index + 1}", size="sm", min_width=110, elem_id=f"{prefix}-{index + 1}")
            for index in range(count)
        ]


def intro(settings: BundleSettings, seconds: float) -> None:
    """What to expect, in a sentence and an example, before anything is uploaded."""
    clip, shown = clips_long(settings, 3), settings.size * max(1, SHOWN // settings.size)
    gr.Markdown(
        "Give a portrait and a driving video, choose a camera path, press **Generate**. The video is "
        f"{shown} pixels wide, and as sharp as the portrait where it shows it; what the "
        f"model must make new at {settings.size}×{settings.size}, like a side that was turned away, comes out "
        f"soft. {clip / 25:.0f} seconds of video take about {seconds:.0f} seconds here."
    )
    if EXAMPLE.is_file():
        data = base64.b64encode(EXAMPLE.read_bytes()).decode()
        words = "The shipped small base: portrait (NASA, public domain), driving frames, and what was made of them"
        gr.HTML(
            f'<figure id="example"><img alt="{words}" src="data:image/webp;base64,{data}">'
            f"<figcaption>{words}.</figcaption></figure>"
        )


def sources() -> Sources:
    """Portrait, driving video and optional expression video, with samples to try."""
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
        portrait_samples = sample_buttons("portrait-sample", "Portrait", len(PORTRAITS))
        driving = unopened(
            gr.Video(
                label="Driving video: pose, and expression",
                sources=["upload"],
                height=230,
                elem_id="driving",
                include_audio=True,
            )
        )
        driving_samples = sample_buttons("driving-sample", "Video", len(VIDEOS))
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
    return Sources(portrait, portrait_samples, driving, driving_samples, expression)


def camera(settings: BundleSettings) -> Camera:
    """The kinds of path; an own path is clicked or written, a file uploaded."""
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
    return Camera(kind, scene, own, keys, clicks, undo, clear, camera_file)


def sampling(settings: BundleSettings) -> Sampling:
    """Shape and size, sliders at the model's own values, and the project's adapters, if it has any."""
    shape = shapes("shape")
    sizes = sizes_of(settings)
    size = unchecked(
        gr.Radio(
            [(f"{side} pixels", side) for side in sizes],
            value=settings.size,
            label="Short side that the model draws",
            info="More is finer where the portrait does not show it, and takes longer",
            visible=len(sizes) > 1,
            elem_id="size",
        )
    )
    adapter = unchecked(
        gr.Dropdown(
            [(NO_ADAPTER, "")],
            value="",
            label="Adapter",
            info="The model, adapted to somebody's clips: fportrait adapt",
            visible=False,
            filterable=False,
            elem_id="adapter",
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
            "1 is the model without guidance and costs nothing; each other value costs one more pass in each step."
        )
        steps = gr.Slider(1, 10 * settings.steps, settings.steps, step=1, label="Sampling steps", elem_id="steps")
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1, elem_id="seed")
        neutral = gr.Textbox(
            "auto",
            label="The driver's face at rest",
            info="auto, off, or the number of a frame that shows it",
            elem_id="neutral",
        )
        force = gr.Checkbox(False, label="Go on with what is unlike a face", elem_id="force")
    with gr.Accordion("Expression, added in every frame", open=False, elem_id="adjusting"):
        gr.Markdown("Eyes wider, lips parted, a smile, whatever the driver does. 0 adds nothing, 1 is a full action.")
        adjust = strength_sliders("added")
    return Sampling(scales, steps, seed, neutral, force, adjust, shape, size, adapter)


def output(settings: BundleSettings) -> Output:
    """The video, the buttons and the downloads."""
    with gr.Column(scale=5, min_width=300):
        video = gr.Video(
            label="Result",
            interactive=False,
            autoplay=True,
            loop=True,
            height=300,
            elem_id="result",
            buttons=["download"],
        )
        frames = gr.Slider(
            1,
            clips_long(settings, 10),
            clips_long(settings, 3),
            step=1,
            label="Length: frames at most",
            elem_id="frames",
        )
        plan = gr.Markdown("", elem_id="plan")
        with gr.Row():
            run = gr.Button("Generate", variant="primary", min_width=80, elem_id="generate")
            stop = gr.Button("Cancel", min_width=80, elem_id="cancel")
        look = gr.Button("Only show tracking and normals", size="sm", elem_id="preview")
        downloads = gr.File(label="Download", interactive=False, elem_id="downloads", height=190)
        facts = gr.Markdown(elem_id="facts")
    return Output(video, frames, plan, run, stop, look, downloads, facts)


def trace() -> Trace:
    """The strip over time and, folded, tracking and normal maps."""
    strip = gr.Image(
        label="Driving, pose, result over time", interactive=False, elem_id="strip", buttons=["download", "fullscreen"]
    )
    with gr.Accordion("Tracking and normals", open=False, elem_id="tracking") as tracking:
        tracked_facts = gr.Markdown()
        overlays = gr.Gallery(
            label="What the tracker found",
            columns=4,
            height=320,
            elem_id="overlays",
            object_fit="contain",
            buttons=["download", "fullscreen"],
        )
        normals = gr.Gallery(
            label="Pose as normal maps",
            columns=6,
            height=200,
            elem_id="normals",
            object_fit="contain",
            buttons=["download", "fullscreen"],
        )
    return Trace(strip, tracking, tracked_facts, overlays, normals)


def past() -> Past:
    """Past results and the one that is opened."""
    names = gr.State([])
    selected = gr.State("")
    gallery = gr.Gallery(
        label="Past results, newest first",
        columns=5,
        fit_columns=False,
        height=320,
        allow_preview=False,
        elem_id="gallery",
        object_fit="contain",
    )
    with gr.Row():
        with gr.Column(min_width=300):
            video = gr.Video(interactive=False, label="Result", height=280, elem_id="past-video", loop=True)
        with gr.Column(min_width=300):
            files = gr.File(label="Download", interactive=False, elem_id="past-files", height=190)
            facts = gr.Markdown(elem_id="past-facts")
            delete = gr.Button("Delete this result", size="sm", variant="stop", elem_id="delete")
    return Past(names, selected, gallery, video, files, facts, delete)
