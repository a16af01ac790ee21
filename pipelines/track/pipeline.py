"""`track`: which folders it reads and writes."""

from kedro.pipeline import Pipeline

from fportrait.pipelines.track.nodes import track
from fportrait.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    return stage(
        "track",
        track,
        reads={"manifest": "manifest", "base": "base"},
        writes={"tracks": "tracks"},
        uses={"units": "folders.units"},
    )
