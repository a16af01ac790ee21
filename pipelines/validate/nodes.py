"""Check the annotations; a critical fault stops the chain, a lesser one sends an identity to quarantine."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def validate(
    manifest: Path, tracks: Path, validated: Path, window: int, *, thresholds: dict[str, Any]
) -> dict[str, Any]:
    """Copy the tables of `tracks` without quarantined identities; `validated` keeps the report and the Data Docs.

    A clip of every phone person of one's own goes to `validated/held_out`, where nothing that is trained looks.
    """
    import logging

    from fportrait.capture.manifest import own_people
    from fportrait.dataset.held_clips import hold_out
    from fportrait.dataset.rules import ValidationConfig
    from fportrait.dataset.validation import validate_tables

    config = ValidationConfig.from_dict(thresholds)
    report = validate_tables(tracks, validated, config, manifest / "manifest.parquet")
    held = hold_out(validated, own_people(manifest), window)
    spared = [f"{name} has {why}" for name, why in held["not_held_out"].items()]
    aside = [f"{name} is set aside: {'; '.join(why)}" for name, why in report["quarantined"].items()]
    for warning in (*report["warnings"], *aside, *spared):
        logging.getLogger(__name__).warning("%s", warning)
    told = {key: report[key] for key in ("identities", "quarantined", "warnings")}
    unasked = sum(not rule["checked"] for rule in report["rules"])  # of datasets that are not there yet
    told |= held if any(held.values()) else {}
    return {"rules": len(report["rules"]) - unasked, "rules_with_nothing_to_check": unasked, **told}
