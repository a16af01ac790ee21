"""Every variant of the model goes everywhere that the full model goes: training, animation, cross, modes, probes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from fportrait.animate.animator import Animator, Request
from fportrait.body.model import load_body
from fportrait.capture.people import sample_person
from fportrait.capture.video_io import write_image, write_video
from fportrait.capture.world import sample_training_clip
from fportrait.dataset.sampling import Sampler, make_pipeline
from fportrait.dataset.shards import ShardReader
from fportrait.diffusion.codec import load_vae
from fportrait.diffusion.variants import VARIANTS
from fportrait.evaluation.cross import run_cross
from fportrait.evaluation.embedded import Studio, scene_conditions
from fportrait.evaluation.modes import MODES, mode_scenes, run_modes
from fportrait.evaluation.probes import ProbeSettings, run_probes
from fportrait.evaluation.report import Report
from fportrait.evaluation.types import Evaluation, Protocol, Scorers
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.training.loop import train
from fportrait.training.samples import factor_video
from fportrait.training.stages import load_start
from helpers.small import stage

SIZE, FRAMES = 32, 5


class Stills(Animator):
    """An animator with the files of another tracked already: one tracking serves all variants."""

    tracked = None

    def prepare(self, request, report=None):
        if Stills.tracked is None:
            Stills.tracked = super().prepare(request)
        return Stills.tracked


@pytest.fixture(scope="module")
def bundle(house, tmp_path_factory):
    """A tiny bundle for pictures of 32 pixels: the house's codec, an untrained encoder."""
    folder = tmp_path_factory.mktemp("bundle")
    shutil.copytree(house / "base/vae", folder / "vae")
    torch.manual_seed(0)
    ExpressionEncoder(width=4).save_pretrained(folder / "expression_encoder")
    (folder / "bundle.json").write_text(json.dumps({"size": SIZE, "frames": 9, "steps": 1, "guidance": {"view": 2.0}}))
    return folder


@pytest.fixture(scope="module")
def request_of(tmp_path_factory) -> Request:
    """Six frames, which are padded to nine."""
    folder, body = tmp_path_factory.mktemp("files"), load_body()
    clip = sample_training_clip(np.random.default_rng(4), body, "phone", 6, 192, person=sample_person(12, body))
    write_video(folder / "driving.mp4", clip["video"])
    write_image(folder / "portrait.png", clip["video"][0])
    return Request(folder / "portrait.png", folder / "driving.mp4", "-10,0; 10,0")


@pytest.fixture(scope="module")
def studio(bundle) -> Studio:
    return Studio(ExpressionEncoder.from_pretrained(bundle / "expression_encoder"), SIZE)


@pytest.fixture(params=list(VARIANTS))
def trained(request, house, bundle, tmp_path):
    """A variant after two steps, in its own bundle: its name, the folder, its sampler."""
    settings = stage(
        variant=request.param, iterations=2, batch_size=2, mixture={"PhoneCapture": 50, "ViewSweep": 50}, held_out=2
    )
    reader, vae = ShardReader(house / "shards"), load_vae(bundle / "vae")
    model = load_start(settings, house / "model")
    train(settings, model, reader, tmp_path / "stage", lambda values, step: None)
    factor_video(settings, model.eval(), vae, reader, None, steps=1)
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    shutil.copytree(tmp_path / "stage/transformer", folder / "transformer")
    return folder, Sampler(make_pipeline(model.eval(), vae, 5.0), 1, 0, {"expression": 2.0})


def test_a_variant_goes_where_the_full_model_goes(trained, request_of, studio, house, annotations, tmp_path):
    folder, sampler = trained
    animator = Stills(folder)
    frames = list(animator.sample(animator.prepare(request_of)))
    assert len(frames) == 6 and frames[0].shape == (SIZE, SIZE, 3)

    reader = ShardReader(house / "shards")
    reader._records["test"].pop("ViewSweep")  # only the phone's people are annotated
    protocol = Protocol(steps=1, control=False)
    evaluation = Evaluation(sampler, reader, protocol, Scorers.of(protocol, None), Report(tmp_path / "report"))
    assert run_cross(evaluation, [annotations], FRAMES, 1)["PhoneCapture"]["clips"] == 1

    videos = run_modes(sampler, mode_scenes(studio, 1, FRAMES, 0), 4)
    assert set(videos) == set(MODES) and videos["everything"][0]["ours"].shape == (FRAMES, SIZE, SIZE, 3)

    found = run_probes(sampler, studio, ProbeSettings(frames=FRAMES, factors=("jaw", "view"), tracker=False))
    assert set(found["methods"]["ours"]["gains"]) == {"jaw", "view"}


def test_what_a_variant_reads_moves_its_picture_and_what_it_leaves_out_does_not(house, studio, bundle):
    """Each variant reads the conditions that it declares: the portrait camera's rays count where they are read."""
    vae = load_vae(bundle / "vae")
    scene = mode_scenes(studio, 1, FRAMES, 0)["everything"][0]
    turned = replace(scene, normals=scene.normals[:, ::-1].copy())
    stood = replace(scene, reference_normals=scene.reference_normals[:, ::-1].copy())
    painted = replace(scene, warped=scene.warped[:, ::-1].copy())
    zoomed = {}
    for name in ("full", "c2", "identity_rays", "portrait_normals", "warped_reference"):
        model = load_start(stage(variant=name), house / "model").eval()
        torch.manual_seed(3)
        torch.nn.init.normal_(model.patch_embedding.weight, std=0.1)
        sampler = Sampler(make_pipeline(model, vae, 5.0), 1)
        given, other, own, warped = (
            scene_conditions(vae, [one], sampler.reads) for one in (scene, turned, stood, painted)
        )
        moved = not np.array_equal(sampler(given, [0]), sampler(other, [0]))
        assert moved == (name != "c2")
        assert np.array_equal(sampler(given, [0]), sampler(own, [0])) == (name != "portrait_normals")
        assert np.array_equal(sampler(given, [0]), sampler(warped, [0])) == (name != "warped_reference")
        zoomed[name] = given.reference_rays is not None
    assert zoomed == {
        "full": False,
        "c2": False,
        "identity_rays": True,
        "portrait_normals": False,
        "warped_reference": False,
    }
