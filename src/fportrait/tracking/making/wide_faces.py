"""Pairs that teach an encoder whom it did not learn on: wild people, and what plain people's faces say of the same.

A wild person makes a few faces in one place, before one camera. Plain people make the same faces there, and a known
encoder reads them: the mean of their codes is what the wild person's crop should say. No person is in that mean, so an
encoder that learns it cannot say who is seen, only what the face does.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fportrait.atomic_io import atomic_path, value_hash
from fportrait.body.model import BodyModel, Pose, load_body
from fportrait.camera.cameras import intrinsics_from_fov, project
from fportrait.tracking.crops import face_crop
from fportrait.tracking.expression import ExpressionEncoder

FIRST_SEED = 7_000_000_000  # people of no capture, of no base's clips and of no other asset
METRES = 0.3  # side of the square that a picture spans at the head's distance
PICTURE = 192  # pixels of it: about as many as a crop has
MARGIN = 1.2  # of a stored crop's side over the one that the encoder sees, so that crops can be moved


@dataclass(frozen=True)
class FaceRecipe:
    """What is rendered. Equal recipes and encoders give equal bytes.

    `people` are wild and seen once, in chunks; the last `held_out` are never trained on. `crowd` plain people lend
    their faces, `plain` of them to each wild person.
    """

    people: int = 2000
    faces: int = 8
    plain: int = 2
    crowd: int = 200
    variety: float = 1.0
    stored: int = 112  # pixels of a stored crop
    chunk: int = 20
    held_out: int = 60
    seed: int = 0

    @property
    def chunks(self) -> int:
        return -(-self.people // self.chunk)

    def name(self, encoder: str) -> str:
        """Of the folder of these faces, as read by the encoder of that hash."""
        return value_hash([asdict(self), encoder])


def render_person(index: int, recipe: FaceRecipe, encoder: ExpressionEncoder, body: BodyModel) -> dict[str, np.ndarray]:
    """One wild person and the plain ones who do the same.

    Returns:
        `wild`, `plain` `F S S 3` uint8: crops wider than the encoder's by `MARGIN`, the second of one plain person;
        `codes` `F 128`, the mean of all plain people's; `own` `F 128`, of the one in `plain`; `actions` `F 52`.
    """
    from fportrait.capture import people
    from fportrait.capture.variety.marks import sample_marks
    from fportrait.capture.world import HEAD_TARGET, orbit_camera

    rng = np.random.default_rng([8, recipe.seed, index])
    person = people.sample_person(FIRST_SEED + recipe.crowd + index, body, recipe.variety)
    others = [_crowd(FIRST_SEED + int(who), body) for who in rng.choice(recipe.crowd, recipe.plain, replace=False)]
    actions, pose = _faces(recipe.faces, rng)
    reach, distance = (15.0, 30.0, 50.0)[index % 3], rng.uniform(0.45, 0.9)
    camera = orbit_camera(
        rng.uniform(-reach, reach), rng.uniform(-15, 18), distance, HEAD_TARGET + rng.uniform(-1, 1, 3) * 0.01
    )
    fov = float(2 * np.degrees(np.arctan(0.5 * METRES / distance)))
    intrinsics = intrinsics_from_fov(fov, PICTURE, PICTURE)

    def seen(who: people.Person, face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A picture of a person making a face, and the landmarks in it."""
        points = body.landmarks(people.person_vertices(who, face, pose, body))
        pixels, _ = project(points, camera, intrinsics)
        return people.render(who, face, pose, camera, intrinsics, PICTURE, 1, body), pixels.astype(np.float32)

    wild = [seen(person, face) for face in actions]
    marks = sample_marks(rng, recipe.variety, wild[0][0])
    plain = [[seen(other, face) for face in actions] for other in others]
    codes = np.stack([encoder.encode(np.stack([face_crop(*one, encoder.crop_size) for one in row])) for row in plain])
    return {
        "wild": np.stack([face_crop(marks(picture, rng), at, recipe.stored, MARGIN) for picture, at in wild]),
        "plain": np.stack([face_crop(*one, recipe.stored, MARGIN) for one in plain[0]]),
        "codes": codes.mean(0),
        "own": codes[0],
        "actions": actions.astype(np.float32),
    }


def render_chunk(chunk: int, recipe: FaceRecipe, encoder: ExpressionEncoder, folder: Path) -> Path:
    """Render people `chunk * recipe.chunk` and following into one file of `folder`; an existing file is kept."""
    target = folder / f"faces-{chunk:04d}.npz"
    if not target.exists():
        body = load_body()
        first = chunk * recipe.chunk
        rows = [
            render_person(index, recipe, encoder, body)
            for index in range(first, min(first + recipe.chunk, recipe.people))
        ]
        with atomic_path(target) as path, open(path, "wb") as sink:
            np.savez(sink, **{key: np.stack([row[key] for row in rows]) for key in rows[0]})  # type: ignore[arg-type]
    return target


def load_faces(files: list[Path]) -> dict[str, np.ndarray]:
    """All chunks as one dictionary of arrays `N F ...` with the person as first axis."""
    parts = [dict(np.load(file, allow_pickle=False)) for file in files]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


@functools.lru_cache(maxsize=256)
def _crowd(seed: int, body: BodyModel):
    from fportrait.capture import people

    return people.sample_person(seed, body)


def _faces(count: int, rng: np.random.Generator) -> tuple[np.ndarray, Pose]:
    """Actions `count 52` of pictures that differ in expression alone, and the one pose.

    Half of the people act, at full strength, and half talk or show the same faintly, as people who are filmed do.
    """
    from fportrait.capture.motion import sample_motion

    acted = sample_motion("faces", count, rng)
    actions = acted.actions
    kind = rng.random()
    if kind < 0.25:
        moments = [sample_motion(("speech", "mixed")[index % 2], 1, rng).actions[0] for index in range(count)]
        actions = np.stack(moments)
    elif kind < 0.5:
        actions = actions * rng.uniform(0.2, 1.0, (count, 1))
    return actions, acted.poses[0]
