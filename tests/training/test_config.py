"""A stage's settings: bad ones are refused before anything runs, and the rate follows its schedule."""

import pytest

from fportrait.errors import UserError
from fportrait.training.config import StageConfig
from helpers.small import stage


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": {"PhoneCapture": 60, "ViewSweep": 30}}, "sum to 90"),
        ({"mixture": {"PhoneCapture": 110, "ViewSweep": -10}}, "whole percents"),
        ({"mixture": {"PhoneCapture": 99.5, "ViewSweep": 0.5}}, "whole percents"),
        ({"mixture": {"PhonCapture": 100}}, "rename it to 'PhoneCapture'"),
        ({"frames": 12}, "9 or 13"),
        ({"iteration": 5}, "rename it to 'iterations'"),
        ({"learning_rate": 0}, "above 0"),
        ({"precision": "fp16"}, "bf16 or fp32"),
        ({"decay_from": 0}, "fractions"),
        ({"optimizer": "sgd"}, "adamw or adamw8bit"),
        ({"sharding": "zero9"}, "none or fsdp2"),
        ({"processes": 3}, "multiple of 3"),
        ({"held_out": -1}, "0 or more"),
        ({"iterations": "many"}, "'many' for iterations"),
        ({"lora": {"rnk": 4}}, "rename it to 'rank'"),
        ({"lora": {"rank": 0}}, "LoRA rank of 0"),
        ({"lora": {"targets": ["to_z"]}}, "match nothing: to_z"),
        ({"lora": 16}, "keys with values"),
    ],
)
def test_bad_settings_are_refused_with_what_to_change(changes, message):
    with pytest.raises(UserError, match=message):
        stage(**changes)


def test_missing_settings_are_named():
    with pytest.raises(UserError, match="no 'learning_rate' in the settings of stage1"):
        StageConfig.from_dict({"name": "stage1", "frames": 5, "iterations": 3})


def test_where_a_run_computes_does_not_name_it():
    changes = {"processes": 2, "sharding": "fsdp2", "gradient_checkpointing": True, "held_out": 0}
    assert stage(**changes).learned_from() == stage().learned_from()
    assert stage(optimizer="adamw8bit").learned_from() != stage().learned_from()


def test_the_rate_warms_up_stays_and_falls_where_asked():
    constant = stage(warmup=4, learning_rate=1.0, iterations=20)
    assert [constant.rate(step) for step in (0, 3, 10, 19)] == [0.25, 1.0, 1.0, 1.0]
    falling = stage(warmup=0, learning_rate=1.0, iterations=20, decay_from=0.5)
    assert falling.rate(10) == 1.0
    assert falling.rate(15) == pytest.approx(0.5)
    assert 0 < falling.rate(19) < 0.2


def test_only_what_decides_learning_names_a_run():
    assert stage(log_every=7).learned_from() == stage().learned_from()
    assert stage(seed=5).learned_from() != stage().learned_from()


def test_runs_of_two_lengths_are_one_as_long_as_their_rates_are():
    short, long = stage(iterations=10), stage(iterations=40)
    assert long.begins_like(short.schedule, 10) and short.begins_like(long.schedule, 10)
    assert not short.begins_like(long.schedule, 11) and not long.begins_like(short.schedule, 11)
    falling = stage(iterations=40, decay_from=0.5)
    assert long.begins_like(falling.schedule, 21)  # the step where it starts to fall has the full rate
    assert not long.begins_like(falling.schedule, 22)
    assert short.begins_like(falling.schedule, 10)
    assert not short.begins_like({"iterations": 0, "decay_from": 2.0}, 1)  # nobody's
