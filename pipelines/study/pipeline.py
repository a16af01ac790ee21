"""`study`: which folders it reads and writes."""

from kedro.pipeline import Pipeline

from fportrait.pipelines.study.nodes import study
from fportrait.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    return stage(
        "study",
        study,
        reads={"shards": "shards", "base": "base"},
        writes={"study": "study"},
        uses={"stage1": "train_stage1"},
    )
