"""What others would download: video codec, base transformer, expression encoder."""

from fportrait.pipelines.pretrain.pipeline import create_pipeline

__all__ = ["create_pipeline"]
