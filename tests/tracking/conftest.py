"""A real photograph, and a small filmed world, for the tests of tracking."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """A real portrait, 512 512 3 (scikit-image's astronaut; NASA, public domain)."""
    from skimage.data import astronaut

    return astronaut()


@pytest.fixture(scope="session")
def landmarker():
    from fportrait.tracking.landmarks import shared_landmarker

    return shared_landmarker()


@pytest.fixture(scope="session")
def face(photograph, landmarker):
    """The photograph's one face."""
    return landmarker.detect(photograph)[0]


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory):
    """A base folder with an untrained expression encoder: tracking needs its format, not its skill."""
    import torch

    from fportrait.tracking.expression import ExpressionEncoder

    torch.manual_seed(0)
    base = tmp_path_factory.mktemp("base")
    ExpressionEncoder(4, 48).save_pretrained(base / "expression_encoder")
    return base
