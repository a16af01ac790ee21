"""`encode`: which folders it reads and writes."""

from kedro.pipeline import Pipeline

from fportrait.pipelines.encode.nodes import encode
from fportrait.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    return stage(
        "encode",
        encode,
        reads={"validated": "validated", "sweeps": "sweeps", "base": "base"},
        writes={"shards": "shards"},
        uses={"units": "folders.units"},
        steps=(
            "clips cut into windows of frames",
            "pictures to latents by the video codec",
            "normal maps and cameras per frame, codes, landmarks",
            "one shard per person, a checksum per record",
            "index.parquet",
        ),
    )
