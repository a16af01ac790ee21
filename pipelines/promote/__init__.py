"""The registry gate."""

from fportrait.pipelines.promote.pipeline import create_pipeline

__all__ = ["create_pipeline"]
