"""One stage from its folders to its folder: what Kedro runs in its own process, and what each child process runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fportrait.atomic_io import write_json
from fportrait.devices import pick_device
from fportrait.training.config import StageConfig


@dataclass(frozen=True)
class Job:
    """Settings and folders of one stage; `save` and `load` carry it to other processes and machines.

    Attributes:
        settings: of `StageConfig`, `name` and `parent` among them.
        start: folder with `transformer/`, the parent stage's or the base's. base: folder with `vae/`.
        out: gets `transformer/`, `training.json` and `samples/`.
    """

    settings: dict[str, Any]
    start: str
    base: str
    shards: str
    out: str
    checkpoints: str
    metrics: str | None = None  # child processes write their metrics here, one JSON object a line

    @property
    def stage(self) -> StageConfig:
        return StageConfig.from_dict(self.settings)

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Job:
        return cls(**json.loads(path.read_text()))


def run_stage(job: Job, log: Any, main: bool = True) -> dict[str, Any]:
    """Train a stage and make its sample videos, the first stage's before too; returns the summary of `train`.

    Args:
        log: `log(metrics, step)`, called in the main process alone.
        main: this process writes the samples; a model that is spread over processes needs them all to compute them.

    Raises:
        UserError: see `check_start`, `check_stage` and `train`.
    """

    from fportrait.dataset.shards import ShardReader
    from fportrait.diffusion.codec import load_vae
    from fportrait.diffusion.transformer import FactorPortraitTransformer
    from fportrait.training.loop import train
    from fportrait.training.samples import factor_video, sample_videos
    from fportrait.training.stages import check_stage, check_start, load_start

    stage = job.stage
    reader = ShardReader(stage.shards_url or job.shards)
    check_start(stage, job.start, reader, job.base)
    check_stage(stage, reader)
    device = pick_device()
    vae = load_vae(Path(job.base) / "vae").to(device)
    transformer = load_start(stage, job.start).to(device)
    samples = Path(job.out) / "samples" if main else None

    def show_factors(label: str, step: int) -> None:
        if not main and stage.sharding == "none":
            return
        target = None if samples is None else samples / f"{label}-factors.mp4"
        motion = factor_video(stage, transformer, vae, reader, target)
        if main and motion:
            log(motion, step)

    if main and stage.parent is None:  # a later stage begins where the samples after its parent ended
        sample_videos(stage, transformer, vae, reader, samples, "before")
    summary = train(
        stage,
        transformer,
        reader,
        job.out,
        log,
        checkpoint_folder=job.checkpoints,
        sample=lambda step: show_factors(f"step-{step:06d}", step),
    )
    if main:  # whole again, whatever way it was trained: the main process loads what it saved
        transformer = FactorPortraitTransformer.from_pretrained(Path(job.out) / "transformer").to(device).eval()
        sample_videos(stage, transformer, vae, reader, samples, "after")
        show_factors("after", summary["steps"])
    return summary
