"""Between uint8 and [−1, 1]."""

import numpy as np
import pytest
import torch

from fportrait.pixels import to_model_range, to_uint8


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (2, 5, 4, 6, 3)])
def test_pictures_and_videos_come_back_as_they_were(shape):
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    moved = to_model_range(pictures)
    assert moved.shape == (shape[0], 3, *shape[1:-1]) and moved.abs().max() <= 1
    assert np.array_equal(to_uint8(moved), pictures)


def test_what_lies_outside_is_clipped_and_a_picture_that_may_not_be_written_is_read():
    assert to_uint8(torch.tensor([-3.0, 0.0, 3.0]).reshape(1, 3, 1, 1)).ravel().tolist() == [0, 128, 255]
    white = np.broadcast_to(np.uint8(255), (1, 2, 2, 3))
    assert (to_model_range(white) == 1).all()
