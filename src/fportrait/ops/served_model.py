"""The registered model, kept as code: MLflow runs this file when it loads `models:/fportrait@champion`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class PortraitModel(PythonModel):
    """One row per video to make: `portrait`, `driving`, `camera` (front, spin, spiral or a JSON path), `output`.

    Returns the same rows with `video` and `picture`, the paths of the files written.
    """

    def load_context(self, context: Any) -> None:
        self.bundle = Path(context.artifacts["bundle"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        from fportrait.animate import animate

        seed = int((params or {}).get("seed", 0))
        rows = []
        for row in model_input.to_dict("records"):
            paths = (Path(row["portrait"]), Path(row["driving"]), row["camera"], Path(row["output"]))
            rows.append({key: str(value) for key, value in animate(*paths, model=self.bundle, seed=seed).items()})
        return pd.DataFrame(rows)


set_model(PortraitModel())
