"""A film of a person that an adapter carries: the frames of the clips it learned from that tell most of the face.

A portrait shows one face at one moment. What it looks like turned aside, laughing or with its eyes open, the person's
own frames show: `animate --adapter` paints the face from those that have the head and the expression that are asked
for (`fportrait.body.blending`). They are tracked with the portrait, with one shape of the head, and brought to where
its pixels fit (`alignment`), so that none stands beside another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from fportrait.animate.together import as_one_person, resemblance
from fportrait.animate.tracked import Tracked, posed, track_video
from fportrait.body.blending import Texture, expected_errors, face_moves
from fportrait.body.model import BodyModel, load_body
from fportrait.body.painting import PortraitPainter
from fportrait.camera.cameras import in_camera
from fportrait.capture.clock import picked
from fportrait.capture.video_io import iter_video, write_video
from fportrait.pixels import Picture
from fportrait.tracking.segments import segment_codes

if TYPE_CHECKING:
    import pandas as pd

    from fportrait.animate.animator import Animator

PREFIX = "film-"  # of the films' names, one of every clip that has frames in it
MOST = 16  # frames of a person
ALIKE = 1.0  # squared grey levels of expected error between two frames up to which one of them is enough
LIKELY = 0.5  # confidence of a frame that is taken
RATE = 1.0  # frames a second, which stands for stills: nothing is smoothed between them
CRF = 4.0
# Likeness (`together.resemblance`, the best of all frames) from which a portrait is of the film's scene: portraits of
# five clips against films out of their other parts .945 to .996, four photographs of one of the five at most .775.
SCENE = 0.85
COARSER, FINEST = 2.0, 256  # how many times as many pixels a portrait's head may have, of so many that are looked at


@dataclass(frozen=True)
class Frame:
    """A frame of a film: the film's track with the portrait, the frame's number in it, its picture `H W 3`, and how its
    face acts, `52`."""

    tracked: Tracked
    number: int
    picture: np.ndarray
    actions: np.ndarray

    def texture(self, body: BodyModel, size: Picture) -> Texture:
        """What the face is painted from, in a picture of that size."""
        of = self.tracked
        (vertices,) = posed(body, of.shape, of, [self.number], [self.actions], of.offsets)
        before = in_camera(vertices, of.reference_camera)
        painter = PortraitPainter(body, of.shown(self.picture, size), before, of.lens(size), 1)
        known = of.shown(np.full_like(self.picture, 255), size).min(-1) == 255
        return Texture(painter, self.actions, cv2.erode(known.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)


def choose(views: np.ndarray, moves: np.ndarray, most: int = MOST) -> list[int]:
    """The frames from which every other one is painted best, as far as is expected: each next one is that which those
    before it show worst (Gonzalez 1985), until all are shown.

    Args:
        views: where the camera stands in the head's axes, directions `N 3`. moves: of the face, `N L 3` millimetres.
    """
    body = load_body()

    def errors(one: int) -> np.ndarray:
        return expected_errors(body, views, moves, views[one], moves[one]).max(1)

    middle = np.median(moves, 0)
    chosen = [int((((moves - middle) ** 2).sum((1, 2)) + ((views - np.median(views, 0)) ** 2).sum(1)).argmin())]
    least = errors(chosen[0])
    while len(chosen) < most and least.max() > ALIKE:
        chosen.append(int(least.argmax()))
        least = np.minimum(least, errors(chosen[-1]))
    return sorted(chosen)


def films(table: pd.DataFrame, readout: Any, out: Path) -> list[dict[str, Any]]:
    """Write the films of everyone in a tracks' table below `out`, `PERSON/film-NN.mp4`.

    Args:
        table: `tables.frames` of the clips that are learned from. readout: actions `52` of a code (`tracking.actions`).

    Returns:
        Of each frame: `person` (as the tables call them), `shows`: `film-NN`, `clip` and `frame` that it was.
    """
    body, told = load_body(), []
    for person, rows in table[table["confidence"] >= LIKELY].groupby("identity", sort=True):
        turns = np.stack(
            [
                np.reshape(torso, (3, 3)) @ np.reshape(head, (3, 3))
                for torso, head in zip(rows["body_rotation"], rows["head_rotation"], strict=True)
            ]
        )
        actions = readout(np.stack(rows["expression_code"].tolist()).astype(np.float32))
        moves = np.stack([face_moves(body, one) for one in actions])
        chosen = rows.iloc[choose(turns[:, 2, :], moves)]  # the camera stands along the world's z
        for index, (path, some) in enumerate(chosen.groupby("path", sort=True)):
            some = some.sort_values("frame")
            numbers = some["frame"].astype(int).tolist()
            frames = picked(iter_video(path, 0, numbers[-1] + 1), numbers)
            name = f"{PREFIX}{index:02d}"
            write_video(out / str(person) / f"{name}.mp4", frames, RATE, CRF)
            told += [
                {"person": str(person), "shows": name, "clip": clip, "frame": number}
                for clip, number in zip(some["clip"], numbers, strict=True)
            ]
    return told


def frames_for(
    animator: Animator, person: Tracked, image: np.ndarray, paths: Sequence[Path]
) -> tuple[list[Frame], list[str]]:
    """The frames of a person's films, tracked with a portrait of theirs, and a sentence on films that are not used.

    Elsewhere the light, the hair and the camera are others, and a face is no mixture of two: films are used for a
    portrait of their own scene that is not much finer than they are.

    Args:
        person, image: the portrait's track and upright picture `H W 3`.

    Raises:
        UserError: a film that cannot be read, or without a face.
    """
    readout, found, told = animator.encoder.readout, list[Frame](), list[str]()
    if readout is None or animator.reads_landmarks:  # nothing tells how a face acts
        return [], []
    config = replace(animator.config, force=True, max_gap_seconds=float("inf"))
    for path in paths:
        film = track_video(
            path, animator.landmarks, config, animator.encoder.crop_size, MOST, lambda *told: None, "track the film"
        )
        finer = min(person.crop[2], FINEST) / film.crop[2]
        both, film = as_one_person(person, film, animator.landmarks, animator.config)
        if finer > COARSER or resemblance(both, image, film, animator.body, range(len(film))) < SCENE:
            why = "is much finer than" if finer > COARSER else "shows another scene than"
            told.append(f"{person.path.name} {why} the adapter's film: its face is not painted from that")
            continue
        both = animator.personal(both)
        film = replace(animator.aligned(both, image, film, lambda *told: None), offsets=both.offsets)
        codes = segment_codes(film.track, animator.encoder)
        actions = readout(codes if film.code_changes is None else codes + film.code_changes)
        seen = np.flatnonzero(film.track.seen[0].confidence > 0).tolist()
        found += [
            Frame(film, number, picture, actions[number])
            for number, picture in zip(seen, film.pictures(seen), strict=True)
        ]
    return found, told
