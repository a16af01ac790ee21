"""Landmarks moved to where they lie on this face: a small network that has seen where the landmark network errs.

The landmark network puts its points a few hundredths of an eye distance beside their places, alike in all frames of a
person: a lip line too low stays too low. `calibration` takes away what is the same for everyone. What is this person's,
view's and expression's own shows in the picture, and a convolutional network on the roll-normalised face crop, with
the landmarks beside it, tells it, as weights of the modes in which departures vary among rendered people.

It knows rendered people only, and knows that: `strangeness` says how far a face's landmarks lie from those it learned
on. `track` keeps the landmarks of a person who is stranger than `STRANGE` as they came, as it does for photographs.

    python -m fportrait.tracking.refinement --people 2600 --views 8

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
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from fportrait.atomic_io import write_safetensors
from fportrait.body.model import BodyModel, Pose, load_body
from fportrait.camera.cameras import intrinsics_from_fov, project
from fportrait.errors import UserError
from fportrait.tracking.backbone import to_network
from fportrait.tracking.crops import face_crop, face_frame
from fportrait.tracking.fit import LandmarkModel

SHIPPED = Path(__file__).parent.parent / "assets" / "landmark_refinement.safetensors"
FIRST_SEED = 5_000_000_000  # as the calibration's
PICTURE, CROP = 256, 112
MODES, COMPONENTS = 40, 80
STRANGE = 0.96  # of the tenth of a person's pictures that look least strange; photographs start at 1.01
LARGEST = 0.3  # eye distances: a departure beyond is the network's failure, not its habit
FAILED = 0.1  # median departure of a picture that is left out
CHANNELS = ((16, 2), (32, 2), (48, 1), (64, 2), (64, 1), (96, 2), (96, 1), (64, 1))  # and strides, from 112² to 7²


class LandmarkRefiner(nn.Module):
    """Face crops and landmarks in, the landmarks' departures from their places out.

    `valid` `L`: the landmarks that have a place on the mesh; the others are left as they are. `modes` `M 2L` and `mean`
    `2L`: departures in eye distances along and across the line of the eyes. `points_mean`, `points_std` `956`;
    `whitening` `956 80`: to the principal components of the points, each of unit spread.
    """

    valid: Tensor
    modes: Tensor
    mean: Tensor
    points_mean: Tensor
    points_std: Tensor
    whitening: Tensor

    def __init__(self, landmarks: int, modes: int = MODES):
        super().__init__()
        layers: list[nn.Module] = []
        last = 3
        for channels, stride in CHANNELS:
            layers += [nn.Conv2d(last, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
            last = channels
        self.picture = nn.Sequential(*layers)
        self.points = nn.Sequential(nn.Linear(956, 64), nn.ReLU())
        self.hidden = nn.Sequential(nn.Dropout(0.3), nn.Linear(last * 49 + 64, 128), nn.ReLU())
        self.head = nn.Linear(128, modes)
        self.register_buffer("valid", torch.zeros(landmarks, dtype=torch.int64))
        self.register_buffer("modes", torch.zeros(modes, 2 * landmarks))
        self.register_buffer("mean", torch.zeros(2 * landmarks))
        self.register_buffer("points_mean", torch.zeros(956))
        self.register_buffer("points_std", torch.ones(956))
        self.register_buffer("whitening", torch.zeros(956, COMPONENTS))

    def forward(self, crops: Tensor, points: Tensor) -> Tensor:
        """Weights of the modes, `N M`, of crops `N 3 112 112` in [−1, 1] and points `N 956` of `face_points`."""
        points = self.points((points - self.points_mean) / self.points_std)
        return self.head(self.hidden(torch.cat([self.picture(crops).flatten(1), points], 1)))

    @torch.no_grad()
    def refine(self, landmarks: np.ndarray, crops: np.ndarray, batch: int = 64) -> np.ndarray:
        """Landmarks `N 478 2` pixels (NaN where there is no face, and then left so), each moved to its place.

        Args:
            crops: `N 112 112 3` uint8, `face_crop` of the same frames.
        """
        refined = landmarks.astype(np.float32)
        found = np.flatnonzero(np.isfinite(landmarks).all((1, 2)))
        for start in range(0, len(found), batch):
            rows = found[start : start + batch]
            points, scales, axes = face_points(landmarks[rows])
            weights = self(to_network(crops[rows]), torch.from_numpy(points))
            departure = (weights @ self.modes + self.mean).numpy().reshape(len(rows), -1, 2)
            refined[rows[:, None], self.valid.numpy()] -= (departure * scales[:, None, None]) @ axes
        return refined

    def strangeness(self, landmarks: np.ndarray) -> np.ndarray:
        """Distance `N` of faces `N 478 2` (finite) from the mean face, in root mean square spreads of those seen in
        training: about 1 for them, and up to 2 when seen from the side."""
        points, _, _ = face_points(landmarks)
        return ((torch.from_numpy(points) - self.points_mean) @ self.whitening).square().mean(1).sqrt().numpy()

    def save(self, path: str | Path) -> None:
        """Write safetensors, matrices in half precision."""
        write_safetensors(
            path,
            {
                name: value.half() if value.dtype == torch.float32 and value.ndim > 1 else value
                for name, value in self.state_dict().items()
            },
        )

    @classmethod
    def load(cls, path: str | Path = SHIPPED) -> LandmarkRefiner:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, or its tensors are not this network's.
        """
        path, fix = Path(path), "rebuild it: python -m fportrait.tracking.refinement"
        if not path.is_file():
            raise UserError(f"no file {path}", "a landmark refiner", fix)
        state = load_file(path)
        if "valid" not in state or "modes" not in state:
            raise UserError(f"the tensors {sorted(state)} in {path}", "a landmark refiner's", fix)
        model = cls(len(state["valid"]), len(state["modes"]))
        wanted = {name: value.shape for name, value in model.state_dict().items()}
        if {name: value.shape for name, value in state.items()} != wanted:
            raise UserError(f"other tensors than the network's in {path}", f"{len(wanted)} tensors", fix)
        model.load_state_dict(state)
        return model.eval()


