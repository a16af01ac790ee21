"""The pipelines by name, in the order in which data flows."""

from __future__ import annotations

import importlib

from kedro.pipeline import Pipeline

from fportrait.ops.chain import BESIDE, CHAIN


def register_pipelines() -> dict[str, Pipeline]:
    """All pipelines; `__default__` is the whole chain, without those beside it."""
    pipelines = {
        name: importlib.import_module(f"fportrait.pipelines.{name}").create_pipeline() for name in (*CHAIN, *BESIDE)
    }
    return {"__default__": sum((pipelines[name] for name in CHAIN), Pipeline([])), **pipelines}
