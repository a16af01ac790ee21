"""`ingest`: which folders it reads and writes."""

from kedro.pipeline import Pipeline

from fportrait.pipelines.ingest.nodes import ingest
from fportrait.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    return stage(
        "ingest",
        ingest,
        reads={},
        writes={"captures": "captures", "manifest": "manifest"},
        uses={"truth": "folders.truth", "units": "folders.units"},
    )
