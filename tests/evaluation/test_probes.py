"""Probes: gains and leakage of videos whose strength is known, and the measures of faces."""

import numpy as np
import pytest

from fportrait.body.model import load_body
from fportrait.capture.people import sample_person
from fportrait.errors import UserError
from fportrait.evaluation.control import face_errors
from fportrait.evaluation.embedded import Shot, Studio, action_vector, ramp_and_hold
from fportrait.evaluation.faces import angles_between, gaze, head_rotations, lip_distance
from fportrait.evaluation.modes import MODES, mode_shots
from fportrait.evaluation.probes import (
    PROBES,
    Probed,
    ProbeSettings,
    leakage,
    measure,
    own_scores,
    region,
    summarise,
    tracker_view,
)
from fportrait.evaluation.slices import skin_degrees, slice_of, summarise_slices, view_degrees
from fportrait.evaluation.types import ClipResult


class Reader:
    """Stands where the expression encoder does: the mean colour of the crop, which is all these tests need."""

    crop_size = 24

    def encode(self, crops):
        return crops.reshape(len(crops), -1)[:, :128].astype(np.float32)


FACTORS = ("jaw", "blink", "pose", "view", "identity")


@pytest.fixture(scope="module")
def scenes():
    studio = Studio(Reader(), 64)
    person, other = sample_person(171_000_000, studio.body), sample_person(171_000_001, studio.body)
    found = {"rest": studio.scene(person, [Shot()] * 5)}
    for name in FACTORS:
        found[name] = studio.scene(
            other if name == "identity" else person, ramp_and_hold(PROBES[name][0], 5), driver=person
        )
    return found


def produced(scenes, strength: dict[str, float]) -> dict[str, np.ndarray]:
    """Videos in which every factor comes out with the given strength."""
    rest = scenes["rest"].video.astype(float)
    return {name: rest + strength.get(name, 1.0) * (scene.video - rest) for name, scene in scenes.items()}


def test_the_gain_is_the_strength_and_the_truth_leaks_nothing(scenes):
    videos = produced(scenes, {"jaw": 0.25, "blink": 0.0})
    found = measure(Probed(scenes, {"ours": videos}), "ours")
    gains = {name: round(entry["gain"], 6) for name, entry in found["gains"].items()}
    assert gains == {"jaw": 0.25, "blink": 0.0, "pose": 1.0, "view": 1.0, "identity": 1.0}
    assert found["gains"]["jaw"]["correlation"] == pytest.approx(1) and found["gains"]["blink"]["correlation"] == 0
    assert np.allclose(found["leakage"], np.diag([0.25, 0, 1, 1, 1]), atol=1e-8)


def test_every_persons_own_gains_and_largest_leak_are_kept_for_the_gate():
    measured = {"gains": {"jaw": {"gain": 0.5}}, "leakage": np.array([[1.0, -0.3], [0.1, 1.0]])}
    assert own_scores(measured) == {"gain_jaw": 0.5, "worst_leak": 0.3}


def test_what_leaks_is_read_off_its_row_and_column(scenes):
    videos = produced(scenes, {})
    jaw = scenes["jaw"].video.astype(float) - scenes["rest"].video
    videos["pose"] = videos["pose"] + 0.4 * jaw  # turning the head opens the mouth
    row = measure(Probed(scenes, {"ours": videos}), "ours")["leakage"][FACTORS.index("pose")]
    assert np.allclose(row, [0.4, 0, 1, 0, 0], atol=1e-8)
    summary = summarise([measure(Probed(scenes, {"ours": videos}), "ours")] * 2, 0)
    assert summary["worst_leak"] == 0.4 and summary["gains"]["pose"]["gain"]["low"] > 0.9


def test_turns_are_told_in_degrees_whatever_the_pixels_say(scenes):
    studio, person = Studio(Reader(), 64), sample_person(171_000_000)
    half = studio.scene(person, ramp_and_hold(PROBES["pose"][0].at(0.5), 5), driver=person).video
    none = scenes["rest"].video
    truth = {name: scenes[name].video for name in ("rest", "pose", "view")}
    videos = {"ours": truth | {"pose": half, "view": none}, "codec_limit": truth}
    few = {name: scenes[name] for name in truth}
    turns = tracker_view([Probed(few, videos)], studio)["turns"]
    assert turns["codec_limit"] == {name: {"gain": 1.0, "correlation": 1.0} for name in ("pose", "view")}
    assert turns["ours"]["pose"]["gain"] == pytest.approx(0.5, abs=0.12) and turns["ours"]["pose"]["correlation"] > 0.95
    assert abs(turns["ours"]["view"]["gain"]) < 0.05
    faceless = {name: np.zeros_like(video) for name, video in truth.items()}
    nothing = tracker_view([Probed(few, {"ours": faceless, "codec_limit": truth})], studio)
    assert nothing["turns"]["ours"] == {"pose": {}, "view": {}}


