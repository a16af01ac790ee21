"""What of a person's clips is usable, before anything runs: `fportrait check CLIPS`.

A few dozen frames of every clip are looked at, spread over it; nothing is tracked. What is told per clip: size,
sharpness and light of the face, how far the head turns, which expressions are seen, rate and length. What is told per
person: what all usable clips cover together, and what to film next. The limits are ours: set by the clips that
`benchmarks/real_people.yaml` lists, and by the same blurred, darkened and shrunk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fportrait.animate.likeness import OTHER, SAME, embedding
from fportrait.atomic_io import file_hash
from fportrait.capture.clock import picked
from fportrait.capture.ingest import FPS_RANGE
from fportrait.capture.video_io import VIDEO_SUFFIXES, VideoInfo, constant_frames, iter_video, probe
from fportrait.errors import UserError
from fportrait.tracking.clips import two_alike
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.crops import face_crop
from fportrait.tracking.fit import LandmarkModel, Observations, solve_frames
from fportrait.tracking.landmarks import Face, quarter_turns, shared_landmarker
from fportrait.tracking.lens import intrinsics_across
from fportrait.tracking.points import BLENDSHAPE_NAMES
from fportrait.tracking.segments import front_camera
from fportrait.tracking.unlikeness import REFUSED

LOOKS = 32  # frames of a clip that are looked at
SMALL_FACE, FINE_FACE = 48.0, 96.0  # pixels, longer side: below the first is no use, from the second nothing is lost
BLURRED, SOFT = 0.045, 0.09  # `sharpness`: below the first lips and lids cannot be told
DARK, BRIGHT = 0.12, 0.9  # mean of the face, 0 to 1
ONE_SIDED = 2.2  # how much brighter one half of the face is than the other
SHORT = 1.0  # seconds; a shorter clip holds hardly a motion
SLOW_RATE = 12.0  # frames a second: below, blinks and speech fall between frames
TURN, NOD = 25.0, 10.0  # degrees to either side that a person's clips should cover together
CROP = 96
EXPRESSIONS: dict[str, tuple[tuple[str, ...], float, str]] = {  # scores, change that counts, what to do
    "mouth open": (("jawOpen",), 0.12, "talk, and open the mouth wide"),
    "smile": (("mouthSmileLeft", "mouthSmileRight"), 0.25, "smile broadly, and let it fade"),
    "pucker": (("mouthPucker", "mouthFunnel"), 0.25, "say oo and oh"),
    "blink": (("eyeBlinkLeft", "eyeBlinkRight"), 0.2, "blink, and close the eyes for a moment"),
    "gaze": (("eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft", "eyeLookDownLeft"), 0.2, "look around with the eyes"),
}  # the shipped scores hardly follow brows: they are not asked for
GOOD, POOR, UNUSABLE = "good", "poor", "unusable"


@dataclass
class ClipCheck:
    """One clip as it was seen. Angles in degrees: `yaw` towards the person's left, `pitch` up; lowest and highest."""

    person: str
    name: str
    path: str
    state: str = GOOD
    reasons: list[str] = field(default_factory=list)  # why it is not good, a sentence each
    notes: list[str] = field(default_factory=list)  # what was done to pictures and times
    frames: int = 0  # at its rate, or, where that is variable, at the constant one that it is brought to
    fps: float = 0.0
    seconds: float = 0.0
    width: int = 0
    height: int = 0
    face_pixels: float = 0.0
    sharpness: float = 0.0
    light: float = 0.0
    one_sided: float = 1.0
    found: float = 0.0  # share of the frames looked at that show a face
    yaw: tuple[float, float] = (0.0, 0.0)
    pitch: tuple[float, float] = (0.0, 0.0)
    expressions: dict[str, float] = field(default_factory=dict)  # how much each moved
    sha256: str = ""
    shown: list[np.ndarray] = field(default_factory=list, repr=False)  # crops of the face, for the sheet
    embedding: np.ndarray | None = field(default=None, repr=False)

    def bad(self, state: str, reason: str) -> None:
        order = (GOOD, POOR, UNUSABLE)
        self.state = max(self.state, state, key=order.index)
        self.reasons.append(reason)

    @property
    def usable(self) -> bool:
        return self.state != UNUSABLE

    def as_dict(self) -> dict[str, Any]:
        """For JSON: without pictures and embedding."""
        kept = {key: value for key, value in asdict(self).items() if key not in ("shown", "embedding")}
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in kept.items()}


