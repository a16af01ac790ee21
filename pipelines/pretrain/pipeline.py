"""`pretrain`: which folders it reads and writes."""

from kedro.pipeline import Pipeline

from fportrait.pipelines.pretrain.nodes import pretrain
from fportrait.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    return stage(
        "pretrain",
        pretrain,
        reads={},
        writes={"base": "base"},
        uses={"units": "folders.units"},
        steps=(
            "the shipped base, yours, or one trained anew",
            "shapes and frames that stage 1 needs, checked",
            "hashes compared with its provenance",
            "codec, transformer and expression encoder in one folder",
        ),
    )