def test_regions_hold_their_part_of_the_face_and_codes_are_the_drivers(scenes):
    jaw, eyes = region("jaw", scenes), region("blink", scenes)
    assert (
        0.01 < jaw.mean() < 0.25
        and 0.01 < eyes.mean() < 0.25
        and not (jaw & eyes).any()
        and region("pose", scenes).all()
    )
    assert np.array_equal(scenes["identity"].codes, scenes["rest"].codes)
    assert not np.array_equal(scenes["identity"].normals, scenes["rest"].normals)
    assert np.array_equal(scenes["jaw"].normals, scenes["rest"].normals)
    assert not np.array_equal(scenes["jaw"].codes, scenes["rest"].codes)


def test_factors_that_look_alike_are_refused_and_settings_are_checked():
    column = np.random.default_rng(0).normal(size=50)
    with pytest.raises(UserError, match="told apart"):
        leakage(np.stack([column, 2 * column], 1), np.stack([column, column], 1))
    with pytest.raises(UserError, match="'jaw'"):
        ProbeSettings.from_dict({"factors": ["jwa"]})
    with pytest.raises(UserError, match="4 frames"):
        ProbeSettings(frames=4)
    with pytest.raises(UserError, match="jawOpen"):
        action_vector({"jawOpne": 1})


def test_a_ramp_ends_at_full_strength_and_is_held():
    shots = ramp_and_hold(PROBES["jaw"][0], 9)
    strengths = [dict(shot.actions)["jawOpen"] for shot in shots]
    assert strengths[0] == 0 and strengths == sorted(strengths) and strengths[5:] == [1.0] * 4


def test_control_modes_move_what_their_names_say():
    body = load_body()
    for mode in MODES:
        shots = mode_shots(mode, 9, np.random.default_rng(1), body)
        faces, cameras = {(shot.actions, shot.head) for shot in shots}, {shot.camera for shot in shots}
        assert (len(faces) > 1) == (mode != "moving_view")
        assert (len(cameras) > 1) == (mode in ("moving_view", "everything"))
        if mode == "still_front":
            assert cameras == {(0.0, 0.0)}


def test_faces_are_measured_in_degrees_and_shares(scenes):
    rest, turned, open_ = (scenes[name].landmarks[-1] for name in ("rest", "pose", "jaw"))
    intrinsics = scenes["rest"].intrinsics
    turn = angles_between(head_rotations(turned[None], intrinsics)[0], head_rotations(rest[None], intrinsics)[0])
    assert turn == pytest.approx(20, abs=3)
    assert lip_distance(open_) > lip_distance(rest) + 0.2
    right, left = gaze(rest)
    assert 0.3 < right < 0.7 and 0.3 < left < 0.7
    errors = face_errors(scenes["rest"].video, scenes["rest"].landmarks, intrinsics)
    assert errors.found == 1 and errors.reprojection < 3 and errors.lips < 0.15
    nothing = face_errors(np.zeros_like(scenes["rest"].video), scenes["rest"].landmarks, intrinsics)
    assert nothing.found == 0 and np.isnan(nothing.head_degrees)


def test_slices_have_fixed_bounds_and_count_their_clips(scenes):
    assert [slice_of("view", value) for value in (3, 20, 70)] == ["under 15°", "15° to 40°", "over 40°"]
    studio = Studio(Reader(), 64)
    cameras = np.stack(
        [studio._draw(sample_person(171_000_000), shot)["camera"] for shot in (Shot(), PROBES["view"][0])]
    )
    assert view_degrees(cameras, cameras[0]) == pytest.approx(20, abs=0.5)
    pale, dark = np.full((8, 8, 3), (235, 205, 180), np.uint8), np.full((8, 8, 3), (92, 60, 40), np.uint8)
    points = np.full((478, 2), 4.0)
    assert (
        slice_of("skin", skin_degrees(pale, points)) == "light"
        and slice_of("skin", skin_degrees(dark, points)) == "dark"
    )
    clips = [ClipResult("c", "ada", {}, {"ours/psnr": score}, {"view": "over 40°"}) for score in (20.0, 24.0)]
    entry = summarise_slices(clips, 0)["view"]["over 40°"]
    assert (entry["clips"], entry["people"], entry["ours"]["psnr"]) == (2, 1, {"mean": 22.0})  # one person: no interval


def test_a_second_portrait_shows_the_side_that_the_first_does_not_and_changes_nothing_else():
    studio, person = Studio(Reader(), 64), sample_person(171_000_003)
    shots = [Shot(camera=(yaw, 0.0)) for yaw in (0.0, 25.0, 45.0, 45.0, 45.0)]
    one = studio.scene(person, shots)
    two = studio.scene(person, shots, more=[Shot(camera=(35.0, 0.0))])
    face = np.s_[4, 16:48, 16:48]
    errors = [np.square(scene.warped[face].astype(float) - scene.video[face]).mean() for scene in (one, two)]
    assert errors[1] < 0.85 * errors[0]
    assert np.abs(one.warped[0].astype(int) - two.warped[0]).mean() < 1  # from the front the first one knows best
    assert np.array_equal(one.normals, two.normals) and np.array_equal(one.reference, two.reference)
