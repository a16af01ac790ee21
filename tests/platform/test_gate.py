"""The gate's checks: each names its figures, refuses what it should and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from fportrait.errors import UserError
from fportrait.ops import gate, lineage
from fportrait.ops.asked import weakened
from fportrait.ops.gate import GateSettings
from fportrait.ops.headline import numbers
from helpers.fabricated import GOOD, report_of, scores_of

ROOT = Path(__file__).resolve().parents[2]


def reasons(checks):
    return [check.detail for check in checks if not check.passed]


def test_floors_name_what_is_low_missing_or_no_number():
    metrics = {"psnr": 20.0, "worst_leak": float("nan")}
    assert reasons(gate.floor_checks(metrics, {"psnr": 19.5})) == []
    found = reasons(gate.floor_checks(metrics, {"psnr": 21.0, "worst_leak": 0.9, "ssim": 50.0}))
    words = ("asked for is at least 21", "worst_leak is nan", "no 'ssim'")
    assert [word in line for word, line in zip(words, found, strict=True)] == [True] * 3


def test_a_floor_holds_in_the_direction_of_its_measure():
    def passes(name: str, value: float, floor: float) -> bool:
        return gate.floor_checks({name: value}, {name: floor})[0].passed

    assert passes("X.ours.lpips.mean", 0.2, 0.3) and not passes("X.ours.lpips.mean", 0.9, 0.3)
    assert passes("X.ours.lip_error.mean", 0.036, 0.045) and not passes("X.ours.lip_error.mean", 0.058, 0.045)
    gain = "control.methods.ours.gains.jaw.gain.mean"
    assert passes(gain, 0.84, 0.6) and not passes(gain, 0.48, 0.6) and not passes(gain, 1.5, 0.6)


def test_a_number_whose_direction_nobody_knows_is_refused_with_the_nearest_name():
    for name, near in (("X.ours.lpipz.mean", "lpips"), ("ours/lip_eror", "lip_error")):
        with pytest.raises(UserError, match=f"without a direction.*rename it to '{near}'"):
            gate.GateSettings(floors={name: 1.0})


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


def test_the_worst_slice_of_an_error_is_the_one_with_the_largest():
    slices = {
        "skin": {
            name: {"clips": 3, "ours": {"lpips": {"mean": mean}}} for name, mean in (("dark", 0.5), ("light", 0.1))
        }
    }
    (check,) = gate.slice_checks(slices, {"ours/lpips": 0.3}, 2)
    assert not check.passed and "skin dark with 0.5" in check.detail
    (check,) = gate.slice_checks(slices, {"ours/ssim": 50.0}, 2)
    assert not check.passed and "none can be judged" in check.detail


def test_limits_are_upper_bounds_and_must_have_been_measured():
    assert reasons(gate.limit_checks({"evaluate.seconds": 60.0}, {"evaluate.seconds": 60})) == []
    assert (
        len(reasons(gate.limit_checks({"evaluate.seconds": 61.0}, {"evaluate.seconds": 60, "smoke.seconds": 5}))) == 2
    )


def scores(values, holdout="h", name="ours/psnr", people=None):
    clips = {f"c{i}": {name: value} for i, value in enumerate(values)}
    return {"holdout": holdout, "clips": clips, "people": people or {clip: clip for clip in clips}}


def compared(ours, other, tolerance=0.1, **more):
    (check,) = gate.comparison_checks(
        scores(ours, **more), scores(other, **more), {more.get("name", "ours/psnr"): tolerance}
    )
    return check


def test_a_model_must_be_shown_to_be_no_worse():
    rng = np.random.default_rng(0)
    champion = 20 + rng.normal(0, 3, 12)
    noise = rng.normal(0, 0.1, 12)
    worse, alike, unsure, better = champion - 0.8 + noise, champion + noise, champion + 10 * noise, champion + 1
    verdicts = [compared(ours, champion, 0.2) for ours in (worse, alike, unsure, better)]
    assert [check.passed for check in verdicts] == [False, True, False, True]
    endings = ["worse", "no worse", "raise the tolerance knowingly", "no worse"]
    assert [check.detail.endswith(end) for check, end in zip(verdicts, endings, strict=True)] == [True] * 4
    assert "12 clips of 12 people" in verdicts[0].detail and "sees a loss of" in verdicts[2].detail
    # the same loss is no loss where lower is better
    low = [compared(ours, champion, name="ours/lpips").passed for ours in (worse, better)]
    assert low == [True, False]


def test_many_clips_of_one_person_do_not_stand_for_people():
    """Sixteen clips, twelve of anna: she gained, the two others lost."""
    rng = np.random.default_rng(1)
    champion = 20 + rng.normal(0, 1, 16)
    change = np.array([0.3] * 12 + [-0.1] * 4) + rng.normal(0, 0.02, 16)
    names = ["anna"] * 12 + ["ben"] * 2 + ["cleo"] * 2
    people = {f"c{i}": name for i, name in enumerate(names)}
    assert compared(champion + change, champion).passed  # as if every clip were somebody else
    check = compared(champion + change, champion, people=people)
    assert not check.passed and "16 clips of 3 people" in check.detail and "undecided" in check.detail
    alone = compared(champion + change, champion, people=dict.fromkeys(people, "anna"))
    assert not alone.passed and "one person does not stand for others" in alone.detail


def test_an_identical_model_is_no_change():
    check = compared([20.0, 24.0], [20.0, 24.0], people={"c0": "anna", "c1": "anna"})
    assert check.passed and check.detail.endswith("no change")


def test_a_gain_is_compared_by_its_distance_from_one():
    champion = [0.8, 0.82, 0.79, 0.81]
    assert compared([1.0, 1.02, 0.98, 1.0], champion, 0.05, name="ours/expression_gain").passed
    assert not compared([1.5, 1.5, 1.5, 1.5], champion, 0.05, name="ours/expression_gain").passed
    probes = [
        {"holdout": "h", "clips": {}, "probes": {f"p{i}": {"gain_jaw": g + i / 99} for i in range(3)}}
        for g in (0.3, 0.9)
    ]
    (check,) = gate.comparison_checks(*probes, {"probes/gain_jaw": 0.1})
    assert not check.passed and "3 people" in check.detail


def test_clips_that_lost_their_face_are_no_way_around_a_measure():
    champion = scores([0.02] * 10, name="ours/lip_error")
    ours = scores([0.01] * 10, name="ours/lip_error")
    for clip in ("c0", "c1"):
        ours["clips"][clip] = {}
    (check,) = gate.comparison_checks(ours, champion, {"ours/lip_error": 0.01})
    assert not check.passed and "none in 2 of 10 clips" in check.detail


def test_another_holdout_or_other_clips_cannot_be_compared():
    (check,) = gate.comparison_checks(scores([1, 2]), scores([1, 2], "x"), {"ours/psnr": 0.1})
    assert not check.passed and "holdout x" in check.detail
    (check,) = gate.comparison_checks(scores([1]), {"holdout": "h", "clips": {}}, {"ours/psnr": 0.1})
    assert not check.passed


def conf(environment: str) -> gate.GateSettings:
    values = yaml.safe_load((ROOT / f"conf/{environment}/parameters_promote.yml").read_text())["promote"]
    return gate.GateSettings.from_dict({key: value for key, value in values.items() if key != "frames"})


def judged(settings: gate.GateSettings, scored: dict) -> list[str]:
    report = report_of(scored)
    checks = gate.floor_checks(numbers(report), settings.floors)
    return reasons([*checks, *gate.slice_checks(report["slices"], settings.slice_floors, 2)])


@pytest.mark.parametrize("environment", ["base", "paper"])
def test_a_model_that_holds_back_or_ignores_the_codes_is_refused_by_floors_and_by_comparison(environment):
    """The figures are those of the demo's model, of the same with its codes scaled by 0.3, and with none."""
    settings = conf(environment)
    assert judged(settings, scores_of(GOOD)) == []
    for gain, lips in ((0.48, 0.058), (0.02, 0.09)):
        weak = scores_of({**GOOD, "expression_gain": gain, "lip_error": lips}, gain=min(gain, 0.3))
        found = " ".join(judged(settings, weak))
        assert "expression_gain" in found and "lip_error" in found and "gains.jaw" in found
        checks = gate.comparison_checks(weak, scores_of(GOOD), settings.against_champion)
        lost = {check.name for check in checks if not check.passed}
        assert {"champion ours/expression_gain", "champion ours/lip_error"} <= lost
    same = gate.comparison_checks(scores_of(GOOD), scores_of(GOOD), settings.against_champion)
    assert all(check.detail.endswith("no change") for check in same)


