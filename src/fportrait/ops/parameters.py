"""Refusing parameters that nobody reads, and naming the ones that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fportrait.errors import UserError, refuse_unknown_keys

# Their keys name settings or measures; the study and the gate refuse those they do not know.
FREE = ("space", "floors", "slice_floors", "against_champion")
COUNTS = ("workers", "steps", "frames", "people", "clips", "records", "batch_size", "processes", "min_frames")
OTHER_KINDS = {"a number": ("a whole number",)}  # that may stand for a kind


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


def check_kinds(parameters: Mapping[str, Any], base: Mapping[str, Any], where: str = "") -> None:
    """Raise `UserError` for a value of another kind than `conf/base` has there, at any depth.

    A whole number may stand for a fraction; what the base leaves empty (null, an empty list or mapping) may be
    anything, and what the base fills may be left empty (null). Counts (`COUNTS`) are not negative.
    """
    for key, value in parameters.items():
        name, wanted = f"{where}{key}", base.get(key)
        if isinstance(wanted, Mapping):
            if value is None and key not in FREE:  # as of a scalar: what is asked for is left to the model, or left out
                continue
            if not isinstance(value, Mapping):
                raise UserError(f"{value!r} for '{name}'", "keys with values", f"nest them under '{key}:'")
            if key not in FREE and wanted:
                check_kinds(value, wanted, f"{name}.")
            continue
        kind = _kind(wanted)
        if kind and value is not None and _kind(value) not in (kind, *OTHER_KINDS.get(kind, ())):
            raise UserError(f"{value!r} for '{name}'", f"{kind}, such as {wanted!r}", "correct its value")
        if key in COUNTS and isinstance(value, int) and not isinstance(value, bool) and value < 0:
            raise UserError(f"{value} for '{name}'", "0 or more", "correct its value")


def _kind(value: Any) -> str:
    """What a value is, in words; empty for what says nothing about its kind."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "a whole number"
    if isinstance(value, float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "keys with values"
    return "a list" if isinstance(value, list | tuple) else ""


def check_nested_keys(parameters: Mapping[str, Any], base: Mapping[str, Any], where: str = "the parameters") -> None:
    """Raise `UserError` for a key, at any depth, that `conf/base` does not have.

    The base writes every key out; in `FREE`, and where it has an empty mapping, the keys are free.
    """
    refuse_unknown_keys(parameters, base, where)
    for key, value in parameters.items():
        if key not in FREE and isinstance(value, Mapping) and isinstance(base[key], Mapping) and base[key]:
            check_nested_keys(value, base[key], f"the parameters of '{key}'")
