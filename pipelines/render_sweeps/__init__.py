"""Avatars under moving cameras, annotated and validated like captures."""

from fportrait.pipelines.render_sweeps.pipeline import create_pipeline

__all__ = ["create_pipeline"]
