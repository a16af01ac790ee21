"""`ablate`: which folders it reads and writes."""

from kedro.pipeline import Pipeline

from fportrait.pipelines.ablate.nodes import ablate
from fportrait.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    return stage(
        "ablate",
        ablate,
        reads={"shards": "shards", "base": "base", "validated": "validated", "sweeps": "sweeps"},
        writes={"ablation": "ablation"},
        uses={"units": "folders.units", **{f"stage{number}": f"train_stage{number}" for number in (1, 2, 3, 4)}},
        steps=(
            "one training per variant and seed, at equal data and budget",
            "the same evaluation of each",
            "tables and figures with intervals over seeds",
        ),
    )
