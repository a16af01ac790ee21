"""Clips for pretraining the small base: embedded people seen by known cameras, one fresh person per clip.

Only pretraining uses the known motion of these clips. Captures, which `track` annotates from pixels, come from
other seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np

from fportrait.atomic_io import atomic_path, value_hash
from fportrait.body.model import BodyModel, Pose, load_body
from fportrait.body.painting import PortraitPainter, acting_vertices, paint_each
from fportrait.body.rasterizer import normal_map
from fportrait.camera.cameras import in_camera, project, scale_intrinsics
from fportrait.capture import people, world
from fportrait.capture.variety.marks import sample_marks
from fportrait.errors import UserError
from fportrait.tracking.actions import READOUT
from fportrait.tracking.crops import face_crop
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.training.disturbance import sample_disturbance

MOUTH = (13, 14, 61, 291)
LEFT_EYE = (362, 263)
RIGHT_EYE = (33, 133)


@dataclass(frozen=True)
class ClipRecipe:
    """What is rendered. Equal recipes give equal bytes.

    `variety` of people and camera's marks, and `disturbance` of the conditions, hold for all clips but a share `plain`;
    at 0 everything is the plain world with exact conditions. `driver` is the share of these clips whose face crops show
    another, plain person making the same faces: an encoder that does not read wild people would teach the transformer
    that codes say nothing, and a driver is another person anyway. `acting`: the body that the portrait is painted on
    makes the faces that an encoder reads from the crops; else it has no expression.
    """

    clips: int = 6000
    frames: int = 17
    size: int = 64
    render_scale: int = 3  # frames are rendered larger and averaged down; face crops are cut from the large frame
    crop_size: int = 96
    references: int = 2
    held_out: int = 100  # the last clips; never trained on
    chunk: int = 50
    seed: int = 20_000_000  # far from the seeds of any capture
    variety: float = 0.0
    disturbance: float = 0.0
    plain: float = 0.2
    driver: float = 0.0
    acting: bool = False
    kinds: dict[str, float] = field(
        default_factory=lambda: {"phone": 0.3, "studio": 0.15, "view_sweep": 0.15, "dynamic_sweep": 0.4}
    )

    @property
    def name(self) -> str:
        return value_hash(asdict(self))


def render_clip(
    index: int, recipe: ClipRecipe, body: BodyModel, read: Callable[[np.ndarray], np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """One clip with everything known about it.

    Args:
        read: facial actions `N 52` of face crops `N crop crop 3`; None paints the portrait on a body at rest.

    Returns:
        `video`, `normals` `T S S 3` uint8; `crops` `T crop crop 3` uint8; `references`, `reference_normals`
        `R S S 3` uint8; `warped` `R+1 T S S 3` uint8, each reference, and the clip's own frame `own_frame`, painted on
        the mesh in every frame's pose;
        `world_to_camera` `T 4 4`, `reference_world_to_camera` `R 4 4`, `intrinsics` `3 3` (pixels of `video`);
        `actions` `T 52`; `pose` `T 6` (head rotation vector, translation); `focus` `T 3 2` (eyes and mouth, pixels of
        `video`).
    """
    rng = np.random.default_rng([recipe.seed, index])
    names = list(recipe.kinds)
    weights = np.array([recipe.kinds[name] for name in names])
    kind = names[rng.choice(len(names), p=weights / weights.sum())]
    large = recipe.size * recipe.render_scale
    wild = np.random.default_rng([recipe.seed, index, 1])
    wide = wild.random() >= recipe.plain
    variety, disturbance = (recipe.variety, recipe.disturbance) if wide else (0.0, 0.0)
    clip = world.sample_training_clip(rng, body, kind, recipe.frames, large, variety=variety)
    person = clip["person"]
    marks = sample_marks(wild, variety, clip["video"][0]) if variety else None
    if marks is not None:
        clip["video"] = np.stack([marks(frame, wild) for frame in clip["video"]])
    errors = sample_disturbance(body, wild, disturbance)
    driver = None
    if variety and wild.random() < recipe.driver:
        driver = people.sample_person(int(wild.integers(world.FIRST_TRAINING_SEED, 2**53)), body)
    small_intrinsics = errors.intrinsics(scale_intrinsics(clip["intrinsics"], 1 / recipe.render_scale))
    cameras = np.stack([errors.camera(camera) for camera in clip["world_to_camera"]])

    normals, crops, focus, bodies = [], [], [], []
    own_crops = []
    for t in range(recipe.frames):
        pose, actions, w2c = clip["poses"][t], clip["actions"][t], clip["world_to_camera"][t]
        vertices = people.person_vertices(person, actions, pose, body)
        pixels, _ = project(body.landmarks(vertices), w2c, clip["intrinsics"])
        own_crops.append(face_crop(clip["video"][t], pixels.astype(np.float32), recipe.crop_size))
        crops.append(
            own_crops[-1]
            if driver is None
            else driver_crop(driver, actions, pose, w2c, clip["intrinsics"], large, recipe.crop_size, body)
        )
        centres = np.stack([pixels[list(group)].mean(0) for group in (LEFT_EYE, RIGHT_EYE, MOUTH)])
        focus.append(centres / recipe.render_scale)
        shape = clip["shape"]
        if disturbance:
            shape, pose = errors.body(body, shape, pose, wild)
        neutral = body.vertices(shape, None, pose)
        bodies.append((shape, pose))
        normals.append(
            normal_map(neutral, body.faces, cameras[t], small_intrinsics, recipe.size, recipe.size, 2, body.weld)
        )

    references, reference_normals, reference_cameras = [], [], []
    painters: list[PortraitPainter] = []
    read_actions = list(read(np.stack(crops))) if read else [None] * recipe.frames
    for _ in range(recipe.references):
        view = world.sample_training_clip(
            rng, body, "studio" if rng.random() < 0.5 else "phone", 1, large, person=person
        )
        picture = view["video"][0] if marks is None else marks(view["video"][0], wild)
        references.append(shrink(picture, recipe.size))
        # The tracker is wrong about a person in one way. Were it wrong about the portrait in another, the portrait
        # painted on the body would lie beside the truth, and a model would learn not to believe its details.
        shape, pose = view["shape"], view["poses"][0]
        if disturbance:
            shape, pose = errors.body(body, shape, pose, wild)
        reference_cameras.append(errors.camera(view["world_to_camera"][0]))
        intrinsics = errors.intrinsics(scale_intrinsics(view["intrinsics"], 1 / recipe.render_scale))
        vertices = body.vertices(shape, None, pose)
        size = recipe.size
        reference_normals.append(
            normal_map(vertices, body.faces, reference_cameras[-1], intrinsics, size, size, 2, body.weld)
        )
        if read:
            seen = people.person_vertices(person, view["actions"][0], view["poses"][0], body)
            pixels, _ = project(body.landmarks(seen), view["world_to_camera"][0], view["intrinsics"])
            own = face_crop(picture, pixels.astype(np.float32), recipe.crop_size)
            vertices = acting_vertices(body, shape, read(own[None])[0], pose)
        before = in_camera(vertices, reference_cameras[-1])
        painters.append(PortraitPainter(body, references[-1], before, intrinsics))
    own_frame = int(rng.integers(recipe.frames))
    own_actions = read(own_crops[own_frame][None])[0] if read else None
    shape, pose = bodies[own_frame]
    own_vertices = in_camera(acting_vertices(body, shape, own_actions, pose), cameras[own_frame])
    own_picture = shrink(clip["video"][own_frame], recipe.size)
    painters.append(PortraitPainter(body, own_picture, own_vertices, small_intrinsics))
    warped = [
        paint_each(painters, in_camera(acting_vertices(body, shape, actions, pose), camera), small_intrinsics)
        for (shape, pose), actions, camera in zip(bodies, read_actions, cameras, strict=True)
    ]

    return {
        "video": np.stack([shrink(frame, recipe.size) for frame in clip["video"]]),
        "normals": np.stack(normals),
        "crops": np.stack(crops),
        "references": np.stack(references),
        "reference_normals": np.stack(reference_normals),
        "warped": np.stack([np.stack(frames) for frames in zip(*warped, strict=True)]),
        "own_frame": np.array(own_frame, np.int32),
        "world_to_camera": np.asarray(cameras, np.float32),
        "reference_world_to_camera": np.asarray(reference_cameras, np.float32),
        "intrinsics": np.asarray(small_intrinsics, np.float32),
        "actions": np.asarray(clip["actions"], np.float32),
        "pose": np.stack([pose_vector(pose) for pose in clip["poses"]]).astype(np.float32),
        "focus": np.stack(focus).astype(np.float32),
        "kind": np.array(names.index(kind), np.int32),
    }


def driver_crop(
    driver: people.Person,
    actions: np.ndarray,
    pose: Pose,
    world_to_camera: np.ndarray,
    intrinsics: np.ndarray,
    size: int,
    crop_size: int,
    body: BodyModel,
) -> np.ndarray:
    """The face crop `C C 3` of another person in the same place, making the same face."""
    picture = people.render(driver, actions, pose, world_to_camera, intrinsics, size, 1, body)
    points = body.landmarks(people.person_vertices(driver, actions, pose, body))
    pixels, _ = project(points, world_to_camera, intrinsics)
    return face_crop(picture, pixels.astype(np.float32), crop_size)


def pose_vector(pose) -> np.ndarray:
    """Head rotation in the world as a rotation vector, then root translation, `6`."""
    rotation, _ = cv2.Rodrigues(np.asarray(pose.body_rotation @ pose.head_rotation, np.float64))
    return np.concatenate([rotation[:, 0], pose.body_translation])


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def reader(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """What reads facial actions `N 52` from face crops: an encoder with its readout."""
    encoder = ExpressionEncoder.from_pretrained(folder)
    readout = encoder.readout
    if readout is None:
        raise UserError(f"no {READOUT} in {folder}", "an encoder with its readout", "name another, or acting=False")
    return lambda crops: readout(encoder.encode(crops))


def render_chunk(chunk: int, recipe: ClipRecipe, folder: Path, encoder: Path | None = None) -> Path:
    """Render clips `chunk * recipe.chunk` and following into one file; an existing file is kept.

    Args:
        encoder: the folder of the encoder that reads faces, for recipes with `acting`.
    """
    target = Path(folder) / recipe.name / f"clips-{chunk:04d}.npz"
    if not target.exists():
        body = load_body()
        count = min(recipe.chunk, recipe.clips - chunk * recipe.chunk)
        read = reader(encoder) if recipe.acting and encoder else None
        clips = [render_clip(chunk * recipe.chunk + i, recipe, body, read) for i in range(count)]
        with atomic_path(target) as path, open(path, "wb") as sink:
            np.savez(sink, **{key: np.stack([clip[key] for clip in clips]) for key in clips[0]})  # type: ignore[arg-type]
    return target


def load_clips(files: list[Path]) -> dict[str, np.ndarray]:
    """All chunks as one dictionary of arrays with the clip as first axis."""
    parts = [dict(np.load(file, allow_pickle=False)) for file in files]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
