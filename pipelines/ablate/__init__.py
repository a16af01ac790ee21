"""What each component is worth, on people no variant has seen; it stands beside the chain."""

from fportrait.pipelines.ablate.pipeline import create_pipeline

__all__ = ["create_pipeline"]
