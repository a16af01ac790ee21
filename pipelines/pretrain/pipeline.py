"""`pretrain`: which folders it reads and writes."""

from kedro.pipeline import Pipeline

from fportrait.pipelines.pretrain.nodes import pretrain
from fportrait.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    return stage("pretrain", pretrain, reads={}, writes={"base": "base"}, uses={"units": "folders.units"})
