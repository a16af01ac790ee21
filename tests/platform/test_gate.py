"""The gate's checks: each names its figures, refuses what it should and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.errors import UserError
from fportrait.ops import gate, lineage


def reasons(checks):
    return [check.detail for check in checks if not check.passed]


def test_floors_name_what_is_low_missing_or_no_number():
    metrics = {"psnr": 20.0, "gain": float("nan")}
    assert reasons(gate.floor_checks(metrics, {"psnr": 19.5})) == []
    found = reasons(gate.floor_checks(metrics, {"psnr": 21.0, "gain": 0.1, "ssim": 50.0}))
    assert [
        word in line for word, line in zip(("below its floor 21", "gain is nan", "no 'ssim'"), found, strict=True)
    ] == [True] * 3


def test_the_worst_slice_decides_and_small_ones_are_not_judged():
    slices = {
        "skin": {
            "dark": {"clips": 3, "ours": {"psnr": {"mean": 17.0}}},
            "light": {"clips": 3, "ours": {"psnr": {"mean": 25.0}}},
        },
        "view": {"over 40°": {"clips": 1, "ours": {"psnr": {"mean": 5.0}}}},
    }
    (check,) = gate.slice_checks(slices, {"ours/psnr": 18.0}, min_clips=2)
    assert not check.passed and "skin dark with 17" in check.detail
    assert gate.slice_checks(slices, {"ours/psnr": 16.0}, min_clips=2)[0].passed
    assert not gate.slice_checks(slices, {"ours/psnr": 16.0}, min_clips=1)[0].passed


def test_limits_are_upper_bounds_and_must_have_been_measured():
    assert reasons(gate.limit_checks({"evaluate.seconds": 60.0}, {"evaluate.seconds": 60})) == []
    assert (
        len(reasons(gate.limit_checks({"evaluate.seconds": 61.0}, {"evaluate.seconds": 60, "smoke.seconds": 5}))) == 2
    )


def scores(values, holdout="h", name="ours/psnr"):
    return {"holdout": holdout, "clips": {f"c{i}": {name: value} for i, value in enumerate(values)}}


def test_a_model_worse_beyond_chance_loses_and_one_that_might_be_as_good_passes():
    rng = np.random.default_rng(0)
    champion = 20 + rng.normal(0, 3, 12)
    worse, unsure, better = champion - 0.8 + rng.normal(0, 0.1, 12), champion + rng.normal(0, 1, 12), champion + 1
    verdicts = [
        gate.champion_checks(scores(ours), scores(champion), {"ours/psnr": 0.1})[0] for ours in (worse, unsure, better)
    ]
    assert [check.passed for check in verdicts] == [False, True, True]
    assert "12 clips" in verdicts[0].detail
    # the same loss is no loss where lower is better
    low = [
        gate.champion_checks(scores(ours, name="ours/lpips"), scores(champion, name="ours/lpips"), {"ours/lpips": 0.1})[
            0
        ].passed
        for ours in (worse, better)
    ]
    assert low == [True, False]


def test_another_holdout_or_other_clips_cannot_be_compared():
    assert "holdout x" in reasons(gate.champion_checks(scores([1, 2]), scores([1, 2], "x"), {"ours/psnr": 0.1}))[0]
    assert reasons(gate.champion_checks(scores([1]), {"holdout": "h", "clips": {}}, {"ours/psnr": 0.1})) != []
    assert gate.champion_checks(scores([1]), None, {"ours/psnr": 0.1})[0].passed


def test_uncommitted_code_is_refused_where_the_tree_must_be_clean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for stage, commit in (("track", "abc"), ("encode", "abc+")):
        lineage.write_record(stage, {"run_id": stage, "git_commit": commit, "inputs": {}, "outputs": {}})
    strict, lenient = (gate.lineage_checks(["track", "encode"], clean) for clean in (True, False))
    assert reasons(strict) == ["uncommitted changes in encode"] and reasons(lenient) == []
    assert reasons(gate.lineage_checks(["track", "promote"], False)) == ["there is no record of 'promote'"]
    with pytest.raises(UserError, match="may not be promoted: uncommitted"):
        gate.refuse(strict)


def test_settings_with_unknown_keys_are_refused():
    with pytest.raises(UserError, match="'floors'"):
        gate.GateSettings.from_dict({"floor": {}})
