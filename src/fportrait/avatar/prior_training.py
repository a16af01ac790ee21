"""Train the universal avatar over many people together.

A step takes a few people; for each, the prior sees the evidence of *some* cameras and draws frames of *all* cameras:
what it learns is to complete what a capture leaves open. People come from tracked captures (`capture_person`) or from
the embedded world (`film_person`), where views from behind and from above are as cheap as any. The shipped prior is
made by

    python -m fportrait.avatar.prior_training OUTPUT --people 200 --steps 6000 --work WORK_FOLDER

from embedded people whose seeds no capture uses.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fportrait.avatar.evidence import backgrounds_of, gather_evidence
from fportrait.avatar.expression import actions_from_landmarks
from fportrait.avatar.losses import picture_loss
from fportrait.avatar.model import GaussianAvatar, PosedGuide
from fportrait.avatar.prior import AvatarPrior, PriorConfig, prior_config
from fportrait.avatar.splat import splatting_device
from fportrait.avatar.views import CaptureFrame, View
from fportrait.errors import UserError
from fportrait.parameters import settings_from

if TYPE_CHECKING:
    from fportrait.body.model import BodyModel

FIRST_SEED = 2**33  # captures use seeds below 2^31, the base's pretraining draws from 2^31 up at random
EVIDENCE_SETS = 2


@dataclass(frozen=True)
class PriorTraining:
    """How a prior is trained. people_per_step, pictures: how many of each a step draws. camera_share: of the cameras
    that evidence is gathered from. size, max_frames, margin: of the captures it learns from (see `read_capture`)."""

    prior: PriorConfig = field(default_factory=PriorConfig)
    steps: int = 6000
    people_per_step: int = 2
    pictures: int = 2
    rate: float = 2e-3
    camera_share: float = 0.7
    similarity_weight: float = 0.2
    size: int = 128
    max_frames: int = 64
    margin: float = 1.2
    device: str = "cpu"


def prior_training(values: Mapping[str, Any]) -> PriorTraining:
    """A `PriorTraining` from nested mappings; unknown keys are refused."""
    nested = {**values, "prior": prior_config(values.get("prior", {}))}
    return settings_from(PriorTraining, nested, "the parameters of the prior's training")


@dataclass
class Target:
    """One picture to draw: of which frame, from where. `picture` (S, S, 3) uint8, `background` (S, S, 3)."""

    frame: int
    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    picture: np.ndarray
    background: torch.Tensor


@dataclass
class Subject:
    """One person as the prior learns from them. evidence: sets (N, CHANNELS), each of other cameras; actions (M, A)."""

    name: str
    avatar: GaussianAvatar
    guides: list[PosedGuide]
    actions: np.ndarray
    targets: list[Target]
    evidence: list[np.ndarray]


def capture_person(
    name: str,
    shape: np.ndarray,
    body: BodyModel,
    frames: Sequence[CaptureFrame],
    views: Sequence[View],
    config: PriorTraining,
    actions: np.ndarray | None = None,
    backgrounds: Mapping[str, torch.Tensor] | None = None,
    seed: int = 0,
) -> Subject:
    """A person from a capture's frames and pictures; actions (M, A) are read off the landmarks unless given."""
    avatar = GaussianAvatar(shape, body, config.prior.avatar)
    guides = [avatar.guide(frame.pose) for frame in frames]
    backgrounds = backgrounds or backgrounds_of(avatar, frames, views)
    if actions is None:
        actions = actions_from_landmarks(body, np.asarray(shape), frames, views)
    rng = np.random.default_rng(seed)
    cameras = sorted({view.camera for view in views})
    evidence = []
    for _ in range(EVIDENCE_SETS):
        chosen = set(rng.choice(cameras, max(3, round(config.camera_share * len(cameras))), replace=False).tolist())
        some = [view for view in views if view.camera in chosen]
        evidence.append(gather_evidence(avatar, frames, some, guides, backgrounds))
    targets = [
        Target(v.frame, v.world_to_camera, v.intrinsics, np.round(v.image * 255).astype(np.uint8), backgrounds[v.clip])
        for v in views
    ]
    return Subject(name, avatar, guides, np.asarray(actions), targets, evidence)