@dataclass
class PersonCheck:
    """All clips of one person, what they cover together, and what to film next."""

    person: str
    clips: list[ClipCheck]
    yaw: tuple[float, float] = (0.0, 0.0)
    pitch: tuple[float, float] = (0.0, 0.0)
    expressions: list[str] = field(default_factory=list)
    film_next: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)  # what is wrong with the person's clips taken together
    notes: list[str] = field(default_factory=list)  # what is unusual about them, and no harm

    @property
    def usable(self) -> list[ClipCheck]:
        return [clip for clip in self.clips if clip.usable]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "clips": [clip.as_dict() for clip in self.clips]}


def clips_of(folder: str | Path, name: str | None = None) -> dict[str, list[Path]]:
    """Person to their videos: those in subfolders belong to whom the subfolder is named for, others to `name`.

    Args:
        folder: videos, or folders of videos; or one video. name: whom the videos at the top show; None takes the
            folder's.

    Raises:
        UserError: no such folder, or no videos in it.
    """
    folder = Path(folder)
    if folder.is_file():
        return {name or folder.stem: [folder]}
    if not folder.is_dir():
        kind = "a link that leads nowhere:" if folder.is_symlink() else "no folder"
        raise UserError(f"{kind} {folder}", "a folder of videos, or of a folder per person", "check the path")
    found: dict[str, list[Path]] = {}
    for path in videos_below(folder):
        inside = path.relative_to(folder)
        person = inside.parts[0] if len(inside.parts) > 1 else name or folder.resolve().name
        found.setdefault(person, []).append(path)
    if not found:
        raise UserError(f"no videos in {folder}", f"files that end with {', '.join(VIDEO_SUFFIXES)}", "check the path")
    return dict(sorted(found.items()))


