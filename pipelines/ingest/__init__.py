"""Captures as they come, or the embedded world, to a manifest."""

from fportrait.pipelines.ingest.pipeline import create_pipeline

__all__ = ["create_pipeline"]
