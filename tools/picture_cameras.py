"""Draw docs/images/drawn-cameras.png: which cameras of a made-up dome are drawn for four people, and how far apart.

python tools/picture_cameras.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from fportrait.camera.cameras import intrinsics_from_fov, look_at
from fportrait.capture.calibration import Camera
from fportrait.capture.importers.align import draw_cameras

TARGET = Path(__file__).parents[1] / "docs/images/drawn-cameras.png"


def dome(count: int = 78) -> dict[str, Camera]:
    """Cameras over the front of a dome, denser to one side."""
    rng = np.random.default_rng(5)
    cameras = {}
    for index in range(count):
        yaw, pitch = np.radians(rng.triangular(-100, 60, 100)), np.radians(rng.uniform(-40, 50))
        eye = np.array([np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)])
        cameras[f"c{index:02d}"] = Camera(64, 64, intrinsics_from_fov(40, 64, 64), look_at(eye, np.zeros(3)))
    return cameras


def angles(cameras: dict[str, Camera], names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Yaw and pitch, degrees."""
    centres = np.stack([cameras[name].centre for name in names])
    return np.degrees(np.arctan2(centres[:, 0], centres[:, 2])), np.degrees(np.arcsin(centres[:, 1]))


def spread(cameras: dict[str, Camera], names: list[str]) -> float:
    """Degrees between the two drawn cameras that are nearest to each other."""
    centres = np.stack([cameras[name].centre for name in names])
    return float(np.degrees(np.arccos(np.clip((centres @ centres.T - 2 * np.eye(len(names))).max(), -1, 1))))


def main() -> None:
    cameras = dome()
    every = sorted(cameras)
    rng = np.random.default_rng(0)
    chance = [spread(cameras, list(rng.choice(every, 11, replace=False))) for _ in range(1000)]
    drawn = [spread(cameras, draw_cameras(cameras, 11, 0, f"person{i}")) for i in range(200)]
    print(
        f"nearest pair, degrees: drawn {np.min(drawn):.1f} to {np.max(drawn):.1f}, median {np.median(drawn):.1f};",
        f"by chance median {np.median(chance):.1f}, best of 1000 {np.max(chance):.1f}",
    )
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, layout="constrained")
    for person, axis in zip((0, 2, 3), axes, strict=True):
        names = draw_cameras(cameras, 11, 0, f"person{person}")
        axis.scatter(*angles(cameras, every), s=14, color="#b8c0c8", label="78 cameras")
        axis.scatter(*angles(cameras, names), s=46, color="#0b62c4", label="11 drawn")
        nearest = spread(cameras, names)
        axis.set(title=f"person{person}: nearest pair {nearest:.0f}°", xlabel="yaw, degrees", xlim=(-110, 110))
    axes[0].set_ylabel("pitch, degrees")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(TARGET, dpi=100)


if __name__ == "__main__":
    main()
