"""What each run is, in a sentence: MLflow shows it at the top of the run."""

from __future__ import annotations

from collections.abc import Sequence

NOTE = "mlflow.note.content"
EXPERIMENT = (
    "Controllable portrait animation. One run per stage, all stages of one launch under a run that is named for them; "
    "trials of a study under their study. Every run holds commit, parameters, hashes of inputs, seconds and memory."
)
CHAIN = "One launch of the chain; its stages are the runs below it."
STAGES = {
    "ingest": "Captures become a manifest with cameras and a split by identity; what is broken is quarantined.",
    "pretrain": "The video codec, base transformer and expression encoder that everything else starts from.",
    "track": "Body pose, shape, expression codes, landmarks and crops of every frame.",
    "validate": "The gate: rules on the annotations; identities that break a warning are set aside.",
    "fit_avatars": "One animatable Gaussian avatar per person of the studio captures.",
    "render_sweeps": "ViewSweep and DynamicSweep: clips with free viewpoints, exactly annotated; the gate again.",
    "encode": "Clips become latent shards with checksums.",
    "train_stage1": "Stage 1: phone clips, short.",
    "train_stage2": "Stage 2: phone and studio clips.",
    "train_stage3": "Stage 3: all four datasets, longer clips.",
    "train_stage4": "Stage 4: all four datasets, the full length, at the lowest rate.",
    "evaluate": "Scores with confidence intervals on people that were never trained on, and their videos.",
    "promote": "The gate's decision, and the model that became champion.",
    "ablate": "What each component is worth: variants under equal seeds, data and budget; a run each below.",
    "study": "A search over a stage's settings; its trials are the runs below it.",
}


def launch(stages: Sequence[str], environment: str = "base", experiment: str = "") -> str:
    """The name of a launch: what ran in it, where, and as which experiment.

    >>> launch(["train_stage4", "evaluate", "promote"], "base", "warm-start")
    'train_stage4 … promote (3 stages), warm-start'
    >>> launch(["track"], "mini")
    'track, mini'
    """
    if len(stages) > 1:
        words = f"{stages[0]} … {stages[-1]} ({len(stages)} stages)"
    else:
        words = stages[0] if stages else "a launch"
    return ", ".join([words, *([environment] if environment != "base" else []), *([experiment] if experiment else [])])


def context(stage: str) -> str:
    """What a stage's inputs are for, in MLflow's word for it."""
    if stage in ("evaluate", "promote"):
        return "evaluation"
    return "training" if stage.startswith("train_") or stage in ("fit_avatars", "study", "ablate") else "input"


def source(stage: str, environment: str) -> dict[str, str]:
    """What MLflow shows as a run's source: the command that runs the stage again."""
    place = "" if environment == "base" else f" --env={environment}"
    return {"mlflow.source.name": f"kedro run --pipelines={stage}{place}", "mlflow.source.type": "LOCAL"}


def note(stage: str) -> dict[str, str]:
    """The tag with a stage's description; empty for a stage that nobody described."""
    return {NOTE: STAGES[stage]} if stage in STAGES else {}
