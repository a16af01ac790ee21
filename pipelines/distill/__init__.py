"""A student of the trained model, for streams; it stands beside the chain."""

from fportrait.pipelines.distill.pipeline import create_pipeline

__all__ = ["create_pipeline"]
