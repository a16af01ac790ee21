"""A face is painted from those frames of its person that show it as it is asked for, and from no other."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.body.blending import (
    FaceBlend,
    Texture,
    behind_lips,
    expected_errors,
    face_moves,
    face_points,
    headness,
    view_of,
)
from fportrait.body.model import load_body
from fportrait.body.painting import PortraitPainter, acting_vertices
from fportrait.body.pose import Pose, rotation_matrix
from fportrait.body.warping import Target

SIZE = 64
LENS = np.array([[215.0, 0, 32], [0, 215.0, 32], [0, 0, 1]])
BODY = load_body()
REST, SMILE = np.zeros(52, np.float32), np.zeros(52, np.float32)
SMILE[[BODY.action_names.index(name) for name in ("mouthSmileLeft", "mouthSmileRight", "jawOpen")]] = 0.8


def before_camera(actions: np.ndarray, yaw: float = 0.0) -> np.ndarray:
    """Vertices `V 3` of a head a metre away, upright before an OpenCV camera."""
    pose = Pose(np.eye(3), np.zeros(3), rotation_matrix(np.array([0, np.radians(yaw), 0])))
    return acting_vertices(BODY, np.zeros(BODY.identity_dim), actions, pose) * (1, -1, -1) + (0, 0, 1.0)


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    across, down = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    waves = 40 * np.sin(across / 3) * np.cos(down / 4)
    return np.clip(waves[..., None] + (150, 120, 100), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def own(portrait) -> PortraitPainter:
    return PortraitPainter(BODY, portrait, before_camera(REST), LENS, 2)


def target(actions: np.ndarray, yaw: float = 0.0) -> Target:
    return Target(before_camera(actions, yaw), LENS, BODY.faces, (SIZE, SIZE), 2)


def texture(picture: np.ndarray, actions: np.ndarray, known: bool = True) -> Texture:
    painter = PortraitPainter(BODY, picture, before_camera(actions), LENS, 1)
    return Texture(painter, actions, np.full(picture.shape[:2], known))


@pytest.fixture(scope="module")
def laughing(own) -> tuple[np.ndarray, tuple[slice, slice]]:
    """What the person looks like laughing: the portrait so, with a fold in the cheek that it does not show."""
    picture = own.paint(target(SMILE))
    fold = (slice(38, 44), slice(22, 25))
    picture[fold] = picture[fold] // 2
    return picture, fold


def test_a_face_that_laughs_has_the_folds_of_the_frame_that_laughs(own, laughing):
    picture, fold = laughing
    blend = FaceBlend(own, REST, [texture(picture, SMILE)])
    assert (blend.misfits[0] == 0).all() and np.isfinite(blend.misfits).all()
    drawn, there = own.paint(target(SMILE)), target(SMILE)
    painted = blend.paint(drawn, there, SMILE)
    assert (
        np.abs(painted[fold].astype(int) - picture[fold]).mean()
        < 0.3 * np.abs(drawn[fold].astype(int) - picture[fold]).mean()
    )
    assert painted.shape == drawn.shape and painted.dtype == np.uint8
    outside = ~there.covered.reshape(SIZE, 2, SIZE, 2).any((1, 3))
    assert np.array_equal(painted[outside], drawn[outside]), "nothing but the head is painted from frames"


def test_as_the_portrait_shows_it_the_face_is_the_portraits(own, laughing):
    blend = FaceBlend(own, REST, [texture(laughing[0], SMILE)])
    drawn = own.paint(target(REST))
    assert np.abs(blend.paint(drawn, target(REST), REST).astype(int) - drawn).mean() < 1


def test_another_exposure_is_matched_to_the_portraits(own, laughing):
    picture, fold = laughing
    darker = (picture * 0.6).astype(np.uint8)
    blend = FaceBlend(own, REST, [texture(darker, SMILE)])
    assert blend.gains == pytest.approx(1 / 0.6, rel=0.1)
    painted = blend.paint(own.paint(target(SMILE)), target(SMILE), SMILE)
    assert np.abs(painted[fold].astype(int) - picture[fold]).mean() < 12


@pytest.mark.parametrize("what", ["somebody else", "beside the file"])
def test_a_frame_that_does_not_show_the_person_counts_for_nothing(own, laughing, what):
    noise = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3)).astype(np.uint8)
    one = texture(noise, SMILE) if what == "somebody else" else texture(laughing[0], SMILE, known=False)
    blend = FaceBlend(own, REST, [one])
    drawn = own.paint(target(SMILE))
    painted = blend.paint(drawn, target(SMILE), SMILE)
    if what == "beside the file":
        assert np.isinf(blend.misfits[1]).all() and np.array_equal(painted, drawn)
    assert np.abs(painted.astype(int) - drawn).mean() < 1.5


def test_what_is_expected_grows_with_the_turn_and_the_expression():
    straight, aside = view_of(BODY, before_camera(REST)), view_of(BODY, before_camera(REST, 20))
    assert np.degrees(np.arccos(straight @ aside)) == pytest.approx(20, abs=3)  # its neck takes it aside
    assert view_of(BODY, before_camera(SMILE)) == pytest.approx(straight, abs=0.02), "an expression is no turn"
    views, moves = np.stack([straight] * 2), np.stack([face_moves(BODY, REST), face_moves(BODY, SMILE)])
    rest, smile = expected_errors(BODY, views, moves, straight, moves[0])
    assert (rest < 0.1).all() and smile[1] > smile[0] and smile[1] > 10, "a smile is of the lower face"
    assert (expected_errors(BODY, views, moves, aside, moves[0])[0] > 100).all()
    modes, lower, nose = face_points(BODY)
    assert modes.shape[:2] == (52, len(lower)) and 0.3 < lower.mean() < 0.7 and nose < 0


def test_other_clothes_do_not_make_a_frame_a_stranger(own, laughing):
    picture = own.paint(target(SMILE))
    there = target(SMILE)
    torso = np.flatnonzero(headness(BODY, there) == 0)
    other = picture.copy()
    other.reshape(-1, 3)[
        np.unique(there.places[torso] // (2 * SIZE) // 2 * SIZE + there.places[torso] % (2 * SIZE) // 2)
    ] = 0
    same, dressed = (FaceBlend(own, REST, [texture(one, SMILE)]).misfits[1] for one in (picture, other))
    assert (other != picture).any() and dressed == pytest.approx(same, abs=3)


STRIPES = np.array([230, 200, 60], np.uint8)  # no usual tooth has such a colour


def toothy(own: PortraitPainter, actions: np.ndarray) -> np.ndarray:
    """What the person looks like acting so, with teeth of `STRIPES`."""
    there = target(actions)
    picture, mouth = own.paint(there), np.zeros(there.covered.size, np.float32)
    mouth[there.places[behind_lips(BODY, there)]] = 1
    picture[mouth.reshape(SIZE, 2, SIZE, 2).mean((1, 3)) > 0] = STRIPES
    return picture


def in_mouth(painted: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Colours `M 3` of the pixels that lie in the mouth wholly."""
    there, mouth = target(actions), np.zeros(4 * SIZE**2)
    mouth[there.places[behind_lips(BODY, there)]] = 1
    return painted[mouth.reshape(SIZE, 2, SIZE, 2).mean((1, 3)) == 1].astype(int)


