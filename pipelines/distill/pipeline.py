"""`distill`: which folders it reads and writes."""

from kedro.pipeline import Pipeline

from fportrait.pipelines.distill.nodes import distill
from fportrait.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    return stage(
        "distill",
        distill,
        reads={"shards": "shards", "base": "base", "trained": "stage4"},
        writes={"student": "student"},
        uses={"units": "folders.units", "protocol": "evaluate.protocol", "probes": "evaluate.probes"},
    )
