"""The registered model, kept as code: MLflow runs this file when it loads `models:/fportrait@champion`."""

from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from pydantic import BaseModel


class Job(BaseModel):
    """One video to make. `camera` is a viewpoint as `fportrait animate` takes it; `output` the video to write."""

    portrait: str
    driving: str
    output: str
    camera: str = "front"
    seed: int = 0


class PortraitModel(PythonModel):
    """Jobs in, as a table or a list of dicts; for each, the paths of the `video` and the `picture` that were written.

    MLflow takes the signature from the type hints, and checks every request against them.
    """

    def load_context(self, context: Any) -> None:
        self.bundle = Path(context.artifacts["bundle"])

    def predict(self, context: Any, model_input: list[Job]) -> list[dict[str, str]]:  # type: ignore[override]
        from fportrait.animate import animate

        return [
            {
                name: str(path)
                for name, path in animate(
                    Path(job.portrait), Path(job.driving), job.camera, Path(job.output), self.bundle, seed=job.seed
                ).items()
            }
            for job in model_input
        ]


set_model(PortraitModel())
