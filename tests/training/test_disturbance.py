import numpy as np

from fportrait.body.model import Pose, load_body
from fportrait.camera.cameras import intrinsics_from_fov, project
from fportrait.capture.motion import rotation_from_degrees
from fportrait.capture.world import HEAD_TARGET, orbit_camera
from fportrait.training.base_clips import ClipRecipe, render_clip
from fportrait.training.disturbance import sample_disturbance

BODY = load_body()
POSE = Pose(rotation_from_degrees(2, 0, 1), np.array([0.004, 0.0, 0.002]), rotation_from_degrees(12, -6, 3))


def test_no_disturbance_leaves_everything_where_it_was():
    rng = np.random.default_rng(0)
    errors = sample_disturbance(BODY, rng, 0.0)
    identity, camera = rng.standard_normal(BODY.identity_dim), orbit_camera(10, 4, 0.6, HEAD_TARGET)
    shape, pose = errors.body(BODY, identity, POSE, rng)
    head = BODY.landmarks(BODY.vertices(identity, None, POSE))
    assert np.array_equal(shape, identity) and np.array_equal(errors.camera(camera), camera)
    # the torso is upright in what a tracker reports; the head is where it was
    assert np.allclose(BODY.landmarks(BODY.vertices(shape, None, pose)), head, atol=1e-4)


def test_a_disturbed_body_still_lies_over_the_face_and_a_wrong_focal_length_hides_the_wrong_distance():
    camera, intrinsics = orbit_camera(5, 0, 0.55, HEAD_TARGET), intrinsics_from_fov(32, 64, 64)
    shifts, moved = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        identity = np.clip(0.8 * rng.standard_normal(BODY.identity_dim), -2, 2)
        errors = sample_disturbance(BODY, rng, 1.0)
        shape, pose = errors.body(BODY, identity, POSE, rng)
        true, _ = project(BODY.landmarks(BODY.vertices(identity, None, POSE)), camera, intrinsics)
        guess = BODY.landmarks(BODY.vertices(shape, None, pose))
        seen, _ = project(guess, errors.camera(camera), errors.intrinsics(intrinsics))
        shifts.append(np.linalg.norm(seen - true, axis=1).mean())
        moved.append(abs(np.log(errors.distance)))
    assert 0.5 < np.median(shifts) < 3 and max(shifts) < 8  # pixels of 64
    assert np.median(moved) > 0.05


def test_a_clip_of_the_wide_world_is_bit_equal_again_and_its_portraits_share_the_cameras_marks():
    recipe = ClipRecipe(
        frames=3, size=32, render_scale=2, crop_size=32, seed=9, variety=1.0, disturbance=1.0, plain=0.0
    )
    clip, again = render_clip(1, recipe, BODY), render_clip(1, recipe, BODY)
    assert all(np.array_equal(clip[key], again[key]) for key in clip)
    exact = render_clip(1, ClipRecipe(**{**vars(recipe), "disturbance": 0.0}), BODY)
    assert np.abs(exact["normals"].astype(int) - clip["normals"]).mean() > 1
    assert not np.array_equal(exact["intrinsics"], clip["intrinsics"])


def test_a_plain_recipe_has_exact_conditions_and_plain_people():
    recipe = ClipRecipe(frames=2, size=32, render_scale=2, crop_size=32, seed=9)
    wide = ClipRecipe(frames=2, size=32, render_scale=2, crop_size=32, seed=9, variety=1.0, disturbance=1.0, plain=1.0)
    one, other = render_clip(0, recipe, BODY), render_clip(0, wide, BODY)
    assert all(np.array_equal(one[key], other[key]) for key in one)


def test_a_driver_lends_the_faces_and_nothing_else():
    recipe = ClipRecipe(frames=2, size=32, render_scale=2, crop_size=32, seed=9, variety=1.0, plain=0.0)
    own, lent = (render_clip(2, ClipRecipe(**{**vars(recipe), "driver": share}), BODY) for share in (0.0, 1.0))
    assert np.array_equal(own["video"], lent["video"]) and np.array_equal(own["actions"], lent["actions"])
    assert np.array_equal(own["normals"], lent["normals"])
    assert np.abs(own["crops"].astype(int) - lent["crops"]).mean() > 10