def videos_below(folder: Path) -> list[Path]:
    """Videos in a folder and its subfolders, also where links lead; what is hidden (`._clip.mp4` of a Mac) is left out.

    Links that lead nowhere are among them: whoever reads them says so.
    """
    found, seen = [], set()
    for place, inner, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        inner[:] = [
            one for one in inner if not one.startswith(".") and os.path.realpath(os.path.join(place, one)) not in seen
        ]
        paths = [Path(place) / one for one in names if not one.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    return sorted(found)


def check_clips(
    people: Mapping[str, Sequence[Path]], tell: Callable[[str, int, int], None] = lambda what, done, total: None
) -> list[PersonCheck]:
    """Look at every clip of every person (`clips_of`); what is wrong is told, and never stops the others."""
    total, done = sum(map(len, people.values())), 0
    model, found = None, []
    for person, paths in people.items():
        clips = []
        for path in paths:
            tell("look at clips", done, total)
            if model is None:
                from fportrait.body.model import load_body

                model = LandmarkModel(load_body())
            clips.append(check_clip(Path(path), person, model))
            done += 1
        found.append(PersonCheck(person, clips))
    tell("look at clips", total, total)
    compare_people(found)
    for checked in found:
        cover(checked)
    return found


def upload_words(path: str | Path) -> str:
    """What the studio says of a driving video as it is uploaded; empty for one in which all is seen well.

    Few frames of its beginning are looked at: an upload must not keep the server busy.
    """
    from fportrait.body.model import load_body

    clip = check_clip(Path(path), "", LandmarkModel(load_body()), looks=8, most=250)
    reasons = [
        reason for reason in clip.reasons if not reason.startswith("two people")
    ]  # said by the tracker's refusal
    return " ".join(f"{reason[0].upper()}{reason[1:]}." for reason in reasons)


def check_clip(path: Path, person: str, model: LandmarkModel, looks: int = LOOKS, most: int | None = None) -> ClipCheck:
    """One clip; a file that cannot be read is unusable with its reason.

    Args:
        looks: frames that are looked at, spread over the clip. most: of its first frames alone.
    """
    clip = ClipCheck(person, path.name, str(path))
    try:
        info = probe(path)
        clip.sha256 = file_hash(path)
        look(clip, info, path, model, looks, most)
    except UserError as error:
        clip.bad(UNUSABLE, (getattr(error, "found", "") or str(error)).replace(str(path), path.name))
    except OSError as error:
        clip.bad(UNUSABLE, f"{path.name} cannot be read ({error.strerror})")
    return clip


def look(clip: ClipCheck, info: VideoInfo, path: Path, model: LandmarkModel, looks: int, most: int | None) -> None:
    """Measure the frames that are looked at, and judge."""
    clip.frames, clip.fps, clip.width, clip.height = info.frames, info.fps, info.width, info.height
    clip.seconds, clip.notes = info.frames / max(info.fps, 1e-6), list(info.notes)
    if info.variable_rate:
        clip.fps, stored = constant_frames(path)
        clip.frames, clip.seconds = len(stored), len(stored) / clip.fps
        clip.notes.append("a variable frame rate: it is resampled to a constant one")
    if clip.fps > FPS_RANGE[1]:
        clip.bad(UNUSABLE, f"a clock of {clip.fps:.4g} frames a second: write the file again with its rate")
    last = min(info.frames, most or info.frames) - 1
    places = np.unique(np.linspace(0, last, min(looks, last + 1)).round().astype(int)).tolist()
    landmarker, faces, crops, doubles = shared_landmarker(), [], [], 0
    unlike: list[Any] = []
    for frame in picked(iter_video(path, 0, places[-1] + 1), places):
        seen = landmarker.detect(frame)
        doubles += two_alike(seen, TrackConfig())
        if seen:
            if len(unlike) < 3:
                unlike.append(landmarker.unlikeness(frame, seen[0]))
            faces.append(seen[0])
            crops.append(face_crop(frame, seen[0].landmarks, CROP))
            if clip.embedding is None:
                clip.embedding = embedding(frame, seen[0])
    clip.found = len(faces) / len(places)
    if not faces:
        clip.bad(UNUSABLE, "no face is seen: the face upright, from the front, a third of the picture")
        return
    if unlike and float(np.median(unlike)) > REFUSED:
        clip.bad(UNUSABLE, f"nothing like a face (points swim by {100 * float(np.median(unlike)):.0f}% of its size)")
    measure(clip, faces, crops, model)
    if doubles > len(places) // 4:
        clip.bad(UNUSABLE, "two people of like size: crop it to one of them")
    elif doubles:
        clip.bad(POOR, f"a second face in {doubles} of {len(places)} frames looked at")
    judge(clip)


def measure(clip: ClipCheck, faces: list[Face], crops: list[np.ndarray], model: LandmarkModel) -> None:
    """Size, sharpness, light, angles and expressions of the faces that were found."""
    clip.face_pixels = float(np.median([face.size for face in faces]))
    clip.sharpness = float(np.median([sharpness(crop) for crop in crops]))
    grey = np.stack([cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[24:72, 24:72] for crop in crops]) / 255.0
    clip.light = float(np.median(grey.mean((1, 2))))
    halves = np.stack([grey[:, :, :24].mean((1, 2)), grey[:, :, 24:].mean((1, 2))], 1) + 0.02
    clip.one_sided = float(np.median(halves.max(1) / halves.min(1)))
    intrinsics = intrinsics_across(40.0, clip.width, clip.height)
    turns = np.bincount([quarter_turns(face.landmarks) % 4 for face in faces], minlength=4).argmax()
    camera = front_camera(TrackConfig(), int(turns))  # a phone held sideways is no head that lies down
    seen = Observations(np.stack([face.landmarks for face in faces])[:, None], camera[None], intrinsics[None])
    seen = seen.of_stranger()
    forward = solve_frames(model, seen, np.zeros(model.body.identity_dim)).rotations[:, :, 2]
    yaw, pitch = (
        np.degrees(np.arctan2(forward[:, 0], forward[:, 2])),
        np.degrees(np.arcsin(np.clip(forward[:, 1], -1, 1))),
    )
    clip.yaw, clip.pitch = reach(yaw), reach(pitch)
    scores = np.stack([face.blendshapes for face in faces])
    for name, (parts, _, _) in EXPRESSIONS.items():
        moved = scores[:, [BLENDSHAPE_NAMES.index(part) for part in parts]]
        spread = np.quantile(moved, 0.95, axis=0) - np.quantile(moved, 0.05, axis=0)
        clip.expressions[name] = round(float(spread.max()), 3)
    middle = int(np.argmin(np.abs(yaw - np.median(yaw))))
    for wanted in (middle, int(np.argmin(yaw)), int(np.argmax(yaw)), int(np.argmax(scores[:, JAW]))):
        clip.shown.append(crops[wanted])


JAW = BLENDSHAPE_NAMES.index("jawOpen")


def reach(degrees: np.ndarray) -> tuple[float, float]:
    """Lowest and highest angle, without the most extreme twentieth."""
    return round(float(np.quantile(degrees, 0.03)), 1), round(float(np.quantile(degrees, 0.97)), 1)


def sharpness(crop: np.ndarray) -> float:
    """How much of a face's contrast is fine: the share of its Laplacian in the spread of its pixels, at 96 pixels.

    Relative, so that a dark or flat face is not taken for a blurred one.
    """
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)[16:80, 16:80]
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean() / max(float(grey.std()), 1.0) / 2)


