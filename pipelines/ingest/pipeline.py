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
        steps=(
            "the embedded world filmed, or your own captures",
            "every video opened: size, rate, clock, sound",
            "cameras read or assumed; broken ones to quarantine",
            "people split into train and test",
            "manifest.parquet",
        ),
    )
