"""The report: `metrics.json`, tables, videos, contact sheets, and one HTML page that opens offline and on a phone.

Clips are written as they come, so that memory does not grow; the page is put together at the end. It carries pictures
and the worst clips' videos inside, loads nothing, and its only script moves the players of a clip together.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from fportrait.atomic_io import write_json, write_text
from fportrait.capture.video_io import write_image, write_video
from fportrait.dataset.crops import Inside, filmed_pixels
from fportrait.evaluation.clips import COMPARED
from fportrait.evaluation.page import (
    SCRIPT,
    STYLE,
    backbone_table,
    control_section,
    cross_section,
    head_table,
    interval_tables,
    people_table,
    slice_tables,
    sparkline,
)
from fportrait.evaluation.tables import write_tables
from fportrait.evaluation.types import OWN_CLIPS
from fportrait.pixels import enlarged
from fportrait.provenance import SYNTHETIC

if TYPE_CHECKING:
    from fportrait.evaluation.types import ClipResult

ROWS = ("portrait", "truth", "ours", "normals")
ROW_WORDS = {
    "portrait": "left: the portrait, all that the model sees of the person",
    "driver": "the driver",
    "truth": "the person, filmed",
    "ours": "the same, made by the model from the portrait",
    "difference": "their difference, three times",
    "normals": "the head pose and view that were asked for",
}
PLAYERS = ("truth", "ours", "codec_limit", "difference", "normals")
PLAYER_TITLES = {"codec_limit": "codec's limit", "difference": "|ours − truth| × 3", "normals": "pose asked"}
PLAYER_SIZE = 160  # pixels; smaller videos are enlarged, because players blur
HATCH, GREYS = 0.03, (150, 105)  # width of a stripe, of a picture's short side; and levels of stripes


@dataclass
class Shown:
    """What the page needs of a clip after its videos are on disk."""

    id: str
    score: float
    caption: str
    strip: Path
    players: dict[str, Path]
    curve: list[float] = field(default_factory=list)


class Report:
    """Collects clips into `folder`; `finish` writes the page. `shown` clips per group have players in it."""

    def __init__(self, folder: Path, shown: int = 8, fps: float = 25.0):
        self.folder, self.shown, self.fps = folder, shown, fps
        self.groups: dict[str, list[Shown]] = {}
        self.probe_picture: Path | None = None

    def add(self, group: str, clip: ClipResult) -> None:
        """Write a clip's videos and contact strip."""
        where = "".join(c if c.isalnum() or c in "-_" else "-" for c in group)
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in clip.id.split("/", 1)[-1])
        videos = dict(clip.videos)
        players = {}
        if "truth" in videos and "ours" in videos:
            difference = 3 * np.abs(videos["ours"].astype(np.int16) - videos["truth"])
            videos["difference"] = np.clip(difference, 0, 255).astype(np.uint8)
        videos |= {key: hatched(videos[key], clip.inside) for key in (*COMPARED, "difference") if key in videos}
        if "truth" in videos and "ours" in videos:
            both = np.concatenate([videos["truth"], videos["ours"]], axis=2)
            write_video(self.folder / "videos" / where / f"{name}.mp4", both, self.fps, metadata=SYNTHETIC)
        wanted = [player for player in PLAYERS if player in videos] + [p for p in videos if p.startswith("driver")]
        for player in wanted:
            path = self.folder / "players" / where / f"{name}-{player}.mp4"
            write_video(path, enlarged(videos[player], PLAYER_SIZE), self.fps, 20, SYNTHETIC)
            players[player] = path
        rows = [row for row in ("portrait", "driver", *ROWS[1:]) if row in videos]
        path = self.folder / "strips" / where / f"{name}.png"
        write_image(path, contact_strip(videos, rows))
        score = clip.scores.get("ours/psnr", float("nan"))
        words = [
            f"{METRIC_WORDS[key]} {clip.scores[f'ours/{key}']:.3g}"
            for key in METRIC_WORDS
            if f"ours/{key}" in clip.scores
        ]
        words += [f"{axis}: {label}" for axis, label in clip.slices.items()]
        words += ["hatched: beyond the file's edge, not judged"] * (clip.inside is not None)
        self.groups.setdefault(group, []).append(Shown(clip.id, score, " · ".join(words), path, players, clip.curve))

    def add_probes(self, control: Mapping[str, Any], pictures: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """The probes' pictures: factors across, truth, codec's limit and ours down."""
        rows = []
        for method in ("truth", "codec_limit", "ours"):
            cells = [
                cv2.resize(shown[method], (112, 112), interpolation=cv2.INTER_CUBIC) for shown in pictures.values()
            ]
            rows.append(np.hstack(cells))
        self.probe_picture = Path(write_image(self.folder / "probes.png", np.vstack(rows)))

    def finish(self, summary: Mapping[str, Any]) -> Path:
        """Write `metrics.json`, the tables and `report.html`."""
        write_json(self.folder / "metrics.json", summary)
        write_tables(self.folder, summary)
        parts = [
            "<h1>Evaluation on held-out people</h1>",
            "<p>",
            html.escape(_lead(summary)),
            "</p>",
            head_table(summary),
        ]
        parts += [interval_tables(summary), people_table(summary.get("people", {}))]
        parts += [slice_tables(summary.get("slices", {}))]
        if "control" in summary:
            parts.append(
                control_section(summary["control"], _image(self.probe_picture, "probes") if self.probe_picture else "")
            )
        parts += [cross_section(summary)]
        for group, clips in self.groups.items():
            parts.append(f"<h2>{html.escape(group)}</h2>")
            # Worst first: that is where the work is.
            ordered = sorted(clips, key=lambda one: one.score if np.isfinite(one.score) else 1e9)
            parts += [_figure(clip) for clip in ordered[: self.shown]]
            if len(ordered) > self.shown:
                rest = "".join(f"<li>{html.escape(c.id)}: {html.escape(c.caption)}</li>" for c in ordered[self.shown :])
                parts.append(
                    f"<details><summary>{len(ordered) - self.shown} better clips</summary><ul>{rest}</ul></details>"
                )
        parts.append(backbone_table(summary))
        page = (
            "<!DOCTYPE html><html lang=en><head><meta charset=utf-8>"
            "<meta name=viewport content='width=device-width,initial-scale=1'>"
            f"<title>Evaluation</title><style>{STYLE}</style></head><body>{''.join(parts)}"
            f"<script>{SCRIPT}</script></body></html>\n"
        )
        return write_text(self.folder / "report.html", page)


METRIC_WORDS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "csim": "CSIM",
    "expression_gain": "expression gain",
    "head_pose_error": "head °",
    "faces_found": "faces found",
}


