import cv2
import numpy as np
import pytest

from fportrait.body.model import Pose, load_body
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.capture import shading
from fportrait.capture.motion import rotation_from_degrees
from fportrait.capture.people import person_vertices, render, sample_person
from fportrait.capture.variety import Extras, flatten_under
from fportrait.capture.variety.lights import key_light
from fportrait.capture.variety.marks import sample_marks
from fportrait.capture.variety.scenery import PHOTOGRAPHS, cloth_picture, photographs, scene_picture
from fportrait.capture.variety.wear import Piece
from fportrait.capture.world import HEAD_TARGET, orbit_camera, sample_training_clip
from fportrait.errors import UserError

BODY = load_body()
SIZE = 48
WILD = [sample_person(seed, BODY, 1.0) for seed in range(12)]


def picture(person, pose=None, yaw=0.0, **strengths):
    actions = np.zeros(52)
    for name, value in strengths.items():
        actions[BODY.action_names.index(name)] = value
    camera = orbit_camera(yaw, 0.0, 0.55, HEAD_TARGET)
    return render(person, actions, pose or Pose.rest(), camera, intrinsics_from_fov(32, SIZE, SIZE), SIZE, 2, BODY)


def test_without_variety_a_person_has_nothing_of_the_wide_world():
    plain, asked = sample_person(5, BODY), sample_person(5, BODY, 0.0)
    assert np.array_equal(plain.texture, asked.texture) and np.array_equal(plain.look, asked.look)
    extras = plain.extras
    assert extras.warp is None and extras.wear is None
    assert not (extras.tint.size or extras.cloth.size or extras.backdrop.size)
    assert plain.look[shading.LOOK["shadow"]][0] == 0


def test_a_seed_is_one_wild_person_bit_for_bit_and_looks_like_nobody_else():
    again = sample_person(3, BODY, 1.0)
    assert np.array_equal(WILD[3].texture, again.texture) and np.array_equal(picture(WILD[3]), picture(again))
    assert not np.array_equal(WILD[3].texture, WILD[4].texture)


def test_wild_faces_are_less_alike_than_plain_ones():
    def alike(people):  # mean correlation of two people's faces, at the texture's coarse scale
        faces = [cv2.resize(np.log(p.texture[150:420, 300:724].mean(-1) + 0.01), (24, 16)).ravel() for p in people]
        return np.corrcoef(faces)[np.triu_indices(len(faces), 1)].mean()

    assert alike(WILD) < 0.75 * alike([sample_person(seed, BODY) for seed in range(len(WILD))])


@pytest.mark.parametrize("variety", [-0.1, 1.5])
def test_a_variety_out_of_range_is_refused(variety):
    with pytest.raises(UserError, match="variety"):
        sample_person(1, BODY, variety)


@pytest.mark.parametrize("variety", [0.05, 0.5, 1.0])
def test_every_amount_of_variety_renders_every_kind_of_clip(variety):
    for kind in ("phone", "faces"):
        clip = sample_training_clip(np.random.default_rng(2), BODY, kind, 2, 32, variety=variety)
        assert clip["video"].shape == (2, 32, 32, 3) and clip["video"].std() > 5
        assert clip["person"].seed == clip["person_seed"]


def test_an_open_mouth_shows_on_wild_faces_too():
    changed = [np.abs(picture(p, jawOpen=1.0).astype(int) - picture(p)).mean((0, 2)) for p in WILD[:8]]
    assert np.median([change.max() for change in changed]) > 8


def test_the_wild_shape_is_closed_smooth_and_leaves_the_shoulders_alone():
    warped = [person for person in WILD if person.extras.warp is not None]
    assert len(warped) == len(WILD)
    shoulders = np.asarray(BODY.template)[:, 1] < -0.18
    for person in warped[:6]:
        warp = person.extras.warp
        assert not warp[shoulders].any() and 0.002 < np.linalg.norm(warp, axis=1).max() < 0.06
        edges = np.asarray(BODY.faces)[:, :2]
        stretch = np.linalg.norm(warp[edges[:, 0]] - warp[edges[:, 1]], axis=1)
        length = np.linalg.norm(np.diff(np.asarray(BODY.template)[edges], axis=1)[:, 0], axis=1)
        assert (stretch < 0.9 * length + 1e-4).mean() > 0.999  # no edge folds over
        first = np.unique(BODY.weld, return_index=True)[1]
        assert np.allclose(warp, warp[first][BODY.weld], atol=1e-5)  # seams stay shut


