"""How far a painted portrait is trusted as it turns."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fportrait.animate.tracked import trust_in
from fportrait.body.mesh import turned_by
from fportrait.body.model import Pose, load_body
from fportrait.body.painting import PortraitPainter
from fportrait.body.warping import Target


def test_a_portrait_is_trusted_less_the_further_it_turns():
    body = load_body()
    vertices = np.asarray(body.vertices(np.zeros(body.identity_dim), None, Pose.rest()))

    def turned(degrees):
        turn = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
        return (vertices - vertices.mean(0)) @ turn.T + (0, 0, 0.55)

    assert turned_by(turned(0), turned(0)) < 0.1
    assert turned_by(turned(-20), turned(30)) == pytest.approx(50, abs=0.1)
    lens = np.array([[90.0, 0, 32], [0, 90.0, 32], [0, 0, 1]])
    flip = np.array([1.0, -1, -1])  # OpenCV's camera
    start = turned(0) * flip + (0, 0, 1.1)
    paint = PortraitPainter(body, np.full((64, 64, 3), 120, np.uint8), start, lens)

    def trust(degrees):
        there = turned(degrees) * flip + (0, 0, 1.1)
        return trust_in(paint, Target(there, lens, body.faces, (64, 64), 2), there)

    assert trust(45)[0, 0] == 255 and trust(90).max() == 0
    assert 90 < trust(72.5)[0, 0] < 160
