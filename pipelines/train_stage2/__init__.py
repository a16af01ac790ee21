"""Stage 2 of the four training stages."""

from kedro.pipeline import Pipeline

from fportrait.pipelines.train_stage import training_stage


def create_pipeline() -> Pipeline:
    return training_stage(2)
