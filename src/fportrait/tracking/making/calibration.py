"""Measures where the landmark network puts its points on this body: what `fportrait.tracking.calibration` loads.

People of seeds of their own are rendered in known poses; each landmark's mean departure becomes an offset in the head's
axes (one small weighted least-squares problem per landmark), and what is left of its spread becomes its standard
deviation.

    python -m fportrait.tracking.making.calibration --people 60

rebuilds the shipped file; the seeds are far from those of captures, clips and probes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fportrait.body.model import BodyModel, Pose, load_body
from fportrait.camera.cameras import intrinsics_from_fov, project
from fportrait.errors import UserError
from fportrait.tracking.calibration import SHIPPED, Calibration
from fportrait.tracking.fit import LandmarkModel

FIRST_SEED = 5_000_000_000
PICTURE = 256
FACING = 0.15  # cosine below which a landmark says nothing about where it lies on the skin
PRIOR_METRES = 0.01


@dataclass
class Sighting:
    """One picture of a known person: what the network said, `478 2` pixels, and what is true."""

    detected: np.ndarray
    identity: np.ndarray
    actions: np.ndarray
    pose: Pose
    world_to_camera: np.ndarray
    intrinsics: np.ndarray


def sight(person_seed: int, views: int, body: BodyModel) -> list[Sighting]:
    """Render a person `views` times, from the front and from up to 50 degrees aside, and look for landmarks."""
    from fportrait.capture import people
    from fportrait.capture.motion import HEAD_LIMITS_DEGREES, rotation_from_degrees, sample_motion
    from fportrait.capture.world import orbit_camera
    from fportrait.tracking.landmarks import shared_landmarker

    rng = np.random.default_rng([5, person_seed])
    person = people.sample_person(person_seed, body)
    found = []
    for index in range(views):
        yaw, pitch, roll = rng.uniform(-0.7, 0.7, 3) * HEAD_LIMITS_DEGREES
        pose = Pose(np.eye(3), rng.uniform(-1, 1, 3) * 0.01, rotation_from_degrees(yaw, pitch, roll))
        reach = 50.0 if index % 2 else 6.0
        distance = rng.uniform(0.5, 0.9)
        camera = orbit_camera(rng.uniform(-reach, reach), rng.uniform(-12, 12), distance, np.array([0, -0.01, 0.02]))
        fov = float(2 * np.degrees(np.arctan(0.5 * 0.36 / distance)))
        intrinsics = intrinsics_from_fov(fov, PICTURE, PICTURE)
        actions = sample_motion(("expressions", "speech")[index % 2], 1, rng).actions[0]
        picture = people.render(person, actions, pose, camera, intrinsics, PICTURE, 2, body)
        faces = shared_landmarker().detect(picture)
        if len(faces) == 1:
            found.append(Sighting(faces[0].landmarks, person.identity, actions, pose, camera, intrinsics))
    return found


def calibrate(sightings: list[Sighting], body: BodyModel, rounds: int = 4) -> Calibration:
    """Offsets and spreads from sightings.

    Raises:
        UserError: fewer than 20 sightings.
    """

    if len(sightings) < 20:
        raise UserError(f"{len(sightings)} sightings of faces", "20 at least", "render more people")
    model = LandmarkModel(body, Calibration.none())
    jacobians, residuals, weights = (np.zeros((len(sightings), 478, *tail)) for tail in ((2, 3), (2,), ()))
    for i, seen in enumerate(sightings):
        rotations, shifts = body.bone_transforms(seen.identity, seen.pose)
        rotation = rotations[2]
        world = model.at(seen.identity, seen.actions[None])[0] @ rotation.T + shifts[2]
        pixels, depth = project(world, seen.world_to_camera, seen.intrinsics)
        axes, focal = seen.world_to_camera[:3, :3], seen.intrinsics[0, 0]
        local = world @ axes.T + seen.world_to_camera[:3, 3]
        by_point = np.zeros((478, 2, 3))
        by_point[:, 0, 0] = by_point[:, 1, 1] = focal / depth
        by_point[:, :, 2] = -focal * local[:, :2] / depth[:, None] ** 2
        unit = 0.09 * focal / depth.mean()  # an eye distance, in pixels
        jacobians[i] = by_point @ (axes @ rotation) / unit
        residuals[i] = (seen.detected - pixels) / unit
        view = -axes.T @ seen.world_to_camera[:3, 3] - world
        view /= np.linalg.norm(view, axis=1, keepdims=True)
        weights[i] = np.clip(((model.normals @ rotation.T) * view).sum(1), 0, 1)
    weights[weights < FACING] = 0
    offsets, sigmas = np.zeros((478, 3)), np.full(478, 0.03)
    for _ in range(rounds):
        left = residuals - np.einsum("nlij,lj->nli", jacobians, offsets)
        length = np.linalg.norm(left, axis=2)
        robust = weights * np.minimum(1, 2.5 * sigmas / np.maximum(length, 1e-9))
        scaled = jacobians * robust[..., None, None]
        gram = np.einsum("nlij,nlik->ljk", scaled, jacobians)
        gram += np.eye(3) * (0.03 / PRIOR_METRES) ** 2
        offsets = np.linalg.solve(gram, np.einsum("nlij,nli->lj", scaled, residuals)[..., None])[..., 0]
        left = residuals - np.einsum("nlij,lj->nli", jacobians, offsets)
        total = (robust * (left**2).sum(2)).sum(0) / 2
        sigmas = np.sqrt(total / np.maximum(robust.sum(0), 1e-6) + 0.005**2)
        sigmas[weights.sum(0) < 3] = 0.1  # hardly ever in sight
    return Calibration(offsets, np.clip(sigmas, 0.005, 0.1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=60)
    parser.add_argument("--views", type=int, default=6)
    parser.add_argument("--output", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    body = load_body()
    sightings = [seen for i in range(arguments.people) for seen in sight(FIRST_SEED + i, arguments.views, body)]
    calibrate(sightings, body).save(arguments.output)
    print(f"{len(sightings)} sightings of {arguments.people} people: {arguments.output}")


if __name__ == "__main__":
    main()
