"""Which sample comes when: a pure function of the seed and the global index.

Datasets take turns by the largest-deficit rule on exact integer weights: at draw n the dataset that is furthest behind
its share `weight * (n + 1) / total` is next. The shares are exact after every `total` draws, so the order of datasets
is one cycle, computed once, and any draw is found in constant time. Within a dataset the items of an epoch are
permuted by a small Feistel network keyed with (seed, dataset, epoch): no table, no state. What a trainer must remember
is one integer, the index of the next sample; the same global batch holds the same samples on any number of processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import gcd
from typing import NamedTuple

import numpy as np

from fportrait.errors import UserError

LONGEST_CYCLE = 1_000_000
FEISTEL_ROUNDS = 6


class Sample(NamedTuple):
    """One draw: `item` of `dataset`, which is read for the `epoch`-th time (from 0)."""

    dataset: str
    epoch: int
    item: int


def sample_at(seed: int, index: int, weights: Mapping[str, int], sizes: Mapping[str, int]) -> Sample:
    """The sample at a global index.

    Args:
        weights: integer share of each dataset (percent, for instance); a dataset with zero share is never drawn.
        sizes: items of each dataset.

    Raises:
        UserError: a weight is negative or no integer, all are zero, or a dataset with a share has no items.
    """
    names, cycle, before, shares = _checked(tuple(sorted(weights.items())), tuple(sorted(sizes.items())))
    rounds, place = divmod(index, len(cycle))
    which = int(cycle[place])
    name = names[which]
    epoch, position = divmod(rounds * shares[which] + int(before[place]), sizes[name])
    return Sample(name, epoch, permuted(f"{seed}/{name}/{epoch}", position, sizes[name]))


def samples_at(
    seed: int, start: int, stop: int, weights: Mapping[str, int], sizes: Mapping[str, int]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """`sample_at` for the draws `start` to `stop`, quickly: dataset, draws counted from `start`, and their items."""
    names, cycle, before, shares = _checked(tuple(sorted(weights.items())), tuple(sorted(sizes.items())))
    rounds, places = np.divmod(np.arange(start, stop), len(cycle))
    for which, name in enumerate(names):
        rows = np.flatnonzero(cycle[places] == which)
        epochs, positions = np.divmod(rounds[rows] * shares[which] + before[places[rows]], sizes[name])
        for epoch in np.unique(epochs):
            part = epochs == epoch
            yield name, rows[part], permuted_many(f"{seed}/{name}/{epoch}", positions[part], sizes[name])


@lru_cache(maxsize=64)
def _checked(weights: tuple, sizes: tuple) -> tuple[list[str], np.ndarray, np.ndarray, list[int]]:
    known = dict(sizes)
    for name, weight in weights:
        if isinstance(weight, bool) or int(weight) != weight or weight < 0:
            raise UserError(f"the share {weight} of {name}", "a whole number of at least 0", "write shares in percent")
        if weight and not known.get(name):
            raise UserError(
                f"no records of {name}, which has a share of {weight}",
                "at least one record of every dataset with a share",
                f"encode {name}, or set its share to 0 and raise the others",
            )
    drawn = {name: int(weight) for name, weight in weights if weight}
    if not drawn:
        raise UserError("no dataset with a share above 0", "at least one", "write shares in percent")
    names = list(drawn)
    divisor = gcd(*drawn.values())
    shares = [weight // divisor for weight in drawn.values()]
    cycle, before = _cycle(tuple(shares))
    return names, cycle, before, shares


@lru_cache(maxsize=64)
def _cycle(shares: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Datasets of one cycle and, for each draw, how often its dataset came before within the cycle."""
    total = sum(shares)
    if total > LONGEST_CYCLE:
        raise UserError(f"shares that sum to {total}", f"at most {LONGEST_CYCLE}", "round the shares")
    cycle, before = np.zeros(total, np.int16), np.zeros(total, np.int64)
    counts = [0] * len(shares)
    for place in range(total):
        which = max(range(len(shares)), key=lambda i: shares[i] * (place + 1) - counts[i] * total)
        cycle[place], before[place] = which, counts[which]
        counts[which] += 1
    assert tuple(counts) == shares
    return cycle, before


def permuted(key: str, position: int, size: int) -> int:
    """Where a keyed pseudo-random permutation of `range(size)` sends `position`.

    A balanced Feistel network on the next even number of bits is a bijection for any round function; walking along
    its cycle until the value falls below `size` keeps it one (Black and Rogaway, 2002).
    """
    assert 0 <= position < size
    if size == 1:
        return 0
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    round_keys = _round_keys(key)
    value = position
    while True:
        left, right = value >> half, value & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        value = (left << half) | right
        if value < size:
            return value


def permuted_many(key: str, positions: np.ndarray, size: int) -> np.ndarray:
    """`permuted` of many positions."""
    values = np.asarray(positions, np.uint64).copy()
    if size == 1:
        return values.astype(np.int64)
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    round_keys = np.array(_round_keys(key), np.uint64)
    left_over = np.arange(len(values))
    while len(left_over):
        left, right = values[left_over] >> shift, values[left_over] & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix_many(right ^ round_key) & mask)
        values[left_over] = (left << shift) | right
        left_over = left_over[values[left_over] >= size]
    return values.astype(np.int64)


@lru_cache(maxsize=1024)
def _round_keys(key: str) -> tuple[int, ...]:
    return tuple(_hash_integer(f"{key}/{number}") for number in range(FEISTEL_ROUNDS))


def _hash_integer(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(value: int) -> int:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)


def _mix_many(values: np.ndarray) -> np.ndarray:
    """`_mix`; products of uint64 wrap around by themselves."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def draw_integer(seed: int, index: int, purpose: str, size: int) -> int:
    """A number below `size` for one purpose of one sample (which reference, which noise), from the same counter."""
    return _hash_integer(f"{seed}/{index}/{purpose}") % size