def judge(clip: ClipCheck) -> None:
    """What of the numbers is too little, as sentences with what to do."""
    if clip.face_pixels < SMALL_FACE:
        clip.bad(UNUSABLE, f"a face of {clip.face_pixels:.0f} pixels; {SMALL_FACE:.0f} are needed: come nearer")
    elif clip.face_pixels < FINE_FACE:
        clip.bad(POOR, f"a face of {clip.face_pixels:.0f} pixels; {FINE_FACE:.0f} show all: come nearer")
    if clip.found < 0.6:
        clip.bad(UNUSABLE, f"a face in {100 * clip.found:.0f}% of the frames: keep it in the picture, and uncovered")
    elif clip.found < 0.95:
        clip.bad(POOR, f"a face in {100 * clip.found:.0f}% of the frames: keep it in the picture, and uncovered")
    if clip.sharpness < BLURRED:
        clip.bad(UNUSABLE, "blurred: more light, a clean lens, a still camera, focus on the face")
    elif clip.sharpness < SOFT:
        clip.bad(POOR, "soft: more light, a clean lens, a still camera, focus on the face")
    if clip.light < DARK:
        clip.bad(POOR, "dark: face a window")
    elif clip.light > BRIGHT:
        clip.bad(POOR, "overexposed: less light, or tap on the face before filming")
    if clip.one_sided > ONE_SIDED:
        clip.bad(POOR, f"lit from one side ({clip.one_sided:.1f} times brighter): face the light")
    if clip.seconds < SHORT and clip.fps <= FPS_RANGE[1]:
        clip.bad(POOR, f"{clip.seconds:.1f} s long: five to ten seconds hold a motion")
    if clip.fps < SLOW_RATE:
        clip.bad(POOR, f"{clip.fps:.3g} frames a second: 24 or more show speech and blinks")


def compare_people(found: list[PersonCheck]) -> None:
    """Tell of one file or one person under two names, and of two people under one: a split would mix them."""
    seen: dict[str, ClipCheck] = {}
    for person in found:
        for clip in person.clips:
            if clip.sha256 and (first := seen.setdefault(clip.sha256, clip)) is not clip:
                clip.bad(UNUSABLE, f"the same file as {first.person}/{first.name}")
    known = {
        person.person: np.stack([clip.embedding for clip in person.usable if clip.embedding is not None])
        for person in found
        if any(clip.embedding is not None for clip in person.usable)
    }
    for person in found:
        faces = known.get(person.person)
        if faces is not None and len(faces) > 1:
            alike = faces @ faces.T
            odd = int(np.argmin(alike.mean(1)))
            if float(np.delete(alike[odd], odd).max()) < OTHER:
                name = [clip.name for clip in person.usable if clip.embedding is not None][odd]
                person.reasons.append(f"{name} looks like another person than the rest: a folder for each person")
        for other in found:
            if faces is None or other.person <= person.person or other.person not in known:
                continue
            if float(np.median(faces @ known[other.person].T)) > SAME:
                person.reasons.append(
                    f"{person.person} and {other.person} look like one person: one folder for each person, "
                    "or somebody stands on both sides of the split"
                )


