"""Figures of the ablation: loss by stage, quality against compute, leakage, samples beside the truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from fportrait.tables.schema import DATASETS

if TYPE_CHECKING:
    from fportrait.ops.ablation_report import Results

COLOURS = {
    "full": "#1f4e9c",
    "c1": "#c8792b",
    "c2": "#b3362d",
    "c3": "#3c8a4b",
    "one_mixture": "#8a5fb0",
    "identity_rays": "#4f6d7a",
}
CELL = 96  # pixels of a sample in the figures
SHOWN_FRAMES = 6


def draw_all(results: Results, folder: Path) -> None:
    """`loss.png`, `compute.png`, `leakage.png`, `samples-DATASET.jpg` and `probes.jpg` into `folder`."""
    import matplotlib

    matplotlib.use("Agg")
    draw_losses(results, folder / "loss.png")
    draw_compute(results, folder / "compute.png")
    if results.leakage("full")[0]:
        draw_leakage(results, folder / "leakage.png")
    for dataset in DATASETS:
        draw_samples(results, dataset, folder / f"samples-{dataset}.jpg")
    draw_probes(results, folder / "probes.jpg")


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Running mean over up to `window` points before each one."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def draw_losses(results: Results, path: Path) -> None:
    """Training loss of each stage (thin: seeds; smoothed) and the held-out loss (dots), one panel per stage."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(13, 3.2), sharey=True)
    for variant in results.variants:
        for index, run in enumerate(results.runs(variant)):
            for axis, stage in zip(axes, run["stages"], strict=True):
                points = [(point["step"], point["loss"]) for point in stage["curve"]]
                held = [(point["step"], point["held_out_loss"]) for point in stage["curve"] if "held_out_loss" in point]
                steps, losses = np.array(points).T
                colour = COLOURS[variant]
                label = variant if index == 0 else None
                axis.plot(steps, smoothed(losses, 8), color=colour, linewidth=1, alpha=0.9, label=label)
                axis.plot(*np.array(held).T, "o", color=colour, markersize=3.5)
    for axis, stage in zip(axes, results.runs("full")[0]["stages"], strict=True):
        axis.set_title(f"{stage['name']}: T = {stage['frames']}", fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("flow-matching loss")
    axes[-1].legend(fontsize=8)
    figure.suptitle("Lines: training, mean of 8 readings. Dots: unseen people.", fontsize=9, y=1.02)
    _save(figure, path)


def draw_compute(results: Results, path: Path) -> None:
    """PSNR on DynamicSweep and mean gains after each stage of the full model, against the operations spent."""
    from matplotlib import pyplot

    stages = results.runs("full")[0]["stages"]
    spent = np.cumsum([0.0, *(stage["flops"] / 1e12 for stage in stages)])
    points = [results.found["points"].get(name) for name in ("base", "stage1", "stage2", "stage3")]
    points.append(results.runs("full")[0]["scores"])
    kept = [(x, point) for x, point in zip(spent, points, strict=True) if point is not None]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.4))
    for dataset in DATASETS:
        values = [(x, point[dataset]["ours"]["psnr"]["mean"]) for x, point in kept if dataset in point]
        if values:
            left.plot(*np.array(values).T, "o-", label=dataset, linewidth=1.2)
    left.set_ylabel("PSNR of unseen people, dB")
    for factor in results.leakage("full")[0]:
        values = [
            (x, point["control"]["methods"]["ours"]["gains"][factor]["gain"]["mean"])
            for x, point in kept
            if "control" in point
        ]
        right.plot(*np.array(values).T, "o-", label=factor, linewidth=1.2)
    right.set_ylabel("gain")
    for axis in (left, right):
        axis.set_xlabel("training of the full model after the base, TFLOP")
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7, ncols=2)
    _save(figure, path)


