"""Whatever a file holds, its parser answers with a checked value or a `UserError`, never with another exception."""

import io
import json
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fportrait.camera.paths import read_camera_file, save_camera_path
from fportrait.capture.calibration import (
    check_name,
    phone_field_of_view,
    read_calibration,
    write_calibration,
)
from fportrait.capture.features import read_features, write_features
from fportrait.capture.importers.align import to_head_world
from fportrait.capture.importers.ava256 import read_camera_list, read_frame_list
from fportrait.capture.importers.nersemble import read_camera_params
from fportrait.capture.importers.seamless import read_movement
from fportrait.capture.manifest import CAMERA_COLUMNS, MANIFEST_COLUMNS, read_manifest
from fportrait.capture.video_io import probe, read_image
from fportrait.errors import UserError
from helpers.trees import ava_cameras, calibration, clip, movement, ring

FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
numbers = st.one_of(
    st.floats(), st.integers(-(10**400), 10**400), st.sampled_from([0, 1, -1, 1e308, 5e-324, 10**19, 0.5, 65537])
)
leaves = st.one_of(numbers, st.text(max_size=8), st.booleans(), st.none())
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=10,
)


@st.composite
def damaged(draw, content):
    """JSON-like content with one to three places replaced, removed, renamed or repeated."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 3))):
        node, depth = content, draw(st.integers(0, 6))
        for _ in range(depth):
            children = list(node.keys()) if isinstance(node, dict) else list(range(len(node)))
            inner = [key for key in children if isinstance(node[key], dict | list) and node[key]]
            if not inner:
                break
            node = node[draw(st.sampled_from(inner))]
        keys = list(node.keys()) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            continue
        key = draw(st.sampled_from(keys))
        how = draw(st.sampled_from(["replace", "nudge", "remove", "add"]))
        if how == "replace":
            node[key] = draw(anything)
        elif how == "nudge" and isinstance(node[key], float | int) and not isinstance(node[key], bool):
            node[key] = draw(numbers)
        elif how == "remove":
            node.pop(key)
        elif isinstance(node, dict):
            node[draw(st.text(max_size=8))] = draw(anything)
        else:
            node.append(draw(anything))
    return content


@st.composite
def damaged_bytes(draw, data):
    """Bytes with some overwritten, cut or inserted."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        how = draw(st.sampled_from(["flip", "cut", "insert", "zero"]))
        if how == "cut":
            data = data[:at]
        elif how == "insert":
            data[at:at] = draw(st.binary(max_size=16))
        elif how == "zero":
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        elif data:
            data[at] ^= draw(st.integers(1, 255))
    return bytes(data)


def as_json(content):
    return json.dumps(content).encode()


GOOD = {
    "calibration": calibration(("cam00", "cam01", "cam02")),
    "capture": {"horizontal_fov_degrees": 60.0},
    "camera_path": {"fps": 25, "frames": [{"world_to_camera": m.tolist()} for m in ring(3)]},
    "ava": ava_cameras(["400001", "400002", "400003"], ring(3)),
    "nersemble": {"world_2_cam": {str(i): m.tolist() for i, m in enumerate(ring(3))}, "intrinsics": np.eye(3).tolist()},
}


def sound_calibration(path):
    for camera in read_calibration(path).values():
        assert np.isfinite(camera.intrinsics).all() and np.isfinite(camera.world_to_camera).all()
        assert np.allclose(camera.world_to_camera[:3, :3] @ camera.world_to_camera[:3, :3].T, np.eye(3), atol=1e-2)
        assert 1 <= camera.width <= 65536 and 1 <= camera.height <= 65536


def sound_field_of_view(path):
    assert 5 <= phone_field_of_view(path, 60.0) <= 150


def sound_camera_path(path):
    assert read_camera_file(path, 2).world_to_camera.shape == (2, 4, 4)


def sound_ava(path):
    for intrinsics, matrix in read_camera_list(path).values():
        assert intrinsics.shape == (3, 3) and matrix.shape == (4, 4)


def sound_nersemble(path):
    poses, intrinsics = read_camera_params(path)
    assert intrinsics.shape == (3, 3) and all(matrix.shape == (4, 4) for matrix in poses.values())


