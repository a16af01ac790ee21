"""What an evaluation is asked for, what it measures with, and what comes out of a clip."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fportrait.bundle import BundleSettings, stated_settings
from fportrait.dataset.crops import Inside
from fportrait.dataset.sampling import Sampler
from fportrait.dataset.shards import ShardReader
from fportrait.devices import pick_device
from fportrait.errors import refuse_unknown_keys
from fportrait.evaluation.metrics import METRICS, available
from fportrait.evaluation.scoring import FrechetScorer
from fportrait.parameters import settings_from

OWN_CLIPS = "own clips"  # the group of clips that come from a user's folder and not from shards


@dataclass(frozen=True)
class Protocol:
    """`records` per dataset, of as many identities as possible. None takes frames, steps and shift from the model."""

    records: int = 4
    own_clips: int = 12  # of clips held out of one's own people, everybody's first before anybody's second
    frames: int | None = None
    steps: int | None = None
    shift: float | None = None
    batch: int = 4
    guidance: dict[str, float] | None = None  # scale per factor; None takes the model's own
    guidance_below: float | None = None  # highest noise level at which it acts; None takes the model's own
    scheduler: str | None = None  # euler, unipc or dpm++; None takes the model's own
    control: bool = True  # read expression codes and landmarks back from the generated frames
    metrics: dict[str, str] = field(default_factory=lambda: {"psnr": "auto", "ssim": "auto", "sharpness": "auto"})
    network_every: int = 1  # metrics with a network look at every so many frames
    shown: int = 8  # clips per dataset with players in the report; the others are in its tables

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Protocol:
        protocol = settings_from(cls, values, "evaluate.protocol")
        refuse_unknown_keys(protocol.metrics, METRICS, "evaluate.protocol.metrics")
        return protocol


class SamplingSettings(NamedTuple):
    """How clips are sampled; `frames` None takes each dataset's own. See `fportrait.bundle.BundleSettings`."""

    frames: int | None
    steps: int
    shift: float
    guidance: dict[str, float]
    guidance_below: float
    scheduler: str


def sampling_settings(protocol: Protocol, transformer_folder: Path, base: Path) -> SamplingSettings:
    """As asked, else as the stage was trained, else as the base says."""
    trained: dict[str, Any] = {}
    for folder in (transformer_folder, transformer_folder.parent):
        if (folder / "training.json").is_file():
            trained = json.loads((folder / "training.json").read_text())["stage"]
    found = stated_settings(base)
    stated = found or BundleSettings()
    frames = protocol.frames or trained.get("frames") or (found.frames if found else None)
    steps = protocol.steps or stated.steps
    shift = protocol.shift or trained.get("shift") or stated.shift
    guidance = stated.guidance if protocol.guidance is None else protocol.guidance
    below = stated.guidance_below if protocol.guidance_below is None else protocol.guidance_below
    return SamplingSettings(frames, steps, shift, guidance, below, protocol.scheduler or stated.scheduler)


@dataclass
class ClipResult:
    """One clip's scores and videos: `T H W 3` uint8 by method, `truth` and `normals`; the `portrait` `H W 3`.

    `inside`: what was filmed of the picture (`dataset.crops.inside_file`), which alone is judged; None: all of it.
    `scores` by METHOD/METRIC; `slices` by axis; `missed`: frames without a face, by METHOD/METRIC; `curve`: mean
    absolute difference of ours to the truth per frame, 0–255.
    """

    id: str
    identity: str
    videos: dict[str, np.ndarray]
    scores: dict[str, float]
    slices: dict[str, str] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)
    inside: Inside | None = None


@dataclass(frozen=True)
class Request:
    """What was asked for: `truth` `T H W 3` and `portrait` `H W 3` uint8, `landmarks` `T 478 2`, `codes` `T 128`,
    `intrinsics` `3 3`; `inside`: what was filmed of the truth, as `ClipResult` has it."""

    truth: np.ndarray
    portrait: np.ndarray
    landmarks: np.ndarray | None
    codes: np.ndarray
    intrinsics: np.ndarray
    inside: Inside | None = None

    @classmethod
    def of(cls, window: Mapping[str, Any], portraits: Mapping[str, Any]) -> Request:
        """What a record of shards asks for: tensors of `ShardReader.read` and of `references`."""
        return cls(
            window["video"].numpy(),
            portraits["images"][0].numpy(),
            window["landmarks"].numpy() if "landmarks" in window else None,
            window["codes"].numpy(),
            window["intrinsics"].numpy(),
            tuple(window["inside"].tolist()) if "inside" in window else None,
        )


@dataclass
class Scorers:
    """What every clip is measured with."""

    frame: dict[str, Any]
    frechet: dict[str, FrechetScorer]
    every: int
    encoder: Any
    control: bool
    lacking: dict[str, str]

    @classmethod
    def of(cls, protocol: Protocol, encoder: Any, keep: bool = False) -> Scorers:
        """What the protocol asks for. keep: Fréchet distances over some of the clips are asked for later."""
        made, lacking = available(protocol.metrics)
        frechet = {name: FrechetScorer(made.pop(name), keep) for name in list(made) if METRICS[name].frechet}
        return cls(made, frechet, protocol.network_every, encoder, protocol.control, lacking)

    def backbones(self) -> dict[str, dict[str, str]]:
        found = {name: metric.backbone for name, metric in self.frame.items()}
        found |= {name: scorer.features.backbone for name, scorer in self.frechet.items()}
        return {name: {"name": backbone.name, "sha256": backbone.sha256} for name, backbone in sorted(found.items())}


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: what samples, what is read, what measures, and where results go.

    Attributes:
        sampler: the model with its steps, seed and guidance. reader: the shards. report: a `report.Report`.
    """

    sampler: Sampler
    reader: ShardReader
    protocol: Protocol
    scorers: Scorers
    report: Any

    @property
    def seed(self) -> int:
        return self.sampler.seed

    def keep(self, group: str, clip: ClipResult) -> None:
        """Put a clip into the report, and its videos, which are on disk then, out of memory."""
        self.report.add(group, clip)
        clip.videos = {}


def load_encoder(folder: Path) -> Any:
    """A function from frames `T H W 3` and landmarks `T 478 2` to codes `T 128`; None when there is no encoder."""
    if not (folder / "config.json").is_file():
        return None
    from fportrait.tracking.crops import face_crop
    from fportrait.tracking.expression import ExpressionEncoder

    model = ExpressionEncoder.from_pretrained(folder).to(pick_device())

    def encode(frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        crops = [face_crop(frame, points, model.crop_size) for frame, points in zip(frames, landmarks, strict=True)]
        return np.asarray(model.encode(np.stack(crops)), np.float64)

    return encode
