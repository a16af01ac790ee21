"""Check the annotations; a critical fault stops the chain, a lesser one sends an identity to quarantine."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def validate(manifest: Path, tracks: Path, validated: Path, *, thresholds: dict[str, Any]) -> dict[str, Any]:
    """Copy the tables of `tracks` without quarantined identities; `validated` keeps the report and the Data Docs."""
    import logging

    from fportrait.dataset.rules import ValidationConfig
    from fportrait.dataset.validation import validate_tables

    config = ValidationConfig.from_dict(thresholds)
    report = validate_tables(tracks, validated, config, manifest / "manifest.parquet")
    for warning in report["warnings"]:
        logging.getLogger(__name__).warning("%s", warning)
    told = {key: report[key] for key in ("identities", "quarantined", "warnings")}
    unasked = sum(not rule["checked"] for rule in report["rules"])  # of datasets that are not there yet
    return {"rules": len(report["rules"]) - unasked, "rules_with_nothing_to_check": unasked, **told}
