"""The page Edit: another expression, head pose or view for a single picture, with an instant answer."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from fportrait.animate.edit import HEAD_LIMITS, Edit
from fportrait.animate.retarget import SLIDERS
from fportrait.animate.viewpoint import KEY_LIMITS
from fportrait.bundle import BundleSettings
from fportrait.errors import UserError
from fportrait.web.handlers import Handlers, sentences, visitor
from fportrait.web.pages import sample_buttons, shapes, strength_sliders, unopened
from fportrait.web.samples import PORTRAITS
from fportrait.web.studio import SQUARE
from fportrait.web.uploads import check_picture

VIEW = {"yaw": 0.0, "elevation": 0.0, "distance": 1.0}


@dataclass
class Editing:
    """What the page holds; `values` are the sliders in the order of `edit_of`."""

    portrait: Any
    samples: Any
    result: Any
    facts: Any
    at_rest: Any
    values: list[Any]
    shape: Any
    reset: Any


def editing(settings: BundleSettings) -> Editing:
    """Portrait and result beside each other, the sliders under them."""
    gr.Markdown(
        "Change one picture: its expression, its head, the place it is seen from. At 0 it is as the model "
        "paints it; the answer comes when you let a slider go."
    )
    with gr.Row():
        with gr.Column(min_width=280):
            portrait = unopened(
                gr.Image(label="Portrait", sources=["upload"], type="filepath", height=300, elem_id="edit-portrait")
            )
            samples = sample_buttons("edit-sample", "Portrait", len(PORTRAITS))
        with gr.Column(min_width=280):
            result = gr.Image(
                label="Edited picture", interactive=False, height=300, elem_id="edited", buttons=["download"]
            )
            facts = gr.Markdown(elem_id="edit-facts")
    with gr.Row():
        with gr.Column(min_width=280):
            gr.Markdown("#### Expression")
            strengths = strength_sliders("adjust")
            at_rest = gr.Checkbox(
                False, label="Begin with a face at rest, not with the picture's own", elem_id="at-rest"
            )
        with gr.Column(min_width=280):
            gr.Markdown("#### Head, degrees from its own pose")
            head = [
                gr.Slider(-limit, limit, 0, step=1, label=f"Head {name}", elem_id=f"head-{name}")
                for name, limit in HEAD_LIMITS.items()
            ]
        with gr.Column(min_width=280):
            gr.Markdown("#### View")
            reach = {"yaw": settings.trained_yaw, "elevation": settings.trained_elevation}
            view = [
                gr.Slider(-reach[name], reach[name], 0, step=1, label=f"Camera {name}", elem_id=f"view-{name}")
                for name in reach
            ]
            low, high = max(KEY_LIMITS["distance"][0], 0.75), min(KEY_LIMITS["distance"][1], 1.35)
            view.append(gr.Slider(low, high, 1, step=0.05, label="Camera distance", elem_id="view-distance"))
            shape = shapes("edit-shape")
            reset = gr.Button("Back to the start", size="sm", elem_id="edit-reset")
    return Editing(portrait, samples, result, facts, at_rest, [*strengths, *head, *view], shape, reset)


def edit_of(portrait: Path, at_rest: bool, values: tuple[float, ...]) -> Edit:
    """The edit that the sliders ask for."""
    count = len(SLIDERS)
    strengths = {name: float(value) for name, value in zip(SLIDERS, values[:count], strict=True) if value}
    yaw, pitch, roll = map(float, values[count : count + 3])
    view = ",".join(f"{float(value):g}" for value in values[count + 3 :])
    return Edit(portrait, strengths, bool(at_rest), (yaw, pitch, roll), view)


class EditHandlers:
    """What the page's inputs do."""

    def __init__(self, do: Handlers):
        self.do = do

    @sentences
    def edit(self, session: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        """The edited picture, and what a viewer should know of it."""
        portrait, at_rest, *rest, shape = values
        if not portrait:
            return None, ""
        who = visitor(session)
        try:
            checked = check_picture(self.do.uploads.check(who, portrait, "portrait"))
        except UserError:  # said, and the file taken away, where it was uploaded
            return None, ""
        folder = self.do.uploads.folder / "edited" / secrets.token_hex(16)

        def report(what: str, done: int, total: int) -> None:
            progress((done, total), desc=what, unit="steps")

        path, notes = self.do.studio.edit(
            str(session.session_hash), edit_of(checked, at_rest, tuple(rest)), folder, report, self.do.drawing_of(shape)
        )
        self.do.uploads.record(who, [path])
        return str(path), " ".join(f"{note[:1].upper()}{note[1:]}." for note in notes)


def connect_editing(do: Handlers, page: Editing, sample: Any) -> None:
    """Every change asks for the picture anew; what comes while one is made is asked for once, at its end."""
    handlers = EditHandlers(do)
    for button, name in zip(page.samples, PORTRAITS, strict=True):
        button.click(sample(name), None, page.portrait, api_visibility="private")
    page.portrait.upload(
        do.looked_at(check_picture, "portrait"),
        page.portrait,
        page.portrait,
        show_progress="hidden",
        api_visibility="private",
    )
    inputs = [page.portrait, page.at_rest, *page.values, page.shape]
    gr.on(
        [page.portrait.change, page.at_rest.change, page.shape.change, *(slider.change for slider in page.values)],
        handlers.edit,
        inputs,
        [page.result, page.facts],
        trigger_mode="always_last",
        show_progress_on=page.result,
        concurrency_limit=None,
        api_name="edit",
    )
    starts = [False, *(0.0 for _ in SLIDERS), *(0.0 for _ in HEAD_LIMITS), *VIEW.values(), SQUARE]
    page.reset.click(
        lambda: starts, None, [page.at_rest, *page.values, page.shape], show_progress="hidden", api_visibility="private"
    )