@functools.cache
def shipped_refiner() -> LandmarkRefiner:
    """The shipped network, read once."""
    return LandmarkRefiner.load()


def face_points(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Landmarks `N 478 2` in the face's own frame, `N 956` eye distances; the frames' scales `N` and axes `N 2 2`."""
    points = np.empty((len(landmarks), 956), np.float32)
    scales, axes = np.empty(len(landmarks)), np.empty((len(landmarks), 2, 2))
    for index, seen in enumerate(landmarks.astype(np.float64)):
        eyes, scales[index], along = face_frame(seen)
        axes[index] = along, (-along[1], along[0])
        points[index] = ((seen - eyes) @ axes[index].T / scales[index]).ravel()
    return points, scales, axes


@dataclass
class Faces:
    """Rendered faces: `crops` `N 112 112 3`, `landmarks` `N 478 2` as the network says, `places` where they lie, and
    the number of the person `N`."""

    crops: np.ndarray
    landmarks: np.ndarray
    places: np.ndarray
    person: np.ndarray


def faces(people: Iterator[int] | range, views: int, body: BodyModel) -> Faces:
    """Render people `views` times each, from up to 60 degrees aside, and look for landmarks."""
    model = LandmarkModel(body)
    rows = [(*row, number) for number in people for row in person_faces(number, views, body, model)]
    return Faces(*(np.stack(column) for column in zip(*rows, strict=True)))


def person_faces(number: int, views: int, body: BodyModel, model: LandmarkModel) -> Iterator[tuple[np.ndarray, ...]]:
    """Crop, landmarks and their places of every picture of a person in which one face was found."""
    from fportrait.capture import people
    from fportrait.capture.motion import HEAD_LIMITS_DEGREES, rotation_from_degrees, sample_motion
    from fportrait.capture.world import orbit_camera
    from fportrait.tracking.landmarks import shared_landmarker

    rng = np.random.default_rng([7, FIRST_SEED + number])
    person = people.sample_person(FIRST_SEED + number, body)
    for index in range(views):
        turn = rotation_from_degrees(*(rng.uniform(-1, 1, 3) * HEAD_LIMITS_DEGREES * 0.9))
        pose = Pose(np.eye(3), rng.uniform(-1, 1, 3) * 0.01, turn)
        reach, distance = (8.0, 30.0, 60.0)[index % 3], rng.uniform(0.5, 0.95)
        camera = orbit_camera(rng.uniform(-reach, reach), rng.uniform(-18, 22), distance, np.array([0, -0.01, 0.02]))
        fov = float(2 * np.degrees(np.arctan(0.5 * 0.36 / distance)))
        intrinsics = intrinsics_from_fov(fov, PICTURE, PICTURE)
        actions = sample_motion(("expressions", "speech", "mixed")[rng.integers(3)], 1, rng).actions[0]
        picture = people.render(person, actions, pose, camera, intrinsics, PICTURE, 2 if index % 2 else 1, body)
        # Films are compressed; a JPEG's blocks are close enough to a video's.
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))]
        picture = np.asarray(cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_COLOR))
        found = shared_landmarker().detect(picture)
        if len(found) != 1:
            continue
        rotations, shifts = body.bone_transforms(person.identity, pose)
        world = model.at(person.identity, actions[None])[0] @ rotations[2].T + shifts[2]
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
                answer = model(relit(to_network(crops[rows.numpy()]), generator), inputs[rows])
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
    parser.add_argument("--output", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    body = load_body()
    learned = faces(range(arguments.people), arguments.views, body)
    model = train_refiner(learned, np.flatnonzero(body.landmark_valid), arguments.epochs)
    model.save(arguments.output)
    strangers = faces(range(arguments.people, arguments.people + 50), arguments.views, body)
    print(f"{len(learned.person)} faces; of strangers, in eye distances: {remaining(model, strangers)}")


if __name__ == "__main__":
    main()
