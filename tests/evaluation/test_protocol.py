"""The protocol end to end on tiny shards: exact codec limit, honest baselines, gains, and errors instead of numbers."""

import json
import re

import numpy as np
import pytest
import torch

from fportrait.capture.video_io import probe, write_video
from fportrait.dataset.encode import vae_hash
from fportrait.dataset.sampling import Sampler, held_out, make_pipeline, sample_records
from fportrait.dataset.shards import ShardReader, ShardWriter, write_shard
from fportrait.diffusion.codec import BlockCodec
from fportrait.errors import UserError
from fportrait.evaluation.clips import control_scores
from fportrait.evaluation.run import evaluate
from fportrait.evaluation.types import Protocol, Request, load_encoder, sampling_settings
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.training.stages import check_stage, check_start
from helpers.houses import PROTOCOL
from helpers.small import moving_picture, shards, stage, transformer


def run(house, out, **changes):
    return evaluate(house / "model/transformer", house / "base", house / "shards", out, {**PROTOCOL, **changes}, seed=1)


def test_the_protocol_scores_every_dataset_beside_its_baselines(house, tmp_path):
    metrics = run(house, tmp_path)
    assert {"PhoneCapture", "ViewSweep", "slices", "holdout", "backbones", "settings"} <= set(metrics)
    assert not {"StudioCapture", "DynamicSweep", "control", "modes", "cross"} & set(metrics)
    phone = metrics["PhoneCapture"]
    assert (phone["clips"], phone["identities"]) == (3, 2)
    assert phone["codec_limit"]["psnr"]["mean"] > phone["ours"]["psnr"]["mean"]
    assert phone["ours"]["psnr"]["low"] <= phone["ours"]["psnr"]["mean"] <= phone["ours"]["psnr"]["high"]
    difference = phone["ours"]["psnr"]["mean"] - phone["repeated_portrait"]["psnr"]["mean"]
    assert phone["ours_minus_portrait"]["mean"] == pytest.approx(difference, abs=1e-3)
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    kept = json.loads((tmp_path / "scores.json").read_text())
    assert kept["holdout"] == metrics["holdout"] and len(kept["clips"]) == 5
    assert kept["people"].keys() == kept["clips"].keys() and kept["probes"] == {}
    mean = np.mean([scores["ours/psnr"] for name, scores in kept["clips"].items() if name.startswith("PhoneCapture")])
    assert phone["ours"]["psnr"]["mean"] == pytest.approx(mean, abs=1e-3)
    videos = sorted((tmp_path / "videos/PhoneCapture").iterdir())
    assert len(videos) == 3
    assert (probe(videos[0]).frames, probe(videos[0]).width) == (9, 64)
    assert len(list((tmp_path / "strips/ViewSweep").glob("*.png"))) == 2
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5 and page.count("data:video/mp4;base64,") == 5 * 5
    assert not re.search(r"""(?:src|href)=(?!["']data:)|@import|url\(|fetch\(|XMLHttp""", page)  # nothing is loaded
    assert "name=viewport" in page
    rows = (tmp_path / "table.csv").read_text().splitlines()
    assert rows[0] == "dataset,method,clips,psnr,ssim,not_ranked" and rows[1].startswith("PhoneCapture,fportrait,3,")
    assert (tmp_path / "table.tex").read_text().count(r"\\") == len(rows) == 7


