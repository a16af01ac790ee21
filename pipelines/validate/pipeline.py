"""`validate`: which folders it reads and writes."""

from kedro.pipeline import Pipeline

from fportrait.pipelines.validate.nodes import validate
from fportrait.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    return stage(
        "validate",
        validate,
        reads={"manifest": "manifest", "tracks": "tracks"},
        writes={"validated": "validated"},
        uses={"window": "encode.encoding.window"},
        steps=(
            "frames rolled up: a row per clip, per person, per dataset (DuckDB)",
            "five suites of rules (Great Expectations)",
            "critical: stop; warning: the person to quarantine",
            "the tables without them, and Data Docs",
            "a clip of each of your own people held out of the tables",
        ),
    )
