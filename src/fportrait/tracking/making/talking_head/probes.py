"""Linear probes on frozen codes: who it is and how the head is turned should not be readable, the expression should.

Each probe is fitted on some people or crops and scored on others. Identity: nearest-mean in the space whitened within
people (linear discriminant analysis) on the odd crops of everyone, fitted on the even ones. Head pose and actions:
ridge regression fitted on the first half of the people, scored on the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

RIDGE = 0.03
MIN_SPREAD = 0.03  # of an action over the scored crops, below which its correlation says nothing


@dataclass(frozen=True)
class ProbeSet:
    """`crops` `N S S 3` uint8, `people` `N`, `rotations` `N 3` (radians, head in the camera), `actions` `N A`."""

    crops: np.ndarray
    people: np.ndarray
    rotations: np.ndarray
    actions: np.ndarray
    action_names: list[str]


def probe_codes(codes: np.ndarray, probes: ProbeSet) -> dict[str, float | dict[str, float]]:
    """Scores of codes `N 128`, one per crop.

    Returns:
        `identity_top1` beside `identity_chance`; `pose_r2` (mean of the three angles; 0 says nothing can be told, below
        0 that the fit does not carry over to other people) and `pose_r2_per_angle`; `action_correlation` (mean over the
        actions that occur) and `actions`.
    """
    half = probes.people < (probes.people.max() + 1) / 2
    turn = _ridge(codes[half], probes.rotations[half])(codes[~half])
    error = ((turn - probes.rotations[~half]) ** 2).sum(0)
    r2 = 1 - error / ((probes.rotations[~half] - probes.rotations[half].mean(0)) ** 2).sum(0)
    produced = _ridge(codes[half], probes.actions[half])(codes[~half])
    truth = probes.actions[~half]
    actions = {
        name: float(np.corrcoef(produced[:, i], truth[:, i])[0, 1])
        for i, name in enumerate(probes.action_names)
        if truth[:, i].std() > MIN_SPREAD and produced[:, i].std() > 0
    }
    return {
        "identity_top1": identity_top1(codes, probes.people),
        "identity_chance": 1 / len(np.unique(probes.people)),
        "pose_r2": float(r2.mean()),
        "pose_r2_per_angle": dict(zip(("pitch", "yaw", "roll"), map(float, r2), strict=True)),
        "action_correlation": float(np.mean(list(actions.values()))),
        "actions": actions,
    }


def identity_top1(codes: np.ndarray, people: np.ndarray) -> float:
    """Share of odd crops whose person linear discriminant analysis, fitted on the even ones, names."""
    even = np.zeros(len(people), bool)
    for person in np.unique(people):
        even[np.flatnonzero(people == person)[::2]] = True
    names = np.unique(people)
    means = np.stack([codes[even & (people == name)].mean(0) for name in names])
    within = codes[even] - means[np.searchsorted(names, people[even])]
    covariance = within.T @ within / len(within)
    covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    weights = np.linalg.solve(covariance, means.T)
    scores = codes[~even] @ weights - 0.5 * (means.T * weights).sum(0)
    return float((names[scores.argmax(1)] == people[~even]).mean())


def probe_table(results: Mapping[str, Mapping]) -> str:
    """A Markdown table of several encoders' probes."""
    first = next(iter(results.values()))
    lines = ["| probe (unseen people) | " + " | ".join(results) + " |", "| --- |" + " ---: |" * len(results)]
    rows = [
        (f"identity, top-1 (chance {first['identity_chance']:.3f})", "identity_top1"),
        ("head pose, R²", "pose_r2"),
        ("actions, mean correlation", "action_correlation"),
    ]
    for label, key in rows:
        lines.append(f"| {label} | " + " | ".join(f"{result[key]:.3f}" for result in results.values()) + " |")
    for name in first["actions"]:
        values = [result["actions"].get(name, float("nan")) for result in results.values()]
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    return "\n".join(lines)


def _ridge(inputs: np.ndarray, outputs: np.ndarray):
    mean_in, mean_out = inputs.mean(0), outputs.mean(0)
    x = inputs - mean_in
    gram = x.T @ x
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram, x.T @ (outputs - mean_out))
    return lambda values: (values - mean_in) @ weights + mean_out