def test_teeth_are_those_of_the_frame_whose_lips_are_as_far_apart(own):
    """Others see slivers of what is inside a mouth, and the portrait, closed, sees none."""
    parted = 0.3 * SMILE
    blend = FaceBlend(own, REST, [texture(toothy(own, SMILE), SMILE), texture(own.paint(target(parted)), parted)])
    shown = in_mouth(blend.paint(own.paint(target(SMILE)), target(SMILE), SMILE), SMILE)
    assert len(shown) > 10 and np.abs(shown - STRIPES).mean() < 12


def test_a_mouth_that_no_frame_opens_as_far_is_drawn_without_a_speck(own):
    """Slivers of what lies between lips that are hardly parted, mixed, were a mouth full of dots."""
    parted = 0.3 * SMILE
    blend = FaceBlend(own, REST, [texture(toothy(own, parted), parted)])
    drawn = own.paint(target(SMILE))
    assert np.abs(in_mouth(blend.paint(drawn, target(SMILE), SMILE), SMILE) - in_mouth(drawn, SMILE)).max() <= 1


def test_what_a_mouth_shows_changes_without_a_jump_as_it_opens(own):
    frame, pictures = texture(toothy(own, 0.6 * SMILE), 0.6 * SMILE), []
    blend = FaceBlend(own, REST, [frame])
    for share in np.arange(0.6, 1.3, 0.05):
        acts = share * SMILE / 0.8
        pictures.append(np.median(in_mouth(blend.paint(own.paint(target(acts)), target(acts), acts), acts), 0))
    steps, whole = np.abs(np.diff(pictures, axis=0)).max(), np.abs(pictures[-1] - pictures[0]).max()
    assert whole > 60 and steps < 0.7 * whole
