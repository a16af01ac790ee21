"""Where lips meet and lids close a large picture has no staircase, and elsewhere it stays as it is."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.body import painting
from fportrait.body.folds import folded
from fportrait.body.model import load_body
from fportrait.body.painting import PortraitPainter, acting_vertices
from fportrait.body.pose import Pose
from fportrait.body.warping import Target

SIZE = 160
LENS = np.array([[540.0, 0, 80], [0, 540.0, 80], [0, 0, 1]])
BODY = load_body()


def face(**actions: float) -> np.ndarray:
    """Vertices `V 3` of an upright head a metre before an OpenCV camera, that acts so."""
    told = np.zeros(52, np.float32)
    for name, value in actions.items():
        told[[index for index, one in enumerate(BODY.action_names) if one.startswith(name)]] = value
    pose = Pose(np.eye(3), np.zeros(3), np.eye(3))
    return acting_vertices(BODY, np.zeros(BODY.identity_dim), told, pose) * (1, -1, -1) + (0, 0, 1.0)


def painter(samples: int, matte: bool = True) -> PortraitPainter:
    """Of a portrait with parted lips, whose colours change quickly."""
    across, down = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    picture = np.clip((150, 120, 100) + 60 * np.sin(down / 2.5 + across / 19)[..., None], 0, 255).astype(np.uint8)
    opacity = np.ones((SIZE, SIZE), np.float32) if matte else None
    one = PortraitPainter(BODY, picture, face(jawOpen=0.12), LENS, samples, matte=opacity)
    one._lids = None  # closed ones lie over the folds (`body.eyelids`)
    return one


def painted(one: PortraitPainter, vertices: np.ndarray) -> np.ndarray:
    return one.paint(Target(vertices, LENS, BODY.faces, (SIZE, SIZE), one.samples)).astype(float)


@pytest.mark.parametrize("acts", [{"mouthPucker": 0.5}, {"eyeBlink": 0.7}], ids=["lips", "lids"])
def test_folds_are_as_smooth_as_with_many_samples_a_pixel(acts, monkeypatch):
    wanted = painted(painter(3), face(**acts))
    one = painter(1)
    drawn = painted(one, face(**acts))
    monkeypatch.setattr(painting, "smooth_folds", lambda *told: None)
    rough = painted(one, face(**acts))
    there = (drawn != rough).any(-1)
    assert 5 < there.sum() < 0.02 * SIZE**2, "folds are lines"
    error = np.abs(drawn - wanted)[there].mean()
    assert error < 0.5 * np.abs(rough - wanted)[there].mean()


def test_where_nothing_folds_and_for_models_the_picture_is_what_it_was(monkeypatch):
    pictures = []
    for smooth in (painting.smooth_folds, lambda *told: None):
        monkeypatch.setattr(painting, "smooth_folds", smooth)
        pictures.append([painted(painter(1), face(jawOpen=0.12)), painted(painter(1, False), face(eyeBlink=0.7))])
    assert np.array_equal(pictures[0][0], pictures[1][0]), "its own face"
    assert np.array_equal(pictures[0][1], pictures[1][1]), "without a matte, as models are trained"


def test_a_head_beside_the_picture_and_a_body_that_tells_nothing_have_no_folds():
    one = painter(1)
    assert painted(one, np.add(face(), (0.6, 0, 0))).shape == (SIZE, SIZE, 3)
    assert painted(one, np.add(face(), (0.14, 0.1, 0))).shape == (SIZE, SIZE, 3), "an eye at the edge"
    assert folded(object()) == [] and len(folded(BODY)) == 3
