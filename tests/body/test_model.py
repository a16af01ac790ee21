import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fportrait.body.model import NECK_SHARE, Pose, load_body, rotation_matrix, rotation_vector
from fportrait.body.rasterizer import rasterize
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.camera.paths import orbit
from fportrait.errors import UserError

SEEDS = st.integers(0, 2**32 - 1)
BODY = load_body()
MEAN = np.zeros(BODY.identity_dim)


def action(**strengths: float) -> np.ndarray:
    values = np.zeros(52)
    for name, strength in strengths.items():
        values[BODY.action_names.index(name)] = strength
    return values


def in_part(*names: str) -> np.ndarray:
    return np.isin(BODY.part, [BODY.part_names.index(name) for name in names])


def move_of(**strengths: float) -> np.ndarray:
    """How far each vertex moves, `V 3` millimetres."""
    return 1e3 * (BODY.vertices(MEAN, action(**strengths), Pose.rest()) - BODY.neutral(MEAN))


def random_pose(rng: np.random.Generator) -> Pose:
    return Pose(Rotation.random(rng=rng).as_matrix(), rng.normal(size=3), rotation_matrix(rng.uniform(-0.6, 0.6, 3)))


@given(SEEDS)
@settings(deadline=None)
def test_rotation_vectors_and_matrices_are_each_others_inverse(seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(4, 3)) * rng.choice([1e-9, 1e-4, 0.5])
    matrices = rotation_matrix(vectors)
    assert np.allclose(matrices, Rotation.from_rotvec(vectors).as_matrix(), atol=1e-12)
    assert np.allclose(rotation_vector(matrices), vectors, atol=1e-7)


def test_at_rest_the_posed_body_is_the_neutral_body():
    identity = np.random.default_rng(0).normal(size=BODY.identity_dim)
    assert np.abs(BODY.vertices(identity, None, Pose.rest()) - BODY.neutral(identity)).max() < 1e-6
    assert np.array_equal(BODY.vertices(MEAN, np.zeros(52), Pose.rest()), BODY.vertices(MEAN, None, Pose.rest()))
    assert np.array_equal(BODY.neutral(MEAN), BODY.template)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_the_root_carries_everything_rigidly(seed):
    rng = np.random.default_rng(seed)
    pose, identity = random_pose(rng), rng.normal(size=BODY.identity_dim)
    alone = BODY.vertices(identity, None, Pose(np.eye(3), np.zeros(3), pose.head_rotation))
    carried = BODY.vertices(identity, None, pose)
    assert np.allclose(carried, alone @ pose.body_rotation.T + pose.body_translation, atol=1e-5)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_turning_the_head_leaves_the_torso_still_and_turns_the_skull_as_asked(seed):
    rng = np.random.default_rng(seed)
    rotation, identity = rotation_matrix(rng.uniform(-0.6, 0.6, 3)), rng.normal(size=BODY.identity_dim)
    rest = BODY.neutral(identity)
    posed = BODY.vertices(identity, None, Pose(np.eye(3), np.zeros(3), rotation))
    torso, skull = BODY.skinning[:, 0] == 1, BODY.skinning[:, 2] == 1
    assert torso.sum() > 100
    assert skull.sum() > 2000
    assert np.abs(posed - rest)[torso].max() < 1e-6
    still, moved = rest[skull] - rest[skull].mean(0), posed[skull] - posed[skull].mean(0)
    assert np.abs(moved - still @ rotation.T).max() < 1e-5


def test_the_neck_joint_takes_its_share_of_the_turn_and_stays_where_it_is():
    pose = Pose(np.eye(3), np.zeros(3), rotation_matrix([0.0, 0.8, 0.0]))
    rotations, shifts = BODY.bone_transforms(MEAN, pose)
    assert np.allclose(rotation_vector(rotations[1]), [0, 0.8 * NECK_SHARE, 0])
    assert np.allclose(rotation_vector(rotations[2]), [0, 0.8, 0])
    joints = BODY.rest_joints(MEAN)
    assert np.allclose(rotations[1] @ joints[1] + shifts[1], joints[1])
    # the head joint hangs on the neck
    assert np.allclose(rotations[2] @ joints[2] + shifts[2], rotations[1] @ joints[2] + shifts[1])


