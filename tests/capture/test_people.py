import subprocess
import sys

import numpy as np
import pytest

from fportrait.body.model import Pose, load_body
from fportrait.camera.cameras import intrinsics_from_fov, project
from fportrait.capture import shading
from fportrait.capture.hair import STYLES
from fportrait.capture.motion import rotation_from_degrees
from fportrait.capture.people import _stage, render, sample_person
from fportrait.capture.world import HEAD_TARGET, orbit_camera
from fportrait.errors import UserError

BODY = load_body()
SIZE = 128
INTRINSICS = intrinsics_from_fov(36.2, SIZE, SIZE)


def picture(person, size=SIZE, yaw=0.0, pose=None, **strengths):
    actions = np.zeros(52)
    for name, strength in strengths.items():
        for column in [name] if name in BODY.action_names else [name + "Left", name + "Right"]:
            actions[BODY.action_names.index(column)] = strength
    intrinsics = np.diag([size / SIZE, size / SIZE, 1]) @ INTRINSICS
    camera = orbit_camera(yaw, 0.0, 0.55, HEAD_TARGET)
    return render(person, actions, pose or Pose.rest(), camera, intrinsics, size, 2, BODY)


def box(person, marks, size, margin):
    """Rows and columns around some of the 478 landmarks of the neutral front view."""
    points = BODY.landmarks(BODY.vertices(person.identity, None, Pose.rest()))[marks]
    pixels, _ = project(points, orbit_camera(0, 0, 0.55, HEAD_TARGET), INTRINSICS)
    pixels = pixels * size / SIZE
    low, high = pixels.min(0) - margin, pixels.max(0) + margin
    return slice(int(low[1]), int(high[1]) + 1), slice(int(low[0]), int(high[0]) + 1)


def test_the_same_seed_is_the_same_person_bit_for_bit_and_another_seed_another():
    one, again, other = sample_person(11, BODY), sample_person(11, BODY), sample_person(12, BODY)
    assert np.array_equal(one.texture, again.texture) and np.array_equal(one.look, again.look)
    assert np.array_equal(one.identity, again.identity)
    assert np.array_equal(picture(one, jawOpen=0.5), picture(again, jawOpen=0.5))
    assert np.abs(picture(one).astype(int) - picture(other)).mean() > 10
    with pytest.raises(UserError, match="-1"):
        sample_person(-1, BODY)


@pytest.mark.parametrize("seed", [0, 1, 4, 6, 7])
def test_expressions_change_the_picture_where_they_should_even_when_it_is_small(seed):
    person = sample_person(seed, BODY)
    mouth, eyes = [13, 14, 61, 291, 0, 17], [33, 133, 362, 263, 159, 145, 386, 374]
    below = [*mouth, 200]  # an open mouth reaches down to the chin
    neutral = picture(person, 64).astype(int)
    wanted = {  # where, the minimum of the mean change there and of its peak, in grey levels
        "jawOpen": (below, 6, 60),
        "mouthSmile": (mouth, 2, 20),
        "mouthPucker": (mouth, 2.5, 14),
        "mouthFunnel": (mouth, 3, 25),
        "tongueOut": (below, 5, 25),
        "eyeBlink": (eyes, 3, 25),
    }
    for name, (marks, mean, peak) in wanted.items():
        changed = np.abs(picture(person, 64, **{name: 1.0}) - neutral).mean(axis=2)
        inside = changed[box(person, marks, 64, 2)]
        upper = changed[:10]  # hair and background stay
        assert inside.mean() > mean and inside.max() > peak, name
        assert inside.mean() > 8 * upper.mean(), name


@pytest.mark.parametrize("seed", [0, 1, 4, 6, 7])
def test_an_open_mouth_shows_a_dark_inside_and_shut_lids_hide_the_white_of_the_eyes(seed):
    person = sample_person(seed, BODY)
    closed, opened = picture(person), picture(person, jawOpen=1.0)
    rows, columns = box(person, [13, 14], SIZE, 2)
    rows = slice(rows.start, rows.stop + 14)
    assert opened[rows, columns].min() < 0.6 * closed[rows, columns].min() + 25
    skin = picture(person, eyeBlink=1.0)[box(person, [159, 145], SIZE, 0)].astype(int)
    eyes = closed[box(person, [159, 145], SIZE, 0)].astype(int)
    assert skin.std(axis=(0, 1)).mean() < eyes.std(axis=(0, 1)).mean() + 20
    assert np.abs(skin - eyes).mean() > 8


@pytest.fixture(scope="module")
def crowd():
    """What is checked of sixty people (their textures would fill memory)."""
    people = (sample_person(seed, BODY) for seed in range(60))
    return [(p.hair.style, p.hair.scalp.max(), p.look[shading.LOOK["neckline"]], p.palette.skin) for p in people]


