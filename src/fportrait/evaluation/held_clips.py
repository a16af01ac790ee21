"""Clips that were held out of people who are trained on: how the model does on them, by person and by angle.

They are shards beside the others (`dataset.held_clips`), the portrait being a clip's own first frame. Their scores are
kept apart from those of people held out, whose slices they do not enter: a person who is known is easier.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.capture.manifest import PHONE
from fportrait.dataset.held_clips import ANGLES, FOLDER
from fportrait.dataset.remote import file_system, is_url
from fportrait.dataset.sampling import held_out
from fportrait.dataset.shards import INDEX, Record, ShardReader
from fportrait.evaluation.clips import by_person, frechet_of, score_group, summarise
from fportrait.evaluation.slices import slice_of
from fportrait.evaluation.types import OWN_CLIPS, ClipResult, Evaluation

NEAR = 3.0  # degrees beyond what was trained on that are no other view yet


@dataclass(frozen=True)
class HeldClips:
    """Shards of clips held out, which of their records are scored over how many frames, and the clips' angles."""

    reader: ShardReader
    chosen: list[tuple[Record, int]]
    angles: Mapping[str, Mapping[str, Any]]


def held_clips(shards: str | Path, count: int, frames: int | None) -> HeldClips | None:
    """The first `count` records of the clips held out beside `shards`, everybody's first one first; None without any.

    Raises:
        UserError: a record is shorter than `frames`, or the shards are broken.
    """
    if is_url(shards):
        folder: str | Path = f"{shards}/{FOLDER}"
        store, root = file_system(str(folder))
        there = store.exists(f"{root}/{INDEX}")
    else:
        folder = Path(shards) / FOLDER
        there = (folder / INDEX).is_file()
    if not there or not count:
        return None
    reader = ShardReader(folder)
    records = held_out(reader, PHONE, count, frames)
    length = min([frames or 10**9, *(record.frames for record in records)])
    return HeldClips(reader, [(record, length) for record in records], json.loads(reader.whole_file(ANGLES)))


def score_own_people(evaluation: Evaluation, held: HeldClips) -> tuple[dict[str, Any], list[ClipResult]]:
    """Scores of the group of own clips, and `people`: each person's means, and from where their clips show the head."""
    clips: list[ClipResult] = []
    angles: dict[str, Any] = {}
    evaluation = replace(evaluation, reader=held.reader)
    for (record, length), clip in zip(held.chosen, score_group(evaluation, OWN_CLIPS, held.chosen), strict=True):
        name = record.clip.removeprefix(f"{record.identity}/").replace("/", "-")
        clip.id = f"{OWN_CLIPS}/{record.identity}/{name}/{record.first_frame:05d}"
        entry = held.angles[record.clip]
        clip.slices = slices_of(entry, record.first_frame, length)
        angles[record.identity] = {
            "held_out": {axis: [min(entry[axis]), max(entry[axis])] for axis in ("yaw", "pitch")},
            "trained": entry["trained"],
        }
        evaluation.keep(OWN_CLIPS, clip)
        clips.append(clip)
    summary: dict[str, Any] = {OWN_CLIPS: summarise(clips, evaluation.seed) | frechet_of(evaluation.scorers, OWN_CLIPS)}
    summary["people"] = {person: {**scores, **angles[person]} for person, scores in by_person(clips).items()}
    return summary, clips


def slices_of(angles: Mapping[str, Any], first: int, frames: int) -> dict[str, str]:
    """How far the head turns from the portrait in these frames of a clip, and whether that was trained on."""
    across, up = (np.radians(angles[axis]) for axis in ("yaw", "pitch"))
    facing = np.stack([np.cos(up) * np.sin(across), np.sin(up), np.cos(up) * np.cos(across)], 1)
    window = slice(first, first + frames)  # the portrait is the clip's first frame, whatever window this is
    turned = float(np.degrees(np.arccos(np.clip((facing[window] @ facing[0]).min(), -1, 1))))
    yaw, pitch = (np.array(angles[axis][window]) for axis in ("yaw", "pitch"))
    beyond = np.zeros(len(yaw), bool)
    for axis, values in (("yaw", yaw), ("pitch", pitch)):
        low, high = angles["trained"][axis]
        beyond |= (values < low - NEAR) | (values > high + NEAR)
    return {"turn": slice_of("turn", turned), "shown": slice_of("shown", float(beyond.mean()))}
