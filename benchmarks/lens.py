"""How far off is a lens that the face alone tells? Behind the table of docs/real-faces.md.

    python benchmarks/lens.py [--set data/real_people]

Rendered people of any variety in front of five lenses, seen once and five times, turning; and the faces on photographs
of `@vladmandic/face-api` that record their lens (EXIF), whole and cut as portraits are. Told beside the 40 degrees
that would be assumed, and for rendered people with the rotation of the head that follows from the lens.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _result import write_result
from real_people_set import FOLDER, download, member

from fportrait.body.model import Pose, load_body, rotation_vector
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.capture.image_io import read_picture
from fportrait.capture.people import render, sample_person
from fportrait.capture.world import HEAD_TARGET, orbit_camera
from fportrait.tracking.clips import ClipLandmarks
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import LandmarkModel, Observations, fit_identity, solve_frames
from fportrait.tracking.landmarks import shared_landmarker
from fportrait.tracking.lens import ASSUMED_FOV, intrinsics_across, recorded_fov
from fportrait.tracking.lens_estimate import estimated_lens, fov_of
from fportrait.tracking.segments import front_camera

PEOPLE, LENSES, VIEWS, SIDE = 12, (12, 20, 32, 50, 72), 5, 320
PACKAGE, PHOTOGRAPHS = "@vladmandic/face-api", 6
ABOUT = {"registry": "npm", "version": "1.7.15", "archive": "vladmandic-face-api-1.7.15.tgz", "licence": "MIT"}
CUTS = {"whole": None, "fifth": 0.2, "half": 0.5}  # share of the cut's side that the face fills


def seen_of(points: np.ndarray) -> ClipLandmarks:
    """Landmarks `T 478 2` as tracking has them."""
    count = len(points)
    return ClipLandmarks(points.astype(np.float32), np.ones(count, np.float32), np.zeros((count, 1, 1, 3), np.uint8))


def rotations(model: LandmarkModel, points: np.ndarray, lens: np.ndarray) -> np.ndarray:
    """The head's, `T 3 3`, in the camera's axes."""
    camera = front_camera(TrackConfig())
    faces = Observations(points[:, None], camera[None], lens[None]).of_stranger()
    return np.asarray(camera[:3, :3] @ solve_frames(model, faces, fit_identity(model, [faces])).rotations)


def rendered(model: LandmarkModel) -> list[dict[str, Any]]:
    rng, rows = np.random.default_rng(11), []
    for person in range(PEOPLE):
        who = sample_person(2900 + person, model.body, variety=[0.0, 0.5, 1.0][person % 3])
        for fov in LENSES:
            lens, share = intrinsics_from_fov(fov, SIDE, SIDE), rng.uniform(0.3, 0.55)
            depth, points, truth = lens[0, 0] * 0.16 / (share * SIDE), [], []
            for view in range(VIEWS):
                yaw = rng.normal(0, 18) if view == 0 else rng.uniform(-35, 35)
                camera = orbit_camera(yaw, rng.normal(0, 8), depth, HEAD_TARGET)
                camera[:2, 3] += rng.uniform(-0.25, 0.25, 2) * SIDE * depth / lens[0, 0] * (1 - share)
                picture = render(who, None, Pose.rest(), camera, lens, SIDE, 1, model.body)
                faces = shared_landmarker().detect(picture)
                if faces:
                    points.append(faces[0].landmarks.astype(np.float64))
                    truth.append(camera[:3, :3])
            for name, count in (("one", 1), ("turning", len(points))):
                if len(points) < 2:
                    continue
                some, assumed = np.stack(points[:count]), intrinsics_across(ASSUMED_FOV, SIDE, SIDE)
                found = estimated_lens(model, seen_of(some), assumed)
                row = {"kind": name, "true": fov, "estimated": fov_of(found)}
                for which, matrix in (("assumed", assumed), ("estimated", found), ("true", lens)):
                    off = rotations(model, some, matrix) @ np.stack(truth[:count]).transpose(0, 2, 1)
                    row[f"rotation_{which}"] = float(np.degrees(np.linalg.norm(rotation_vector(off), axis=1)).mean())
                rows.append(row)
    return rows


def photographed(model: LandmarkModel, folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    archive = download(PACKAGE, ABOUT, folder / "packages")
    if archive is None:
        raise SystemExit(f"{PACKAGE} {ABOUT['version']} cannot be had: no photograph whose lens is known")
    for number in range(1, PHOTOGRAPHS + 1):
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / f"{number}.jpg"
            path.write_bytes(member(archive, f"demo/sample{number}.jpg") or b"")
            fov, image = recorded_fov(path), read_picture(path).image
        assert fov is not None
        height, width = image.shape[:2]
        for face in shared_landmarker().detect(image, max_faces=8):
            points = face.landmarks.astype(np.float64)
            low, high = points.min(0), points.max(0)
            for name, share in CUTS.items():
                side = (high - low).max() / share if share else 0
                here = points - (low + high) / 2 + side / 2 if share else points
                w, h = (side, side) if share else (width, height)
                true = 2 * np.degrees(np.arctan(np.tan(np.radians(fov) / 2) * max(w, h) / max(width, height)))
                found = fov_of(estimated_lens(model, seen_of(here[None]), intrinsics_across(ASSUMED_FOV, w, h)))
                rows.append({"kind": name, "recorded": fov, "true": float(true), "estimated": found})
    return rows


def factor(rows: list[dict[str, Any]], of: str | float) -> float:
    """Mean factor by which a lens is off, recorded lenses weighed alike."""
    groups: dict[bool, list[float]] = {}
    for row in rows:
        value = row[of] if isinstance(of, str) else of
        groups.setdefault(row.get("recorded", 0) > 50, []).append(abs(np.log(value / row["true"])))
    return round(float(np.exp(np.mean([np.mean(some) for some in groups.values()]))), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, default=FOLDER, dest="folder")
    arguments = parser.parse_args()
    model = LandmarkModel(load_body())
    rows = photographed(model, arguments.folder) + rendered(model)
    table = {}
    for kind in ("one", "turning", *CUTS):
        some = [row for row in rows if row["kind"] == kind]
        table[kind] = {"n": len(some), "assumed": factor(some, ASSUMED_FOV), "estimated": factor(some, "estimated")}
        for which in ("assumed", "estimated", "true") if kind in ("one", "turning") else ():
            table[kind][f"rotation_{which}"] = round(float(np.mean([row[f"rotation_{which}"] for row in some])), 2)
        print(kind, table[kind])
    write_result(
        "lens",
        "mean factor by which the field of view that a turning head tells is off, beside 40 degrees assumed",
        table["turning"]["estimated"],
        "factor",
        table["turning"]["assumed"],
        table["turning"]["n"],
        table=table,
    )


if __name__ == "__main__":
    main()
