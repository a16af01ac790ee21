"""A small pruned, resumable search on stage 1; it stands beside the chain."""

from fportrait.pipelines.study.pipeline import create_pipeline

__all__ = ["create_pipeline"]
