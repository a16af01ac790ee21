"""The four factors of control, as the paper, guidance, dropout and the commands name them."""

from __future__ import annotations

FACTORS = {"identity": "reference", "view": "rays", "pose": "normals", "expression": "codes"}
"""Each factor and the model input that carries it."""
