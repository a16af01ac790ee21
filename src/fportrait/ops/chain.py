"""The pipelines' names, in the order in which data flows."""

from __future__ import annotations

CHAIN = (
    "ingest",
    "pretrain",
    "track",
    "validate",
    "fit_avatars",
    "render_sweeps",
    "encode",
    "train_stage1",
    "train_stage2",
    "train_stage3",
    "train_stage4",
    "evaluate",
    "promote",
)
BESIDE = ("distill", "study", "ablate")
