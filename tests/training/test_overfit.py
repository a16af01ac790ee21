"""The first question to a new model, before any long run: can it learn one action at full strength at all?

A few clips of people who keep still but for one action, seen over and over. What is wired wrongly (codes that do not
reach the blocks, a frozen controller, a loss that does not look at the mouth) fails here within minutes.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fportrait.bundle import SHIPPED_BASE, read_settings
from fportrait.capture.people import sample_person
from fportrait.dataset.sampling import Sampler, make_pipeline
from fportrait.diffusion.codec import load_vae
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.evaluation.embedded import Scene, Shot, Studio, codec_limit, generate, ramp_and_hold, scene_batch
from fportrait.evaluation.probes import PROBES, Probed, measure
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.training.base import BaseTraining, train_base

FRAMES = 5
ACTIONS = ("jaw", "smile", "pucker", "blink")


def still_clips(people: int) -> list[dict[str, Scene]]:
    """Per person: the scene at rest and one per action, by name."""
    encoder = ExpressionEncoder.from_pretrained(SHIPPED_BASE / "expression_encoder")
    studio = Studio(encoder, read_settings(SHIPPED_BASE).size)
    clips = []
    for number in range(people):
        person = sample_person(180_000_000 + number, studio.body)
        scenes = {"rest": studio.scene(person, [Shot()] * FRAMES)}
        scenes |= {name: studio.scene(person, ramp_and_hold(PROBES[name][0], FRAMES)) for name in ACTIONS}
        clips.append(scenes)
    return clips


def overfit(model: FactorPortraitTransformer, people: int, steps: int, rate: float, batch: int = 8) -> dict:
    """Gain and correlation of every action on the very clips that were trained on: ours and the codec's limit."""
    vae = load_vae(SHIPPED_BASE / "vae")
    clips = still_clips(people)
    everything = scene_batch(vae, [scene for scenes in clips for scene in scenes.values()], model.reads, 8.0)
    count = len(everything["latents"])

    def batches(step: int) -> dict[str, torch.Tensor]:
        picks = torch.from_numpy(np.random.default_rng([7, step]).choice(count, min(batch, count), replace=False))
        return {name: values[picks] for name, values in everything.items()}

    settings = BaseTraining(
        minutes=1e6,
        steps=steps,
        learning_rate=rate,
        controller_learning_rate=2 * rate,
        matrix_learning_rate=20 * rate,
        warmup=min(50, steps // 4),
        decay_from=0.5,
        ema=0.9,
        dropout=0.0,
    )
    train_base(model, batches, settings, lambda values, step: None)
    sampler = Sampler(make_pipeline(model.eval(), vae, 5.0), 12)
    found: dict = {"ours": [], "codec_limit": []}
    for scenes in clips:
        ours = dict(zip(scenes, generate(sampler, list(scenes.values())), strict=True))
        limit = {name: codec_limit(vae, scene.video) for name, scene in scenes.items()}
        probed = Probed(scenes, {"ours": ours, "codec_limit": limit})
        for method in found:
            found[method].append(measure(probed, method)["gains"])
    return {
        method: {
            name: {kind: float(np.mean([one[name][kind] for one in gains])) for kind in ("gain", "correlation")}
            for name in ACTIONS
        }
        for method, gains in found.items()
    }


def fresh(dim: int = 128, layers: int = 4) -> FactorPortraitTransformer:
    """A small transformer that knows nothing, shaped for the shipped codec."""
    shape = dict(FactorPortraitTransformer.load_config(SHIPPED_BASE / "transformer"))
    shape |= {
        "num_attention_heads": dim // 32,
        "attention_head_dim": 32,
        "ffn_dim": 3 * dim,
        "num_layers": layers,
        "controller_width": None,
        "controller_init_std": 0.02,
    }
    torch.manual_seed(0)
    return FactorPortraitTransformer(**{key: value for key, value in shape.items() if not key.startswith("_")})


@pytest.mark.slow
def test_an_untrained_model_learns_every_action_at_the_strength_that_its_codec_can_show():
    found = overfit(fresh(), people=2, steps=600, rate=1e-3)
    for name in ACTIONS:
        ours, limit = found["ours"][name], found["codec_limit"][name]
        assert ours["correlation"] > 0.9 * limit["correlation"], (name, found)
        assert 0.75 < ours["gain"] / limit["gain"] < 1.15, (name, found)
