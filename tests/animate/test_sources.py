"""Frames as they come: cameras that are not there, go away, come back; and frames that a page pushes."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import pytest

from fportrait.animate import sources
from fportrait.animate.sources import CameraSource, PushedSource
from fportrait.errors import UserError

PICTURE = np.full((48, 64, 3), [10, 20, 30], np.uint8)  # BGR, as OpenCV gives it


class Plug:
    """Stands for the cable of every camera: `plugged` decides whether it opens and whether it gives pictures."""

    plugged, opened, rate = True, 0, 15.0


@pytest.fixture
def plug(monkeypatch):
    state = Plug()

    class Camera:
        def __init__(self, number):
            state.opened += 1
            self.alive = state.plugged and number == 0

        def isOpened(self):
            return self.alive

        def read(self):
            self.alive = self.alive and state.plugged  # what was unplugged once must be opened again
            return (True, PICTURE.copy()) if self.alive else (False, None)

        def get(self, _):
            return state.rate

        def set(self, *_):
            return True

        def release(self):
            self.alive = False

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr(sources, "RETRY", 0.05)
    return state


def test_no_camera_is_said_with_what_to_do(plug):
    plug.plugged = False
    with pytest.raises(UserError, match=r"no pictures from camera 0.*--camera 1.*--input"):
        CameraSource(0)
    plug.plugged = True
    with pytest.raises(UserError, match="no pictures from camera 3"):
        CameraSource(3)


@pytest.mark.parametrize(("rate", "fps"), [(15.0, 15.0), (0.0, 30.0), (float("nan"), 30.0), (1e6, 30.0)])
def test_a_camera_states_its_size_and_a_rate_that_can_be(plug, rate, fps):
    plug.rate = rate
    camera = CameraSource(0)
    assert camera.size == (64, 48) and camera.fps == fps
    frame, _ = next(iter(camera))
    assert frame[0, 0].tolist() == [30, 20, 10]  # RGB


def test_a_camera_that_disappears_gives_nothing_and_goes_on_once_it_is_back(plug):
    frames = iter(CameraSource(0))
    assert next(frames)[0] is not None
    plug.plugged = False
    gone = [next(frames)[0] for _ in range(3)]
    assert gone == [None, None, None]
    plug.plugged = True
    end = time.monotonic() + 20
    while next(frames)[0] is None:
        assert time.monotonic() < end
    assert plug.opened >= 2


def test_a_camera_that_stays_away_is_given_up_and_let_go(plug, monkeypatch):
    monkeypatch.setattr(sources, "PATIENCE", 0.3)
    camera = CameraSource(0)
    plug.plugged = False
    with pytest.raises(UserError, match="camera 0, which has given no picture"):
        for frame, _ in camera:
            assert frame is None
    assert camera._camera is None


def test_of_pushed_frames_the_newest_comes_and_none_where_there_is_none(monkeypatch):
    monkeypatch.setattr(sources, "ABSENT", 0.05)
    source = PushedSource()
    for number in range(3):
        source.put(np.full((2, 2, 3), number, np.uint8), float(number))
    frames = iter(source)
    frame, at = next(frames)
    assert frame.max() == 2 and at == 2.0
    assert next(frames)[0] is None
    threading.Timer(0.1, source.close).start()
    assert all(frame is None for frame, _ in frames)  # and ends


def test_a_page_that_sends_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(sources, "ABSENT", 0.02)
    monkeypatch.setattr(sources, "PATIENCE", 0.1)
    with pytest.raises(UserError, match="the page's camera, which has given no picture"):
        list(PushedSource())
