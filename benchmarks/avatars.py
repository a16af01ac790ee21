"""How good are fitted avatars, and how far apart do they keep what should be apart?

Embedded people are filmed by twelve cameras, tracked like any capture, and fitted without one camera and without every
eighth frame: from the plain mesh with a dense torso, and the first few also from the shipped prior, which never saw
them. PSNR counts the foreground of what was kept aside. Then, with the tracker as judge:

- the camera alone moves: how much does the expression code change, against its change between *real* pictures of the
  same frames from the same cameras;
- the expression alone changes: how far does the tracked head turn, against the same on true pictures of the person
  with the same actions, where it should not turn either.

Both as differences avatar - truth with 95% intervals of a paired bootstrap: people are drawn, and frames within them.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _result import write_result

from fportrait.avatar.captures import Capture, read_capture
from fportrait.avatar.fitting import draw_view, fit_capture, fit_config
from fportrait.avatar.model import AvatarConfig
from fportrait.avatar.prior import AvatarPrior
from fportrait.avatar.sheet import contact_sheet
from fportrait.body.model import Pose, load_body, rotation_vector
from fportrait.capture.video_io import write_image

BASE = Path(__file__).resolve().parents[1] / "src/fportrait/assets/base"
SEED, CAMERAS, FRAMES = 4_321, 12, 40
SIZE, JUDGE_SIZE = 144, 256
BOUND_FITTED, BOUND_UNSEEN, BOUND_TURN = 28.0, 24.0, 0.5
DRAWS = 4000


def track_people(count: int, work: Path) -> Path:
    """Film, ingest and track `count` people below `work`; returns the folder of tables."""
    from fportrait.capture.ingest import ingest_captures
    from fportrait.capture.world import WorldConfig, film_identity, world_units
    from fportrait.scale.map_engine import map_units
    from fportrait.tracking.captures import track_captures

    world = WorldConfig(
        phone_identities=0,
        studio_identities=count,
        studio_cameras=CAMERAS,
        studio_segments=1,
        studio_frames=FRAMES,
        studio_yaw_degrees=60.0,
    )
    units = world_units(work / "raw", work / "truth", world, SEED)
    map_units(functools.partial(_film, film_identity), units, cache_folder=work / "filmed", key=str, progress="filming")
    ingest_captures(work / "raw", work / "manifest", work, {"StudioCapture": 0})
    track_captures(work / "manifest", BASE, work / "tracks", work / "units", {}, root=work)
    return work / "tracks"


def _film(film: Any, unit: Any, folder: Path) -> str:
    return film(unit)


def fit_person(
    name: str, tables: Path, work: Path, steps: int, prior: AvatarPrior | None, avatar: AvatarConfig
) -> tuple[Capture, dict[str, Any]]:
    """Fit one person (without a prior, from the mesh); returns the capture with its fitted avatar, and the scores."""
    rows, shape = person_rows(name, tables)
    config = fit_config({"avatar": asdict(avatar), "steps": steps, "size": SIZE, "max_frames": FRAMES})
    started = time.process_time()
    capture = read_capture(
        rows,
        shape,
        load_body(),
        config.avatar,
        config.size,
        config.max_frames,
        config.holdout_every,
        config.holdout_camera,
        config.margin,
        work,
    )
    fitted = fit_capture(capture, config, 0, prior)
    scores = {**fitted.scores, "cpu_seconds": round(time.process_time() - started, 1)}
    scores.pop("seconds")
    write_image(work / f"{name}.png", contact_sheet(capture))
    fitted.save(work / "avatars" / name)
    return capture, scores


def person_rows(name: str, tables: Path) -> tuple[pd.DataFrame, Any]:
    rows, people = pd.read_parquet(tables / "frames.parquet"), pd.read_parquet(tables / "identities.parquet")
    return rows[rows.identity == name], people[people.identity == name].iloc[0]["shape"]


class Judge:
    """The tracker: landmarks, expression codes, head rotations."""

    def __init__(self) -> None:
        from fportrait.tracking.expression import ExpressionEncoder
        from fportrait.tracking.fit import LandmarkModel
        from fportrait.tracking.landmarks import shared_landmarker

        self.landmarker = shared_landmarker()
        self.encoder = ExpressionEncoder.from_pretrained(BASE / "expression_encoder")
        self.model = LandmarkModel(load_body())

    def landmarks(self, picture: np.ndarray) -> np.ndarray | None:
        faces = self.landmarker.detect(picture)
        return faces[0].landmarks if faces else None

    def code(self, picture: np.ndarray) -> np.ndarray | None:
        from fportrait.tracking.crops import face_crop

        points = self.landmarks(picture)
        if points is None:
            return None
        return self.encoder.encode(face_crop(picture, points, self.encoder.crop_size)[None])[0]

    def turns(self, points: np.ndarray, shape: np.ndarray, camera: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
        """(P,) degrees between the head rotation tracked from each picture's landmarks (P, 478, 2) and the median."""
        from fportrait.tracking.fit import Observations, solve_frames

        fit = solve_frames(self.model, Observations(points[:, None], camera[None], intrinsics[None]), shape)
        middle = fit.rotations[np.argmin(np.abs(rotation_vector(fit.rotations)).sum(axis=1))]
        vectors = np.degrees(rotation_vector(middle.T @ fit.rotations))
        return np.linalg.norm(vectors - np.median(vectors, axis=0), axis=1)


