"""Make one bundle of the trained model and, when the gate lets it pass, the champion of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def promote(
    base: Path, trained: Path, scores: dict[str, Any], model: Path, *, floors: dict[str, float], frames: int
) -> dict[str, Any]:
    """Register the bundle as the next version; refusals state every reason, and then nothing is registered."""
    from fportrait.atomic_io import atomic_folder
    from fportrait.bundle import assemble
    from fportrait.ops.registry import promote as promote_bundle
    from fportrait.ops.runs import flatten
    from fportrait.pipeline_registry import CHAIN

    metrics = {name: value for name, value in flatten(scores).items() if isinstance(value, int | float)}
    with atomic_folder(model) as folder:  # stays away when the gate refuses
        bundle = assemble(trained / "transformer", base, folder / "bundle", frames=frames)
        return promote_bundle(bundle, metrics, flatten(floors), CHAIN[: CHAIN.index("promote")])
