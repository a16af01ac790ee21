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
        steps=(
            "frames of every clip",
            "faces, and 478 landmarks refined",
            "body, head pose and camera fitted to them",
            "crops of the face, 128-d expression codes",
            "the face at rest; clips that are unlike a face set aside",
            "frames.parquet, identities.parquet, quarantine.json",
        ),
    )