def test_what_is_worn_turns_rigidly_with_the_head():
    piece: Piece = next(piece for person in WILD if person.extras.wear for piece in person.extras.wear.pieces)
    person = next(p for p in WILD if p.extras.wear and piece in p.extras.wear.pieces)
    turn = rotation_from_degrees(20, 10, 5)
    rest = piece.vertices(person_vertices(person, None, Pose.rest(), BODY), np.eye(3))
    pose = Pose(np.eye(3), np.zeros(3), turn)
    moved = piece.vertices(person_vertices(person, None, pose, BODY), turn)
    assert np.allclose((rest - rest[0]) @ turn.T, moved - moved[0], atol=1e-5)


def test_hair_lies_flat_under_a_hat_and_free_below_it():
    person = next(
        p for p in WILD if p.extras.wear and p.extras.wear.headgear and p.extras.wear.headgear.style != "band"
    )
    thick = person.hair.offsets.reshape(96, 30, 3) * 0 + [0.0, 0.05, 0.0]
    hair = type(person.hair)(**{**vars(person.hair), "offsets": thick.reshape(-1, 3)})
    flat = np.linalg.norm(flatten_under(hair, person.extras.wear.headgear).offsets.reshape(96, 30, 3), axis=-1)
    assert np.allclose(flat[:, 0], 0.006) and flat.max() == pytest.approx(0.05)


def test_hats_hair_glasses_and_backgrounds_all_occur():
    wear = [p.extras.wear for p in WILD if p.extras.wear]
    assert any(w.headgear for w in wear) and any(w.pieces for w in wear)
    assert sum(p.extras.backdrop.size > 0 for p in WILD) > 6
    assert len({p.hair.style for p in WILD}) > 1


def test_a_lamp_from_one_side_leaves_the_other_side_in_shadow():
    vertices = BODY.vertices(np.zeros(BODY.identity_dim), None, Pose.rest())
    lit = key_light(vertices, BODY.faces, np.array([1.0, 0.0, 0.0]), 0.8)
    ears = np.asarray(BODY.part) == list(BODY.part_names).index("ears")
    left, right = ears & (vertices[:, 0] > 0.06), ears & (vertices[:, 0] < -0.06)
    assert lit.min() >= 0.2 - 1e-9 and lit.max() <= 1
    assert lit[left].mean() > 0.7 and lit[right].mean() < 0.3
    assert (key_light(vertices, BODY.faces, np.array([1.0, 0.0, 0.0]), 0.0) == 1).all()


def test_a_camera_without_marks_changes_nothing_and_one_with_marks_marks_alike():
    rng = np.random.default_rng(0)
    frame = picture(WILD[0])
    assert np.array_equal(sample_marks(rng, 0.0)(frame, rng), frame)
    differing = []
    for seed in range(12):
        marks = sample_marks(np.random.default_rng(seed), 1.0, frame)
        once, twice = marks(frame, np.random.default_rng(1)), marks(frame, np.random.default_rng(2))
        assert once.shape == frame.shape and once.dtype == np.uint8
        assert np.abs(once.mean((0, 1)) - twice.mean((0, 1))).max() < 4  # grain differs, the colours do not
        differing.append(np.abs(once.astype(int) - frame).mean())
    assert np.median(differing) > 10


def test_marks_expose_dark_and_bright_pictures_alike():
    dark, bright = np.full((32, 32, 3), 60, np.uint8), np.full((32, 32, 3), 200, np.uint8)
    levels = [
        np.median(
            [sample_marks(np.random.default_rng(s), 1.0, p)(p, np.random.default_rng(0)).mean() for s in range(15)]
        )
        for p in (dark, bright)
    ]
    assert abs(levels[1] - levels[0]) < 0.65 * 140


def test_photographs_are_those_listed_and_scenes_are_pictures():
    loaded = photographs()
    assert len(loaded) == len(PHOTOGRAPHS) and all(max(p.shape[:2]) == 256 for p in loaded)
    assert all("CC0" in licence or "public domain" in licence for licence in PHOTOGRAPHS.values())
    rng = np.random.default_rng(1)
    scenes = np.stack([scene_picture(rng, 32, share) for share in (0.0, 1.0, 0.5, 0.5)])
    cloths = np.stack([cloth_picture(rng, (24, 32)) for _ in range(12)])
    for pictures in (scenes, cloths):
        assert pictures.dtype == np.float32 and pictures.min() >= 0 and pictures.max() <= 1
    assert np.abs(scenes[0] - scenes[1]).mean() > 0.02


def test_lost_photographs_are_an_error_that_names_the_package(monkeypatch):
    photographs.cache_clear()
    monkeypatch.setattr(cv2, "imread", lambda *_: None)
    with pytest.raises(UserError, match="scikit-image"):
        photographs()
    monkeypatch.undo()
    assert photographs()


def test_people_made_by_hand_need_no_extras():
    assert Extras().warp is None and Extras().backdrop.shape == (0, 0, 3)
