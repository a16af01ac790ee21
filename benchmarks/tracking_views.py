"""Tracking by yaw, and the matte, against what the renderer knows, on people whom nothing was fitted on.

    python benchmarks/tracking_views.py [--people 25]

Every person looks straight ahead, expressionless, and is seen from 0 to 90 degrees aside, one picture each: how often a
face is found, how far its landmarks are from where the calibrated model expects them, and how far the head's rotation
is off, with the regression and by the fit alone. The matte's truth is the renderer's own coverage: the person before
white against the person before black; the pose is the one that tracking found.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from _result import write_result

from fportrait.body.model import Pose, load_body, rotation_vector
from fportrait.camera.cameras import intrinsics_from_fov, project
from fportrait.capture import people, shading
from fportrait.capture.world import HEAD_TARGET, orbit_camera
from fportrait.tracking.fit import LandmarkModel, Observations, solve_frames
from fportrait.tracking.landmarks import shared_landmarker
from fportrait.tracking.matting import matte

FIRST_SEED = 7_800_000_000
YAWS = (0, 15, 30, 45, 60, 75, 90)
SIZE, DISTANCE = 256, 0.7
BODY = load_body()
INTRINSICS = intrinsics_from_fov(float(2 * np.degrees(np.arctan(0.5 * 0.36 / DISTANCE))), SIZE, SIZE)


def look(person: people.Person, camera: np.ndarray) -> np.ndarray:
    return people.render(person, None, Pose.rest(), camera, INTRINSICS, SIZE, 2, BODY)


def one_view(person: people.Person, yaw: float, model: LandmarkModel) -> dict[str, float] | None:
    """Errors of one picture, or None without a face in it."""
    camera = orbit_camera(yaw, 0.0, DISTANCE, HEAD_TARGET)
    faces = shared_landmarker().detect(look(person, camera))
    if len(faces) != 1:
        return None
    pixels, _ = project(model.at(person.identity), camera, INTRINSICS)
    off = np.linalg.norm(faces[0].landmarks - pixels, axis=1)[model.valid]
    found = {"landmarks": float(100 * off.mean() / (0.09 * INTRINSICS[0, 0] / DISTANCE))}
    view = Observations(faces[0].landmarks[None, None].astype(np.float64), camera[None], INTRINSICS[None])
    for name, seen in (("fit", view.alone()), ("regression", view)):
        rotation = solve_frames(model, seen, np.zeros(BODY.identity_dim)).rotations[0]
        found[name] = float(np.degrees(np.linalg.norm(rotation_vector(rotation))))
    return found


def coverage(person: people.Person, camera: np.ndarray) -> np.ndarray:
    """The person's true opacity, `H W`."""
    pictures = []
    for level in (0.0, 1.0):
        painted = person.look.copy()
        for name in ("background_top", "background_bottom"):
            painted[shading.LOOK[name]] = level
        painted[shading.LOOK["background_spot"]] = [0.5, 0.5, 0.0]
        pictures.append(look(replace(person, look=painted), camera).astype(np.float64).mean(-1))
    black, white = pictures
    return 1 - np.clip((white - black) / 255, 0, 1)


def one_matte(person: people.Person, yaw: float) -> tuple[float, float, float]:
    """Intersection over union at one half, mean absolute error, and share of the true person that is missing."""
    camera = orbit_camera(yaw, 0.0, DISTANCE, HEAD_TARGET)
    picture = look(person, camera)
    ours = matte(picture)
    truth = coverage(person, camera)
    both, either = (ours > 0.5) & (truth > 0.5), (ours > 0.5) | (truth > 0.5)
    return both.sum() / either.sum(), float(abs(ours - truth).mean()), 1 - both.sum() / (truth > 0.5).sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=25)
    count = parser.parse_args().people
    model = LandmarkModel(BODY)
    everyone = [people.sample_person(FIRST_SEED + index, BODY) for index in range(count)]
    table: dict[str, dict] = {}
    for yaw in YAWS:
        seen = [one_view(person, yaw * (-1) ** index, model) for index, person in enumerate(everyone)]
        found = [one for one in seen if one is not None]
        row: dict = {"found_percent": round(100 * len(found) / count)}
        for name in ("landmarks", "fit", "regression"):
            values = [one[name] for one in found]
            if values:
                row[name] = [round(float(np.percentile(values, q)), 2) for q in (50, 95)]
        table[str(yaw)] = row
        print(yaw, row, flush=True)
    mattes = np.array([one_matte(person, 8.0 * (-1) ** i) for i, person in enumerate(everyone)])
    worst = np.percentile(mattes[:, 0], 5)
    summary = {
        "iou_median": round(float(np.median(mattes[:, 0])), 4),
        "iou_p5": round(float(worst), 4),
        "mean_absolute_error": round(float(mattes[:, 1].mean()), 4),
        "missing": round(float(mattes[:, 2].mean()), 4),
    }
    print("matte", summary)
    write_result(
        name="tracking_views",
        what="head rotation from one frontal picture, median, with the regression over by the fit alone",
        ours=table["0"]["regression"][0],
        theirs=table["0"]["fit"][0],
        peer="the fit of the body model alone",
        unit="degrees",
        bound=1.0,
        n=count,
        table=table,
        matte=summary,
        units="median and 95th percentile; landmarks in percent of an eye distance (9 cm), rotations in degrees",
    )


if __name__ == "__main__":
    main()
