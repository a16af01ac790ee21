"""Talking heads of the embedded world: samples from pretraining's clips, twins rendered to them, people to probe."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fportrait.body.model import BodyModel, Pose, load_body, rotation_matrix
from fportrait.camera.cameras import intrinsics_from_fov, project
from fportrait.capture import people
from fportrait.capture.motion import HEAD_LIMITS_DEGREES, rotation_from_degrees, sample_motion
from fportrait.capture.world import orbit_camera
from fportrait.tracking.crops import face_crop
from fportrait.tracking.making.alignment import alignment_of
from fportrait.tracking.making.talking_head.probes import ProbeSet
from fportrait.tracking.making.talking_head.training import TalkingHeads

FIRST_TWIN_SEED = 3_000_000_000  # far from the seeds of captures
FIRST_PROBE_SEED = 4_000_000_000
PICTURE = 176  # pixels of the rendering that a face crop is cut from


def random_view(rng: np.random.Generator) -> tuple[Pose, np.ndarray, np.ndarray]:
    """A pose, a `world_to_camera` within 45 degrees of the front, and intrinsics of a `PICTURE`."""
    yaw, pitch, roll = rng.uniform(-0.8, 0.8, 3) * HEAD_LIMITS_DEGREES
    pose = Pose(np.eye(3), rng.uniform(-1, 1, 3) * 0.012, rotation_from_degrees(yaw, pitch, roll))
    reach = 8.0 if rng.random() < 0.5 else 45.0
    distance = rng.uniform(0.45, 0.9)
    camera = orbit_camera(rng.uniform(-reach, reach), rng.uniform(-12, 12), distance, np.array([0.0, -0.01, 0.02]))
    fov = float(2 * np.degrees(np.arctan(0.5 * 0.28 / distance)))
    return pose, camera, intrinsics_from_fov(fov, PICTURE, PICTURE)


def render_crop(
    person: people.Person, actions: np.ndarray, rng: np.random.Generator, body: BodyModel, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """A face crop `size size 3` of a person in a random view, and the view's alignment `9`."""
    pose, camera, intrinsics = random_view(rng)
    picture = people.render(person, actions, pose, camera, intrinsics, PICTURE, 1, body)
    vertices = body.vertices(person.identity, actions, pose)
    pixels, _ = project(body.landmarks(vertices), camera, intrinsics)
    where = alignment_of(body, person.identity, pose, camera, intrinsics, PICTURE)
    return face_crop(picture, pixels.astype(np.float32), size), where


def embedded_talking_heads(
    clips: Mapping[str, np.ndarray], per_clip: int = 2, seed: int = 0, limit: int | None = None
) -> TalkingHeads:
    """Samples from `base_clips` clips: `per_clip` frames of each, and for each a twin of another person."""
    body = load_body()
    count, frames = clips["actions"].shape[:2]
    count = min(count, limit or count)
    size = clips["crops"].shape[2]
    rng = np.random.default_rng([seed, 77])
    rows, twins, alignment = [], [], []
    for clip in range(count):
        person = people.sample_person(FIRST_TWIN_SEED + int(rng.integers(0, 2**31)), body)
        for t in np.sort(rng.choice(frames, per_clip, replace=False)):
            rows.append((clip, t))
            twins.append(render_crop(person, clips["actions"][clip, t], rng, body, size)[0])
            # The clip keeps the head's rotation in the world; its body turns by at most 3 degrees.
            vector = clips["pose"][clip, t].astype(np.float64)
            pose = Pose(np.eye(3), vector[3:], rotation_matrix(vector[:3]))
            alignment.append(
                alignment_of(
                    body,
                    np.zeros(body.identity_dim),
                    pose,
                    clips["world_to_camera"][clip, t].astype(np.float64),
                    clips["intrinsics"][clip].astype(np.float64),
                    clips["video"].shape[2],
                )
            )
    index = tuple(np.array(rows).T)
    return TalkingHeads(
        crops=clips["crops"][index],
        pictures=clips["video"][index],
        references=clips["references"][index[0]],
        twins=np.stack(twins),
        actions=clips["actions"][index],
        alignment=np.stack(alignment),
        focus=clips["focus"][index],
    )


def probe_people(count: int = 40, frames: int = 24, size: int = 96, seed: int = 0) -> ProbeSet:
    """Crops of people whom nothing was trained on; everyone's expressions and views are drawn anew for every crop."""
    body = load_body()
    crops, actions, views, who = [], [], [], []
    kinds = ("expressions", "speech", "mixed")
    for index in range(count):
        rng = np.random.default_rng([seed, 91, index])
        person = people.sample_person(FIRST_PROBE_SEED + 1000 * seed + index, body)
        for t in range(frames):
            action = sample_motion(kinds[t % 3], 1, rng).actions[0]
            crop, where = render_crop(person, action, rng, body, size)
            crops.append(crop)
            actions.append(action)
            views.append(where[6:])
            who.append(index)
    return ProbeSet(
        np.stack(crops), np.array(who), np.stack(views), np.stack(actions).astype(np.float32), list(body.action_names)
    )
