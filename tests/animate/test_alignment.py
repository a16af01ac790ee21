"""Head and expression are brought to where the portrait's pixels fit a frame's."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.animate import Animator
from fportrait.animate.alignment import INNER_LIPS, MARKS, SIZE, TRACK_SPREAD, Aligner, Scene, marks, over_face
from fportrait.animate.tracked import portrait_painter
from fportrait.body.model import load_body
from fportrait.bundle import SHIPPED_BASE
from fportrait.camera.cameras import crop_intrinsics, in_camera
from fportrait.capture.people import sample_person
from fportrait.capture.video_io import write_image
from fportrait.capture.world import sample_training_clip
from fportrait.dataset.crops import crop_picture
from fportrait.tracking.segments import segment_codes

# Radians and metres in the camera's axes: a pixel of 128, three times what tracks are off by.
MOVED = np.array([0.012, -0.01, 0.008, 0.0015, -0.001, 0.004])


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A scene, and the portrait's own points and (rotation, translation, code)."""
    animator, body = Animator(SHIPPED_BASE), load_body()
    clip = sample_training_clip(np.random.default_rng(12), body, "phone", 1, 192, person=sample_person(12, body))
    path = write_image(tmp_path_factory.mktemp("alignment") / "me.png", clip["video"][0])
    person, image = animator.tracked_portrait(path)
    code = segment_codes(person.track, animator.encoder)[0]
    own = animator.encoder.readout(code)
    painter = portrait_painter(body, person, crop_picture(image, person.crop, SIZE), own, samples=1)
    lens = crop_intrinsics(person.intrinsics, person.crop, SIZE)
    along = np.stack(list(animator.directions.values()))
    where = (person.shape, person.offsets, person.track.cameras[0], lens)
    beside = person.landmarks(SIZE)[0][MARKS] - marks(body, painter.vertices, painter.intrinsics)
    scene = Scene(body, painter, *where, animator.encoder.readout, along, beside)
    pose = person.track.rotations[0], person.track.translations[0], code
    return scene, person.landmarks(SIZE)[0], pose


def frame_of(scene, pose, change):
    """What a camera would have seen of such a change."""
    return np.clip(scene.draw(*pose, change)[0] + 0.5, 0, 255).astype(np.uint8)


def found_in(scene, pose, change, points):
    """The landmarks that would be found in it, to a third of a pixel; those of lips and lids, which are looked at."""
    found = points.copy()
    found[MARKS] = scene.draw(*pose, change)[1] + np.random.default_rng(0).normal(0, 0.33, (len(MARKS), 2))
    return found


def changed(scene):
    """A change of nothing but the pose."""
    return np.concatenate([MOVED, np.zeros(len(scene.along))])


def pixels_off(scene, pose, change, wanted):
    """Mean distance in pixels between where two changes put what lies in front of the head's middle."""

    def places(of):
        rotation, translation = scene.moved(*pose[:2], of)
        ahead = np.array([[x, y, 0.08] for x in (-0.05, 0, 0.05) for y in (-0.07, 0, 0.07)])
        seen = in_camera(ahead @ rotation.T + translation, scene.camera) @ scene.lens.T
        return seen[:, :2] / seen[:, 2:]

    return float(np.linalg.norm(places(change) - places(wanted), axis=1).mean())


@pytest.mark.parametrize(
    ("seen", "bound"),
    [
        (lambda frame: frame, 0.35),
        (lambda frame: (0.7 * frame + 20).astype(np.uint8), 0.35),  # exposure is nobody's motion
        (lambda frame: np.where(np.arange(SIZE)[:, None, None] > 0.62 * SIZE, 40, frame).astype(np.uint8), 0.7),
    ],
    ids=["as it is", "darker", "a hand before the mouth"],
)
def test_a_head_that_stands_elsewhere_than_its_track_is_found(known, seen, bound):
    scene, points, pose = known
    wanted = changed(scene)
    found = Aligner(scene)(seen(frame_of(scene, pose, wanted)), found_in(scene, pose, wanted, points), *pose)
    before, after = (pixels_off(scene, pose, change, wanted) for change in (0 * wanted, found))
    assert before > 0.8 and after < bound * before, (before, after)


def test_an_expression_that_codes_missed_is_found(known):
    scene, points, pose = known
    wanted = np.zeros(6 + len(scene.along))
    wanted[6 + 2] = 0.3  # the jaw
    found = Aligner(scene)(frame_of(scene, pose, wanted), found_in(scene, pose, wanted, points), *pose)
    told = scene.tell(found[6:] @ scene.along) - scene.tell(np.zeros_like(pose[2]))
    asked = scene.tell(wanted[6:] @ scene.along) - scene.tell(np.zeros_like(pose[2]))
    jaw = scene.body.action_names.index("jawOpen")
    assert told[jaw] > 0.35 * asked[jaw]  # teeth that come into view, which no derivative foretells, hold it back


def test_what_lies_between_the_lips_counts_for_nothing(known):
    scene, _, pose = known
    opened = np.zeros(6 + len(scene.along))
    opened[6 + 2] = 0.8  # the jaw
    points = known[1].copy()
    points[MARKS] = scene.draw(*pose, opened)[1]
    weights = over_face(points)
    x, y = points[INNER_LIPS].mean(0).astype(int)
    assert weights[y, x] < 0.02
    x, y = points[[1, 199]].astype(int).T  # nose and chin
    assert weights[y, x].min() > 0.98


def test_a_smile_that_pixels_cannot_show_is_kept_as_its_landmarks_have_it(known):
    scene, points, pose = known
    none, smiling = np.zeros((2, 6 + len(scene.along)))
    smiling[6 + 3] = 0.5
    frame, smile = frame_of(scene, pose, none), (pose[0], pose[1], pose[2] + 0.5 * scene.along[3])
    rests, smiles = (Aligner(scene)(frame, found_in(scene, pose, of, points), *smile) for of in (none, smiling))
    assert rests[6 + 3] < -0.3 and smiles[6 + 3] > -0.12


def test_what_is_no_view_of_the_portrait_moves_nothing_far(known):
    scene, points, pose = known
    noise = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3)).astype(np.uint8)
    for frame in (noise, np.zeros_like(noise)):
        found = Aligner(scene)(frame, points, *pose)
        assert np.isfinite(found).all()
        assert (np.abs(found[:6]) < 3 * TRACK_SPREAD).all()


def test_a_face_outside_the_picture_is_left_where_it_is(known):
    scene, points, pose = known
    frame = frame_of(scene, pose, changed(scene))
    assert not Aligner(scene)(frame, points + 5 * SIZE, *pose).any()


def test_like_frames_share_their_derivatives(known, monkeypatch):
    scene, points, pose = known
    drawn = []
    monkeypatch.setattr(Scene, "draw", lambda self, *what: drawn.append(1) or DRAW(self, *what))
    align, frame = Aligner(scene), frame_of(scene, pose, changed(scene))
    counts = []
    for _ in range(2):
        drawn.clear()
        align(frame, points, *pose)
        counts.append(len(drawn))
    assert counts[0] - counts[1] == 6 + len(scene.along)


DRAW = Scene.draw
