"""The order of samples: exact shares, whole epochs, no state but one integer."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from fportrait.dataset.mixing import _cycle, draw_integer, permuted, sample_at
from fportrait.errors import UserError

STAGE3 = {"PhoneCapture": 20, "StudioCapture": 20, "ViewSweep": 30, "DynamicSweep": 30}
SIZES = {"PhoneCapture": 37, "StudioCapture": 5, "ViewSweep": 1000, "DynamicSweep": 64}


def test_every_dataset_is_within_one_sample_of_its_share_at_each_of_20000_draws():
    weights = {"PhoneCapture": 17, "StudioCapture": 23, "ViewSweep": 59, "DynamicSweep": 1}
    counts = dict.fromkeys(weights, 0)
    for n in range(20_000):
        counts[sample_at(3, n, weights, SIZES).dataset] += 1
        assert all(abs(counts[name] * 100 - weights[name] * (n + 1)) < 100 for name in weights)


@pytest.mark.parametrize("case", range(60))
def test_the_largest_deficit_rule_stays_within_one_sample_for_any_weights(case):
    rng = np.random.default_rng(case)
    shares = rng.integers(1, 41, rng.integers(1, 9)).tolist()
    cycle, _ = _cycle(tuple(shares))
    counts = np.cumsum(cycle[:, None] == np.arange(len(shares)), axis=0) * sum(shares)
    due = (np.arange(len(cycle)) + 1)[:, None] * np.array(shares)
    assert np.abs(counts - due).max() < sum(shares)


def test_an_epoch_reads_every_item_once_and_the_next_in_another_order():
    epochs: dict[int, list[int]] = {}
    for n in range(2000):
        sample = sample_at(1, n, STAGE3, SIZES)
        if sample.dataset == "PhoneCapture":
            epochs.setdefault(sample.epoch, []).append(sample.item)
    whole = [items for items in epochs.values() if len(items) == 37]
    assert len(whole) >= 10
    assert all(sorted(items) == list(range(37)) for items in whole)
    assert all(a != b for a, b in pairwise(whole))


def test_resuming_at_any_index_and_splitting_over_processes_give_the_same_samples():
    straight = [sample_at(7, n, STAGE3, SIZES) for n in range(640)]
    assert [sample_at(7, n, STAGE3, SIZES) for n in range(333, 640)] == straight[333:]
    batch = 16
    for processes in (2, 4):
        share = batch // processes
        split = [
            sample_at(7, step * batch + rank * share + i, STAGE3, SIZES)
            for step in range(40)
            for rank in range(processes)
            for i in range(share)
        ]
        assert split == straight


def test_another_seed_gives_other_items_in_the_same_order_of_datasets():
    one, two = ([sample_at(seed, n, STAGE3, SIZES) for n in range(200)] for seed in (1, 2))
    assert [s.dataset for s in one] == [s.dataset for s in two]
    assert [s.item for s in one] != [s.item for s in two]


def test_permuted_is_a_permutation_of_any_size():
    for size in [*range(1, 40), 64, 65, 127, 300]:
        assert sorted(permuted(f"key{size}", i, size) for i in range(size)) == list(range(size))


def test_permutations_are_even_over_many_keys():
    firsts = Counter(permuted(f"key{k}", 0, 6) for k in range(6000))
    assert all(850 < firsts[i] < 1150 for i in range(6))


def test_draws_for_two_purposes_of_one_sample_differ():
    a = [draw_integer(0, n, "reference", 1000) for n in range(50)]
    b = [draw_integer(0, n, "noise", 1000) for n in range(50)]
    assert a != b
    assert a == [draw_integer(0, n, "reference", 1000) for n in range(50)]


@pytest.mark.parametrize("weights", [{"PhoneCapture": 0}, {"PhoneCapture": -1}, {"PhoneCapture": 0.5}, {"Missing": 5}])
def test_shares_that_cannot_be_drawn_are_refused(weights):
    with pytest.raises(UserError):
        sample_at(0, 0, weights, SIZES)
