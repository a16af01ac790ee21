"""Picture metrics agree with independent formulas, order degradations, and refuse what they cannot measure."""

import cv2
import numpy as np
import pytest

from fportrait.errors import UserError
from fportrait.evaluation.metrics.psnr import psnr
from fportrait.evaluation.metrics.sharpness import sharpness
from fportrait.evaluation.metrics.ssim import ssim

METRICS = {"psnr": psnr, "ssim": ssim, "sharpness": sharpness}


def clip(seed=0, frames=3, height=40, width=48) -> np.ndarray:
    """Smooth blobs with some texture: neither flat nor noise."""
    rng = np.random.default_rng(seed)
    video = [cv2.resize(rng.integers(0, 256, (10, 12, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)]
    video += [np.roll(video[0], t, axis=1) for t in range(1, frames)]
    return np.stack(video)


def noisy(video, sigma, seed=1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, video.shape)
    return np.clip(video + noise, 0, 255).round().astype(np.uint8)


def blurred(video, sigma) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in video])


def naive_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """The published formula, window by window and channel by channel."""
    y, x = np.mgrid[-5:6, -5:6]
    weights = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for channel in range(3):
        for top in range(a.shape[0] - 10):
            for left in range(a.shape[1] - 10):
                p = a[top : top + 11, left : left + 11, channel].astype(float)
                q = b[top : top + 11, left : left + 11, channel].astype(float)
                mp, mq = (weights * p).sum(), (weights * q).sum()
                vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
                cov = (weights * (p - mp) * (q - mq)).sum()
                c1, c2 = 6.5025, 58.5225
                values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


def test_psnr_is_the_published_formula():
    truth = np.full((2, 8, 8, 3), 100, np.uint8)
    produced = truth.copy()
    produced[0] += 10
    values = psnr(produced, truth)
    assert values[0] == pytest.approx(20 * np.log10(255 / 10))
    assert np.isinf(values[1])


def test_ssim_is_the_published_formula():
    truth, produced = clip(0, 2, 17, 19), noisy(clip(0, 2, 17, 19), 20)
    assert ssim(produced, truth) == pytest.approx(
        [naive_ssim(a, b) for a, b in zip(produced, truth, strict=True)], abs=1e-9
    )
    assert ssim(truth, truth) == pytest.approx(1)


def test_psnr_and_ssim_agree_with_scikit_image_on_noise_and_on_a_photograph():
    skimage_metrics = pytest.importorskip("skimage.metrics")
    from skimage import data

    photograph = data.astronaut()[None, :200, :240]
    for truth in (clip(3), np.random.default_rng(4).integers(0, 256, (1, 32, 32, 3), np.uint8), photograph):
        produced = noisy(truth, 15)
        for a, b, ours, peak in zip(produced, truth, ssim(produced, truth), psnr(produced, truth), strict=True):
            theirs = skimage_metrics.structural_similarity(
                b, a, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            )
            assert ours == pytest.approx(theirs, abs=1e-4)
            assert peak == pytest.approx(skimage_metrics.peak_signal_noise_ratio(b, a, data_range=255), abs=1e-4)


@pytest.mark.parametrize("name", ["psnr", "ssim"])
@pytest.mark.parametrize(
    "ladder",
    [
        lambda video: [noisy(video, sigma) for sigma in (2, 8, 25, 60)],
        lambda video: [blurred(video, sigma) for sigma in (0.6, 1.2, 2.5, 5)],
        lambda video: [np.roll(video, shift, axis=2) for shift in (1, 2, 4)],
    ],
    ids=["noise", "blur", "shift"],
)
def test_more_degradation_scores_lower(name, ladder):
    truth = clip(5)
    scores = [METRICS[name](step, truth).mean() for step in ladder(truth)]
    assert scores == sorted(scores, reverse=True)


def test_sharpness_falls_with_blur_and_is_one_for_the_truth():
    truth = clip(6)
    scores = [sharpness(step, truth).mean() for step in (truth, *(blurred(truth, s) for s in (0.6, 1.2, 2.5)))]
    assert scores[0] == 1
    assert scores == sorted(scores, reverse=True)
    assert np.isnan(sharpness(truth, np.zeros_like(truth))).all()


@pytest.mark.parametrize("name", METRICS)
def test_wrong_ranges_sizes_and_lengths_are_errors_never_numbers(name):
    truth = clip()
    for wrong in (truth / 255.0, truth.astype(np.float32), truth[:2], truth[:, :, 8:], truth[..., :1], truth[0]):
        with pytest.raises(UserError):
            METRICS[name](wrong, truth)
    with pytest.raises(UserError):
        METRICS[name](truth[:0], truth[:0])


def test_ssim_refuses_pictures_smaller_than_its_window():
    with pytest.raises(UserError, match="11x11"):
        ssim(clip(height=10, width=10), clip(height=10, width=10))
