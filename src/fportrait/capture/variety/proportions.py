"""Head shapes that the body model does not know: children, the old, caricatures, lopsided faces.

A warp is one displacement per vertex of the template, made of smooth bumps, so lids stay on eyeballs and lips closed.
The conditions keep the unwarped mesh: it is a hint, as it is for any real face.
"""

from __future__ import annotations

import numpy as np

from fportrait.body.model import BodyModel
from fportrait.capture.paint import Chart


def sample_warp(body: BodyModel, chart: Chart, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Displacements `V 3`, metres in the head's frame; zero on the shoulders."""
    template = np.asarray(body.template, np.float64)
    points = chart.points
    middle = np.array([0.0, 0.0, chart.axis])
    warp = np.zeros_like(template)
    child, cartoon = rng.random() < 0.2, rng.random() < 0.2

    def magnify(place: np.ndarray, radius: float, factor: np.ndarray | float) -> None:
        away = template - place
        warp[:] += np.asarray(factor) * away * np.exp(-(away**2).sum(1, keepdims=True) / (2 * radius**2))

    def push(place: np.ndarray, radius: float, step: np.ndarray) -> None:
        away = template - place
        warp[:] += step * np.exp(-(away**2).sum(1, keepdims=True) / (2 * radius**2))

    scale = rng.normal(0, 0.06, 3) * amount  # the whole head wider, longer or deeper
    warp += (template - middle) * scale
    level = amount * (1.7 if cartoon else 1.0)
    left, right = points[[362, 263]].mean(0), points[[33, 133]].mean(0)
    eyes = rng.normal(0.10 if child or cartoon else 0.0, 0.13) * level
    for eye in (left, right):
        magnify(eye, 0.018, np.clip(eyes + rng.normal(0, 0.03) * level, -0.3, 0.6))
    apart, high = rng.normal(0, 0.003) * level, rng.normal(-0.003 if child else 0, 0.004) * level
    for eye, sign in ((left, 1.0), (right, -1.0)):
        push(eye, 0.02, np.array([sign * apart, high + rng.normal(0, 0.0012) * level, 0.0]))
    nose = rng.normal(-0.2 if child else 0.0, 0.22) * level
    magnify(points[4], 0.018, np.clip([nose, nose + rng.normal(0, 0.1) * level, 1.3 * nose], -0.5, 0.8))
    push(points[4], 0.02, np.array([0.0, rng.normal(0, 0.004), rng.normal(0, 0.004)]) * level)
    mouth = points[[61, 291]].mean(0)
    magnify(mouth, 0.022, np.clip(rng.normal(0, 0.14, 3) * level, -0.4, 0.6) * [1, 1, 0.3])
    push(mouth, 0.022, np.array([0.0, rng.normal(0, 0.004), 0.0]) * level)
    push(points[152], 0.035, np.array([0.0, rng.normal(0.006 if child else 0, 0.009), rng.normal(0, 0.005)]) * level)
    for pair, spread in (((172, 397), 0.009), ((50, 280), 0.006), ((127, 356), 0.007)):
        out = rng.normal(0, spread) * level
        for index, sign in zip(pair, (-1.0, 1.0), strict=True):
            push(points[index], 0.035, np.array([sign * out, 0, 0.0]) + rng.normal(0, 0.0015, 3) * level)
    push(points[10], 0.05, np.array([0.0, rng.normal(0.006 if child else 0, 0.008), rng.normal(0, 0.006)]) * level)
    push(middle + np.array([0.0, 0.09, -0.02]), 0.07, rng.normal(0, 0.010, 3) * level)
    for _ in range(5):  # nobody is symmetric
        place = points[int(rng.integers(0, 468))]
        push(place, rng.uniform(0.02, 0.06), rng.normal(0, 0.0035, 3) * level)
    # the neck and shoulders stay where the garment is
    rise = np.clip((template[:, 1:2] + 0.17) / 0.08, 0, 1)
    return np.asarray(warp * rise * rise * (3 - 2 * rise), np.float64)