PARSERS = {
    "calibration": sound_calibration,
    "capture": sound_field_of_view,
    "camera_path": sound_camera_path,
    "ava": sound_ava,
    "nersemble": sound_nersemble,
}


@pytest.mark.parametrize("name", PARSERS)
def test_the_undamaged_file_is_accepted(tmp_path, name):
    (tmp_path / "a.json").write_bytes(as_json(GOOD[name]))
    PARSERS[name](tmp_path / "a.json")


@pytest.mark.parametrize("name", PARSERS)
@FUZZ
@given(data=st.data())
def test_damaged_json_is_refused_or_sound(tmp_path, name, data):
    content = data.draw(st.one_of(damaged(GOOD[name]).map(as_json), damaged_bytes(as_json(GOOD[name])), st.binary()))
    (tmp_path / "a.json").write_bytes(content)
    with suppress(UserError):
        PARSERS[name](tmp_path / "a.json")


@FUZZ
@given(content=st.one_of(st.text(), st.text('seg_id,frame"\n\r0123456789 \0'), st.binary()))
def test_any_frame_list_is_refused_or_sound(tmp_path, content):
    data = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    for head in (b"", b"seg_id,frame_id\n"):
        (tmp_path / "frame_list.csv").write_bytes(head + data)
        with suppress(UserError):
            for segment, frames in read_frame_list(tmp_path / "frame_list.csv").items():
                assert check_name(segment, "a segment's") and frames == sorted(set(frames)) and frames[0] >= 0


@FUZZ
@given(name=st.text(max_size=120))
def test_a_name_that_is_accepted_stays_in_its_folder(tmp_path, name):
    with suppress(UserError):
        check_name(name, "a")
        assert (tmp_path / name).resolve().parent == tmp_path.resolve()
        assert not set(name) & set('/\\:*?"<>|\0\n\r\t') and not name.startswith(".") and not name.endswith((".", " "))


@pytest.fixture(scope="module")
def npz():
    sink = io.BytesIO()
    np.savez(sink, **{key: value for key, value in movement(8).items() if key.startswith("movement")})
    return sink.getvalue()


shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)
kinds = st.sampled_from(["f4", "f8", "i8", "?", "U3", "c16", "S2", "M8[s]"])


@FUZZ
@given(data=st.data())
def test_damaged_movement_features_are_refused_or_sound(tmp_path, npz, data):
    path = tmp_path / "a.npz"
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged_bytes(npz)))
    else:
        arrays = {key: value for key, value in movement(8).items() if key.startswith("movement")}
        arrays[data.draw(st.sampled_from(sorted(arrays)))] = np.zeros(data.draw(shapes), data.draw(kinds))
        np.savez(path, **arrays)
    with suppress(UserError):
        features = read_movement(path, 8)
        if features is not None:
            assert features.expression_code.shape == (8, 128) and features.valid.shape == (8,)
            write_features(tmp_path / "clip.mp4", features)
            assert np.array_equal(read_features(tmp_path / "clip.mp4", 8).valid, features.valid)
            (tmp_path / "clip.features.safetensors").unlink()


@FUZZ
@given(data=st.data())
def test_damaged_features_beside_a_clip_are_refused_or_sound(tmp_path, npz, data):
    (tmp_path / "m.npz").write_bytes(npz)
    whole = write_features(tmp_path / "clip.mp4", read_movement(tmp_path / "m.npz", 8)).read_bytes()
    (tmp_path / "clip.features.safetensors").write_bytes(data.draw(damaged_bytes(whole)))
    with suppress(UserError):
        assert len(read_features(tmp_path / "clip.mp4", 8)) == 8


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """A sound manifest and its cameras."""
    root = tmp_path_factory.mktemp("manifest")
    names = {"dataset": "StudioCapture", "identity": "p0", "segment": "s0", "camera": "c0", "clip": "p0/s0/c0"}
    row = {
        **names,
        "path": "raw/a.mp4",
        "frames": 5,
        "fps": 25.0,
        "width": 8,
        "height": 8,
        "sha256": "0",
        "horizontal_fov_degrees": 60.0,
        "split": "train",
    }
    camera = {
        **{key: names[key] for key in ("dataset", "identity", "camera")},
        "width": 8,
        "height": 8,
        "intrinsics": np.eye(3).ravel(),
        "world_to_camera": np.eye(4).ravel(),
    }
    pd.DataFrame([row], columns=MANIFEST_COLUMNS).to_parquet(root / "manifest.parquet")
    pd.DataFrame([camera], columns=CAMERA_COLUMNS).to_parquet(root / "cameras.parquet")
    return root


