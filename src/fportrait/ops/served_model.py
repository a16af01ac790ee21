"""The registered model, kept as code: MLflow runs this file when it loads `models:/fportrait@champion`."""

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from pydantic import BaseModel, ConfigDict, model_validator

EXAMPLE = "example"  # paths below this folder are the model's own, so that its input example runs anywhere


class Job(BaseModel):
    """One video to make: a picture, a video that drives it, and where the result is written.

    Without an `output` it is written to a temporary folder that lives as long as the loaded model. `camera` is a
    viewpoint as `fportrait animate` takes it (front), `expression` another video for the expressions, `guidance` a
    scale per factor and `steps` sampling steps, in place of the model's own; `size` ("128", "64x112") and `aspect`
    ("9:16", "portrait") are those of the picture as `fportrait animate` takes them.
    """

    model_config = ConfigDict(extra="forbid")

    portrait: str
    driving: str
    output: str | None = None
    expression: str | None = None
    camera: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: dict[str, float] | None = None
    size: str | None = None
    aspect: str | None = None

    @model_validator(mode="before")
    @classmethod
    def leave_out_empty_cells(cls, values: Any) -> Any:
        """A table has a cell in every column; an empty one (None, NaN) says nothing."""
        return {k: v for k, v in values.items() if v is not None and v == v} if isinstance(values, dict) else values


class PortraitModel(PythonModel):
    """Jobs in, as a table or a list of dicts; for each, the paths of the `video` and the `picture` that were written.

    MLflow takes the signature from the type hints, and checks every request against them.
    """

    def load_context(self, context: Any) -> None:
        self.bundle = Path(context.artifacts["bundle"])
        self.example = Path(context.artifacts[EXAMPLE]) if EXAMPLE in context.artifacts else None

    def predict(self, context: Any, model_input: list[Job]) -> list[dict[str, str]]:  # type: ignore[override]
        return [self.animate(job) for job in model_input]

    def animate(self, job: Job) -> dict[str, str]:
        from fportrait.animate import animate

        settings: dict[str, Any] = {"seed": job.seed or 0, "steps": job.steps, "guidance": job.guidance or {}}
        settings |= {"size": job.size, "aspect": job.aspect}
        if job.expression is not None:
            settings["expression"] = self.path(job.expression)
        made = animate(
            *(self.path(job.portrait), self.path(job.driving), job.camera or "front", self.output(job), self.bundle),
            **settings,
        )
        return {name: str(path) for name, path in made.items()}

    def output(self, job: Job) -> Path:
        """Where the job asks for; MLflow runs the input example while a model is logged, and asks for no place."""
        if job.output is not None:
            return Path(job.output)
        folder = Path(tempfile.mkdtemp(prefix="fportrait-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder / "animated.mp4"

    def path(self, name: str) -> Path:
        """A file of the user's; `example/NAME` is the one that lies with the model, unless the user has such a file."""
        path = Path(name)
        if self.example is not None and not path.exists() and path.parts[:1] == (EXAMPLE,) and len(path.parts) == 2:
            return self.example / path.name
        return path


set_model(PortraitModel())