def draw_leakage(results: Results, path: Path) -> None:
    """The matrices of the full model and of the codec's limit side by side."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.8))
    for axis, method, head in zip(axes, ("ours", "codec_limit"), ("full model", "codec's limit"), strict=True):
        names, matrix = results.leakage("full", method)
        axis.imshow(np.array(matrix), cmap="RdBu_r", vmin=-1.2, vmax=1.2)
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                axis.text(
                    j,
                    i,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if abs(value) > 0.8 else "black",
                )
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set_title(head, fontsize=10)
        axis.set_xlabel("came out")
    axes[0].set_ylabel("asked for, alone")
    _save(figure, path)


def _strip(frames: np.ndarray) -> np.ndarray:
    picks = np.linspace(0, len(frames) - 1, SHOWN_FRAMES).round().astype(int)
    return np.hstack([cv2.resize(frames[pick], (CELL, CELL), interpolation=cv2.INTER_CUBIC) for pick in picks])


def _labelled(rows: list[tuple[str, np.ndarray]], width: int = 150) -> np.ndarray:
    """Rows of pictures with their names on the left, `H W 3` uint8."""
    lines = []
    for name, strip in rows:
        label = np.full((strip.shape[0], width, 3), 255, np.uint8)
        for number, line in enumerate(name.split("\n")):
            place = (6, strip.shape[0] // 2 + 4 + 15 * number - 7 * name.count("\n"))
            cv2.putText(label, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
        lines.append(np.hstack([label, strip]))
    return np.vstack(lines)


def _write_jpeg(path: Path, picture: np.ndarray) -> None:
    from fportrait.atomic_io import atomic_path

    with atomic_path(path) as target:
        cv2.imwrite(str(target), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])


def _shown_evaluations(results: Results) -> list[tuple[str, Path]]:
    """(label, folder of the report) of the base and of every variant's first seed, the full model first."""
    first = [(name, Path(results.runs(name)[0]["evaluation"])) for name in results.variants]
    base = results.found.get("base_evaluation")
    return [*first, *([("base", Path(base))] if base else [])]


SHORT = {
    "full": "full",
    "c1": "C1: no\nDynamicSweep",
    "c2": "C2: no normals",
    "c3": "C3: landmarks",
    "one_mixture": "no curriculum",
    "base": "base, untrained",
}


def draw_samples(results: Results, dataset: str, path: Path) -> None:
    """One held-out clip of a dataset: the truth, then every variant's sample, six frames across."""
    from fportrait.capture.video_io import read_video

    rows: list[tuple[str, np.ndarray]] = []
    for name, folder in _shown_evaluations(results):
        videos = sorted((folder / "videos" / dataset).glob("*.mp4"))
        if not videos:
            continue
        both = read_video(videos[0])
        half = both.shape[2] // 2
        if not rows:
            rows.append(("truth", _strip(both[:, :, :half])))
        rows.append((SHORT[name], _strip(both[:, :, half:])))
    if rows:
        _write_jpeg(path, _labelled(rows))


def draw_probes(results: Results, path: Path) -> None:
    """The first probed person, factors across: truth, codec's limit, then every variant (from the report's picture)."""
    from fportrait.capture.video_io import read_image

    rows: list[tuple[str, np.ndarray]] = []
    for name, folder in _shown_evaluations(results):
        if not (folder / "probes.png").is_file():
            continue
        picture = read_image(folder / "probes.png")
        third = picture.shape[0] // 3
        if not rows:
            rows += [("truth", picture[:third]), ("codec's limit", picture[third : 2 * third])]
        rows.append((SHORT[name], picture[2 * third :]))
    if not rows:
        return
    columns = ["rest", *results.leakage("full")[0]]
    head = np.full((22, rows[0][1].shape[1], 3), 255, np.uint8)
    for index, name in enumerate(columns):
        place = (index * rows[0][1].shape[1] // len(columns) + 8, 15)
        cv2.putText(head, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    picture = _labelled([("", head), *rows])
    scale = min(1.0, 1100 / picture.shape[1])
    _write_jpeg(path, cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