cells = st.one_of(
    *(st.none(), st.floats(), st.integers(-(2**31), 2**31), st.lists(st.floats(), max_size=17)),
    *(st.text(max_size=6), st.sampled_from(["../up", "/etc", "test"])),
)


def test_a_sound_manifest_is_read(manifest):
    table, cameras = read_manifest(manifest)
    assert len(table) == len(cameras) == 1


@FUZZ
@given(data=st.data())
def test_a_damaged_manifest_is_refused_or_sound(tmp_path, manifest, data):
    for name in ("manifest.parquet", "cameras.parquet"):
        (tmp_path / name).write_bytes((manifest / name).read_bytes())
    victim = tmp_path / data.draw(st.sampled_from(["manifest.parquet", "cameras.parquet"]))
    how = data.draw(st.sampled_from(["bytes", "cell", "column", "double"]))
    table = pd.read_parquet(victim)
    if how == "bytes":
        victim.write_bytes(data.draw(damaged_bytes(victim.read_bytes())))
    elif how == "cell":
        column = data.draw(st.sampled_from(list(table)))
        table[column] = pd.Series([data.draw(cells)], dtype=object)
        with suppress(Exception):  # what Parquet cannot hold cannot reach the parser
            table.to_parquet(victim)
    elif how == "column":
        table.drop(columns=data.draw(st.sampled_from(list(table)))).to_parquet(victim)
    else:
        pd.concat([table, table]).to_parquet(victim)
    with suppress(UserError):
        read, _ = read_manifest(tmp_path)
        assert (read["frames"] >= 1).all() and read["split"].isin(["train", "test"]).all()
        assert not any(".." in path.split("/") for path in read["path"])


@settings(FUZZ, max_examples=40)
@given(data=st.data())
def test_a_damaged_video_or_picture_is_refused_or_sound(tmp_path, data):
    whole = clip(tmp_path / "whole.mp4", 4).read_bytes()
    (tmp_path / "a.mp4").write_bytes(data.draw(damaged_bytes(whole)))
    with suppress(UserError):
        info = probe(tmp_path / "a.mp4")
        assert info.frames >= 1 and info.fps > 0 and info.width >= 1
    (tmp_path / "a.png").write_bytes(data.draw(damaged_bytes(whole)))
    with suppress(UserError):
        assert read_image(tmp_path / "a.png").dtype == np.uint8


@FUZZ
@given(yaw=st.floats(-180, 180), move=st.lists(st.floats(-5, 5), min_size=3, max_size=3), unit=st.floats(0.001, 1000))
def test_a_studio_written_and_read_or_moved_and_brought_back_is_the_same(tmp_path, yaw, move, unit):
    cameras = read_calibration(_written(tmp_path, GOOD["calibration"]))
    again = read_calibration(write_calibration(tmp_path / "b.json", cameras))
    for name, camera in cameras.items():
        assert np.array_equal(camera.world_to_camera, again[name].world_to_camera)
    c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    moved = {}
    for name, camera in cameras.items():
        matrix = np.eye(4)
        matrix[:3, :3] = camera.world_to_camera[:3, :3] @ turn
        matrix[:3, 3] = unit * (camera.world_to_camera[:3, 3] + matrix[:3, :3] @ np.array(move))
        moved[name] = type(camera)(camera.width, camera.height, camera.intrinsics, matrix)
    back = to_head_world(moved, turn, 1 / unit)
    for name, camera in cameras.items():
        assert np.allclose(back[name].world_to_camera, camera.world_to_camera, atol=1e-6)


def _written(folder, content):
    (folder / "calibration.json").write_bytes(as_json(content))
    return folder / "calibration.json"


def test_a_camera_path_that_was_saved_is_read_back(tmp_path):
    save_camera_path(tmp_path / "a.json", np.stack(ring(4)))
    assert np.allclose(read_camera_file(tmp_path / "a.json", 4).world_to_camera, np.stack(ring(4)))
