"""How good are avatars of people that the prior never saw, and how far apart do they keep what should be apart?

Embedded people are filmed by twelve cameras, tracked like any capture, and fitted from the shipped prior
(or the plain mesh) without one camera and without every eighth moment; PSNR counts the foreground of what was kept
aside. Then, with the tracker as judge:

- the camera alone moves: how much does the expression code change, against its change between *real* pictures of the
  same moments from the same cameras;
- the expression alone changes: how far does the tracked head turn, against the same on true pictures of the person
  with the same actions, where it should not turn either.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from dataclasses import asdict
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
JUDGE_SIZE = 256
BOUND_UNSEEN, BOUND_TURN = 24.0, 0.5


def track_people(count: int, work: Path) -> Path:
    """Film, ingest and track `count` people below `work`; returns the folder of tables."""
    from fportrait.capture.ingest import ingest_captures
    from fportrait.capture.world import WorldConfig, film_identity, world_units
    from fportrait.scale.map_engine import map_units
    from fportrait.tracking.track import track_captures

    world = WorldConfig(
        phone_identities=0, studio_identities=count, studio_cameras=CAMERAS, studio_segments=1, studio_frames=FRAMES,
        studio_yaw_degrees=60.0,
    )  # fmt: skip
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
    config = fit_config({"avatar": asdict(avatar), "steps": steps, "size": 160, "max_moments": 40})
    started = time.process_time()
    capture = read_capture(
        rows, shape, load_body(), config.avatar, config.size, config.max_moments, config.holdout_every,
        config.holdout_camera, config.margin, work,
    )  # fmt: skip
    fitted = fit_capture(capture, config, 0, prior)
    scores = {**fitted.scores, "cpu_seconds": round(time.process_time() - started, 1)}
    scores.pop("seconds")
    write_image(work / f"{name}.png", contact_sheet(capture))
    fitted.save(work / "avatars" / name)
    return capture, scores


def person_rows(name: str, tables: Path) -> tuple[pd.DataFrame, Any]:
    frames, people = pd.read_parquet(tables / "frames.parquet"), pd.read_parquet(tables / "identities.parquet")
    return frames[frames.identity == name], people[people.identity == name].iloc[0]["shape"]


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

    def turns(
        self, pictures: list[np.ndarray], shape: np.ndarray, camera: np.ndarray, intrinsics: np.ndarray
    ) -> np.ndarray:
        """(P,) degrees between the head rotation tracked in each picture and the median one."""
        from fportrait.tracking.fit import Observations, solve_moments

        points = np.stack([p for p in map(self.landmarks, pictures) if p is not None])
        fit = solve_moments(self.model, Observations(points[:, None], camera[None], intrinsics[None]), shape)
        middle = fit.rotations[np.argmin(np.abs(rotation_vector(fit.rotations)).sum(axis=1))]
        vectors = np.degrees(rotation_vector(middle.T @ fit.rotations))
        return np.linalg.norm(vectors - np.median(vectors, axis=0), axis=1)


def camera_alone(capture: Capture, judge: Judge) -> dict[str, float]:
    """RMS change of the code between cameras that see the face, in true and in drawn pictures of equal moments."""
    true, drawn = [], []
    by_moment: dict[int, list[Any]] = {}
    for view in capture.views:
        facing = capture.guides[view.moment].turn[capture.avatar.parts == "face"].mean(dim=0).numpy()[:, 2]
        if -(view.world_to_camera[:3, :3] @ facing)[2] > 0.85:
            by_moment.setdefault(view.moment, []).append(view)
    for members in by_moment.values():
        pairs = []
        for view in members:
            picture = np.clip(draw_view(capture, view).numpy(), 0, 1)
            codes = [judge.code((image * 255 + 0.5).astype(np.uint8)) for image in (view.image, picture)]
            if all(code is not None for code in codes):
                pairs.append(codes)
        for first in range(len(pairs)):
            for second in range(first):
                true.append(pairs[first][0] - pairs[second][0])
                drawn.append(pairs[first][1] - pairs[second][1])
    rms = [float(np.sqrt(np.mean(np.square(changes)))) for changes in (true, drawn)]
    return {"pairs": len(true), "real_recapture": round(rms[0], 3), "avatar_camera_alone": round(rms[1], 3)}


def expression_alone(capture: Capture, judge: Judge, truth: Path) -> dict[str, float]:
    """Degrees of tracked head rotation while only the expression changes, for the avatar and for true pictures."""
    from fportrait.camera.cameras import intrinsics_from_fov
    from fportrait.capture.people import render, sample_person
    from fportrait.capture.world import HEAD_TARGET, orbit_camera

    avatar, body = capture.avatar, capture.avatar.body
    camera, intrinsics = orbit_camera(0.0, 0.0, 0.9, HEAD_TARGET), intrinsics_from_fov(24.0, JUDGE_SIZE, JUDGE_SIZE)
    drawn = [avatar.render(m.code, Pose.rest(), camera, intrinsics, JUDGE_SIZE) for m in capture.moments]
    with np.load(next(truth.glob("*.npz"))) as data:
        person, shape = sample_person(int(data["person_seed"]), body), data["shape"]
        actions = data["actions"][[m.frame for m in capture.moments]]
    true = [render(person, a, Pose.rest(), camera, intrinsics, JUDGE_SIZE, 2, body) for a in actions]
    ours = judge.turns(drawn, avatar.refined_shape, camera, intrinsics)
    real = judge.turns(true, shape, camera, intrinsics)
    return {
        "expressions": len(drawn),
        "skull_worst_degrees": round(float(skull_turns(capture).max()), 4),
        "avatar_median_degrees": round(float(np.median(ours)), 3),
        "avatar_worst_degrees": round(float(ours.max()), 3),
        "true_pictures_median_degrees": round(float(np.median(real)), 3),
        "true_pictures_worst_degrees": round(float(real.max()), 3),
    }


@torch.no_grad()
def skull_turns(capture: Capture) -> np.ndarray:
    """(M,) degrees by which the drawn skull itself turns with the expression, the pose being held: the rotation that
    best carries the Gaussians of scalp and ears of one expression onto those of another (Kabsch)."""
    avatar = capture.avatar
    guide, rigid = avatar.guide(Pose.rest()), np.isin(avatar.parts, ["scalp", "ears"])
    places = []
    for moment in capture.moments:
        parts, _ = avatar.without_view(avatar.expression(avatar.check_code(moment.code)), guide)
        chosen = parts.means.numpy()[rigid].astype(np.float64)
        places.append(chosen - chosen.mean(axis=0))
    turns = []
    for other in places[1:]:
        left, _, right = np.linalg.svd(places[0].T @ other)
        rotation = right.T @ np.diag([1, 1, np.linalg.det(right.T @ left.T)]) @ left.T
        turns.append(np.degrees(np.linalg.norm(rotation_vector(rotation))))
    return np.array(turns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--work", type=Path, help="kept and reused; a temporary folder by default")
    parser.add_argument("--torso-density", type=float, help="start from the plain mesh, with this density")
    parser.add_argument("--gaussians", type=int, default=16_000, help="with --torso-density")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        work = (given.work or Path(scratch)).resolve()
        tables = track_people(given.people, work)
        prior, judge = None if given.torso_density else AvatarPrior.load(), Judge()
        avatar = AvatarConfig(given.gaussians, given.torso_density) if prior is None else prior.config.avatar
        people: dict[str, Any] = {}
        for name in sorted(set(pd.read_parquet(tables / "identities.parquet").identity)):
            capture, scores = fit_person(name, tables, work, given.steps, prior, avatar)
            rows, shape = person_rows(name, tables)
            large = read_capture(rows, shape, load_body(), avatar, JUDGE_SIZE, 14, margin=1.2, root=work)
            large.avatar = capture.avatar
            people[name] = {
                "fit": scores,
                "camera_alone": camera_alone(large, judge),
                "expression_alone": expression_alone(large, judge, work / "truth" / "StudioCapture" / name),
            }
            print(name, json.dumps(people[name], indent=1))
    both = [row["fit"]["psnr_both"] for row in people.values()]
    write_result(
        name="avatars",
        what=f"PSNR on unseen views and expressions, foreground, people unknown to the prior, {CAMERAS - 1} cameras",
        ours=round(float(np.mean(both)), 2),
        unit="dB",
        bound=BOUND_UNSEEN,
        n=len(both),
        lower_is_better=False,
        bound_of_fitted=28.0,
        bound_of_fitted_holds=bool(np.mean(both) >= 28.0),
        steps=given.steps,
        start="mesh" if prior is None else "shipped prior",
        avatar=asdict(avatar),
        head_turn_bound_degrees=BOUND_TURN,
        people=people,
    )


if __name__ == "__main__":
    main()