def test_the_holdout_is_named_by_its_clips_and_bytes_whatever_the_model(house, tmp_path):
    first = run(house, tmp_path / "a", records=1)["holdout"]
    other = evaluate(
        house / "base/transformer", house / "base", house / "shards", tmp_path / "b", {**PROTOCOL, "records": 1}
    )
    assert other["holdout"] == first != run(house, tmp_path / "c", records=2)["holdout"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_samples(house, tmp_path):
    first, second = run(house, tmp_path / "a"), run(house, tmp_path / "b")
    assert first == second
    for path in sorted((tmp_path / "a").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    other = evaluate(house / "model/transformer", house / "base", house / "shards", tmp_path / "c", PROTOCOL, seed=2)
    assert other["PhoneCapture"]["ours"] != first["PhoneCapture"]["ours"]
    assert other["PhoneCapture"]["codec_limit"]["psnr"]["mean"] == first["PhoneCapture"]["codec_limit"]["psnr"]["mean"]


def test_a_sample_does_not_depend_on_the_others_in_its_batch(house):
    reader = ShardReader(house / "shards")
    records = held_out(reader, "PhoneCapture", 3, 9)
    assert [record.identity for record in records] == ["p0", "p1", "p0"]
    pipeline = make_pipeline(transformer(1).eval(), BlockCodec.from_pretrained(house / "base/vae").eval(), 2.0)
    together = sample_records(Sampler(pipeline, 2), reader, records, 9)
    alone = sample_records(Sampler(pipeline, 2), reader, records[1:2], 9)
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1


def test_settings_come_from_the_protocol_then_the_stage_then_the_base(house, tmp_path):
    sampled = {"guidance": {"view": 3.0}, "guidance_below": 0.5, "scheduler": "dpm++"}
    asked = Protocol(frames=5, steps=3, shift=1.0, **sampled)
    given = (5, 3, 1.0, *sampled.values())
    assert sampling_settings(asked, house / "model/transformer", house / "base") == given
    (tmp_path / "transformer").mkdir()
    (tmp_path / "training.json").write_text(json.dumps({"stage": {"frames": 13, "shift": 3.0}}))
    (tmp_path / "bundle.json").write_text(
        json.dumps(
            {
                **{"frames": 17, "steps": 12, "shift": 2.0, "guidance": {"pose": 2.0}, "guidance_below": 0.8},
                "scheduler": "unipc",
            }
        )
    )
    assert sampling_settings(Protocol(), tmp_path / "transformer", tmp_path) == (
        13,
        12,
        3.0,
        {"pose": 2.0},
        0.8,
        "unipc",
    )
    assert sampling_settings(Protocol(), house / "model/transformer", tmp_path) == (
        17,
        12,
        2.0,
        {"pose": 2.0},
        0.8,
        "unipc",
    )


def test_clips_too_short_another_vae_and_misspelt_settings_are_refused(house, tmp_path):
    with pytest.raises(UserError, match="13 frames asked"):
        run(house, tmp_path, frames=13)
    with pytest.raises(UserError, match="'steps'"):
        run(house, tmp_path, stps=3)
    BlockCodec(refiner_blocks=0).save_pretrained(tmp_path / "vae")
    with pytest.raises(UserError, match="another VAE"):
        evaluate(house / "model/transformer", tmp_path, house / "shards", tmp_path, PROTOCOL)
    with pytest.raises(UserError, match="no held-out records"):
        shards(tmp_path / "trainonly", vae_hash=vae_hash(house / "base/vae"))
        evaluate(house / "model/transformer", house / "base", tmp_path / "trainonly", tmp_path, PROTOCOL)


def test_a_frozen_video_gains_nothing_and_the_truth_gains_everything():
    video = moving_picture(3)
    corner = video[:, :16, :16, 0].reshape(9, -1).astype(float)

    def encoder(frames, landmarks):
        return frames[:, :16, :16, 0].reshape(len(frames), -1).astype(float)

    request = Request(video, video[0], np.zeros((9, 478, 2)), corner, np.eye(3))
    frozen = np.broadcast_to(video[:1], video.shape).copy()
    half = (0.5 * video.astype(float) + 0.5 * video.mean(0)).round().astype(np.uint8)
    assert control_scores(video, request, encoder)["expression_gain"] == pytest.approx(1)
    assert control_scores(half, request, encoder)["expression_gain"] == pytest.approx(0.5, abs=0.01)
    still = control_scores(frozen, request, encoder)
    assert still["expression_gain"] == 0
    assert "expression_correlation" not in still  # a constant has none
    assert still["faces_found"] == 0  # there is no face in these pictures, and it is counted
    assert control_scores(video, Request(video, video[0], None, corner, np.eye(3)), encoder) == {}


def test_the_encoder_reads_codes_from_crops_at_the_given_landmarks(tmp_path):
    torch.manual_seed(0)
    ExpressionEncoder(width=4).save_pretrained(tmp_path)
    read = load_encoder(tmp_path)
    landmarks = np.random.default_rng(0).uniform(8, 24, (9, 478, 2))
    codes = read(moving_picture(1), landmarks)
    assert codes.shape == (9, 128)
    assert np.abs(codes - read(moving_picture(2), landmarks)).max() > 0
    assert load_encoder(tmp_path / "missing") is None


def test_a_stage_is_refused_before_its_first_step_when_its_shards_cannot_feed_it(house):
    reader = ShardReader(house / "shards")
    check_stage(stage(frames=9), reader)
    with pytest.raises(UserError, match="StudioCapture"):
        check_stage(stage(mixture={"PhoneCapture": 50, "StudioCapture": 50}), reader)
    with pytest.raises(UserError, match="9 or less"):
        check_stage(stage(frames=13), reader)


def test_a_stage_is_refused_without_its_parent_or_with_shards_of_another_vae(house, tmp_path):
    reader = ShardReader(house / "shards")
    check_start(stage(), house / "base", reader)
    with pytest.raises(UserError, match=r"kedro run --pipelines=train_stage3`"):
        check_start(stage(name="stage4", parent="stage3"), tmp_path, reader)
    with pytest.raises(UserError, match=r"--pipelines=pretrain"):
        check_start(stage(name="stage1"), tmp_path, reader)
    transformer().save_pretrained(tmp_path / "transformer")
    (tmp_path / "training.json").write_text(json.dumps({"vae_hash": "another"}))
    with pytest.raises(UserError, match="another"):
        check_start(stage(), tmp_path, reader)


def narrow_film(house, target, outside):
    """The house with another place of p0, whose crop goes beyond the file, and `outside` for what stands there."""
    reader, info = ShardReader(house / "shards"), {"window": 9}
    writer = ShardWriter(target, reader.vae_hash, info)
    for split in ("train", "test"):
        for records in reader.records(split).values():
            for record in records:
                tensors = reader.read(record)
                if record.identity == "p0":
                    tensors["inside"] = torch.tensor([5.0, 0, 26.4, 32])
                    tensors["video"] = tensors["video"].clone()
                    for columns in (slice(0, 5), slice(26, 32)):
                        tensors["video"][:, :, columns] = outside
                one = [(record.record, record.clip, 0, tensors)]
                names = {"dataset": record.dataset, "identity": record.identity, "split": split}
                unit = target / f"{record.identity}.unit"
                rows = write_shard(unit, **names, records=one, references=reader.references(record))
                writer.add(unit, rows, record.record)
    writer.finish()
    return target


def test_clips_whose_crop_goes_beyond_the_file_are_scored_where_they_were_filmed_for_all_methods(house, tmp_path):
    scores, pages = [], []
    for number, outside in enumerate((0, 255)):
        folder = narrow_film(house, tmp_path / f"shards{number}", outside)
        theirs = tmp_path / f"theirs{number}/PhoneCapture/p0/r0.mp4"
        truth = ShardReader(folder).read(ShardReader(folder).records("test")["PhoneCapture"][0])["video"].numpy().copy()
        truth[:, :, :5], truth[:, :, 26:] = outside, 255 - outside  # right where it counts alone
        write_video(theirs, np.kron(truth, np.ones((1, 4, 4, 1), np.uint8)), 25, 0)
        external = {"method": tmp_path / f"theirs{number}"}
        arguments = (house / "model/transformer", house / "base", folder, tmp_path / f"out{number}", PROTOCOL)
        found = evaluate(*arguments, seed=1, external=external)
        scores.append(json.loads((tmp_path / f"out{number}/scores.json").read_text())["clips"])
        assert found["external"]["method"]["scores"]["PhoneCapture/p0/r0"]["ours/psnr"] > 35
        pages.append((tmp_path / f"out{number}/report.html").read_text())
    assert scores[0] == scores[1]
    plain = run(house, tmp_path / "plain") and json.loads((tmp_path / "plain/scores.json").read_text())["clips"]
    differing = {name for name in plain if plain[name] != scores[0][name]}
    assert differing == {"PhoneCapture/p0/r0", "PhoneCapture/p0/r1"}, "others are judged as ever"
    assert all(page.count("hatched") == 3 for page in pages), "two clips of ours, and one of the other method's"


@pytest.mark.parametrize("few", (True, False))
def test_a_dataset_of_which_nothing_was_filmed_has_no_numbers_and_stops_nothing(house, tmp_path, monkeypatch, few):
    whole = ShardReader.read

    def beside(self, record, frames=None):
        outside = record.dataset == "PhoneCapture" and (record.identity == "p0" or not few)
        return whole(self, record, frames) | ({"inside": torch.zeros(4)} if outside else {})

    monkeypatch.setattr(ShardReader, "read", beside)
    metrics = run(house, tmp_path)
    assert ("ours" in metrics["PhoneCapture"]) == few and "ours" in metrics["ViewSweep"]
    page = (tmp_path / "report.html").read_text()
    words = re.sub(r"<(style|script).*?</\1>|data:[^\"']*", "", page, flags=re.DOTALL)
    assert "hatched: beyond" in page and not re.search(r"\bnan\b", words, re.IGNORECASE)
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail)