def test_pose_view_gaze_and_leaks_have_floors_and_comparisons_in_both_environments():
    for environment in ("base", "paper"):
        settings = conf(environment)
        asked = " ".join(settings.floors)
        for word in (
            "lip_error",
            "gaze_error",
            "head_pose_error",
            "reprojection_error",
            "expression_gain",
            "worst_leak",
        ):
            assert word in asked, (environment, word)
        for word in ("gains.pose", "gains.view", "gains.gaze", "gains.identity"):
            assert word in asked, (environment, word)
        compared = {"ours/lip_error", "ours/gaze_error", "ours/head_pose_error", "ours/reprojection_error"}
        assert compared | {"ours/expression_gain", "ours/faces_found"} <= settings.against_champion.keys()
    assert {"probes/gain_jaw", "probes/worst_leak"} <= conf("paper").against_champion.keys()


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


def test_a_gate_that_asks_for_less_is_told_from_one_that_asks_for_more():
    asked = GateSettings(
        floors={"PhoneCapture.ours.psnr.mean": 20.0, "PhoneCapture.ours.expression_gain.mean": 0.6},
        limits={"smoke.seconds": 10.0},
        against_champion={"ours/psnr": 0.5},
    )
    more = {"floors": {**asked.floors, "PhoneCapture.ours.psnr.mean": 22.0}, "limits": {"smoke.seconds": 5.0}}
    assert weakened(asked, asked) == weakened(replace(asked, **more, against_champion={"ours/psnr": 0.1}), asked) == []
    assert len(weakened(GateSettings(clean_tree=False, smoke=False), asked)) == 6
    gain = {**asked.floors, "PhoneCapture.ours.expression_gain.mean": 1.7}  # as wrong as .3
    assert "expression_gain" in weakened(replace(asked, floors=gain), asked)[0]
