"""Variants of the model, the paper's ablations among them (FactorPortrait, Table 2): what each one leaves out.

One that changes the architecture begins from a full model's weights (`architectures.variant_of`). One that changes the
mixture of datasets is trained like the full model, from another mixture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fportrait.errors import refuse_unknown_keys


@dataclass(frozen=True)
class Variant:
    """`config`: of the transformer, where it differs; `mixture`: in place of a stage's that draws DynamicSweep."""

    title: str
    config: Mapping[str, Any] = field(default_factory=dict)
    mixture: Mapping[str, int] | None = None


VARIANTS = {
    "full": Variant("full"),
    "c1": Variant(
        "C1: without DynamicSweep",
        mixture={"PhoneCapture": 20, "StudioCapture": 40, "ViewSweep": 40, "DynamicSweep": 0},
    ),
    "c2": Variant("C2: without normal maps", {"use_normals": False}),
    "c3": Variant("C3: landmarks for codes", {"expression": "landmarks"}),
    "portrait_normals": Variant("the portrait's own normal map", {"reference_normals": "portrait"}),
    "warped_reference": Variant("the portrait painted on the body", {"warped_reference": True}),
    "bridge": Variant("paths from the painted portrait", {"warped_reference": True, "bridge_level": 0.6}),
    "identity_rays": Variant("rays of the portrait's own camera", {"reference_rays": "identity"}),
}
ARCHITECTURES = tuple(name for name, variant in VARIANTS.items() if variant.mixture is None)
"""Variants of the model itself, which a stage's settings name; the others are settings of the data."""


def stage_as_variant(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A stage's settings as a variant: its architecture, or the full one and the variant's mixture.

    A stage that draws no DynamicSweep keeps its mixture, and is then the full model's own.

    Raises:
        UserError: an unknown variant.
    """
    refuse_unknown_keys([name], VARIANTS, "variant")
    mixture = VARIANTS[name].mixture
    if mixture is None:
        return {**settings, "variant": name}
    draws = settings.get("mixture", {}).get("DynamicSweep")
    return {**settings, "variant": "full", **({"mixture": dict(mixture)} if draws else {})}
