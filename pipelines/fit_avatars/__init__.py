"""One Gaussian avatar per studio identity."""

from fportrait.pipelines.fit_avatars.pipeline import create_pipeline

__all__ = ["create_pipeline"]
