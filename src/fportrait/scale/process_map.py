"""The map engine, shaped for library functions that take a plain `map`."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fportrait.errors import UserError


def process_map(workers: int) -> Callable[..., Iterable[Any]]:
    """`map` over processes; nothing is kept between runs, and the first failure stops it.

    For functions that publish their own results. Work that should resume goes through `map_units` itself.
    """
    from fportrait.scale.map_engine import map_units

    def apply(function: Callable[[Any], Any], units: Iterable[Any]) -> list[Any]:
        with tempfile.TemporaryDirectory() as folder:
            call = functools.partial(_without_folder, function)
            report = map_units(call, list(units), workers=workers, cache_folder=folder, key=repr)
        if report.failures:
            failure = report.failures[0]
            raise UserError(f"a failure in {failure.unit}: {failure.reason}", "work without failures", "mend its cause")
        return [result.value for result in report.results]

    return apply


def _without_folder(function: Callable[[Any], Any], unit: Any, folder: Path) -> Any:
    return function(unit)
