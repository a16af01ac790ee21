"""Make one bundle of the trained model and, when the gate lets it pass, the champion of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def promote(
    base: Path, trained: Path, scores: dict[str, Any], model: Path, *, floors: dict[str, float], frames: int
) -> dict[str, Any]:
    """Register the bundle as the next version; refusals state every reason, and then nothing is registered."""
    from fportrait.bundle import assemble
    from fportrait.ops.registry import promote as promote_bundle
    from fportrait.ops.runs import flatten
    from fportrait.pipeline_registry import CHAIN

    assemble(trained / "transformer", base, model, frames=frames)
    metrics = {name: value for name, value in flatten(scores).items() if isinstance(value, int | float)}
    return promote_bundle(model, metrics, flatten(floors), CHAIN[: CHAIN.index("promote")])