def train_prior(
    subjects: Sequence[Subject],
    body: BodyModel,
    config: PriorTraining,
    seed: int = 0,
    start: AvatarPrior | None = None,
    log: Callable[[int, dict[str, float]], None] | None = None,
) -> AvatarPrior:
    """Adam over people and pictures.

    Args:
        start: a prior to go on from; a fresh one when None.
        log: called every 50 steps with the mean loss since the last call.

    Returns:
        the prior; `record` says what it was trained on.

    Raises:
        UserError: nobody to learn from, or the loss stopped being finite (names the person and the step).
    """
    if not subjects:
        raise UserError("nobody to train the avatar prior on", "at least one studio capture", "add captures")
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    device = splatting_device(config.device)
    prior = start or AvatarPrior(body, config.prior)
    prior.train().to(device)
    for subject in subjects:
        subject.avatar.to(device)
    if start is None:
        stacked = torch.from_numpy(np.concatenate([s.evidence[0][::7] for s in subjects]))
        prior.evidence_mean.copy_(stacked.mean(dim=0))
        prior.evidence_scale.copy_(stacked.std(dim=0).clamp_min(0.02))
    tables = [prior.mean_maps, prior.embedding]
    held = {id(p) for p in tables}
    groups = [
        {"params": tables, "lr": 4 * config.rate},
        {"params": [p for p in prior.parameters() if id(p) not in held], "lr": config.rate},
    ]
    optimizer = torch.optim.Adam(groups, eps=1e-10, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50) * 0.05 ** (step / config.steps)
    )
    queue: list[int] = []
    losses: list[float] = []
    started = time.perf_counter()
    for step in range(config.steps):
        optimizer.zero_grad(set_to_none=True)
        for _ in range(config.people_per_step):
            queue = queue or list(rng.permutation(len(subjects)))
            losses.append(_one_person(prior, subjects[queue.pop()], config, rng, step))
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if log and (step + 1) % 50 == 0:
            log(step + 1, {"prior_loss": float(np.mean(losses[-50 * config.people_per_step :]))})
    prior.record = {
        "people": len(subjects),
        "names": sorted({s.name for s in subjects})[:4000],
        "training": asdict(config),
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        "last_loss": float(np.mean(losses[-200:])),
    }
    return prior.eval().to("cpu")


def _one_person(
    prior: AvatarPrior, subject: Subject, config: PriorTraining, rng: np.random.Generator, step: int
) -> float:
    """Gradients of a few pictures of one person; the network itself is run, and differentiated, once."""
    evidence = subject.evidence[rng.integers(len(subject.evidence))]
    device = prior.mean_maps.device
    predicted = prior(torch.from_numpy(evidence).to(device))
    leaves = {name: value.detach().requires_grad_() for name, value in predicted.items()}
    total = 0.0
    picks = rng.choice(len(subject.targets), min(config.pictures, len(subject.targets)), replace=False)
    for pick in picks:
        target = subject.targets[pick]
        actions = torch.from_numpy(subject.actions[target.frame]).float().to(device)
        guide = PosedGuide(*(part.to(device) for part in subject.guides[target.frame]))
        size = len(target.picture)
        latents = torch.tanh(leaves["latent_actions"] @ actions)
        given = {name: value for name, value in leaves.items() if name != "latent_actions"}
        colour, _ = torch.func.functional_call(
            subject.avatar,
            given,
            ((actions, latents), guide, target.world_to_camera, target.intrinsics, size, size),
            {"background": target.background.to(device)},
        )
        truth = torch.from_numpy(target.picture).to(device).float() / 255
        loss = picture_loss(colour, truth, torch.ones(size, size, 1, device=device), config.similarity_weight) / len(
            picks
        )
        loss.backward()
        total += float(loss.detach())
    penalty = (
        2e-3 * (1 - torch.sigmoid(leaves["opacity"])).mean()
        + 1e-2 * (leaves["correction"] ** 2).mean()
        + 0.02 * (leaves["view_colour"] ** 2).mean()
        + 1e-3 * (leaves["log_scale"] ** 2).mean()
    )
    penalty.backward()
    if not np.isfinite(total):
        raise UserError(
            f"a loss that is not finite at step {step} of the prior, on {subject.name}",
            "finite pictures",
            "lower the rate, or leave that capture out",
        )
    names = list(leaves)
    torch.autograd.backward([predicted[n] for n in names], [_gradient(leaves[n]) for n in names])
    return total


