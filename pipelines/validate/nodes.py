"""Check the annotations; a critical fault stops the chain, a lesser one sends an identity to quarantine."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def validate(tracks: Path, validated: Path, *, thresholds: dict[str, Any]) -> dict[str, Any]:
    """Copy the tables of `tracks` without quarantined identities; `validated` keeps the report and the Data Docs."""
    from fportrait.dataset.validation import ValidationConfig, validate_tables

    report = validate_tables(tracks, validated, ValidationConfig.from_dict(thresholds))
    return {"rules": len(report["rules"]), "identities": report["identities"], "quarantined": report["quarantined"]}
