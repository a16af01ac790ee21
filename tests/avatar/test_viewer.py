import shutil
import time

import numpy as np
import pytest
import torch

from fportrait.avatar.viewer import strengths_of

pytest.importorskip("viser", reason="the extra `viewer` is not installed")


@pytest.fixture
def viewer(truth):
    from fportrait.avatar.viewer import AvatarViewer
    from fportrait.avatar.views import CaptureFrame
    from fportrait.body.model import Pose

    code = np.zeros(128, np.float32)
    code[0] = 2.0
    opened = AvatarViewer(truth, [CaptureFrame("s0", 0, Pose.rest(), code)], port=0)
    yield opened
    opened.close()


def test_a_slider_without_side_moves_both_sides(truth):
    names = truth.body.action_names
    strengths = strengths_of(truth, {"eyeBlink": 0.7, "jawOpen": 0.2, "yaw": 30.0})
    found = {names[i]: round(float(strengths[i]), 3) for i in torch.nonzero(strengths)[:, 0]}
    assert found == {"eyeBlinkLeft": 0.7, "eyeBlinkRight": 0.7, "jawOpen": 0.2}


def test_the_page_is_served_on_the_loopback_interface_only(viewer):
    assert viewer.url.startswith("http://127.0.0.1:")
    assert viewer.server.get_host() == "127.0.0.1"


def test_controls_move_expression_pose_and_camera_apart(viewer):
    rest, rest_pose = viewer.state()
    viewer.sliders["jawOpen"].value = 0.8
    opened, pose = viewer.state()
    assert opened.actions.sum() == pytest.approx(0.8) and rest.actions.sum() == 0
    assert np.array_equal(pose.head_rotation, rest_pose.head_rotation)
    viewer.sliders["head yaw"].value = 20.0
    still, turned = viewer.state()
    assert torch.equal(still.actions, opened.actions)
    assert turned.head_rotation[0, 2] == pytest.approx(np.sin(np.radians(20.0)))
    before = viewer.camera()
    viewer.sliders["yaw"].value = 90.0
    assert not np.allclose(viewer.camera(), before)
    viewer._recorded.value = 0
    recorded, _ = viewer.state()
    assert torch.equal(recorded.actions, viewer.avatar.expression(torch.from_numpy(viewer.frames[0].code)).actions)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_shows_the_avatar_and_follows_a_slider(viewer):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"):
        options.add_argument(flag)
    options.add_argument("--window-size=700,500")
    options.binary_location = shutil.which("chromium")
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(viewer.url)
        first = _settled(browser, lambda picture: _colourful(picture) > 0.02)
        viewer.sliders["yaw"].value = 60.0
        viewer.sliders["distance"].value = 0.35
        _settled(browser, lambda picture: np.abs(picture[:, :400].astype(int) - first[:, :400]).mean() > 2)
    finally:
        browser.quit()


def _settled(browser, seen, seconds=60.0):
    """The page's picture once it shows what is asked for."""
    import io

    from PIL import Image
    from selenium.common.exceptions import TimeoutException

    picture = np.zeros((8, 8, 3), np.uint8)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            png = browser.get_screenshot_as_png()
        except TimeoutException:  # software rendering on a busy machine
            continue
        picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        if seen(picture):
            return picture
        time.sleep(0.5)
    raise AssertionError(f"the page never showed it: {_colourful(picture):.3f} of it is coloured")


def _colourful(picture):
    """Share of the left part of the page (right of it are the controls) that is neither grey nor white."""
    return float((np.ptp(picture[:, :400].astype(int), axis=2) > 40).mean())
