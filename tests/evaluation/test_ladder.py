"""Every metric puts degradations in order: blur, noise, compression, time shift, another person, a frozen face."""

import itertools

import numpy as np
import pytest

from fportrait.evaluation.degradations import blurred, compressed, frozen, late, noisy
from fportrait.evaluation.metrics import METRICS, make
from fportrait.evaluation.metrics.frechet import FeatureSet, frechet_distance
from fportrait.evaluation.weights import find


def score(name: str, produced: np.ndarray, truth: np.ndarray, backbone: str = "auto") -> float:
    """The metric's mean, signed so that higher is better; measured on three frames of the clip."""
    picks = [0, len(truth) // 2, len(truth) - 1]
    values = make(name, backbone)(produced[picks], truth[picks])
    value = float(np.nanmean(values))
    return value if METRICS[name].higher_is_better else -value


def in_order(scores: list[float]) -> bool:
    return all(better > worse for better, worse in itertools.pairwise(scores))


LADDERS = {
    "blur": lambda video: [blurred(video, sigma) for sigma in (0.8, 2, 5)],
    "noise": lambda video: [noisy(video, sigma) for sigma in (4, 16, 50)],
    "compression": lambda video: [compressed(video, quality) for quality in (80, 25, 5)],
}


@pytest.mark.parametrize("ladder", LADDERS)
@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_picture_metrics_fall_with_every_degradation(name, ladder, clip):
    assert in_order(
        [
            score(name, clip[:3], clip[:3]) if name == "ssim" else 1e9,
            *(score(name, step, clip[:3]) for step in LADDERS[ladder](clip[:3])),
        ]
    )


@pytest.mark.parametrize("ladder", LADDERS)
def test_the_perceptual_distance_grows_with_every_degradation(ladder, clip):
    if find("efficientnet-lite0") is None:
        pytest.skip("the extra 'metrics' is not installed")
    steps = [score("lpips", step, clip[:3], "efficientnet-lite0") for step in LADDERS[ladder](clip[:3])]
    assert in_order([0.0, *steps])


@pytest.mark.parametrize("name", ["psnr", "ssim", "aed"])
def test_a_video_that_is_late_scores_worse_the_later_it_is(name, clip):
    assert in_order([score(name, late(clip, frames)[3:], clip[3:]) for frames in (1, 3)])


def test_another_face_has_another_identity_and_a_blurred_one_less_of_its_own(clip, stranger):
    if find("dlib") is None:
        pytest.skip("the extra 'identity' is not installed")
    pytest.importorskip("dlib")
    own = [score("csim", step, clip, "dlib") for step in (clip, blurred(clip, 0.8))]
    assert own[0] == pytest.approx(1)
    assert in_order([*own, score("csim", stranger, clip, "dlib")])


def test_a_frozen_face_expresses_something_else_than_a_talking_one(clip):
    assert score("aed", clip, clip, "blendshapes") == 0
    assert score("aed", frozen(clip), clip, "blendshapes") < score("aed", noisy(clip, 8), clip, "blendshapes")


def test_quality_without_reference_falls_on_a_photograph():
    from skimage import data

    photograph = data.astronaut()[None, :256, :256]
    for ladder in LADDERS.values():
        steps = [score("iqa", step, step, "brisque") for step in ladder(photograph.repeat(3, 0))]
        assert in_order(steps)


def test_a_frame_without_structure_has_no_quality_and_is_no_crash(clip):
    blank = np.full_like(clip[:2], 90)
    assert np.isnan(make("iqa", "brisque")(blank, clip[:2])).all()
    assert np.isnan(make("sharpness")(clip[:2], blank)).all()
    assert np.isnan(make("aed", "blendshapes")(blank, clip[:2])).all()


@pytest.mark.parametrize("name", ["fid_vid", "fvd"])
def test_frechet_distances_grow_with_blur_and_noise_and_a_frozen_video_moves_differently(name, clip, stranger):
    if find("efficientnet-lite0") is None:
        pytest.skip("the extra 'metrics' is not installed")
    features = make(name, "efficientnet-lite0")

    def collect(change) -> FeatureSet:
        found = FeatureSet()
        for video in (clip, stranger):
            back_and_forth = np.concatenate([video, video[::-1], video])[: features.segment]
            found.add(features(change(back_and_forth)[:, ::2, ::2]))
        return found

    truth = collect(lambda video: video)
    assert frechet_distance(truth, truth) == pytest.approx(0, abs=1e-9)
    for ladder in (LADDERS["blur"], LADDERS["noise"]):
        steps = [collect(lambda video, i=i, ladder=ladder: ladder(video)[i]) for i in range(3)]
        assert in_order([-frechet_distance(step, truth) for step in steps])
    if name == "fvd":  # the change from frame to frame is part of it
        assert frechet_distance(collect(frozen), truth) > 0
        still, moving = features(frozen(clip).repeat(3, 0)[:16, ::2, ::2]), features(clip.repeat(3, 0)[:16, ::2, ::2])
        assert np.abs(still[1280:]).max() == 0 < np.abs(moving[1280:]).max()
