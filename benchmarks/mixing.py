"""How far does each dataset stray from its share, and what does drawing cost, over 200,000 draws?

The peers are what other trainers do: draw each sample's dataset at random, or round the shares within every batch.
"""

from __future__ import annotations

import time

import numpy as np
from _result import write_result

from fportrait.dataset.mixing import sample_at

DRAWS, BATCH = 200_000, 64
WEIGHTS = {"PhoneCapture": 20, "StudioCapture": 19, "ViewSweep": 31, "DynamicSweep": 30}
RARE = {"PhoneCapture": 1, "StudioCapture": 33, "ViewSweep": 33, "DynamicSweep": 33}
SIZES = {"PhoneCapture": 359_280, "StudioCapture": 6_732, "ViewSweep": 102_656, "DynamicSweep": 25_664}


def furthest(order: np.ndarray, weights: dict[str, int]) -> float:
    """The most that any dataset's count is off its share, in samples, at any point."""
    shares = np.array([weights[name] for name in sorted(weights)]) / sum(weights.values())
    counts = np.cumsum(order[:, None] == np.arange(len(shares)), axis=0)
    return float(np.abs(counts - np.arange(1, len(order) + 1)[:, None] * shares).max())


def ours(weights: dict[str, int]) -> np.ndarray:
    names = sorted(weights)
    return np.array([names.index(sample_at(0, n, weights, SIZES).dataset) for n in range(DRAWS)])


def at_random(weights: dict[str, int]) -> np.ndarray:
    shares = np.array([weights[name] for name in sorted(weights)]) / sum(weights.values())
    return np.random.default_rng(0).choice(len(shares), DRAWS, p=shares)


def rounded_in_batches(weights: dict[str, int]) -> np.ndarray:
    shares = np.array([weights[name] for name in sorted(weights)]) / sum(weights.values())
    counts = np.maximum(1, np.round(shares * BATCH)).astype(int)
    counts[np.argmax(counts)] += BATCH - counts.sum()
    return np.tile(np.repeat(np.arange(len(shares)), counts), DRAWS // BATCH + 1)[:DRAWS]


def main() -> None:
    started = time.perf_counter()
    orders = {"stage 3": ours(WEIGHTS), "a rare dataset": ours(RARE)}
    microseconds = (time.perf_counter() - started) / (2 * DRAWS) * 1e6
    off = {
        name: furthest(order, weights) for (name, order), weights in zip(orders.items(), (WEIGHTS, RARE), strict=True)
    }
    random_off = max(furthest(at_random(weights), weights) for weights in (WEIGHTS, RARE))
    rounded_off = max(furthest(rounded_in_batches(weights), weights) for weights in (WEIGHTS, RARE))
    result = write_result(
        name="mixing",
        what="furthest that any dataset is from its share at any point of 200,000 draws",
        ours=round(max(off.values()), 4),
        unit="samples",
        bound=1.0,
        n=2 * DRAWS,
        random_choice=round(random_off, 1),
        rounded_in_batches_of_64=round(rounded_off, 1),
        microseconds_per_draw=round(microseconds, 2),
        by_mixture={name: round(value, 4) for name, value in off.items()},
    )
    print(
        f"ours {result['ours']} samples, at random {random_off:.0f}, rounded in batches {rounded_off:.0f}; "
        f"{microseconds:.1f} µs a draw"
    )


if __name__ == "__main__":
    main()
