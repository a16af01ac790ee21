"""Trains the network that moves landmarks to their places: what `fportrait.tracking.refinement` loads.

    python -m fportrait.tracking.making.refinement --people 2600 --views 8

rebuilds the shipped file (about 30 minutes on one core); the people are of seeds of their own.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from fportrait.body.model import BodyModel, Pose, load_body
from fportrait.camera.cameras import intrinsics_from_fov, project
from fportrait.errors import UserError
from fportrait.pixels import to_model_range
from fportrait.tracking.crops import face_crop
from fportrait.tracking.fit import LandmarkModel
from fportrait.tracking.refinement import COMPONENTS, CROP, MODES, SHIPPED, LandmarkRefiner, face_points

FIRST_SEED = 5_000_000_000  # as the calibration's
PICTURE = 256
LARGEST = 0.3  # eye distances: a departure beyond is the network's failure, not its habit
FAILED = 0.1  # median departure of a picture that is left out


@dataclass
class Faces:
    """Rendered faces: `crops` `N 112 112 3`, `landmarks` `N 478 2` as the network says, `places` where they lie, and
    the number of the person `N`."""

    crops: np.ndarray
    landmarks: np.ndarray
    places: np.ndarray
    person: np.ndarray


def faces(people: Iterator[int] | range, views: int, body: BodyModel, variety: float = 0.0) -> Faces:
    """Render people of `variety` `views` times each, from up to 60 degrees aside, and look for landmarks."""
    model = LandmarkModel(body)
    rows = [(*row, number) for number in people for row in person_faces(number, views, body, model, variety)]
    return Faces(*(np.stack(column) for column in zip(*rows, strict=True)))


def person_faces(
    number: int, views: int, body: BodyModel, model: LandmarkModel, variety: float = 0.0
) -> Iterator[tuple[np.ndarray, ...]]:
    """Crop, landmarks and their places of every picture of a person in which one face was found.

    The places are those on this very head: wild ones have proportions that the body's shapes do not reach.
    """
    from fportrait.capture import people
    from fportrait.capture.motion import HEAD_LIMITS_DEGREES, rotation_from_degrees, sample_motion
    from fportrait.capture.variety.marks import sample_marks
    from fportrait.capture.world import orbit_camera
    from fportrait.tracking.landmarks import shared_landmarker

    rng = np.random.default_rng([7, FIRST_SEED + number])
    wild = np.random.default_rng([7, FIRST_SEED + number, 1])
    person = people.sample_person(FIRST_SEED + number, body, variety)
    warp = 0.0 if person.extras.warp is None else body.landmarks(person.extras.warp)
    for index in range(views):
        turn = rotation_from_degrees(*(rng.uniform(-1, 1, 3) * HEAD_LIMITS_DEGREES * 0.9))
        pose = Pose(np.eye(3), rng.uniform(-1, 1, 3) * 0.01, turn)
        reach, distance = (8.0, 30.0, 60.0)[index % 3], rng.uniform(0.5, 0.95)
        camera = orbit_camera(rng.uniform(-reach, reach), rng.uniform(-18, 22), distance, np.array([0, -0.01, 0.02]))
        fov = float(2 * np.degrees(np.arctan(0.5 * 0.36 / distance)))
        intrinsics = intrinsics_from_fov(fov, PICTURE, PICTURE)
        actions = sample_motion(("expressions", "speech", "mixed")[rng.integers(3)], 1, rng).actions[0]
        picture = people.render(person, actions, pose, camera, intrinsics, PICTURE, 2 if index % 2 else 1, body)
        if variety:
            picture = sample_marks(wild, variety, picture)(picture, wild)
        # Films are compressed; a JPEG's blocks are close enough to a video's.
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))]
        picture = np.asarray(cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_COLOR))
        found = shared_landmarker().detect(picture)
        if len(found) != 1:
            continue
        rotations, shifts = body.bone_transforms(person.identity, pose)
        world = (model.at(person.identity, actions[None])[0] + warp) @ rotations[2].T + shifts[2]
        places, _ = project(world, camera, intrinsics)
        yield face_crop(picture, found[0].landmarks, CROP), found[0].landmarks, places.astype(np.float32)


def train_refiner(seen: Faces, valid: np.ndarray, epochs: int = 14, batch: int = 64, seed: int = 0) -> LandmarkRefiner:
    """Train on faces; `valid` `L` says which landmarks have a place on the mesh. Shows progress.

    Raises:
        UserError: fewer faces than modes.
    """
    points, scales, axes = face_points(seen.landmarks)
    departures = (seen.landmarks - seen.places)[:, valid] @ axes.transpose(0, 2, 1) / scales[:, None, None]
    usable = np.median(np.linalg.norm(departures, axis=-1), 1) < FAILED
    if usable.sum() < 2 * MODES:
        raise UserError(f"{int(usable.sum())} faces", f"{2 * MODES} at least", "render more people")
    targets = np.clip(departures[usable].reshape(usable.sum(), -1), -LARGEST, LARGEST)
    mean = targets.mean(0)
    _, _, modes = np.linalg.svd(targets - mean, full_matrices=False)
    weights = (targets - mean) @ modes[:MODES].T
    spread = weights.std(0).mean()  # the network's numbers are about one; the modes carry the size

    torch.manual_seed(seed)
    model = LandmarkRefiner(len(valid), MODES)
    model.valid.copy_(torch.from_numpy(valid))
    model.modes.copy_(torch.from_numpy(modes[:MODES] * spread))
    model.mean.copy_(torch.from_numpy(mean))
    model.points_mean.copy_(torch.from_numpy(points[usable].mean(0)))
    model.points_std.copy_(torch.from_numpy(points[usable].std(0) + 1e-3))
    model.whitening.copy_(torch.from_numpy(whitening(points[usable])))
    crops, inputs = seen.crops[usable], torch.from_numpy(points[usable])
    wanted = torch.from_numpy((weights / spread).astype(np.float32))

    steps = len(crops) // batch
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * steps + 1, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    with tqdm(total=epochs * steps, desc="refiner") as progress:
        for _ in range(epochs):
            order, total = torch.randperm(len(crops), generator=generator), 0.0
            for index in range(steps):
                rows = order[index * batch : (index + 1) * batch]
                answer = model(relit(to_model_range(crops[rows.numpy()]), generator), inputs[rows])
                loss = nn.functional.smooth_l1_loss(answer, wanted[rows], beta=0.5)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += float(loss.detach())
                progress.update()
            progress.set_postfix(loss=round(total / steps, 4))
    return model.eval()


def whitening(points: np.ndarray) -> np.ndarray:
    """From points `N 956` less their mean to their principal components, each of unit spread: `956 80`."""
    variances, axes = np.linalg.eigh(np.cov(points.T.astype(np.float64)))
    return (axes[:, -COMPONENTS:] / np.sqrt(variances[-COMPONENTS:])).astype(np.float32)


def relit(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Crops with other gains per colour, brightness and noise."""
    normal = functools.partial(torch.randn, generator=generator)
    gain, offset = 1 + 0.25 * normal(len(crops), 3, 1, 1), 0.15 * normal(len(crops), 1, 1, 1)
    noise = 0.05 * torch.rand(len(crops), 1, 1, 1, generator=generator) * normal(crops.shape)
    return crops * gain + offset + noise


def remaining(model: LandmarkRefiner, seen: Faces) -> dict[str, float]:
    """Mean distance of a landmark from its place in eye distances, as it came and refined."""
    valid, (_, scales, _) = model.valid.numpy(), face_points(seen.landmarks)
    found = {"as_seen": seen.landmarks, "refined": model.refine(seen.landmarks, seen.crops)}
    distances = {
        name: np.linalg.norm((points - seen.places)[:, valid], axis=-1).mean(1) / scales
        for name, points in found.items()
    }
    usable = distances["as_seen"] < FAILED
    return {name: round(float(values[usable].mean()), 4) for name, values in distances.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=2600)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--variety", type=float, default=0.0, help="of the people: 0 plain (shipped), 1 wild")
    parser.add_argument("--output", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    body = load_body()
    learned = faces(range(arguments.people), arguments.views, body, arguments.variety)
    model = train_refiner(learned, np.flatnonzero(body.landmark_valid), arguments.epochs)
    model.save(arguments.output)
    others = range(arguments.people, arguments.people + 50)
    strangers = faces(others, arguments.views, body, arguments.variety)
    print(f"{len(learned.person)} faces; of strangers, in eye distances: {remaining(model, strangers)}")


if __name__ == "__main__":
    main()
