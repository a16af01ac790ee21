"""A camera file under which the head leaves the picture is named with the convention that it follows."""

import json

import numpy as np
import pytest

from fportrait.animate.viewpoint import square_intrinsics, viewpoint
from fportrait.bundle import BundleSettings
from fportrait.camera.conventions import Z_UP, likely, sight
from fportrait.camera.files import OPENGL, read_camera_file
from fportrait.camera.paths import orbit, save_camera_path
from fportrait.errors import UserError

SETTINGS = BundleSettings()
YAW = np.linspace(-40, 40, 25)
PATH = orbit(YAW, np.linspace(-5, 10, 25), np.full(25, SETTINGS.camera_distance))


def scaled(cameras, factor):
    cameras = cameras.copy()
    cameras[:, :3, 3] *= factor
    return cameras


def shifted(cameras):
    cameras = cameras.copy()
    cameras[:, :3, 3] -= cameras[:, :3, :3] @ np.array([0.3, 1.6, -0.2])
    return cameras


WRONG = {
    "camera-to-world matrices": np.linalg.inv(PATH),
    "cameras of OpenGL": OPENGL @ PATH,
    "camera-to-world matrices of OpenGL": np.linalg.inv(PATH) @ OPENGL,
    "a world with y down": PATH @ OPENGL,
    "a world with z up": PATH @ np.linalg.inv(Z_UP),
    "lengths in millimetres": scaled(PATH, 1000),
    "lengths in centimetres": scaled(PATH, 100),
    "camera-to-world matrices, in millimetres": np.linalg.inv(scaled(PATH, 1000)),
    "a world whose origin is not the head": shifted(PATH),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_foreign_convention_is_refused_by_its_name_with_the_way_to_mend_it(tmp_path, name):
    path = save_camera_path(tmp_path / "c.json", WRONG[name])
    with pytest.raises(UserError) as caught:
        viewpoint(str(path), 25, SETTINGS, 0)
    assert f"these look like {name}" in caught.value.fix and "in all 25 frames" in caught.value.fix
    assert "c.json" in caught.value.found


def test_the_right_convention_passes_without_a_word(tmp_path):
    view = viewpoint(str(save_camera_path(tmp_path / "c.json", PATH)), 25, SETTINGS, 0)
    assert view.notes == () and np.allclose(view.world_to_camera, PATH)
    lens = np.repeat(square_intrinsics(SETTINGS)[None], 25, 0)
    assert sight(PATH, lens, SETTINGS.square).whole == 1
    assert likely(OPENGL @ PATH, lens, SETTINGS.square)[0].startswith("cameras of OpenGL")


def test_a_view_of_the_back_of_the_head_and_a_short_absence_are_left_to_the_user(tmp_path):
    behind = orbit(180 + YAW, np.zeros(25), np.full(25, SETTINGS.camera_distance))
    assert viewpoint(str(save_camera_path(tmp_path / "b.json", behind)), 25, SETTINGS, 0).notes == ()
    away = PATH.copy()
    away[:4, 0, 3] += 0.6
    (note,) = viewpoint(str(save_camera_path(tmp_path / "a.json", away)), 25, SETTINGS, 0).notes
    assert "in 21 of 25 frames of a.json" in note


def test_a_path_that_never_sees_the_head_and_fits_nothing_is_refused_too(tmp_path):
    generator = np.random.default_rng(0)
    wild = orbit(generator.uniform(-180, 180, 9), generator.uniform(-60, 60, 9), generator.uniform(20, 30, 9))
    wild[:, :3, 3] += generator.uniform(-3, 3, (9, 3))
    with pytest.raises(UserError, match="check the camera's convention"):
        viewpoint(str(save_camera_path(tmp_path / "c.json", wild)), 9, SETTINGS, 0)


def nerfstudio_transforms(cameras):
    frames = [{"file_path": f"{i}.png", "transform_matrix": m.tolist()} for i, m in enumerate(cameras)]
    return {"camera_model": "OPENCV", "fl_x": 900, "fl_y": 900, "cx": 256, "cy": 256, "w": 512, "h": 512, "k1": 0.1} | {
        "frames": frames
    }


def nerfstudio_path(cameras):
    entries = [{"camera_to_world": m.ravel().tolist(), "fov": 30, "aspect": 1.5} for m in cameras]
    return {"camera_path": entries, "fps": 24, "seconds": 1, "render_width": 960, "camera_type": "perspective"}


def nersemble(cameras):
    lens = [[4000, 0, 1100], [0, 4000, 1604], [0, 0, 1]]
    return {"world_2_cam": {f"22{i:04}": m.tolist() for i, m in enumerate(cameras)}, "intrinsics": lens}


@pytest.mark.parametrize("world", ["ours", "z up, elsewhere, another scale"])
@pytest.mark.parametrize("layout", [nerfstudio_transforms, nerfstudio_path, nersemble])
def test_the_files_of_nerfstudio_and_nersemble_are_read_wherever_their_world_is(tmp_path, layout, world):
    cameras = PATH
    if world != "ours":
        turned = shifted(PATH @ np.linalg.inv(Z_UP))
        cameras = turned if layout is nersemble else scaled(turned, 3.7)
    content = layout(cameras if layout is nersemble else np.linalg.inv(cameras) @ OPENGL)
    (tmp_path / "c.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    view = viewpoint(str(tmp_path / "c.json"), 25, SETTINGS, 0, 24.0)
    assert sight(view.world_to_camera, view.intrinsics, SETTINGS.square).whole == 1
    yaw = np.degrees(np.arctan2(-view.world_to_camera[:, 2, 0], -view.world_to_camera[:, 2, 2]))
    assert np.allclose(np.diff(yaw), np.diff(YAW), atol=0.2)
    assert any("does not say where the head is" in note for note in view.notes) == (world != "ours")
    assert any("distortion" in note for note in view.notes) == (layout is nerfstudio_transforms)


def test_a_files_own_rate_is_obeyed_between_its_cameras(tmp_path):
    path = save_camera_path(tmp_path / "c.json", PATH[::2])  # 13 cameras
    content = json.loads(path.read_text()) | {"fps": 12.5}
    path.write_text(json.dumps(content))
    view = viewpoint(str(path), 25, SETTINGS, 0, 25.0)
    assert np.abs(view.world_to_camera - PATH).max() < 0.002
    assert "12.5 cameras a second" in view.notes[0]
    with pytest.raises(UserError, match=r"which are 1\.04 s"):
        viewpoint(str(path), 60, SETTINGS, 0, 25.0)
    assert len(read_camera_file(path, 13).world_to_camera) == 13


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"camera_path": []}, "no cameras"),
        ({"camera_path": [{"fov": 50}]}, "no key 'camera_to_world'"),
        ({"camera_path": [{"camera_to_world": np.eye(4).ravel().tolist(), "fov": 200}]}, "fov 200"),
        ({"camera_path": [{}], "camera_type": "equirectangular"}, "'equirectangular' cameras"),
        ({"frames": [{"transform_matrix": np.eye(4).tolist()}], "fl_x": 500}, "fl_x without"),
        ({"frames": [{"transform_matrix": [[1, 2]]}]}, "shape"),
        ({"world_2_cam": {}}, "no cameras"),
        ({"world_2_cam": {"1": "x"}}, "no matrix"),
    ],
)
def test_damaged_foreign_files_are_refused_in_words(tmp_path, content, message):
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_camera_file(tmp_path / "c.json", 1)


@pytest.mark.parametrize(
    "name", ["camera-to-world matrices", "cameras of OpenGL", "camera-to-world matrices of OpenGL"]
)
def test_a_studios_calibration_in_another_convention_is_refused_by_its_name(name):
    from fportrait.capture.calibration import check_studio, make_camera

    eyes = orbit(np.array([-50, -20, 15, 60]), np.array([-10, 12, 3, 20]), np.array([1.0, 1.2, 0.9, 1.1]))
    lens = np.array([[800, 0, 320], [0, 800, 240], [0, 0, 1.0]])
    wrong = {
        "camera-to-world matrices": np.linalg.inv(eyes),
        "cameras of OpenGL": OPENGL @ eyes,
        "camera-to-world matrices of OpenGL": np.linalg.inv(eyes) @ OPENGL,
    }[name]

    def rig(matrices):
        return {str(index): make_camera(640, 480, lens, matrix, str(index)) for index, matrix in enumerate(matrices)}

    check_studio(rig(eyes))
    with pytest.raises(UserError, match=f"these look like {name}"):
        check_studio(rig(wrong))
