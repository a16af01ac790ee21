"""`metrics.json`, the videos, and one HTML page that carries its pictures inside and needs no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from fportrait.atomic_io import write_json, write_text
from fportrait.capture.video_io import write_image, write_video

if TYPE_CHECKING:
    from fportrait.evaluation.protocol import ClipResult

ROWS = ("portrait", "truth", "ours", "normals")
METRICS = ("psnr", "ssim", "sharpness", "expression_gain", "expression_error", "landmark_gain", "landmark_error",
           "faces_found")  # fmt: skip
NOTES = {
    "psnr": "decibels; rewards blur, so read it beside sharpness",
    "ssim": "× 100, RGB, 11×11 Gaussian of σ 1.5",
    "sharpness": "variance of the Laplacian over the truth's; 1 is as sharp",
    "expression_gain": "change of the codes read back over the change asked; 1 is full strength",
    "expression_error": "root mean square difference of codes, in standard deviations",
    "landmark_gain": "movement of the face's points over the true movement",
    "landmark_error": "mean distance of the face's points, pixels",
    "faces_found": "share of frames in which the detector finds a face",
}
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:0 auto;padding:1rem;color:#1c2024;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;margin:.5rem 0}
.wide{overflow-x:auto}th,td{text-align:right;padding:.25rem .7rem;border-bottom:1px solid #dde1e6;white-space:nowrap}
th:first-child,td:first-child{text-align:left}small{color:#5b636b}figure{margin:1rem 0;overflow-x:auto}
img{image-rendering:auto;max-width:none;height:auto}
@media (prefers-color-scheme:dark){body{background:#15181c;color:#e6e9ec}th,td{border-color:#363d45}
small{color:#9aa3ab}}
"""


def write_report(
    folder: Path,
    results: Mapping[str, Sequence[ClipResult]],
    metrics: Mapping[str, Any],
    settings: Mapping[str, Any],
    fps: float = 25.0,
) -> Path:
    """Write `metrics.json`, `videos/DATASET/RECORD.mp4` (truth beside ours), `strips/…png` and `report.html`."""
    write_json(folder / "metrics.json", {"metrics": metrics, "settings": settings})
    parts = [f"<h1>Self-reenactment of held-out people</h1>{table_of(metrics)}"]
    for dataset, clips in results.items():
        parts.append(f"<h2>{html.escape(dataset)}</h2>")
        # Worst first: that is where the work is.
        for clip in sorted(clips, key=lambda clip: clip.scores["ours/psnr"]):
            name = f"{clip.record.identity}-{clip.record.record}"
            both = np.concatenate([clip.videos["truth"], clip.videos["ours"]], axis=2)
            write_video(folder / "videos" / dataset / f"{name}.mp4", both, fps)
            strip = contact_strip(clip.videos)
            path = write_image(folder / "strips" / dataset / f"{name}.png", strip)
            data = base64.b64encode(Path(path).read_bytes()).decode()
            caption = f"{clip.record.id}: {clip.scores['ours/psnr']:.2f} dB; rows: {', '.join(ROWS)}"
            parts.append(f'<figure><img alt="" src="data:image/png;base64,{data}">'
                         f"<figcaption><small>{html.escape(caption)}</small></figcaption></figure>")  # fmt: skip
    listed = ", ".join(f"{key} {value}" for key, value in settings.items())
    page = (
        "<!DOCTYPE html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Evaluation</title><style>{STYLE}</style></head><body>{''.join(parts)}"
        f"<p><small>{html.escape(listed)}</small></p></body></html>\n"
    )
    return write_text(folder / "report.html", page)


def table_of(metrics: Mapping[str, Any]) -> str:
    """One table per metric: datasets down, methods across, with 95% intervals over clips."""
    tables = []
    for metric in METRICS:
        methods = [m for m in ("ours", "codec_limit", "repeated_portrait")
                   if any(metric in summary.get(m, {}) for summary in metrics.values())]  # fmt: skip
        if not methods:
            continue
        head = "".join(f"<th>{method.replace('_', ' ')}" for method in methods)
        rows = []
        for dataset, summary in metrics.items():
            cells = "".join(f"<td>{_cell(summary.get(method, {}).get(metric))}" for method in methods)
            rows.append(f"<tr><td>{html.escape(dataset)}{cells}<td>{summary['clips']}</tr>")
        title = f"<h2>{metric.replace('_', ' ')}</h2><small>{html.escape(NOTES[metric])}</small>"
        tables.append(f"{title}<div class=wide><table><tr><th>{head}<th>clips</tr>{''.join(rows)}</table></div>")
    return "".join(tables)


def _cell(entry: Mapping[str, float] | None) -> str:
    if entry is None:
        return "–"
    interval = f" <small>{entry['low']:.2f} … {entry['high']:.2f}</small>" if "low" in entry else ""
    return f"{entry['mean']:.2f}{interval}"


def contact_strip(videos: Mapping[str, np.ndarray], columns: int = 6, height: int = 128) -> np.ndarray:
    """Rows of frames, evenly spaced in time: the portrait (once), truth, ours, normals; `H W 3` uint8."""
    truth = videos["truth"]
    picks = np.linspace(0, len(truth) - 1, min(columns, len(truth))).round().astype(int)
    width = round(height * truth.shape[2] / truth.shape[1])
    strip = np.zeros((height * len(ROWS), width * len(picks), 3), np.uint8)
    for row, name in enumerate(ROWS):
        frames = videos["portrait"][None] if name == "portrait" else videos[name][picks]
        for column, frame in enumerate(frames):
            interpolation = cv2.INTER_AREA if frame.shape[0] > height else cv2.INTER_CUBIC
            picture = cv2.resize(frame, (width, height), interpolation=interpolation)
            strip[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    return strip
