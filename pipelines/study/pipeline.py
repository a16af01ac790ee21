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
        uses={
            **{f"stage{number}": f"train_stage{number}" for number in (1, 2, 3, 4)},
            **{f"parent{number}": f"folders.stage{number - 1}" for number in (2, 3, 4)},
        },
        steps=(
            "settings drawn by Optuna",
            "a short training each; bad ones pruned",
            "the best settings for the next run",
        ),
    )
