"""What `adapt` is given: its settings, and which part of which clip is learned from and which judges."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fportrait.animate.clip_check import ClipCheck, PersonCheck
from fportrait.atomic_io import atomic_folder, value_hash
from fportrait.capture.clock import picked
from fportrait.capture.video_io import constant_frames, iter_video, probe, write_video
from fportrait.errors import UserError

HELD_SHARE = 0.3  # of the only clip of a person, at its end
LEAST_SECONDS = 3.0  # of the only clip


@dataclass(frozen=True)
class AdaptSettings:
    """What is learned, and for how long.

    `embedded` is the percentage of samples from the embedded world, `embedded_clips` how many of its clips are filmed.
    """

    steps: int = 60
    frames: int = 9
    batch_size: int = 8
    learning_rate: float = 1e-3
    rank: int = 16
    embedded: int = 40
    embedded_clips: int = 48
    max_frames: int = 300  # of every clip
    judged_frames: int = 49  # of every clip held out
    judged_scale: int = 4  # as large as `animate` writes pictures, of the model's own
    gains: bool = True  # probe the controls of base and adapter on an embedded person
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.embedded < 100:
            raise UserError(f"{self.embedded}% embedded clips", "0 to 99", "change --embedded")
        if self.frames < 5 or self.frames % 4 != 1:
            raise UserError(f"{self.frames} frames", "5, 9, 13, 17 …", "change --frames")


@dataclass
class Part:
    """One clip of the work: where it comes from, whether it is held out, and frames `start` to `stop` of it, at its
    constant rate."""

    clip: ClipCheck
    held_out: bool
    start: int = 0
    stop: int | None = None

    def as_dict(self) -> dict[str, Any]:
        clip = self.clip
        return {
            "person": clip.person,
            "clip": clip.name,
            "sha256": clip.sha256,
            "held_out": self.held_out,
            "frames": [self.start, self.stop if self.stop is not None else clip.frames],
        }


def turn(clip: ClipCheck) -> tuple[float, str]:
    """Degrees that the head turns and nods in a clip; its name, so that equal ones have an order."""
    return clip.yaw[1] - clip.yaw[0] + clip.pitch[1] - clip.pitch[0], clip.name


def divide(checked: Sequence[PersonCheck]) -> tuple[list[Part], list[str]]:
    """Which clips are learned from and which are held out, one of every person; and what was left out, in sentences.

    The clip that is held out is the middle one by how far the head turns (of two the lesser): what is shown once alone
    must be learned, and the stillest would judge little. The end of an only clip is held out.

    Raises:
        UserError: nobody's clips can be used.
    """
    parts, notes = [], []
    for person in checked:
        notes += [
            f"{clip.person}/{clip.name} is left out: {'; '.join(clip.reasons)}"
            for clip in person.clips
            if not clip.usable
        ]
        notes += person.reasons
        usable = person.usable
        if len(usable) > 1:
            by_turn = sorted(usable, key=turn)
            spare = by_turn[(len(usable) - 1) // 2]
            parts += [Part(clip, clip is spare) for clip in usable]
        elif usable and usable[0].seconds >= LEAST_SECONDS:
            cut = int(usable[0].frames * (1 - HELD_SHARE))
            parts += [Part(usable[0], False, 0, cut), Part(usable[0], True, cut, None)]
            notes.append(f"{person.person} has one clip: its last {HELD_SHARE:.0%} is held out, which judges less")
        elif usable:
            notes.append(
                f"{person.person} is left out: one clip of {usable[0].seconds:.1f} s; two clips, or one of "
                f"{LEAST_SECONDS:g} s, are needed to learn and to judge"
            )
    if not any(not part.held_out for part in parts):
        raise UserError(
            "no clips to adapt to: " + ("; ".join(notes) or "nothing usable"),
            "a person with two usable clips, or one of some seconds",
            "see `fportrait check`, and film what it names",
        )
    return parts, notes


def numbered(parts: Sequence[Part]) -> dict[str, str]:
    """What people are called in folders, by number: to their own names."""
    return {f"p{index:02d}": person for index, person in enumerate(dict.fromkeys(part.clip.person for part in parts))}


def place(parts: Sequence[Part], folder: Path, settings: AdaptSettings) -> None:
    """Lay the clips out, `learn/phone/pNN/cNN` and `held/pNN/cNN`, cut and uneven ones anew."""
    where = [str(Path(part.clip.path).resolve()) for part in parts]  # what is linked to may have been moved
    key = value_hash([[part.as_dict() for part in parts], where, settings.max_frames, settings.judged_frames])
    if (folder / "key").is_file() and (folder / "key").read_text() == key:
        return
    with atomic_folder(folder) as target:
        numbers = {person: number for number, person in numbered(parts).items()}
        for index, part in enumerate(parts):
            source = Path(part.clip.path).resolve()
            limit = settings.judged_frames if part.held_out else settings.max_frames
            name = f"c{index:02d}{source.suffix.lower()}"
            to = target / ("held" if part.held_out else "learn/phone") / numbers[part.clip.person] / name
            to.parent.mkdir(parents=True, exist_ok=True)
            info = probe(source)
            fps, total, stored = info.fps, info.frames, None
            if info.variable_rate:
                fps, stored = constant_frames(source)
                total = len(stored)
            stop = min(total if part.stop is None else part.stop, part.start + limit)
            if part.start == 0 and stop == total and stored is None:
                os.symlink(source, to)
                continue
            frames = iter_video(source, part.start, stop)
            if stored is not None:
                wanted = stored[part.start : stop].tolist()
                frames = picked(iter_video(source, 0, int(wanted[-1]) + 1), wanted)
            write_video(to.with_suffix(".mp4"), frames, fps, crf=6.0)
        (target / "key").write_text(key)