def test_joints_follow_the_identity_and_stay_in_order_up_the_neck():
    rng = np.random.default_rng(0)
    moved = 0.0
    for _ in range(50):
        joints = BODY.rest_joints(rng.normal(size=BODY.identity_dim))
        assert joints[0, 1] < joints[1, 1] < joints[2, 1]
        assert np.abs(joints[:, 0]).max() < 0.01
        moved = max(moved, np.abs(joints - BODY.joints).max())
    assert moved > 0.002


def test_identity_coefficients_have_unit_variance_of_people():
    """One standard deviation of the first mode is a visible change of the head, and modes come in falling order."""
    head = BODY.template[:, 1] > -0.13
    size = np.linalg.norm(BODY.identity_modes[:, head], axis=2).mean(1)
    assert size[0] > 0.002
    assert size[0] > 4 * size[-1]
    assert size[0] == size.max()


def test_the_template_stands_in_the_world_as_the_contract_says():
    template = BODY.template
    face, back = in_part("eyes"), in_part("scalp")
    assert template[face, 2].mean() > 0.06  # +z out of the face
    assert template[back, 1].max() > 0.09  # +y up
    assert template[in_part("torso"), 1].max() < -0.08
    assert np.abs(template[:, 0].mean()) < 0.005
    left, right = BODY.eye_centres
    assert 0.055 < left[0] - right[0] < 0.075  # metres between the eyes; the left one at +x
    head = BODY.skinning[:, 2] > 0.9
    assert np.abs(0.5 * (template[head].min(0) + template[head].max(0))).max() < 0.02


def test_faces_index_every_vertex_and_weights_are_weights():
    assert BODY.faces.min() == 0
    assert np.array_equal(np.unique(BODY.faces), np.arange(len(BODY.template)))
    assert (BODY.skinning >= 0).all()
    assert np.allclose(BODY.skinning.sum(1), 1, atol=1e-6)
    assert BODY.uv.min() >= 0
    assert BODY.uv.max() <= 1
    assert set(np.unique(BODY.part)) == set(range(len(BODY.part_names)))
    assert len(BODY.action_names) == len(set(BODY.action_names)) == 52


def test_seam_twins_never_part():
    rng = np.random.default_rng(0)
    for _ in range(3):
        posed = BODY.vertices(rng.normal(size=BODY.identity_dim), rng.uniform(0, 1, 52), random_pose(rng))
        first = np.zeros((BODY.weld.max() + 1, 3), np.float32)
        first[BODY.weld] = posed
        assert np.abs(first[BODY.weld] - posed).max() < 1e-5


def test_opening_the_jaw_lowers_the_lower_teeth_and_parts_the_lips():
    down = -move_of(jawOpen=1.0)[:, 1]
    teeth = in_part("teeth")
    upper = teeth & (BODY.template[:, 1] > np.median(BODY.template[teeth, 1]))
    lower = teeth & ~upper
    assert np.percentile(down[lower], 20) > 5
    assert np.median(np.abs(down[upper])) < 0.1
    assert down[in_part("tongue")].mean() > 3


def test_the_jaw_carries_the_landmarks_of_the_lower_lip_and_not_those_of_the_upper():
    down = -BODY.landmarks(move_of(jawOpen=1.0))[:, 1]
    upper, lower = [80, 81, 82, 13, 312, 311, 310], [88, 178, 87, 14, 317, 402, 318]
    assert down[upper].max() < 7
    assert down[lower].min() > 20
    assert BODY.landmark_valid[upper + lower].all()
    rest = BODY.landmarks(BODY.template)
    assert np.linalg.norm(rest[13] - rest[14]) < 0.007  # closed at rest


def eye_share(actions: np.ndarray) -> np.ndarray:
    """Pixels of the left (+x) and right eyeball seen from the front."""
    size = 256
    w2c = orbit(np.zeros(1), np.zeros(1), np.full(1, 0.6))[0]
    vertices = BODY.vertices(MEAN, actions, Pose.rest())
    camera = vertices @ w2c[:3, :3].T + w2c[:3, 3]
    ids, _, _ = rasterize(camera, BODY.faces, intrinsics_from_fov(18, size, size), size, size)
    corner = BODY.faces[ids[ids >= 0], 0]
    eye = in_part("eyes")[corner]
    return np.array([(BODY.template[corner[eye], 0] > 0).sum(), (BODY.template[corner[eye], 0] < 0).sum()])