def cover(person: PersonCheck) -> None:
    """What the usable clips show together, and what to film next."""
    clips = person.usable
    if not clips:
        person.film_next = ["a clip that can be used: see the reasons above"]
        return
    person.yaw = (min(clip.yaw[0] for clip in clips), max(clip.yaw[1] for clip in clips))
    person.pitch = (min(clip.pitch[0] for clip in clips), max(clip.pitch[1] for clip in clips))
    person.expressions = [
        name
        for name, (_, change, _) in EXPRESSIONS.items()
        if max(clip.expressions.get(name, 0.0) for clip in clips) >= change
    ]
    shapes = {round(clip.width / max(clip.height, 1), 2) for clip in clips}
    if len(shapes) > 1:
        person.notes.append(
            "clips of different shapes (" + ", ".join(f"{one:g}:1" for one in sorted(shapes)) + "): "
            "each is cut to the face alone, and lenses may differ"
        )
    asked = person.film_next
    if len(clips) < 3:
        asked.append(f"{3 - len(clips)} more clip{'s' * (len(clips) < 2)}: one is held out to judge by")
    for angle, side in ((person.yaw[1], "left"), (-person.yaw[0], "right")):
        if round(angle) < TURN:  # as it is told
            asked.append(f"turn the head slowly to your {side} (seen: {max(angle, 0):.0f}°, wanted: {TURN:.0f}°)")
    for angle, way in ((person.pitch[1], "up"), (-person.pitch[0], "down")):
        if round(angle) < NOD:
            asked.append(f"tilt the head slowly {way} (seen: {max(angle, 0):.0f}°, wanted: {NOD:.0f}°)")
    asked += [what for name, (_, _, what) in EXPRESSIONS.items() if name not in person.expressions]


def table(found: Iterable[PersonCheck]) -> str:
    """The checks as text: a row a clip, reasons below it, and what to film next per person."""
    first = (("clip", -28), ("state", -10), ("face", 6), ("sharp", 7), ("light", 7), ("yaw", 12), ("pitch", 11))
    columns = (*first, ("rate", 6), ("s", 6))
    lines = ["".join(f"{name:<{-w}}" if w < 0 else f"{name:>{w}}" for name, w in columns) + "  moves"]
    for person in found:
        for clip in person.clips:
            moved = [n for n, (_, change, _) in EXPRESSIONS.items() if clip.expressions.get(n, 0.0) >= change]
            lines.append(
                f"{(person.person + '/' + clip.name)[-27:]:<28}{clip.state:<10}{clip.face_pixels:>6.0f}"
                f"{clip.sharpness:>7.2f}{clip.light:>7.2f}{clip.yaw[0]:>6.0f}{clip.yaw[1]:>+6.0f}{clip.pitch[0]:>5.0f}{clip.pitch[1]:>+6.0f}"
                f"{clip.fps:>6.3g}{clip.seconds:>6.1f}  {', '.join(moved) or 'nothing'}"
            )
            lines += [f"    {reason}" for reason in (*clip.reasons, *clip.notes)]
        lines += [f"  ! {reason}" for reason in person.reasons] + [f"    {note}" for note in person.notes]
        usable = len(person.usable)
        lines.append(
            f"  {person.person}: {usable} of {len(person.clips)} clips usable; the head's yaw {person.yaw[0]:.0f}° to "
            f"{person.yaw[1]:.0f}° (left is above 0), pitch {person.pitch[0]:.0f}° to {person.pitch[1]:.0f}°"
        )
        lines += [f"    film next: {one}" for one in person.film_next]
    return "\n".join(lines)
