"""Sample videos: truth beside sample, and one factor moved at a time."""

import numpy as np
import pytest
import torch

from fportrait.capture.video_io import probe
from fportrait.dataset.sampling import Sampler, held_out, make_pipeline, sample_records
from fportrait.dataset.shards import ShardReader, ShardWriter, write_shard
from fportrait.diffusion.architectures import variant_of
from fportrait.diffusion.codec import BlockCodec, decode_latents, encode_video
from fportrait.errors import UserError
from fportrait.pixels import to_model_range
from fportrait.training.loop import train
from fportrait.training.samples import factor_video, sample_videos, still_normals
from helpers.small import Journal, moving_picture, record, references, same_weights, shards, stage, transformer

MIXTURE = {"PhoneCapture": 50, "DynamicSweep": 50}
DATASETS = ("PhoneCapture", "ViewSweep", "DynamicSweep")


@pytest.fixture(scope="module")
def codec():
    model = BlockCodec(refiner_blocks=0)
    pictures = [moving_picture(seed) for seed in range(8)]
    still = [np.repeat(picture[:1], 9, axis=0) for picture in pictures]
    model.fit_pca([to_model_range(np.stack(pictures + still))])
    return model.eval()


@pytest.fixture(scope="module")
def reader(tmp_path_factory, codec):
    """One trained and one held-out person of three datasets."""
    root = tmp_path_factory.mktemp("shards")
    writer = ShardWriter(root, "vae0", {"window": 9})
    for number, dataset in enumerate(DATASETS):
        for split in ("train", "test"):
            tensors = record(number, 9, video=split == "test")
            tensors["normals"] = encode_video(codec, to_model_range(moving_picture(number)[None]))[0]
            rows = write_shard(
                root / "unit.safetensors",
                dataset=dataset,
                identity=f"{split}{number}",
                split=split,
                records=[("r0", f"{split}{number}/s/cam", 0, tensors)],
                references=references(number),
            )
            writer.add(root / "unit.safetensors", rows)
            (root / "unit.safetensors").unlink()
    writer.finish()
    return ShardReader(root)


def test_samples_before_and_after_show_portrait_truth_and_sample(reader, codec, tmp_path):
    model = transformer().train()
    written = sample_videos(stage(frames=5), model, codec, reader, tmp_path, "before", steps=2)
    assert [path.name for path in written] == ["before-PhoneCapture.mp4", "before-ViewSweep.mp4"]
    assert (probe(written[0]).frames, probe(written[0]).width) == (5, 6 * 96)  # six times: a player hides less
    assert model.training


def lively() -> torch.nn.Module:
    """A model whose every control already moves the picture, as a trained one's does."""
    model = transformer()
    torch.manual_seed(5)
    with torch.no_grad():
        model.patch_embedding.weight.normal_(std=0.1)
        for parameter in model.controller.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def test_each_factor_that_moves_changes_the_picture_and_a_dead_control_shows(reader, codec, tmp_path):
    settings = stage(frames=9)
    motion = factor_video(settings, lively(), codec, reader, tmp_path / "factors.mp4", steps=2)
    moved = {f"sample_motion_{name}" for name in ("still", "expression", "pose", "view", "everything")}
    assert set(motion) == moved | {"sample_response_expression", "sample_response_pose"}
    assert (probe(tmp_path / "factors.mp4").frames, probe(tmp_path / "factors.mp4").width) == (9, 3 * 5 * 32)
    for factor in ("expression", "pose", "view", "everything"):
        assert abs(motion[f"sample_motion_{factor}"] - motion["sample_motion_still"]) > 0.1, factor  # grey levels

    dead = lively()
    with torch.no_grad():
        for parameter in dead.controller.parameters():
            parameter.zero_()
    without = factor_video(settings, dead, codec, reader, None, steps=2)
    assert min(motion["sample_response_expression"], motion["sample_response_pose"]) > 0.5
    assert without["sample_response_expression"] == 0
    assert without["sample_response_pose"] > 0.5
    assert abs(without["sample_motion_view"] - without["sample_motion_still"]) > 0.5


def test_still_normals_stand_still(reader, codec):
    latents = reader.read(reader.records("test")["ViewSweep"][0])["normals"]
    video = decode_latents(codec, still_normals(codec, latents)[None])
    moving = decode_latents(codec, latents[None])
    assert (video - video[:, :, :1]).abs().mean() < 0.25 * (moving - moving[:, :, :1]).abs().mean()


def test_samples_on_the_way_change_no_loss(reader, codec, tmp_path):
    settings = {"mixture": {"PhoneCapture": 50, "ViewSweep": 50}, "iterations": 5}
    plain, sampled, seen = Journal(), Journal(), []
    train(stage(**settings), transformer(), reader, tmp_path / "a", plain)
    model = transformer()

    def sample(step: int) -> None:
        seen.append(step)
        factor_video(stage(**settings), model, codec, reader, None, steps=1)

    train(stage(**settings, sample_every=2), model, reader, tmp_path / "b", sampled, sample=sample)
    assert seen == [2, 4]
    assert sampled.losses == plain.losses


@pytest.mark.parametrize("variant", ["c2", "c3"])
def test_a_variant_trains_from_the_same_shards_and_its_expression_moves_the_picture(reader, codec, tmp_path, variant):
    torch.manual_seed(0)
    transformer().save_pretrained(tmp_path / "base")
    model = variant_of(tmp_path / "base", variant)
    settings = stage(variant=variant, frames=9, iterations=6, mixture=MIXTURE, learning_rate=1e-2, held_out=2)
    journal = Journal()
    train(settings, model, reader, tmp_path / "out", journal)
    assert all(np.isfinite(list(journal.losses.values()))) and len(journal.losses) == 6
    again = variant_of(tmp_path / "out/transformer", variant)
    assert same_weights(again, model)
    motion = factor_video(settings, again, codec, reader, None, steps=2)
    assert motion["sample_response_expression"] > 0
    records = held_out(reader, "DynamicSweep", 1, 9)
    shown = sample_records(Sampler(make_pipeline(again.eval(), codec, 5.0), 2), reader, records, 9)
    assert shown[0].shape == (9, 32, 32, 3)


def test_shards_without_landmarks_are_refused_by_a_model_that_reads_them(tmp_path):
    transformer().save_pretrained(tmp_path / "base")
    model = variant_of(tmp_path / "base", "c3")
    old = shards(tmp_path / "shards", old=lambda dataset, person, entry, name: entry[3].pop("landmark_codes"))
    train(stage(iterations=1), transformer(), old, tmp_path / "out", Journal())
    with pytest.raises(UserError, match="shards without landmarks"):
        train(stage(iterations=1, variant="c3"), model, old, tmp_path / "out", Journal())
