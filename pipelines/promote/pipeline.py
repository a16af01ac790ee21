"""`promote`: which folders it reads and writes."""

from kedro.pipeline import Pipeline

from fportrait.pipelines.promote.nodes import promote
from fportrait.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    return stage(
        "promote",
        promote,
        reads={
            "base": "base",
            "trained": "stage4",
            "scores": "evaluate_report",
            "evaluation": "evaluation",
            "shards": "shards",
        },
        writes={"model": "model"},
        uses={"protocol": "evaluate.protocol", "probes": "evaluate.probes"},
    )
