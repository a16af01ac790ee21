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
        steps=(
            "frames and cameras of one studio person",
            "Gaussians on the body's surface, from the prior",
            "fitted to the pictures; some frames and a camera kept out",
            "scored on what was kept out",
            "avatar.safetensors and a contact sheet",
        ),
    )
