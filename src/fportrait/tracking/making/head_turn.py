"""Fits the regression from landmarks to the head's turn: what `fportrait.tracking.head_turn` loads.

    python -m fportrait.tracking.making.head_turn --people 1000 --views 9

rebuilds the shipped file; its people are those of the calibration and 940 more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from fportrait.body.model import BodyModel, Pose, load_body
from fportrait.body.pose import rotation_matrix, rotation_vector
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.errors import UserError
from fportrait.tracking.head_turn import FACING, SHIPPED, HeadTurn, kernel, normalised, yaw_bin
from fportrait.tracking.making.calibration import FIRST_SEED, PICTURE, Sighting

COMPONENTS, CENTRES = 100, 4000
WHITENING = 0.5  # exponent: 0 leaves components as strong as they are, 1 makes all alike
WIDTH = 0.4  # exponent of the kernel at the median squared distance, times two
RIDGE = 0.01


def fit_head_turn(features: np.ndarray, vectors: np.ndarray, people: np.ndarray, seed: int = 0) -> HeadTurn:
    """Fit features `N 957` to rotation vectors `N 3`; every eighth of `people` (`N`) measures the errors first.

    Raises:
        UserError: fewer samples than twice the centres.
    """
    if len(features) < 2 * CENTRES:
        raise UserError(f"{len(features)} sightings", f"{2 * CENTRES} at least", "render more people")
    left_out = people % 8 == 0
    found = _fit(features[~left_out], vectors[~left_out], np.full(4, 0.1), seed).vectors(features[left_out])
    error = rotation_vector(rotation_matrix(found) @ rotation_matrix(vectors[left_out]).transpose(0, 2, 1))
    bins = yaw_bin(found)
    # From the median, because a few wild answers would hide how good the others are.
    sigmas = np.array([1.48 * np.median(abs(error[bins == i])) if (bins == i).any() else 0.2 for i in range(4)])
    return _fit(features, vectors, sigmas, seed)


def _fit(features: np.ndarray, vectors: np.ndarray, sigmas: np.ndarray, seed: int) -> HeadTurn:
    rng = np.random.default_rng(seed)
    mean = features.mean(0)
    some = features[rng.permutation(len(features))[:4000], :-1] - mean[:-1]
    _, strength, axes = np.linalg.svd(some, full_matrices=False)
    strength, axes = strength[:COMPONENTS] / np.sqrt(len(some)), axes[:COMPONENTS]
    basis = np.zeros((features.shape[1], COMPONENTS + 1))
    # Components keep (their strength)^(1 - WHITENING) of their spread; the scale counts as a third of the first.
    basis[:-1, :-1] = (axes / strength[:, None] * (strength[:, None] / strength[0]) ** WHITENING).T
    basis[-1, -1] = 0.3 / features[:, -1].std()
    basis = basis.astype(np.float16).astype(np.float64)
    points = (features - mean) @ basis
    centres = points[rng.choice(len(points), CENTRES, replace=False)].astype(np.float16).astype(np.float64)
    squares = ((points[:500, None] - centres[None, :200]) ** 2).sum(2)
    gamma = WIDTH / (2 * np.median(squares))
    between, offset = kernel(points, centres, gamma), vectors.mean(0)
    gram = between.T @ between + RIDGE * kernel(centres, centres, gamma) + 1e-9 * np.eye(CENTRES)
    weights = np.linalg.solve(gram, between.T @ (vectors - offset))
    return HeadTurn(mean, basis, centres, np.array(gamma), weights, offset, sigmas)


def sight_widely(person_seed: int, views: int, body: BodyModel, variety: float = 0.0) -> list[Sighting]:
    """Render a person of `variety` `views` times, from up to 75 degrees aside, and look for landmarks."""
    from fportrait.capture import people
    from fportrait.capture.motion import HEAD_LIMITS_DEGREES, rotation_from_degrees, sample_motion
    from fportrait.capture.variety.marks import sample_marks
    from fportrait.capture.world import orbit_camera
    from fportrait.tracking.landmarks import shared_landmarker

    rng = np.random.default_rng([6, person_seed])
    wild = np.random.default_rng([6, person_seed, 1])
    person = people.sample_person(person_seed, body, variety)
    found = []
    for index in range(views):
        turn = rotation_from_degrees(*(rng.uniform(-1, 1, 3) * HEAD_LIMITS_DEGREES * 0.9))
        pose = Pose(np.eye(3), rng.uniform(-1, 1, 3) * 0.01, turn)
        reach, distance = (8.0, 40.0, 75.0)[index % 3], rng.uniform(0.5, 0.95)
        camera = orbit_camera(rng.uniform(-reach, reach), rng.uniform(-18, 22), distance, np.array([0, -0.01, 0.02]))
        fov = float(2 * np.degrees(np.arctan(0.5 * 0.36 / distance)))
        intrinsics = intrinsics_from_fov(fov, PICTURE, PICTURE)
        actions = sample_motion(("expressions", "speech", "mixed")[rng.integers(3)], 1, rng).actions[0]
        picture = people.render(person, actions, pose, camera, intrinsics, PICTURE, 1 if index % 2 else 2, body)
        if variety:
            picture = sample_marks(wild, variety, picture)(picture, wild)
        faces = shared_landmarker().detect(picture)
        if len(faces) == 1:
            found.append(Sighting(faces[0].landmarks, person.identity, actions, pose, camera, intrinsics))
    return found


def samples(sightings: list[Sighting]) -> tuple[np.ndarray, np.ndarray]:
    """Features `N 957` and true rotation vectors `N 3` of sightings."""
    features, vectors = [], []
    for seen in sightings:
        feature, axes = normalised(seen.detected[None].astype(np.float64), seen.intrinsics)
        head = axes[0] @ seen.world_to_camera[:3, :3] @ seen.pose.body_rotation @ seen.pose.head_rotation
        features.append(feature[0])
        vectors.append(rotation_vector(FACING @ head))
    return np.stack(features), np.stack(vectors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--views", type=int, default=9)
    parser.add_argument("--variety", type=float, default=0.0, help="of the people: 0 plain (shipped), 1 wild")
    parser.add_argument("--output", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    body = load_body()
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.people)
    groups = [sight_widely(seed, arguments.views, body, arguments.variety) for seed in seeds]
    people = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    found = fit_head_turn(*samples([seen for group in groups for seen in group]), people)
    found.save(arguments.output)
    print(f"{len(people)} sightings: spread per axis {np.degrees(found.sigmas).round(2)} degrees: {arguments.output}")


if __name__ == "__main__":
    main()
