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
        steps=(
            "clips of people held out, sampled by the model",
            "faces, landmarks and codes measured on what came out",
            "PSNR, SSIM, gains, errors, each with its interval",
            "probes: one factor moved, all factors measured",
            "the same over modes, crossed drivers and slices",
            "report.html, videos, evidence.json",
        ),
    )
