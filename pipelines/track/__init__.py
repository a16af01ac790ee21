"""From pixels to annotations."""

from fportrait.pipelines.track.pipeline import create_pipeline

__all__ = ["create_pipeline"]