def test_a_blink_covers_its_own_eye_and_leaves_the_other_open():
    open_eyes = eye_share(np.zeros(52))
    assert open_eyes.min() > 100
    left = eye_share(action(eyeBlinkLeft=1.0))
    assert left[0] < 0.05 * open_eyes[0]
    assert left[1] == open_eyes[1]
    assert eye_share(action(eyeWideLeft=1.0))[0] > 1.1 * open_eyes[0]


def test_smiling_lifts_and_widens_the_mouths_corner_on_its_own_side():
    corners = BODY.landmarks(move_of(mouthSmileLeft=1.0))[[291, 61]]  # left (+x), right
    assert corners[0, 1] > 1.5
    assert corners[0, 0] > 1
    assert np.linalg.norm(corners[1]) < 0.3 * np.linalg.norm(corners[0])


@pytest.mark.parametrize(("name", "axis", "sign"), [("Up", 1, 1), ("Down", 1, -1), ("Out", 0, 1), ("In", 0, -1)])
def test_looking_turns_the_front_of_the_eyeball_that_way(name, axis, sign):
    eye = in_part("eyes") & (BODY.template[:, 0] > 0)
    front = eye & (BODY.template[:, 2] > np.percentile(BODY.template[eye, 2], 80))
    move = move_of(**{f"eyeLook{name}Left": 1.0})
    assert sign * move[front, axis].mean() > 2
    assert np.abs(move[in_part("eyes") & ~eye]).max() == 0


def test_every_action_moves_something_and_left_mirrors_right():
    move = np.linalg.norm(BODY.actions, axis=2).max(1)
    assert move.min() > 5e-4
    names = BODY.action_names
    for name in names:
        if name.endswith("Left") and name not in ("jawLeft", "mouthLeft"):
            twin = BODY.actions[names.index(name[:-4] + "Right")]
            assert np.isclose(np.linalg.norm(twin, axis=1).max(), move[names.index(name)], rtol=0.35)


def width_of_mouth(points: np.ndarray) -> float:
    return float(np.linalg.norm(points[291] - points[61]))


def test_mouth_jaw_and_tongue_move_as_much_as_a_persons():
    rest = BODY.landmarks(BODY.template)
    pucker, funnel = (BODY.landmarks(move_of(**{name: 1.0})) for name in ("mouthPucker", "mouthFunnel"))
    for move in (pucker, funnel):
        narrower = 1 - width_of_mouth(rest + move * 1e-3) / width_of_mouth(rest)
        assert 0.25 < narrower < 0.40
        assert 5 < move[[0, 17], 2].mean() < 14  # millimetres forward, both lips' middle
    assert funnel[13, 1] - funnel[14, 1] > 8  # and the mouth opens round
    assert abs(pucker[13, 1] - pucker[14, 1]) < 1
    for name, sign in (("jawLeft", 1), ("jawRight", -1)):
        assert 9 < sign * BODY.landmarks(move_of(**{name: 1.0}))[152, 0] < 13
    assert move_of(jawForward=1.0)[in_part("teeth"), 2].max() > 5
    assert BODY.landmarks(move_of(browInnerUp=1.0))[[107, 336], 1].min() > 4


def test_the_tongue_comes_out_between_the_lips_and_over_the_lower_one():
    posed = BODY.vertices(MEAN, action(tongueOut=1.0), Pose.rest())
    points = BODY.landmarks(posed)
    tongue = posed[in_part("tongue")]
    outside = tongue[tongue[:, 2] > points[17, 2] + 0.003]
    assert outside[:, 2].max() > points[0, 2] + 0.008  # beyond the lips
    assert outside[:, 1].min() < points[17, 1]  # down to the lower lip's edge
    assert abs(outside[:, 0].mean()) < 0.002
    assert points[13, 1] - points[14, 1] > 0.006  # the lips part for it
    rest = BODY.template[in_part("tongue")]
    assert rest[:, 2].max() < BODY.landmarks(BODY.template)[13, 2] - 0.01  # and none of it shows otherwise


def test_puffed_cheeks_stand_out_at_the_sides_and_leave_the_chin():
    move = move_of(cheekPuff=1.0)
    side = in_part("face") & (np.abs(BODY.template[:, 0]) > 0.04) & (BODY.template[:, 1] < -0.05)
    outwards = np.sign(BODY.template[:, 0]) * move[:, 0]
    assert outwards[side].max() > 8
    assert np.linalg.norm(BODY.landmarks(move)[152]) < 1


