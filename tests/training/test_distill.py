"""Distilling: the teacher's clips are kept and whole, training resumes exactly, the student samples in one call."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from tests.helpers import small

from fportrait.atomic_io import write_json
from fportrait.bundle import SHIPPED_BASE, BundleSettings, read_settings
from fportrait.diffusion.codec import BlockCodec
from fportrait.diffusion.conditions import Conditions, Reads
from fportrait.diffusion.pipeline import FactorPortraitPipeline
from fportrait.training.distill import Distillation, TaughtClips, distil, student_inputs, teach

FEW = Distillation(
    units=2,
    clips=3,
    lengths={5: 0.5, 9: 0.5},
    steps=12,
    tokens=150,
    learning_rate=3e-3,
    matrix_learning_rate=0.02,
    warmup=1,
    known=0.5,
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    small.transformer().save_pretrained(folder / "transformer")
    torch.manual_seed(0)
    codec = BlockCodec(refiner_width=8, refiner_blocks=1).fit_pca([torch.rand(4, 3, 9, 32, 32) * 2 - 1])
    codec.save_pretrained(folder / "vae")
    shutil.copytree(SHIPPED_BASE / "expression_encoder", folder / "expression_encoder")
    settings = BundleSettings(size=32, frames=9, steps=3, scheduler="unipc", guidance={"expression": 2.0})
    write_json(folder / "bundle.json", {**vars(settings)})
    return folder


def source(rng, count, frames):
    conditions = Conditions.zeros(Reads(), count, (frames + 3) // 4, small.SIDE, small.SIDE)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    return {"conditions": conditions._with(lambda _, value: torch.randn(value.shape, generator=generator))}


def pipeline_of(bundle):
    made = FactorPortraitPipeline.from_bundle(bundle)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def taught(teacher, tmp_path_factory):
    return teach(pipeline_of(teacher), source, FEW, tmp_path_factory.mktemp("taught"))


def test_a_kept_clip_is_what_the_teacher_samples_with_guidance_from_the_kept_noise(teacher, taught):
    clips, pipeline = TaughtClips(taught, FEW), pipeline_of(teacher)
    batch = clips(0)
    given = batch["conditions"][:1]
    latents = _sample_from(pipeline, batch["noise"][:1], given)
    assert torch.allclose(latents, batch["result"][:1], atol=0.02)  # kept in half precision


def _sample_from(pipeline, noise, given):
    import fportrait.diffusion.pipeline as module

    drawn = module.randn_tensor
    module.randn_tensor = lambda shape, *_, **__: noise
    try:
        return pipeline(**given.inputs(), output_type="latent").frames
    finally:
        module.randn_tensor = drawn


def test_units_that_are_there_are_not_sampled_again(teacher, taught):
    before = [file.stat().st_mtime_ns for file in taught]
    assert teach(never_called(teacher), source, FEW, taught[0].parent) == taught
    assert [file.stat().st_mtime_ns for file in taught] == before


def never_called(teacher):
    """A pipeline that must not be called."""
    made = pipeline_of(teacher)
    made.__class__ = type("Refusing", (made.__class__,), {"__call__": lambda *_, **__: pytest.fail("sampled again")})
    return made


def test_given_latents_are_clean_at_level_0_and_count_in_no_loss(taught):
    settings = replace(FEW, known=1.0, known_noise=0.0)
    batch = TaughtClips(taught, settings)(0)
    noisy, levels, counted = student_inputs(batch, settings, 5.0, torch.Generator().manual_seed(0))
    given = levels == 0
    assert given[:, 0].all() and not given[:, -1].any()
    assert torch.equal(counted[:, 0, :, 0, 0] == 0, given)
    assert torch.equal(noisy.transpose(1, 2)[given], batch["result"].transpose(1, 2)[given])


def test_a_run_that_was_stopped_ends_in_the_same_bits(teacher, tmp_path):
    logged: list[tuple[int, dict]] = []
    whole = distil(
        teacher, source, tmp_path / "one", tmp_path / "a", FEW, lambda values, step: logged.append((step, values))
    )
    assert whole["teacher"]

    import fportrait.training.distill as module

    class Stop(Exception):
        pass

    train = module.train_student
    module.train_student = lambda *args, **given: train(*args, **given, save_every=5)
    draw = module.TaughtClips.__call__

    def stopping(self, step):
        if step == 8 and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise Stop
        return draw(self, step)

    module.TaughtClips.__call__ = stopping
    try:
        with pytest.raises(Stop):
            distil(teacher, source, tmp_path / "two", tmp_path / "b", FEW, lambda *_: None)
        distil(teacher, source, tmp_path / "two", tmp_path / "b", FEW, lambda *_: None)
    finally:
        module.TaughtClips.__call__, module.train_student = draw, train
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "a" / weights).read_bytes() == (tmp_path / "b" / weights).read_bytes()


def test_the_student_says_its_calls_has_no_guidance_and_comes_nearer_to_its_teacher(teacher, taught, tmp_path):
    distil(teacher, source, tmp_path / "work", tmp_path / "student", replace(FEW, steps=60), lambda *_: None)
    settings = read_settings(tmp_path / "student")
    assert (settings.steps, settings.scheduler, settings.guidance) == (1, "euler", {}) and settings.teacher
    batch = TaughtClips(taught, FEW)(0)
    errors = []
    for bundle in (teacher, tmp_path / "student"):
        pipeline = pipeline_of(bundle)
        calls, forward = [], pipeline.transformer.forward
        pipeline.transformer.forward = lambda *a, calls=calls, forward=forward, **k: calls.append(1) or forward(*a, **k)
        pipeline.register_modules(scheduler=pipeline_of(tmp_path / "student").scheduler)
        made = []
        for row in range(len(batch["noise"])):
            pipeline.register_to_config(steps=1, guidance={})
            made.append(_sample_from(pipeline, batch["noise"][row : row + 1], batch["conditions"][row : row + 1]))
        assert len(calls) == len(made)
        errors.append(float((torch.cat(made) - batch["result"]).square().mean()))
    assert errors[1] < 0.7 * errors[0], errors


def test_a_student_goes_on_from_given_latents_and_leaves_them_as_they_are(teacher, taught):
    pipeline, batch = pipeline_of(teacher), TaughtClips(taught, FEW)(1)
    conditions, result = batch["conditions"][:1], batch["result"][:1]
    seed = torch.Generator().manual_seed
    one = pipeline(**conditions.inputs(), output_type="latent", given=result[:, :, :1], generator=seed(0)).frames
    assert torch.equal(one[:, :, :1], result[:, :, :1])
    other = pipeline(**conditions.inputs(), output_type="latent", given=result[:, :, :1] + 1, generator=seed(0)).frames
    assert not torch.allclose(one[:, :, 1:], other[:, :, 1:], atol=1e-3)
