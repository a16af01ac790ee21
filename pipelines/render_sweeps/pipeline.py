"""`render_sweeps`: which folders it reads and writes."""

from kedro.pipeline import Pipeline

from fportrait.pipelines.render_sweeps.nodes import render_sweeps
from fportrait.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    return stage(
        "render_sweeps",
        render_sweeps,
        reads={"validated": "validated", "avatars": "avatars"},
        writes={"sweeps": "sweeps"},
        uses={"units": "folders.units", "thresholds": "validate.thresholds"},
        steps=(
            "avatars, and motions of recorded people",
            "ViewSweep: the camera moves; DynamicSweep: all moves",
            "frames splatted, cameras and codes known exactly",
            "the gate's rules on the annotations",
            "clips, frames.parquet",
        ),
    )
