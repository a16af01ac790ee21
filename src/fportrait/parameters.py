"""Settings as frozen dataclasses: one way from a mapping (a parameters file, JSON) to a checked value."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from fportrait.errors import UserError, refuse_unknown_keys

Settings = TypeVar("Settings")


def settings_from(kind: type[Settings], values: Mapping[str, Any] | Settings, where: str) -> Settings:
    """`values` as an instance of the dataclass `kind`; what is one already passes through.

    Keys without a value take the dataclass's defaults; its own `__post_init__` checks ranges.

    Args:
        where: what the message calls the place, for example `the parameters of track`.

    Raises:
        UserError: `values` is no mapping, has an unknown key (the nearest known one is named), lacks a key that has no
            default, or gives text for a number, a fraction for a whole number, or the like.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Window:
    ...     frames: int = 5
    >>> settings_from(Window, {"frames": 9}, "the window")
    Window(frames=9)
    """
    if isinstance(values, kind):
        return values
    if not isinstance(values, Mapping):
        raise UserError(f"{where} as {type(values).__name__}", "keys with values", "write them as `key: value`")
    fields = [field for field in dataclasses.fields(kind) if field.init]  # type: ignore[arg-type]
    refuse_unknown_keys(values, [field.name for field in fields], where)
    hints = typing.get_type_hints(kind)
    for field in fields:
        if field.name in values:
            _check_type(hints[field.name], values[field.name], f"{field.name} in {where}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"no '{field.name}' in {where}", f"the key '{field.name}'", "add it")
    return kind(**values)


def _check_type(hint: Any, value: Any, where: str) -> None:
    """Refuse plain values of another kind; a whole number may stand for a fraction, a list for a tuple."""
    plain = {float: (int, float), int: (int,), bool: (bool,), str: (str,)}
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if not all(option in plain or option is type(None) for option in options):
        return  # lists, nested settings and the like are checked by who reads them
    for option in options:
        if option is type(None):
            if value is None:
                return
        elif isinstance(value, plain[option]) and (option is bool or not isinstance(value, bool)):
            return
    names = " or ".join("nothing" if option is type(None) else option.__name__ for option in options)
    raise UserError(f"{value!r} for {where}", names, "correct its value")