def camera_alone(capture: Capture, judge: Judge) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per frame the squared changes of the code (mean over its numbers) between pairs of cameras that see the face, in
    true and in drawn pictures."""
    by_frame: dict[int, list[Any]] = {}
    for view in capture.views:
        facing = capture.guides[view.frame].turn[capture.avatar.parts == "face"].mean(dim=0).numpy()[:, 2]
        if -(view.world_to_camera[:3, :3] @ facing)[2] > 0.85:
            by_frame.setdefault(view.frame, []).append(view)
    changes = []
    for members in by_frame.values():
        pairs: list[list[np.ndarray]] = []
        for view in members:
            picture = np.clip(draw_view(capture, view).numpy(), 0, 1)
            codes = [judge.code((image * 255 + 0.5).astype(np.uint8)) for image in (view.image, picture)]
            found = [code for code in codes if code is not None]
            if len(found) == 2:
                pairs.append(found)
        both = [
            [np.square(one[kind] - other[kind]).mean() for i, one in enumerate(pairs) for other in pairs[:i]]
            for kind in (0, 1)
        ]
        if both[0]:
            changes.append((np.array(both[0]), np.array(both[1])))
    return changes


def expression_alone(capture: Capture, judge: Judge, truth: Path) -> tuple[np.ndarray, np.ndarray]:
    """Degrees (M,) of tracked head rotation while only the expression changes, for true pictures and for the avatar:
    frames in which both show a face."""
    from fportrait.camera.cameras import intrinsics_from_fov
    from fportrait.capture.people import render, sample_person
    from fportrait.capture.world import HEAD_TARGET, orbit_camera

    avatar, body = capture.avatar, capture.avatar.body
    camera, intrinsics = orbit_camera(0.0, 0.0, 0.9, HEAD_TARGET), intrinsics_from_fov(24.0, JUDGE_SIZE, JUDGE_SIZE)
    drawn = [avatar.render(m.code, Pose.rest(), camera, intrinsics, JUDGE_SIZE) for m in capture.frames]
    with np.load(next(truth.glob("*.npz"))) as data:
        person, shape = sample_person(int(data["person_seed"]), body), data["shape"]
        actions = data["actions"][[frame.number for frame in capture.frames]]
    true = [render(person, a, Pose.rest(), camera, intrinsics, JUDGE_SIZE, 2, body) for a in actions]
    found = [(judge.landmarks(one), judge.landmarks(other)) for one, other in zip(true, drawn, strict=True)]
    pairs = np.array([pair for pair in found if pair[0] is not None and pair[1] is not None])
    ours = judge.turns(pairs[:, 1], avatar.refined_shape, camera, intrinsics)
    return judge.turns(pairs[:, 0], shape, camera, intrinsics), ours


@torch.no_grad()
def skull_turns(capture: Capture) -> np.ndarray:
    """(M,) degrees by which the drawn skull itself turns with the expression, the pose being held: the rotation that
    best carries the Gaussians of scalp and ears of one expression onto those of another (Kabsch)."""
    avatar = capture.avatar
    guide, rigid = avatar.guide(Pose.rest()), np.isin(avatar.parts, ["scalp", "ears"])
    places = []
    for frame in capture.frames:
        parts, _ = avatar.without_view(avatar.expression(avatar.check_code(frame.code)), guide)
        chosen = parts.means.numpy()[rigid].astype(np.float64)
        places.append(chosen - chosen.mean(axis=0))
    turns = []
    for other in places[1:]:
        left, _, right = np.linalg.svd(places[0].T @ other)
        rotation = right.T @ np.diag([1, 1, np.linalg.det(right.T @ left.T)]) @ left.T
        turns.append(np.degrees(np.linalg.norm(rotation_vector(rotation))))
    return np.array(turns)


def bootstrap(people: list[list[tuple[np.ndarray, np.ndarray]]], of: Callable[[np.ndarray], float]) -> dict[str, Any]:
    """`of` the truth's values, of the avatar's, and their difference with a 95% interval.

    Args:
        people: per person, per frame, the values of (true pictures, avatar): paired, of any equal length.
        of: what of all values together counts, per person; people are averaged.
    """
    rng = np.random.default_rng(0)

    def both(chosen: list[list[tuple[np.ndarray, np.ndarray]]]) -> np.ndarray:
        return np.mean(
            [[of(np.concatenate([frame[kind] for frame in person])) for kind in (0, 1)] for person in chosen], axis=0
        )

    draws = []
    for _ in range(DRAWS):
        drawn = [people[i] for i in rng.integers(0, len(people), len(people))]
        values = both([[person[j] for j in rng.integers(0, len(person), len(person))] for person in drawn])
        draws.append(values[1] - values[0])
    true, ours = both(people)
    low, high = np.percentile(draws, [2.5, 97.5])
    return {
        "true_pictures": round(float(true), 4),
        "avatar": round(float(ours), 4),
        "difference": round(float(ours - true), 4),
        "interval_95": [round(float(low), 4), round(float(high), 4)],
        "values": int(sum(len(frame[0]) for person in people for frame in person)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--from-prior", type=int, default=2, help="how many of them are also fitted from the prior")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--work", type=Path, help="kept and reused; a temporary folder by default")
    parser.add_argument("--gaussians", type=int, default=16_000)
    parser.add_argument("--torso-density", type=float, default=0.7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        work = (given.work or Path(scratch)).resolve()
        tables = track_people(given.people, work)
        prior, judge = AvatarPrior.load(), Judge()
        avatar = AvatarConfig(given.gaussians, given.torso_density)
        small = replace(prior.config.avatar, torso_offset_limit=AvatarConfig.torso_offset_limit)
        people: dict[str, Any] = {}
        cameras, expressions = [], []
        for index, name in enumerate(sorted(set(pd.read_parquet(tables / "identities.parquet").identity))):
            people[name] = {}
            if index < given.from_prior:
                people[name]["from_prior"] = fit_person(name, tables, work, given.steps, prior, small)[1]
            capture, people[name]["fit"] = fit_person(name, tables, work, given.steps, None, avatar)
            rows, shape = person_rows(name, tables)
            large = read_capture(rows, shape, load_body(), avatar, JUDGE_SIZE, 14, margin=1.2, root=work)
            large.avatar = capture.avatar
            cameras.append(camera_alone(large, judge))
            turns = expression_alone(capture, judge, work / "truth" / "StudioCapture" / name)
            expressions.append([(true[None], ours[None]) for true, ours in zip(*turns, strict=True)])
            people[name]["camera_alone"] = bootstrap(cameras[-1:], rms)
            people[name]["expression_alone_median_degrees"] = bootstrap(expressions[-1:], median)
            people[name]["expression_alone_worst_degrees"] = [round(float(part.max()), 2) for part in turns]
            people[name]["skull_worst_degrees"] = round(float(skull_turns(capture).max()), 3)
            print(name, json.dumps(people[name], indent=1), flush=True)
    both = [row["fit"]["psnr_both"] for row in people.values()]
    unseen = [row["from_prior"]["psnr_both"] for row in people.values() if "from_prior" in row]
    write_result(
        name="avatars",
        what=f"PSNR on unseen views and expressions, foreground, fitted from the mesh, {CAMERAS - 1} cameras",
        ours=round(float(np.mean(both)), 2),
        unit="dB",
        bound=BOUND_FITTED,
        n=len(both),
        lower_is_better=False,
        worst_person=min(both),
        from_prior_that_never_saw_them=unseen,
        from_prior_bound=BOUND_UNSEEN,
        from_prior_holds=bool(unseen) and min(unseen) >= BOUND_UNSEEN,
        steps=given.steps,
        size=SIZE,
        avatar=asdict(avatar),
        camera_alone=bootstrap(cameras, rms),
        expression_alone_median_degrees=bootstrap(expressions, median),
        skull_worst_degrees=max(row["skull_worst_degrees"] for row in people.values()),
        head_turn_bound_degrees=BOUND_TURN,
        people=people,
    )


def rms(squares: np.ndarray) -> float:
    return float(np.sqrt(squares.mean()))


def median(degrees: np.ndarray) -> float:
    return float(np.median(degrees))


if __name__ == "__main__":
    main()
