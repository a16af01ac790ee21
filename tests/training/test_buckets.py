"""Training on pictures of several shapes: batches of one, exact resumption, any number of parts."""

import numpy as np
import pytest
import torch

from fportrait.errors import UserError
from fportrait.training.loop import Trainer, train
from fportrait.training.plan import plan
from helpers.small import Journal, bucket_shards, same_weights, stage, transformer


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return bucket_shards(tmp_path_factory.mktemp("buckets"))


def run(reader, out, crash_after=None, **changes):
    model, journal = transformer(), Journal(crash_after)
    try:
        train(stage(iterations=8, checkpoint_every=2, **changes), model, reader, out, journal)
    except KeyboardInterrupt:
        assert crash_after is not None
    return model, journal


def test_a_run_on_buckets_goes_on_exactly_and_its_parts_do_not_matter(reader, tmp_path):
    whole, told = run(reader, tmp_path / "whole")
    run(reader, tmp_path / "stopped", crash_after=5)
    again, resumed = run(reader, tmp_path / "stopped")
    assert same_weights(whole, again)
    assert told.losses == resumed.losses, "the steps before the stop are told again"
    _, parts = run(reader, tmp_path / "parts", accumulation=2)
    assert np.allclose(list(told.losses.values()), list(parts.losses.values()), rtol=1e-5)


def test_every_step_is_of_one_shape_and_both_come(reader, tmp_path):
    trainer = Trainer(stage(accumulation=2), transformer(), reader, tmp_path, Journal())
    shapes = []
    for number in range(12):
        parts = trainer.local_batch(number)
        assert len({part["latents"].shape for part in parts}) == 1
        shapes.append(tuple(parts[0]["latents"].shape[-2:]))
    assert set(shapes) == {(4, 4), (6, 4)}
    assert trainer.meter.tokens == round(4 * (2 / 3 * 48 + 1 / 3 * 72)), "a step's tokens are the buckets' mean"


def test_a_shape_that_the_model_does_not_take_is_refused_before_the_first_step(reader, tmp_path):
    from fportrait.diffusion.transformer import FactorPortraitTransformer

    torch.manual_seed(0)
    config = {key: value for key, value in transformer().config.items() if not key.startswith("_")}
    model = FactorPortraitTransformer(**{**config, "patch_size": (1, 4, 4)})
    journal = Journal()
    with pytest.raises(UserError, match=r"latents of 6x4.*divide by the patch"):
        train(stage(), model, reader, tmp_path, journal)
    assert not journal.losses


def test_a_plan_counts_the_buckets_and_shows_each(reader):
    config = transformer().config
    one, both = plan(stage(), config, 32), plan(stage(), config, 32, reader)
    assert [entry["picture"] for entry in both["buckets"]] == ["32x32", "48x32"]
    assert [entry["share"] for entry in both["buckets"]] == pytest.approx([2 / 3, 1 / 3])
    assert [entry["tokens_per_sample"] for entry in both["buckets"]] == [48, 72]
    assert both["tokens_per_step"] == round(one["tokens_per_step"] * (2 / 3 + 1.5 / 3))
    assert both["flops_per_step"] > one["flops_per_step"] and both["activations_gib"] >= one["activations_gib"]
