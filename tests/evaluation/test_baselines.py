"""Baselines: a portrait on the right mesh follows the head and keeps what the mesh does not cover; all are scored."""

import numpy as np
import pandas as pd
import pytest

from fportrait.body.model import Pose, load_body
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.capture.motion import rotation_from_degrees
from fportrait.capture.people import render, sample_person
from fportrait.capture.world import HEAD_TARGET, orbit_camera
from fportrait.dataset.shards import ShardReader
from fportrait.errors import UserError
from fportrait.evaluation.baselines import BASELINES, mean_frame, score_baselines, warp_portrait
from fportrait.evaluation.metrics.psnr import psnr

SIZE = 96


def seen(degrees: float, view: float = 0.0):
    """A person's picture, and their neutral mesh in camera space, with the head turned and the camera moved."""
    body = load_body()
    person = sample_person(170_000_001, body)
    camera, intrinsics = orbit_camera(view, 0, 0.55, HEAD_TARGET), intrinsics_from_fov(30, SIZE, SIZE)
    pose = Pose(np.eye(3), np.zeros(3), rotation_from_degrees(degrees, 0, 0))
    picture = render(person, np.zeros(len(body.action_names)), pose, camera, intrinsics, SIZE, 2, body)
    vertices = body.vertices(person.identity, None, pose) @ camera[:3, :3].T + camera[:3, 3]
    return picture, vertices, intrinsics, body.faces


@pytest.mark.parametrize("degrees,view", [(15.0, 0.0), (0.0, 15.0)])
def test_the_warped_portrait_follows_head_and_camera_where_the_repeated_one_stands_still(degrees, view):
    portrait, start, intrinsics, faces = seen(0)
    truth, vertices, _, _ = seen(degrees, view)
    warped = warp_portrait(portrait, start, intrinsics, vertices, intrinsics, faces)
    score, still = psnr(warped[None], truth[None])[0], psnr(portrait[None], truth[None])[0]
    assert score > still + 2
    asked, came = truth.astype(float) - portrait, warped.astype(float) - portrait
    assert (asked * came).sum() / (asked**2).sum() > 0.6


def test_a_portrait_warped_onto_itself_is_the_portrait_and_the_background_never_moves():
    portrait, start, intrinsics, faces = seen(0)
    assert psnr(warp_portrait(portrait, start, intrinsics, start, intrinsics, faces)[None], portrait[None])[0] > 28
    gone = start + np.array([0, 0, -10.0])  # behind the camera: nothing is drawn
    unmoved = warp_portrait(portrait, start, intrinsics, gone, intrinsics, faces)
    assert psnr(unmoved[None], portrait[None])[0] > 28


def test_every_baseline_is_scored_on_the_records_a_model_is_scored_on(house, annotations):
    table = pd.read_parquet(annotations / "frames.parquet")
    people = pd.read_parquet(annotations / "identities.parquet")
    extra = table[table.identity == "p0"].assign(
        dataset="ViewSweep", identity="v0", clip=lambda rows: rows["clip"].str.replace("p0", "v0")
    )  # the house's held-out person of another dataset
    pd.concat([table, extra]).to_parquet(annotations / "frames.parquet")
    other = people[people.identity == "p0"].assign(dataset="ViewSweep", identity="v0", reference_clip="v0/s0/cam")
    pd.concat([people, other]).to_parquet(annotations / "identities.parquet")
    protocol = {"records": 3, "control": False}
    found = score_baselines(ShardReader(house / "shards"), house / "base", [annotations], protocol, 9)
    assert set(found) == set(BASELINES)
    for name in BASELINES:
        clips = {dataset: entry["clips"] for dataset, entry in found[name].items()}
        assert clips == {"PhoneCapture": 3, "ViewSweep": 2}
        assert {"psnr", "ssim", "sharpness"} <= set(found[name]["PhoneCapture"]["ours"])
    # a mean of pictures is flat; the portrait is as sharp as a frame
    sharpness = {name: found[name]["PhoneCapture"]["ours"]["sharpness"]["mean"] for name in BASELINES}
    assert sharpness["mean_frame"] < 0.6 * sharpness["repeated_portrait"]


def test_the_mean_frame_is_of_training_people_alone(house):
    from fportrait.dataset.sampling import decode
    from fportrait.diffusion.codec import load_vae

    reader, vae = ShardReader(house / "shards"), load_vae(house / "base/vae")
    records = reader.records("train")["PhoneCapture"]
    assert {record.identity for record in records} == {"p2"}
    wanted = np.mean([decode(vae, reader.read(record)["latents"]).mean(0) for record in records], 0)
    assert np.abs(mean_frame(reader, "PhoneCapture", vae) - wanted).max() <= 0.5
    with pytest.raises(UserError, match="no training records of StudioCapture"):
        mean_frame(reader, "StudioCapture", vae)
