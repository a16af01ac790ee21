"""Settings from mappings: unknown, missing and mistyped keys are refused by name."""

from dataclasses import dataclass, field

import pytest

from fportrait.errors import UserError
from fportrait.parameters import settings_from


@dataclass(frozen=True)
class Walk:
    steps: int
    speed: float = 1.5
    note: str | None = None
    quiet: bool = False
    weights: dict[str, float] = field(default_factory=dict)


def test_values_become_settings_and_settings_pass_through():
    walk = settings_from(Walk, {"steps": 3, "speed": 2, "weights": {"a": 1}}, "the walk")
    assert walk == Walk(3, 2, weights={"a": 1})
    assert settings_from(Walk, walk, "the walk") is walk


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stesp": 3}, "'stesp' in the walk.*'steps'"),
        ({"speed": 1.0}, "no 'steps' in the walk"),
        ({"steps": "three"}, "'three' for steps in the walk.*int"),
        ({"steps": 2.5}, "2.5 for steps"),
        ({"steps": True}, "True for steps"),
        ({"steps": 3, "speed": "fast"}, "float"),
        ({"steps": 3, "note": 4}, "str or nothing"),
        ({"steps": 3, "quiet": 1}, "bool"),
        ([3], "the walk as list"),
    ],
)
def test_what_is_unknown_missing_or_mistyped_is_refused_by_name(values, message):
    with pytest.raises(UserError, match=message):
        settings_from(Walk, values, "the walk")
