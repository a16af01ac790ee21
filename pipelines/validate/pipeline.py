"""`validate`: which folders it reads and writes."""

from kedro.pipeline import Pipeline

from fportrait.pipelines.validate.nodes import validate
from fportrait.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    return stage(
        "validate", validate, reads={"manifest": "manifest", "tracks": "tracks"}, writes={"validated": "validated"}
    )