def _lead(summary: Mapping[str, Any]) -> str:
    datasets = [
        value for value in summary.values() if isinstance(value, Mapping) and "ours" in value and "clips" in value
    ]
    clips = sum(entry["clips"] for entry in datasets)
    own = summary.get(OWN_CLIPS, {}).get("clips", 0)
    counted = [f"{clips - own} clips of held-out people"] if clips > own else []
    counted += [f"{own} of your own clips"] if own else []
    return (
        f"{' and '.join(counted) or 'no clips'}, holdout {summary.get('holdout', '?')}. Intervals are 95% over people "
        "(clips of one person are alike); where there is one person there is none. Worst clips come first."
    )


def _figure(clip: Shown) -> str:
    players = "".join(
        f"<figure><video muted loop playsinline preload=auto src='{_data(path, 'video/mp4')}'></video>"
        f"<figcaption>{html.escape(PLAYER_TITLES.get(name, name))}</figcaption></figure>"
        for name, path in clip.players.items()
    )
    controls = (
        "<div class=bar><button type=button aria-label='play or pause'>▶</button>"
        "<input type=range min=0 max=1000 value=0 aria-label=time></div>"
    )
    return (
        f"<section class=clip><h3>{html.escape(clip.id)}</h3><p><small>{html.escape(clip.caption)}</small></p>"
        f"<div class=players>{players}</div>{controls}{sparkline(clip.curve)}"
        f"<details><summary>contact sheet</summary><div class=wide>{_image(clip.strip, clip.id)}</div></details>"
        "</section>"
    )


def _data(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


def _image(path: Path, alt: str) -> str:
    return f"<img alt='{html.escape(alt, quote=True)}' src='{_data(path, 'image/png')}'>"


def hatched(video: np.ndarray, inside: Inside | None) -> np.ndarray:
    """A video `T H W 3` uint8, hatched where nothing was filmed (`dataset.crops`)."""
    if inside is None:
        return video
    down, across = np.indices(video.shape[1:3])
    stripes = (down + across) // max(1, HATCH * min(video.shape[1:3])) % 2
    shown = np.broadcast_to(np.where(stripes, *GREYS)[..., None].astype(np.uint8), video.shape).copy()
    rows, columns = filmed_pixels(inside)
    shown[:, rows, columns] = video[:, rows, columns]
    return shown


def contact_strip(
    videos: Mapping[str, np.ndarray], rows: tuple[str, ...] | list[str] = ROWS, columns: int = 6, height: int = 128
) -> np.ndarray:
    """Rows of frames, evenly spaced in time: the portrait (once), truth, ours, normals; `H W 3` uint8.

    What the rows are is written beside the portrait, where its row has room.
    """
    longest = videos["ours"]
    picks = np.linspace(0, len(longest) - 1, min(columns, len(longest))).round().astype(int)
    width = round(height * longest.shape[2] / longest.shape[1])
    strip = np.full((height * len(rows), width * len(picks), 3), 255, np.uint8)
    for line, name in enumerate(rows if rows[0] == "portrait" and len(picks) > 2 else []):
        words = ROW_WORDS.get(name, name)
        text = words if name == "portrait" else f"row {line + 1}: {words}"
        at = (width + 10, 24 + line * (height - 24) // len(rows))
        cv2.putText(strip, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (30, 30, 30), 1, cv2.LINE_AA)
    for row, name in enumerate(rows):
        frames = videos["portrait"][None] if name == "portrait" else videos[name][picks]
        for column, frame in enumerate(frames):
            interpolation = cv2.INTER_AREA if frame.shape[0] > height else cv2.INTER_CUBIC
            picture = cv2.resize(frame, (width, height), interpolation=interpolation)
            strip[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    return strip
