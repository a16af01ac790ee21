"""The four control modes, as cross-reenactment with a truth: one embedded person does what another one did.

still front view · still novel view · moving view with still face · everything moving. Codes come from the driver's
pictures, portrait and body from the target; what the target would have looked like is rendered, so picture metrics
mean something across people too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fportrait.dataset.sampling import Sampler
from fportrait.evaluation.embedded import Scene, Shot, Studio, codec_limit, generate

if TYPE_CHECKING:
    from fportrait.body.model import BodyModel

MODES = ("still_front", "still_novel", "moving_view", "everything")
FIRST_SEED = 155_000_000
SPEED = 50.0  # degrees per second, of heads
VIEW_SPEED = 70.0  # of cameras
FPS = 25.0


def mode_shots(mode: str, frames: int, rng: np.random.Generator, body: BodyModel) -> list[Shot]:
    """What happens in a clip of a mode."""
    from fportrait.capture.motion import sample_motion, smooth_degrees

    actions = sample_motion("expressions", frames, rng, FPS).actions
    head = smooth_degrees(frames, FPS, rng, np.array([20.0, 10.0, 8.0]), SPEED)
    view = smooth_degrees(frames, FPS, rng, np.array([40.0, 12.0]), VIEW_SPEED)
    if mode == "still_front":
        view = np.zeros_like(view)
    elif mode == "still_novel":
        view = np.repeat([[rng.choice([-1, 1]) * rng.uniform(20, 40), rng.uniform(-10, 10)]], frames, 0)
    elif mode == "moving_view":
        actions, head = np.repeat(actions[:1], frames, 0), np.repeat(head[:1], frames, 0)
    return [
        Shot(
            tuple(
                (name, round(float(value), 4))
                for name, value in zip(body.action_names, row, strict=True)
                if value > 1e-3
            ),
            tuple(round(float(v), 3) for v in head[t]),  # type: ignore[arg-type]
            tuple(round(float(v), 3) for v in view[t]),  # type: ignore[arg-type]
        )
        for t, row in enumerate(actions)
    ]


def mode_scenes(studio: Studio, people: int, frames: int, seed: int) -> dict[str, list[Scene]]:
    """`people` scenes per mode: a target does what a driver did."""
    from fportrait.capture.people import sample_person

    scenes: dict[str, list[Scene]] = {mode: [] for mode in MODES}
    for index in range(people):
        first = FIRST_SEED + 2 * (1000 * seed + index)
        target, driver = sample_person(first, studio.body), sample_person(first + 1, studio.body)
        for number, mode in enumerate(MODES):
            shots = mode_shots(mode, frames, np.random.default_rng([first, number]), studio.body)
            scenes[mode].append(studio.scene(target, shots, driver=driver))
    return scenes


def run_modes(
    sampler: Sampler, scenes: Mapping[str, Sequence[Scene]], batch: int
) -> dict[str, list[dict[str, np.ndarray]]]:
    """Videos of every scene: `ours`, `codec_limit`, `repeated_portrait`, `truth`, `normals` `T S S 3`; `portrait`."""
    flat = [(mode, scene) for mode, some in scenes.items() for scene in some]
    sampled: list[np.ndarray] = []
    for first in range(0, len(flat), batch):
        sampled += generate(sampler, [scene for _, scene in flat[first : first + batch]])
    videos: dict[str, list[dict[str, np.ndarray]]] = {mode: [] for mode in scenes}
    for (mode, scene), sample in zip(flat, sampled, strict=True):
        videos[mode].append(
            {
                "ours": sample,
                "codec_limit": codec_limit(sampler.vae, scene.video),
                "truth": scene.video,
                "repeated_portrait": np.broadcast_to(scene.reference, scene.video.shape).copy(),
                "normals": scene.normals,
                "portrait": scene.reference,
            }
        )
    return videos