def _gradient(leaf: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


# --- people of the embedded world -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Studio:
    """How embedded people are filmed for the prior. Noise imitates what tracking gets wrong."""

    frames: int = 4
    cameras: int = 8
    size: int = 96
    landmark_metres: float = 0.05
    pose_noise_degrees: float = 1.0
    pose_noise_metres: float = 0.003


def film_person(seed: int, folder: Path, studio: Studio, training: PriorTraining) -> dict[str, Any]:
    """Film one embedded person and write `person.npz`: a unit for the map engine."""
    from fportrait.body.model import Pose, load_body, rotation_matrix
    from fportrait.camera.cameras import intrinsics_from_fov
    from fportrait.capture.motion import sample_motion
    from fportrait.capture.people import render, sample_person
    from fportrait.capture.world import HEAD_TARGET, orbit_camera

    torch.set_num_threads(1)
    body = load_body()
    person = sample_person(FIRST_SEED + seed, body)
    rng = np.random.default_rng([FIRST_SEED, seed])
    shape = person.identity + landmark_ambiguity(body, studio.landmark_metres) @ rng.standard_normal(
        len(person.identity)
    )
    turn_off = rotation_matrix(np.radians(studio.pose_noise_degrees) * rng.standard_normal(3))
    place_off = studio.pose_noise_metres * rng.standard_normal(3)
    poses, true_poses, actions = [], [], []
    for _ in range(studio.frames):
        motion = sample_motion(["mixed", "expressions", "speech", "rotation"][rng.integers(4)], 30, rng)
        pose = motion.poses[-1]
        true_poses.append(pose)
        actions.append(motion.actions[-1])
        poses.append(Pose(pose.body_rotation, pose.body_translation + place_off, turn_off @ pose.head_rotation))
    frames = [CaptureFrame("s", index, pose, np.zeros(128, np.float32)) for index, pose in enumerate(poses)]
    views = []
    for number in range(studio.cameras):
        around = number >= studio.cameras - 2  # from anywhere, behind too; the others as a studio has them
        yaw = rng.uniform(-180, 180) if around else rng.uniform(-80, 80)
        distance, span = rng.uniform(0.5, 1.0), rng.uniform(0.28, 0.46)
        camera = orbit_camera(yaw, rng.uniform(-15, 25), distance, HEAD_TARGET - np.array([0, 0.25 * (span - 0.28), 0]))
        intrinsics = intrinsics_from_fov(
            float(2 * np.degrees(np.arctan(0.5 * span / distance))), studio.size, studio.size
        )
        for index in range(studio.frames):
            picture = render(person, actions[index], true_poses[index], camera, intrinsics, studio.size, 2, body)
            views.append(
                View(
                    index,
                    f"cam{number:02d}",
                    f"cam{number:02d}",
                    camera,
                    intrinsics,
                    picture.astype(np.float32) / 255,
                    np.ones((studio.size, studio.size), np.float32),
                    np.zeros((478, 2)),
                    1.0,
                )
            )
    subject = capture_person(str(seed), shape, body, frames, views, training, np.stack(actions), seed=seed)
    names = sorted({view.camera for view in views})
    backgrounds = {view.camera: target.background for view, target in zip(views, subject.targets, strict=True)}
    with open(folder / "person.npz", "wb") as sink:
        np.savez(
            sink,
            shape=shape,
            actions=np.stack(actions),
            body_rotation=np.stack([p.body_rotation for p in poses]),
            body_translation=np.stack([p.body_translation for p in poses]),
            head_rotation=np.stack([p.head_rotation for p in poses]),
            frame=np.array([t.frame for t in subject.targets]),
            camera=np.array([names.index(view.camera) for view in views]),
            world_to_camera=np.stack([t.world_to_camera for t in subject.targets]),
            intrinsics=np.stack([t.intrinsics for t in subject.targets]),
            pictures=np.stack([t.picture for t in subject.targets]),
            backgrounds=np.round(np.stack([backgrounds[n].numpy() for n in names]) * 255).astype(np.uint8),
            evidence=np.stack(subject.evidence).astype(np.float16),
        )
    return {"pictures": len(views)}


def landmark_ambiguity(body: BodyModel, metres: float) -> np.ndarray:
    """(K, K) L, so that L z with z ~ N(0, 1) is an error of shape that landmarks of this accuracy cannot exclude.

    Their 478 errors are far from independent, so `metres` is well above what one landmark is off.
    """
    neutral = np.asarray(body.neutral(np.zeros(body.identity_dim)), dtype=np.float64)
    corners, weights = (
        np.asarray(body.faces)[np.asarray(body.landmark_triangles)],
        np.asarray(body.landmark_barycentric),
    )
    moves = [np.asarray(body.neutral(unit), dtype=np.float64) - neutral for unit in np.eye(body.identity_dim)]
    slopes = np.stack([(m[corners] * weights[:, :, None]).sum(axis=1).ravel() for m in moves], axis=1)
    precision = np.eye(body.identity_dim) + slopes.T @ slopes / metres**2
    return np.linalg.cholesky(np.linalg.inv(precision))


def read_person(path: Path, body: BodyModel, training: PriorTraining) -> Subject:
    """What `film_person` wrote."""
    from fportrait.body.model import Pose

    with np.load(path, allow_pickle=False) as data:
        kept = {name: data[name] for name in data.files}
    avatar = GaussianAvatar(kept["shape"], body, training.prior.avatar)
    poses = [Pose(*p) for p in zip(kept["body_rotation"], kept["body_translation"], kept["head_rotation"], strict=True)]
    backgrounds = [torch.from_numpy(b).float() / 255 for b in kept["backgrounds"]]
    targets = [
        Target(int(m), w, k, p, backgrounds[c])
        for m, c, w, k, p in zip(
            kept["frame"], kept["camera"], kept["world_to_camera"], kept["intrinsics"], kept["pictures"], strict=True
        )
    ]
    guides = [avatar.guide(pose) for pose in poses]
    return Subject(
        path.parent.name, avatar, guides, kept["actions"], targets, list(kept["evidence"].astype(np.float32))
    )


def film_people(
    count: int, work: Path, studio: Studio, training: PriorTraining, workers: int = 1, first: int = 0
) -> list[Path]:
    """Film `count` people, each a unit that survives a crash; returns their files."""
    from fportrait.atomic_io import code_hash
    from fportrait.scale.map_engine import map_units

    def key(seed: int) -> list[Any]:
        filmed = {name: getattr(training, name) for name in ("size", "max_moments", "margin", "camera_share")}
        code = code_hash("avatar", "body", "camera", "capture", "assets/body.npz")
        return [seed, asdict(studio), asdict(training.prior), filmed, code]

    work_of = functools.partial(film_person, studio=studio, training=training)
    people = range(first, first + count)
    report = map_units(work_of, people, workers=workers, cache_folder=work, key=key, progress="people")
    return [result.folder / "person.npz" for result in report.results]


@functools.cache
def _body_hash() -> str:
    from fportrait.atomic_io import file_hash
    from fportrait.body.model import ASSET

    return file_hash(ASSET)


def main(arguments: Iterable[str] | None = None) -> None:
    import argparse

    from fportrait.body.model import load_body

    parser = argparse.ArgumentParser(description="Train the avatar prior on embedded people.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--work", type=Path, required=True, help="where filmed people are kept")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(None if arguments is None else list(arguments))
    training, studio = PriorTraining(steps=given.steps), Studio()
    files = film_people(given.people, given.work, studio, training, given.workers)
    body = load_body()
    subjects = [read_person(path, body, training) for path in files]
    prior = train_prior(
        subjects,
        body,
        training,
        given.seed,
        log=lambda step, values: print(step, values, f"{time.process_time():.0f} CPU-s", flush=True),
    )
    prior.record |= {"studio": asdict(studio), "first_seed": FIRST_SEED, "names": [], "body": _body_hash()}
    prior.record |= {
        "command": f"python -m fportrait.avatar.prior_training --people {given.people} --steps {given.steps}"
    }
    prior.save(given.output)


if __name__ == "__main__":
    main()
