"""`fit_avatars`: which folders it reads and writes."""

from kedro.pipeline import Pipeline

from fportrait.pipelines.fit_avatars.nodes import fit_avatars
from fportrait.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    return stage(
        "fit_avatars",
        fit_avatars,
        reads={"validated": "validated"},
        writes={"avatars": "avatars"},
        uses={"units": "folders.units"},
    )
