"""Whether several portraits show one person: told where the identity network is installed, never guessed elsewhere."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from fportrait.animate.likeness import strangers
from fportrait.body.pose import Pose
from fportrait.capture.people import render, sample_person
from fportrait.capture.world import HEAD_TARGET, orbit_camera


@pytest.fixture(scope="module")
def astronaut():
    data = pytest.importorskip("skimage.data")
    return data.astronaut()


@pytest.fixture(scope="module")
def rendered():
    lens = np.array([[400.0, 0, 128], [0, 400, 128], [0, 0, 1]])
    pose, camera = Pose(np.eye(3), np.zeros(3), np.eye(3)), orbit_camera(0, 0, 0.55, HEAD_TARGET)
    return render(sample_person(3), np.zeros(52), pose, camera, lens, 256)


def test_another_person_is_named_and_another_picture_of_the_same_is_not(astronaut, rendered):
    pytest.importorskip("dlib")
    first, again = (Path("front.png"), astronaut), (Path("again.png"), cv2.convertScaleAbs(astronaut, None, 0.8, 10))
    assert strangers([first, again]) == []
    (said,) = strangers([first, again, (Path("doll.png"), rendered)])
    assert said.startswith("doll.png looks like another person than front.png")
    wall = (Path("wall.png"), np.zeros((64, 64, 3), np.uint8))
    assert strangers([first, wall]) == [] and strangers([wall, first]) == []


def test_nothing_is_said_where_no_network_is_installed(astronaut, rendered, monkeypatch):
    monkeypatch.setattr("fportrait.evaluation.metrics.csim.default_identity", lambda: None)
    assert strangers([(Path("front.png"), astronaut), (Path("doll.png"), rendered)]) == []
