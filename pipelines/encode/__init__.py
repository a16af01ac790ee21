"""Captures and sweeps to latent shards."""

from fportrait.pipelines.encode.pipeline import create_pipeline

__all__ = ["create_pipeline"]
