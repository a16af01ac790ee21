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
        steps=(
            "evidence: hashes of what was evaluated, compared",
            "floors, slices, limits",
            "no worse than the champion and the anchor, person by person",
            "the version registered; champion moves",
            "a smoke animation through the alias",
        ),
    )