def test_everybody_is_clothed_and_nobody_is_bald_by_accident(crowd):
    garment = _stage(BODY).materials[: len(BODY.faces)] == shading.TORSO
    torso = BODY.part == BODY.part_names.index("torso")
    assert garment[torso[BODY.faces].all(axis=1)].all()
    for style, scalp, neckline, _ in crowd:
        lowest = neckline[0] - 0.045 * neckline[2]  # the point of a V
        assert lowest > BODY.template[:, 1].min() + 0.05  # cloth above the lower edge of the body
        assert neckline[0] > -0.18 and neckline[1] >= 0  # and over both shoulders, within a portrait's picture
        assert style == "bald" or scalp > 0.8
    styles = {style for style, *_ in crowd}
    assert len(styles) >= 7 and styles <= set(STYLES)


def test_skin_tones_cover_the_human_range(crowd):
    tones = np.array([skin for *_, skin in crowd]) @ [0.2126, 0.7152, 0.0722]
    assert tones.min() < 0.08 and tones.max() > 0.55
    assert np.histogram(tones, bins=4, range=(0.03, 0.75))[0].min() >= 5


def test_a_turned_head_from_the_front_looks_like_a_still_head_from_the_side():
    person = sample_person(3, BODY)
    turned = picture(person, pose=Pose(np.eye(3), np.zeros(3), rotation_from_degrees(-30, 0, 0)))
    # the nose lies on the same side of the centre between the eyes: light and place differ, so only places compare
    for image_pose, yaw in ((Pose(np.eye(3), np.zeros(3), rotation_from_degrees(-30, 0, 0)), 0.0), (Pose.rest(), 30.0)):
        points = BODY.landmarks(BODY.vertices(person.identity, None, image_pose))
        pixels, _ = project(points, orbit_camera(yaw, 0.0, 0.55, HEAD_TARGET), INTRINSICS)
        assert 5 < pixels[[33, 263], 0].mean() - pixels[1, 0] < 25
        bright = picture(person, yaw=yaw, pose=image_pose)[int(pixels[1, 1]), int(pixels[1, 0])]
        assert np.abs(bright.astype(int) - turned[0, 0]).max() > 20  # the nose is painted where it is said to be


def test_a_picture_of_any_shape_and_size_shows_the_same_person():
    person = sample_person(5, BODY)
    large = picture(person, 256).astype(float)
    small = picture(person, 64).astype(float)
    averaged = large.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(averaged - small).mean() < 2.5
    wide = render(person, None, Pose.rest(), orbit_camera(0, 0, 0.55, HEAD_TARGET), INTRINSICS, (SIZE, 160), 1, BODY)
    assert wide.shape == (SIZE, 160, 3) and wide.dtype == np.uint8


def test_the_face_landmarker_finds_the_face_of_everybody_within_three_percent():
    tracking = pytest.importorskip("fportrait.tracking.landmarks")
    finder = tracking.FaceLandmarker()
    errors = []
    for seed in range(12):
        person = sample_person(seed, BODY)
        yaw = (-25.0, 0.0, 25.0)[seed % 3]
        faces = finder.detect(picture(person, 256, yaw, mouthSmile=float(seed % 2)))
        assert len(faces) == 1, seed
        actions = np.zeros(52)
        for side in ("Left", "Right"):
            actions[BODY.action_names.index("mouthSmile" + side)] = seed % 2
        points = BODY.landmarks(BODY.vertices(person.identity, actions, Pose.rest()))
        pixels, _ = project(points, orbit_camera(yaw, 0, 0.55, HEAD_TARGET), INTRINSICS)
        inner = [1, 4, 33, 133, 362, 263, 61, 291, 13, 14, 152]  # nose, eyes, mouth, chin
        errors.append(np.linalg.norm(faces[0].landmarks[inner] - 2 * pixels[inner], axis=1).mean() / 256)
    assert np.mean(errors) < 0.03, errors


STOPPED = """
import signal
from fportrait.body.model import load_body
from fportrait.capture import hair
from fportrait.capture.people import sample_person

def stop(*_):
    raise KeyboardInterrupt

def interrupted(centre, rays, *rest):
    cast(centre, rays[:0], *rest)  # compiled now
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    return cast(centre, rays, *rest)

signal.signal(signal.SIGALRM, stop)
cast, hair._cast = hair._cast, interrupted
try:
    sample_person(3, load_body())
except KeyboardInterrupt:
    print("stopped")
"""


def test_the_first_person_can_be_interrupted():
    """Ctrl+C while rays are cast at the skull (some seconds, once a process) was a segmentation fault."""
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr[-500:]
