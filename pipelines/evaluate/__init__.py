"""Scores on people the model has never seen."""

from fportrait.pipelines.evaluate.pipeline import create_pipeline

__all__ = ["create_pipeline"]
