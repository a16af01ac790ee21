"""`evaluate`: which folders it reads and writes."""

from kedro.pipeline import Pipeline

from fportrait.pipelines.evaluate.nodes import evaluate
from fportrait.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    return stage(
        "evaluate",
        evaluate,
        reads={"shards": "shards", "base": "base", "model": "stage4", "validated": "validated", "sweeps": "sweeps"},
        writes={"evaluation": "evaluation"},
    )
