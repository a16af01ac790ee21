"""Refusing parameters that nobody reads, and naming the ones that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fportrait.errors import UserError, refuse_unknown_keys

# Their keys name settings or measures; the study and the gate refuse those they do not know.
FREE = ("space", "floors", "slice_floors", "against_champion")


def known_parameters(pipelines: Iterable[Any]) -> dict[str, set[str]]:
    """The keys that nodes read, by section: `{"track": {"minimum_confidence", ...}, ...}`."""
    known: dict[str, set[str]] = {}
    for pipeline in pipelines:
        for name in pipeline.inputs():
            if name.startswith("params:"):
                section, _, key = name.removeprefix("params:").partition(".")
                known.setdefault(section, set())
                if key:  # a node may also read another stage's whole section
                    known[section].add(key.partition(".")[0])
    return known


def check_parameters(parameters: Mapping[str, Any], known: Mapping[str, set[str]]) -> None:
    """Raise `UserError` for a section or key that no node reads, or for one that a node reads and that is not there."""
    refuse_unknown_keys(parameters, known, "the parameters")
    for section, values in parameters.items():
        if not isinstance(values, Mapping):
            raise UserError(
                f"{values!r} as the parameters of '{section}'", "keys and values", f"nest them under '{section}:'"
            )
        refuse_unknown_keys(values, known[section], f"the parameters of '{section}'")
    for section, keys in known.items():
        missing = sorted(keys - set(parameters.get(section, {})))
        if missing:
            raise UserError(
                f"no '{section}.{missing[0]}' in the parameters",
                "a value for every key",
                f"add it to conf/base/parameters_{section}.yml",
            )


def check_nested_keys(parameters: Mapping[str, Any], base: Mapping[str, Any], where: str = "the parameters") -> None:
    """Raise `UserError` for a key, at any depth, that `conf/base` does not have.

    The base writes every key out; in `FREE`, and where it has an empty mapping, the keys are free.
    """
    refuse_unknown_keys(parameters, base, where)
    for key, value in parameters.items():
        if key not in FREE and isinstance(value, Mapping) and isinstance(base[key], Mapping) and base[key]:
            check_nested_keys(value, base[key], f"the parameters of '{key}'")
