import numpy as np
import pytest

from fportrait.avatar.expression import ridge
from fportrait.avatar.views import crop_picture


def ramp(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns * 2, rows * 2, np.full_like(rows, 60)], axis=2).astype(np.uint8)


def test_a_crop_of_the_whole_frame_at_its_own_size_changes_nothing():
    frame = ramp(40, 40)
    picture, covered = crop_picture(frame, (0, 0, 40), 40)
    assert np.allclose(picture * 255, frame, atol=1e-3)
    assert np.allclose(covered, 1)


@pytest.mark.parametrize("size", [10, 64])
def test_shrinking_and_enlarging_keep_a_ramp_at_pixel_centres(size):
    picture, _ = crop_picture(ramp(60, 60), (10.5, 4.25, 32.0), size)
    inner = slice(2, size - 2)
    centres = (np.arange(size) + 0.5) * 32.0 / size - 0.5
    assert np.allclose(picture[size // 2, inner, 0] * 255, 2 * (10.5 + centres)[inner], atol=0.3)
    assert np.allclose(picture[inner, size // 2, 1] * 255, 2 * (4.25 + centres)[inner], atol=0.3)


def test_outside_the_frame_is_black_and_not_covered():
    picture, covered = crop_picture(ramp(20, 20), (-10, 0, 20), 20)
    assert np.abs(picture[:, :9]).max() == 0 and covered[:, :9].max() == 0
    assert covered[5, 15] == pytest.approx(1)


def test_ridge_recovers_a_linear_map_and_shrinks_with_its_penalty():
    rng = np.random.default_rng(0)
    codes, true = rng.normal(size=(300, 128)), rng.normal(size=(5, 128))
    targets = codes @ true.T + 0.3
    weights, intercept = ridge(codes, targets, 1e-9)
    assert np.allclose(weights, true, atol=1e-3) and np.allclose(intercept, 0.3, atol=1e-3)
    assert np.abs(ridge(codes, targets, 100.0)[0]).max() < 0.1 * np.abs(true).max()