def parts_seen(identity: np.ndarray, actions: np.ndarray | None = None) -> dict[str, int]:
    """Pixels of each part, seen from the front."""
    w2c = orbit(np.zeros(1), np.zeros(1), np.full(1, 0.6))[0]
    vertices = BODY.vertices(identity, actions, Pose.rest())
    ids, _, _ = rasterize(
        vertices @ w2c[:3, :3].T + w2c[:3, 3], BODY.faces, intrinsics_from_fov(18, 256, 256), 256, 256
    )
    counts = np.bincount(BODY.part[BODY.faces[ids[ids >= 0], 0]], minlength=len(BODY.part_names))
    return dict(zip(BODY.part_names, counts.tolist(), strict=True))


def test_nobodys_resting_lips_show_teeth_and_open_jaws_do():
    rng = np.random.default_rng(0)
    for _ in range(40):
        identity = np.clip(rng.normal(0, 0.8, BODY.identity_dim), -2, 2)
        assert parts_seen(identity)["teeth"] <= 1
    assert parts_seen(MEAN, action(jawOpen=0.6))["mouth_cavity"] + parts_seen(MEAN, action(jawOpen=0.6))["tongue"] > 200
    assert parts_seen(MEAN, action(tongueOut=1.0))["tongue"] > 400


def test_the_lips_outer_landmarks_lie_on_the_painted_border_of_the_lips():
    """On the border the mask is about one half; inside it is one, a few millimetres outside it is nothing."""
    lips = BODY.masks["lips"]

    def mask_at(marks: list[int]) -> np.ndarray:
        corners = BODY.faces[BODY.landmark_triangles[marks]]
        return (lips[corners] * BODY.landmark_barycentric[marks]).sum(1)

    upper, lower = [185, 40, 39, 37, 0, 267, 269, 270, 409], [146, 91, 181, 84, 17, 314, 405, 321, 375]
    assert 0.35 < mask_at(upper).mean() < 0.65
    assert 0.35 < mask_at(lower).mean() < 0.85
    assert mask_at([80, 81, 82, 13, 312, 311, 310, 88, 178, 87, 14, 317, 402, 318]).min() > 0.95
    assert mask_at([152, 200, 2, 164]).max() < 0.02  # chin and the groove under the nose


def test_landmarks_lie_on_the_face_left_is_left_and_most_are_valid():
    points = BODY.landmarks(BODY.template)
    assert np.allclose(BODY.landmark_barycentric.sum(1), 1, atol=1e-5)
    assert BODY.landmark_barycentric.min() >= -1e-6
    assert BODY.landmark_valid.sum() > 400
    assert not BODY.landmark_valid[468:].any()  # irises turn with the gaze
    on_face = BODY.part[BODY.faces[BODY.landmark_triangles]]
    hidden = [BODY.part_names.index(name) for name in ("eyes", "teeth", "tongue", "mouth_cavity", "torso")]
    assert not np.isin(on_face[BODY.landmark_valid, 0], hidden).any()
    assert points[263, 0] > 0.03  # outer corner of the left eye
    assert points[33, 0] < -0.03
    nose = points[1]
    assert abs(nose[0]) < 0.004
    assert nose[2] == points[BODY.landmark_valid, 2].max() or nose[2] > np.percentile(points[:, 2], 97)
    assert points[10, 1] > points[168, 1] > nose[1] > points[13, 1] > points[17, 1]
    # the mesh of landmarks is as symmetric as the template
    pairs = [(33, 263), (61, 291), (105, 334), (50, 280), (205, 425), (70, 300)]
    for right, left in pairs:
        assert np.linalg.norm(points[right] * [-1, 1, 1] - points[left]) < 0.004


def test_the_head_centre_follows_the_pose():
    pose = Pose(rotation_matrix([0, 0.3, 0]), np.array([0.1, 0.2, 0.3]), np.eye(3))
    assert np.allclose(BODY.head_centre(MEAN, Pose.rest()), 0)
    assert np.allclose(BODY.head_centre(MEAN, pose), [0.1, 0.2, 0.3])
    nod = BODY.head_centre(MEAN, Pose(np.eye(3), np.zeros(3), rotation_matrix([0.4, 0, 0])))
    assert nod[2] > 0.01  # bowing carries the head forward


def test_an_unknown_body_is_refused_by_name():
    assert load_body() is load_body("embedded")
    with pytest.raises(UserError, match="embeded"):
        load_body("embeded")
