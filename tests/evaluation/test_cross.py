"""Cross-reenactment: the target's body in the driver's pose and cameras, measured without a truth."""

import numpy as np
import pytest

from fportrait.body.model import load_body
from fportrait.camera.cameras import camera_centre
from fportrait.dataset.sampling import Sampler, make_pipeline
from fportrait.dataset.shards import ShardReader
from fportrait.diffusion.codec import BlockCodec
from fportrait.errors import UserError
from fportrait.evaluation.cross import Annotations, driven, pairs, run_cross
from fportrait.evaluation.report import Report
from fportrait.evaluation.types import Evaluation, Protocol, Scorers
from fportrait.tracking.actions import ActionReadout
from helpers.small import transformer


def test_targets_are_never_their_own_drivers_and_may_come_from_any_dataset(house):
    reader = ShardReader(house / "shards")
    chosen = pairs(reader, "PhoneCapture", 4, 9)
    assert len(chosen) == 4 and all(driver.identity != target.identity for driver, target in chosen)
    assert {target.dataset for _, target in chosen} == {"PhoneCapture", "ViewSweep"}


def test_the_target_takes_the_drivers_pose_around_its_own_heads_centre(house, annotations):
    reader = ShardReader(house / "shards")
    records = {record.identity: record for record in reader.records("test")["PhoneCapture"]}
    intrinsics = np.array([[60.0, 0, 16], [0, 60, 16], [0, 0, 1]])
    table = Annotations([annotations])
    turning = driven(table, records["p1"], records["p0"], intrinsics, 9, 32)
    still = driven(table, records["p0"], records["p1"], intrinsics, 9, 32)
    assert np.array_equal(still.normals[0], still.normals[8]) and not np.array_equal(
        turning.normals[0], turning.normals[8]
    )
    moved = turning.rotations[8] @ turning.rotations[0].T
    assert np.degrees(np.arccos((np.trace(moved) - 1) / 2)) == pytest.approx(24)
    # the driver stood a metre away in its own world; around the heads' centres both cameras are half a metre in front
    for one in (turning.cameras[0], turning.reference):
        assert np.linalg.norm(camera_centre(one)) == pytest.approx(0.55, abs=0.03)
    with pytest.raises(UserError, match="9 frames"):
        table.clip("PhoneCapture", "p0/s0/cam", 4, 9)
    with pytest.raises(UserError, match="no annotations"):
        Annotations([annotations / "none"])


def test_the_painted_body_acts_as_the_drivers_codes_tell_and_the_normal_maps_do_not(house, annotations):
    reader = ShardReader(house / "shards")
    records = {record.identity: record for record in reader.records("test")["PhoneCapture"]}
    intrinsics = np.array([[60.0, 0, 16], [0, 60, 16], [0, 0, 1]])
    weight = np.zeros((52, 128), np.float32)
    weight[load_body().action_names.index("jawOpen"), 0] = 1
    asked = (Annotations([annotations]), records["p0"], records["p1"], intrinsics, 9, 32)
    rest, acting = driven(*asked), driven(*asked, ActionReadout(weight, np.zeros(52, np.float32)))
    assert np.array_equal(rest.normals, acting.normals)
    moved = np.abs(acting.vertices - rest.vertices).max((1, 2))
    assert moved[0] == pytest.approx(0, abs=1e-6) and moved[8] > 0.01 and (np.diff(moved) > 0).all()


def test_pairs_are_sampled_scored_and_shown(house, annotations, tmp_path):
    pipeline = make_pipeline(transformer(1).eval(), BlockCodec.from_pretrained(house / "base/vae").eval(), 2.0)
    protocol = Protocol(steps=1, control=False, metrics={"iqa": "brisque"})
    scorers, report = Scorers.of(protocol, None), Report(tmp_path / "out")
    # only the phone's people are annotated here
    reader = ShardReader(house / "shards")
    reader._records["test"].pop("ViewSweep")
    evaluation = Evaluation(Sampler(pipeline, 1), reader, protocol, scorers, report)
    found = run_cross(evaluation, [annotations], 9, 2)
    assert set(found) == {"PhoneCapture"} and found["PhoneCapture"]["clips"] == 2
    assert 0 <= found["PhoneCapture"]["ours"]["iqa"]["mean"] <= 100
    assert len(list((tmp_path / "out/strips").rglob("*.png"))) == 2
