"""The portrait: its picture turned upright, its track, and what a viewer should know of it before judging a result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from fportrait.animate.tracked import Tracked, face_of, track_frames
from fportrait.capture.image_io import exposure_note, read_picture
from fportrait.pixels import Picture
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.covered import cover_note, covered_parts, covered_shares
from fportrait.tracking.fit import LandmarkModel
from fportrait.tracking.landmarks import roll_of, shared_landmarker
from fportrait.tracking.lens import intrinsics_across, picture_fov
from fportrait.tracking.unlikeness import REFUSED

UPRIGHT = 25.0  # degrees of roll up to which a portrait stays as it is: heads of the training world tilt so far
EXACT = 3.0  # degrees: so near to a quarter turn, pixels are moved and not mixed
CUT = 0.02  # share of the landmarks outside the picture from which a face counts as cut
BLACK = 0.05  # share of a rectangle that lies outside the portrait
CLOSE = 0.2  # share of the model's picture that lies outside the portrait
TURNED = 45.0  # degrees between face and line of sight


def track_picture(
    path: Path,
    model: LandmarkModel,
    config: TrackConfig,
    crop_size: int,
    fov: float | None = None,
    as_filmed: bool = False,
) -> tuple[Tracked, np.ndarray]:
    """A portrait's track (T = 1) and its picture `H W 3`, turned upright if the face is rolled by more than 25 degrees.

    Args:
        fov: degrees across the longer side; None takes the picture's own record, or else what the face tells.
        as_filmed: turn by quarters alone, as videos are: what is left of the roll is the head's.

    Raises:
        UserError: not a picture, no face or nothing like one, or two of like size.
    """
    path, picture = Path(path), read_picture(path)
    image, rolled = upright(picture.image, as_filmed)
    height, width = picture.image.shape[:2]
    fov, source = picture_fov(path, fov)
    intrinsics = intrinsics_across(fov, width, height)
    intrinsics[:2, 2] = image.shape[1] / 2, image.shape[0] / 2
    known = source != "assumed"
    person = track_frames(path, iter([image]), intrinsics, 25.0, 1, model, config, crop_size, known)
    image = np.ascontiguousarray(np.rot90(image, person.quarter_turns))
    burnt = exposure_note(face_of(image, person), path.name)
    notes = [f"{path.name}: {note}" for note in picture.notes] + [burnt] * bool(burnt)
    if rolled:
        notes.append(f"the face in {path.name} is rolled by {rolled:.0f}°; the picture was turned upright")
    person = replace(person, covered=tuple(covered_in(person, image)))
    return replace(person, notes=(*notes, *person.notes, *view_notes(person, image))), image


def covered_in(person: Tracked, image: np.ndarray) -> list[str]:
    """`covered_parts` of a portrait; none of a face that the picture's edge cuts, of which nothing is seen there."""
    points = person.track.seen[0].landmarks[0]
    return [] if outside_share(points, image) > CUT else covered_parts(covered_shares(image, points))


def outside_share(points: np.ndarray, image: np.ndarray) -> float:
    """How much of landmarks `478 2` lies outside a picture `H W 3`."""
    height, width = image.shape[:2]
    return float(((points < 0) | (points > [width, height])).any(1).mean())


def upright(image: np.ndarray, quarters_alone: bool = False) -> tuple[np.ndarray, float]:
    """A picture turned about its middle until its largest face stands upright, and the degrees of its roll.

    What stands within `UPRIGHT` (within 45 degrees where quarters alone are turned) comes back as it is, with 0. A
    canvas holds all of a turned picture, black beside it.
    """
    faces = shared_landmarker().detect(image)
    roll = float(np.degrees(roll_of(faces[0].landmarks))) if faces else 0.0
    if abs(roll) <= UPRIGHT or shared_landmarker().unlikeness(image, faces[0]) > REFUSED:
        return image, 0.0  # of what is no face there is no upright
    quarters = round(roll / 90)
    if quarters_alone and quarters == 0:
        return image, 0.0
    if quarters_alone or abs(roll - 90 * quarters) <= EXACT:
        return np.ascontiguousarray(np.rot90(image, quarters)), roll
    height, width = image.shape[:2]
    cos, sin = abs(np.cos(np.radians(roll))), abs(np.sin(np.radians(roll)))
    size = (int(np.ceil(width * cos + height * sin)), int(np.ceil(width * sin + height * cos)))
    turn = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), roll, 1.0)
    turn[:, 2] += [(size[0] - width) / 2, (size[1] - height) / 2]
    return cv2.warpAffine(image, turn, size, flags=cv2.INTER_LINEAR), roll


def view_notes(person: Tracked, image: np.ndarray) -> list[str]:
    """A sentence for each way in which a portrait shows less of a face than the model was trained on."""
    name, points = person.path.name, person.track.seen[0].landmarks[0]
    height, width = image.shape[:2]
    notes = []
    outside = outside_share(points, image)
    x0, y0, side = person.crop
    inside = max(0, min(x0 + side, width) - max(x0, 0)) * max(0, min(y0 + side, height) - max(y0, 0))
    missing = 1 - inside / side**2
    if outside > CUT:
        notes.append(f"the face in {name} is cut by the picture's edge: {100 * outside:.0f}% of it had to be guessed")
    elif missing > CLOSE:
        notes.append(
            f"{name} ends close to the head: {100 * missing:.0f}% of what the model looks at lies outside the picture "
            "and is made up; a picture with more room around the head comes out better"
        )
    covered = cover_note(list(person.covered), name)
    notes += [covered] if covered else []
    camera, rotation = person.track.cameras[0], person.track.rotations[0]
    sight = -camera[:3, :3].T @ camera[:3, 3] - person.track.translations[0]
    turned = float(np.degrees(np.arccos(np.clip(rotation[:, 2] @ sight / np.linalg.norm(sight), -1, 1))))
    if turned > TURNED:
        notes.append(
            f"the face in {name} is turned {turned:.0f}° away from the camera; the model was trained on portraits up "
            f"to about {TURNED:.0f}°, and invents the hidden side"
        )
    return notes


def rectangle_notes(person: Tracked, picture: Picture) -> list[str]:
    """A sentence on what a rectangle shows beyond a portrait's edges, if that is much; squares are `view_notes`'."""
    if picture.square:
        return []
    width, height = (2 * person.intrinsics[:2, 2]).round()
    x0, y0, across, down = person.cut(picture)
    inside = max(0, min(x0 + across, width) - max(x0, 0)) * max(0, min(y0 + down, height) - max(y0, 0))
    missing = 1 - inside / (across * down)
    if missing <= BLACK:
        return []
    return [
        f"{100 * missing:.0f}% of a picture of {picture.across_by_down} lies outside {person.path.name} and is made "
        "up; take a portrait with more room around the head, or a shape nearer to its own"
    ]
