"""Which engine runs the units: this machine's processes, or Ray; chosen once around a run, not at every call."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar

from fportrait.errors import UserError
from fportrait.scale.local import run_locally
from fportrait.scale.units import Engine

ENGINES = ("local", "ray")
_engine: ContextVar[Engine | None] = ContextVar("engine", default=None)


def current_engine() -> Engine:
    """The engine of the innermost `use_engine`, else this machine's processes."""
    return _engine.get() or run_locally


@contextlib.contextmanager
def use_engine(name: str = "local", address: str = "") -> Iterator[None]:
    """Run every `map_units` inside on the named engine.

    Args:
        address: of a Ray cluster (`ray://head:10001`, `auto`); empty starts Ray on this machine.

    Raises:
        UserError: an unknown engine, or an address without Ray.
    """
    if name not in ENGINES:
        raise UserError(f"the engine '{name}'", f"one of {', '.join(ENGINES)}", "correct scale.engine")
    if name == "local" and address:
        raise UserError(f"the address '{address}' for the local engine", "none", "set scale.engine: ray, or remove it")
    if name == "ray":
        from fportrait.scale.ray_engine import run_on_ray

        engine: Engine = functools.partial(run_on_ray, address=address)
    else:
        engine = run_locally
    token = _engine.set(engine)
    try:
        yield
    finally:
        _engine.reset(token)
