"""The gate after annotations."""

from fportrait.pipelines.validate.pipeline import create_pipeline

__all__ = ["create_pipeline"]
