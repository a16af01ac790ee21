"""A corpus of broken captures, in one project: nothing crashes, nothing good is lost, every reason is right."""

import json
import os
import re
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from fportrait.capture.importers.place import import_captures
from fportrait.capture.ingest import ingest_captures
from fportrait.errors import UserError
from helpers.trees import audio_only, ava256, clip, movement, nersemble, seamless, studio, variable_clip


def part(share):
    def make(path):
        data = clip(path, 30).read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return make


def unknown_codec(path):
    data = bytearray(clip(path, 12).read_bytes())
    at = data.index(b"avc1", data.index(b"stsd"))
    data[at : at + 4] = b"zzzz"
    path.write_bytes(data)


def zeroed_middle(path):
    """The index is whole, the pictures are not."""
    data = bytearray(clip(path, 12).read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    path.write_bytes(data)


def copy_of(other):
    return lambda path: shutil.copy(path.parent / other, path)


def link_to(where):
    return lambda path: path.symlink_to(where)


# name of the entry: (what makes it, what the reason must say)
PHONE_CLIPS = {
    "cut_at_10.mp4": (part(0.1), "not a readable video|truncated|damaged"),
    "cut_at_30.mp4": (part(0.3), "not a readable video|truncated|damaged"),
    "cut_at_60.mp4": (part(0.6), "truncated|damaged"),
    "cut_at_90.mp4": (part(0.9), "truncated|damaged"),
    "zero.mp4": (lambda path: path.write_bytes(b""), "zero bytes"),
    "one_byte.mp4": (lambda path: path.write_bytes(b"\0"), "not a readable video"),
    "noise.mp4": (
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
        "not a readable video|no pictures",
    ),
    "text.mp4": (lambda path: path.write_text("not a video\n" * 90), "not a readable video"),
    "sound.mp4": (audio_only, "no pictures"),
    "codec.mp4": (unknown_codec, "without a codec that can be decoded"),
    "zeroed.mp4": (zeroed_middle, "cannot be decoded|damaged"),
    "slides.mp4": (lambda path: clip(path, 12, fps=0.5), "0.5 frames per second"),
    "one_frame.mp4": (lambda path: clip(path, 1), "1 frame in"),
    "four_frames.mp4": (lambda path: clip(path, 4), "4 frames in"),
    "variable.mp4": (variable_clip, "variable frame rate.*fportrait import"),
    "notes.txt": (lambda path: path.write_text("notes"), "not named as a video"),
    "Thumbs.db": (lambda path: path.write_bytes(b"\xd0\xcf"), "not named as a video"),
    "clip.mp4.part": (lambda path: path.write_bytes(b"1"), "not named as a video"),
    "no_suffix": (lambda path: path.write_bytes(b"1"), "not named as a video"),
    "folder.mp4": (lambda path: path.mkdir(), "a folder"),
    "nested": (lambda path: clip(path / "deep.mp4"), "a folder nested"),
    "good.mkv": (lambda path: clip(path), "two clips named good"),
    "twin.mp4": (copy_of("good.m4v"), "same content as .*good.m4v"),
    "nowhere.mp4": (link_to("missing.mp4"), "link that leads nowhere"),
    "loop.mp4": (link_to("loop.mp4"), "leads nowhere|unreadable|Too many levels"),
    "pipe.mp4": (os.mkfifo, "pipe or device"),
    "device.mp4": (link_to("/dev/zero"), "pipe or device"),
    "-rf.mp4": (clip, "clip's name"),
    "..mp4": (clip, "hidden"),
    "new\nline.mp4": (clip, "clip's name"),
    "bi\u202edi.mp4": (clip, "clip's name"),
    "back\\slash.mp4": (clip, "clip's name"),
    "colon:stream.mp4": (clip, "clip's name"),
    "nul.mp4": (clip, "reserves"),
    "dot..mp4": (clip, "clip's name"),
    "space .mp4": (clip, "clip's name"),
    "l" * 150 + ".mp4": (clip, "1 to 100"),
    "lonely.features.safetensors": (lambda path: path.write_bytes(b"x"), "features lonely.* without a video"),
}
HIDDEN = "..mp4"  # a name that begins with a dot is skipped, as the desktop's own files are


def capture_json(text):
    return lambda folder: [clip(folder / "a.mp4"), (folder / "capture.json").write_bytes(text)]


PHONE_PEOPLE = {
    "empty": (lambda folder: folder.mkdir(), "an empty folder"),
    "fov_text": (capture_json(b'{"horizontal_fov_degrees": "wide"}'), "field of view of 'wide'"),
    "fov_nan": (capture_json(b'{"horizontal_fov_degrees": NaN}'), "field of view of nan"),
    "fov_zero": (capture_json(b'{"horizontal_fov_degrees": 0}'), "field of view of 0"),
    "fov_list": (capture_json(b"[60]"), "a list at its top"),
    "fov_typo": (capture_json(b'{"horizontal_fov_degree": 60}'), "'horizontal_fov_degree'.*'horizontal_fov_degrees'"),
    "fov_cut": (capture_json(b'{"horizontal_fov_deg'), "not JSON"),
    "fov_bytes": (capture_json(b"\xff\xfe\x00"), "not JSON"),
    "fov_deep": (capture_json(b"[" * 100000), "not JSON"),
    "tab\tname": (lambda folder: clip(folder / "a.mp4"), "identity's name"),
    "trailing ": (lambda folder: clip(folder / "a.mp4"), "identity's name"),
    "con": (lambda folder: clip(folder / "a.mp4"), "reserves"),
    "anna": (lambda folder: clip(folder / "a.mp4"), "anna beside ANNA.*more than case"),
}


def camera(change):
    return lambda content: change(content["cameras"]["cam01"])


def matrix(change):
    def edit(content):
        for entry in content["cameras"].values():
            value = np.array(entry["world_to_camera"])
            changed = change(value)
            entry["world_to_camera"] = (value if changed is None else changed).tolist()

    return edit


def put(row, column, value, key="world_to_camera"):
    return camera(lambda entry: entry[key][row].__setitem__(column, value))


def scaled(factor):
    return matrix(lambda value: value[:3, 3].__imul__(factor) is None or None)


def segment_of(name, change):
    """A studio whose calibration is sound, with something wrong in the segment s0."""

    def make(folder):
        studio(folder, ("s0", "good"))
        change(folder / "s0")

    return make


OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
CALIBRATIONS = {
    "millimetres": (scaled(1000.0), "probably millimetres"),
    "kilometres": (scaled(0.001), "within .* of the origin"),
    "mirrored_x": (matrix(lambda value: np.diag([-1.0, 1, 1, 1]) @ value), "mirrored rotation"),
    "mirrored_world": (matrix(lambda value: value @ np.diag([1.0, 1, -1, 1])), "mirrored rotation"),
    "opengl": (matrix(lambda value: OPENGL @ value), "these look like cameras of OpenGL"),
    "y_down": (matrix(lambda value: value @ OPENGL), "upside down"),
    "transposed": (matrix(lambda value: value.T), "last row"),
    "sheared": (put(0, 1, 5.0), "non-rotation"),
    "nan_pose": (put(1, 1, float("nan")), "NaN"),
    "infinite": (put(1, 3, float("inf")), "NaN or infinity"),
    "nan_intrinsics": (put(0, 0, float("nan"), "intrinsics"), "NaN"),
    "focal_in_millimetres": (put(0, 0, 0.035, "intrinsics"), "focal lengths"),
    "focal_negative": (put(1, 1, -60.0, "intrinsics"), "intrinsics"),
    "centre_of_another_size": (put(0, 2, 2000.0, "intrinsics"), "principal point"),
    "text_number": (put(0, 0, "66", "intrinsics"), "bad numbers"),
    "ragged": (camera(lambda entry: entry["world_to_camera"][2].pop()), "bad numbers"),
    "three_by_four": (camera(lambda entry: entry["world_to_camera"].pop()), "shape 3x4"),
    "camera_is_a_list": (lambda content: content["cameras"].update(cam01=[1, 2]), "as list"),
    "field_missing": (camera(lambda entry: entry.pop("width")), "without width"),
    "field_unknown": (camera(lambda entry: entry.update(widht=3)), "'widht'"),
    "width_of_zero": (camera(lambda entry: entry.update(width=0)), "whole number of pixels"),
    "units_mm": (lambda content: content.update(units="mm"), "units 'mm'"),
    "no_cameras": (lambda content: content.update(cameras={}), "no cameras"),
    "renamed": (lambda content: content["cameras"].update(cam1=content["cameras"].pop("cam01")), "missing cam1"),
    "camera_path": (lambda content: content["cameras"].update({"../up": content["cameras"]["cam01"]}), "camera's name"),
    "camera_without_video": (lambda c: c["cameras"].update(cam02=c["cameras"]["cam00"]), "missing cam02"),
    "video_without_camera": (lambda content: content["cameras"].pop("cam01"), "not in calibration.json cam01"),
    "other_size": (camera(lambda entry: entry.update(width=64)), "48x32 pixels"),
}
CALIBRATION_FILES = {
    "gone": (lambda path: path.unlink(), "no calibration.json"),
    "cut": (lambda path: path.write_text(path.read_text()[:200]), "not JSON"),
    "binary": (lambda path: path.write_bytes(b"\x80\x81" * 50), "not JSON"),
    "a_folder": (lambda path: [path.unlink(), path.mkdir()], "no file|unreadable"),
    "a_list": (lambda path: path.write_text("[]"), "a list at its top"),
    "huge_number": (lambda path: path.write_text(path.read_text().replace("48", "1" + "0" * 5000, 1)), "not JSON"),
    "twice": (lambda path: path.write_text('{"cameras": {}, "cameras": 3}'), "no cameras"),
}
SEGMENTS = {
    "frame_counts": (lambda segment: clip(segment / "cam01.mp4", 7), "different frame counts .cam00 6, cam01 7."),
    "frame_rates": (lambda segment: clip(segment / "cam01.mp4", fps=30), "different frame rates"),
    "one_variable": (lambda segment: variable_clip(segment / "cam01.mp4"), "variable frame rate"),
    "one_cut": (lambda segment: part(0.6)(segment / "cam01.mp4"), "truncated|damaged"),
    "one_zero": (lambda segment: (segment / "cam01.mp4").write_bytes(b""), "zero bytes"),
    "one_missing": (lambda segment: (segment / "cam01.mp4").unlink(), "missing cam01"),
    "one_too_many": (lambda segment: clip(segment / "cam07.mp4"), "not in calibration.json cam07"),
    "two_of_one": (lambda segment: clip(segment / "cam01.mkv"), "two videos of one camera"),
    "same_file": (
        lambda segment: shutil.copy(segment / "cam00.mp4", segment / "cam01.mp4"),
        "same content as .*cam00.mp4",
    ),
    "other_shape": (lambda segment: clip(segment / "cam01.mp4", height=64), "48x64 pixels"),
    "stray_notes": (lambda segment: (segment / "notes.txt").write_text("x"), "not named as a video"),
    "nothing": (lambda segment: [path.unlink() for path in segment.iterdir()], "videos of no camera"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """One project with every fault of the corpus beside good captures, ingested once."""
    root = tmp_path_factory.mktemp("corpus")
    raw = root / "raw"
    clip(raw / "phone/mixed/good.m4v")
    clip(raw / "phone/fine/a.mp4")
    clip(raw / "phone/ANNA/a.mp4")
    for name, (make, _) in PHONE_CLIPS.items():
        make(raw / "phone/mixed" / name)
    for name, (make, _) in PHONE_PEOPLE.items():
        make(raw / "phone" / name)
    clip(raw / "phone/stray.mp4")
    studio(raw / "studio/fine")
    for name, (edit, _) in CALIBRATIONS.items():
        studio(raw / "studio" / name, edit=edit)
    for name, (change, _) in CALIBRATION_FILES.items():
        change(studio(raw / "studio" / name) / "calibration.json")
    for name, (change, _) in SEGMENTS.items():
        segment_of(name, change)(raw / "studio" / name)
    (raw / "studio/no_segments").mkdir()
    studio(raw / "studio/template")
    shutil.move(raw / "studio/template/calibration.json", raw / "studio/no_segments/calibration.json")
    shutil.rmtree(raw / "studio/template")
    clip(raw / "studio/fine/stray.mp4")
    result = ingest_captures(raw, root / "manifest", root, {})
    return root, result


def reasons(project, place):
    _, result = project
    return " | ".join(entry["reason"] for entry in result.quarantine if entry["path"] == place)


@pytest.mark.parametrize("name", [name for name in PHONE_CLIPS if name != HIDDEN])
def test_a_broken_phone_clip_is_quarantined_with_the_right_reason(project, name):
    said = reasons(project, f"raw/phone/mixed/{name}")
    assert re.search(PHONE_CLIPS[name][1], said), said


@pytest.mark.parametrize("name", PHONE_PEOPLE)
def test_a_phone_folder_that_cannot_be_used_is_quarantined_with_the_right_reason(project, name):
    said = reasons(project, f"raw/phone/{name}")
    assert re.search(PHONE_PEOPLE[name][1], said), said


@pytest.mark.parametrize("name", [*CALIBRATIONS, *CALIBRATION_FILES])
def test_a_broken_calibration_is_quarantined_with_the_right_reason(project, name):
    said = reasons(project, f"raw/studio/{name}") + reasons(project, f"raw/studio/{name}/s0")
    assert re.search((CALIBRATIONS | CALIBRATION_FILES)[name][1], said), said


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_broken_segment_is_quarantined_alone_with_the_right_reason(project, name):
    said = reasons(project, f"raw/studio/{name}/s0")
    assert re.search(SEGMENTS[name][1], said), said


def test_nothing_good_is_lost_and_nothing_broken_gets_in(project):
    root, result = project
    table = pd.read_parquet(root / "manifest/manifest.parquet")
    assert set(table[table.dataset == "PhoneCapture"]["clip"]) == {"ANNA/a/phone", "mixed/good/phone", "fine/a/phone"}
    kept = table[table.dataset == "StudioCapture"].groupby("identity").segment.unique().map(list).to_dict()
    assert kept == {"fine": ["s0"], **{name: ["good"] for name in SEGMENTS}}
    assert {entry["reason"].startswith("Found ") for entry in result.quarantine} == {True}
    assert all("To fix it" in entry["reason"] for entry in result.quarantine)
    broken = len(PHONE_CLIPS) - 1 + len(PHONE_PEOPLE) + len(CALIBRATIONS) + len(CALIBRATION_FILES) + len(SEGMENTS)
    assert len(result.quarantine) == broken + 3  # and two strays, and a studio without segments
    assert broken >= 60


def test_ingesting_the_corpus_again_gives_the_same_quarantine(project):
    root, result = project
    again = ingest_captures(root / "raw", root / "manifest2", root, {}, cache=root / "facts.json")
    cached = ingest_captures(root / "raw", root / "manifest3", root, {}, cache=root / "facts.json")
    assert again.quarantine == result.quarantine == cached.quarantine
    assert cached.files_read < again.files_read


def json_edit(path, change):
    def edit(root):
        file = next(root.rglob(path))
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return edit


def replace_npz(**changes):
    def edit(root):
        arrays = movement(8)
        for key, value in changes.items():
            key = f"movement:{key}"
            if value is None:
                del arrays[key]
            else:
                arrays[key] = value
        np.savez(next(root.rglob("*.npz")), **arrays)

    return edit


def pickled(root):
    np.savez(next(root.rglob("*.npz")), **{"movement:expression": np.array([{"a": 1}], dtype=object)})


def evil_zip(root):
    """Names that climb out of the folder must never be written anywhere."""
    archive = sorted(root.rglob("cam4*.zip"))[0]
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("../../../../evil.txt", "x")


NOT_FINITE = np.full((8, 128), np.nan, np.float32)
IMPORTED = {
    # layout: what makes the tree, what breaks it, what the reason must say
    "ava_not_json": (ava256, lambda r: next(r.rglob("camera_cal*")).write_text("{"), "not JSON"),
    "ava_no_list": (ava256, json_edit("camera_cal*", lambda c: c.pop("KRT")), "no 'KRT'"),
    "ava_text": (ava256, json_edit("camera_cal*", lambda c: c["KRT"][0].update(K="f")), "bad numbers for K"),
    "ava_row_major": (
        ava256,
        json_edit("camera_cal*", lambda c: [k.update(T=np.array(k["T"]).T.tolist()) for k in c["KRT"]]),
        "last row|rotation",
    ),
    "ava_twice": (ava256, json_edit("camera_cal*", lambda c: c["KRT"].append(c["KRT"][0])), "twice"),
    "ava_path": (ava256, json_edit("camera_cal*", lambda c: c["KRT"][0].update(cameraId="../x")), "camera's name"),
    "ava_mirrored": (
        ava256,
        json_edit(
            "camera_cal*",
            lambda c: [k["T"][0].__setitem__(slice(None), (-np.array(k["T"][0])).tolist()) for k in c["KRT"]],
        ),
        "rotation",
    ),
    "ava_no_frames": (ava256, lambda r: next(r.rglob("frame_list*")).unlink(), "no readable frame_list"),
    "ava_frames": (ava256, lambda r: next(r.rglob("frame_list*")).write_text("seg_id,frame_id\nA,x\n"), "a row"),
    "ava_segment": (ava256, lambda r: next(r.rglob("frame_list*")).write_text("seg_id,frame_id\n../A,5"), "segment's"),
    "ava_climbing": (ava256, evil_zip, "no pictures"),
    "nersemble_cut": (nersemble, lambda r: next(r.rglob("camera_params*")).write_text("{'"), "not JSON"),
    "nersemble_pose": (
        nersemble,
        json_edit("camera_params*", lambda c: c["world_2_cam"].update({"222200036": [[1]]})),
        "bad numbers",
    ),
    "nersemble_serial": (
        nersemble,
        json_edit("camera_params*", lambda c: c["world_2_cam"].update({"..": [[1]]})),
        "serial",
    ),
    "nersemble_none": (nersemble, json_edit("camera_params*", lambda c: c.pop("intrinsics")), "bad numbers for intr"),
    "nersemble_mm": (
        nersemble,
        json_edit(
            "camera_params*",
            lambda c: [row.__setitem__(3, row[3] * 1000) for m in c["world_2_cam"].values() for row in m[:3]],
        ),
        "probably millimetres",
    ),
    "nersemble_counts": (
        nersemble,
        lambda r: clip(r / "017/sequences/FREE/images/cam_222200036.mp4", 9, 64, 44, fps=73),
        "different frame counts",
    ),
    "seamless_pickle": (seamless, pickled, "no .npz of numbers|all four|without numbers"),
    "seamless_text": (seamless, lambda r: next(r.rglob("*.npz")).write_text("x"), "no .npz"),
    "seamless_shape": (seamless, replace_npz(expression=np.zeros((8, 64), np.float32)), "8x64"),
    "seamless_missing": (seamless, replace_npz(is_valid=None), "no movement:is_valid"),
    "seamless_nan": (seamless, replace_npz(expression=NOT_FINITE), "NaN"),
    "seamless_scalar": (seamless, replace_npz(is_valid=np.float32(1)), "without numbers or frames"),
    "seamless_video": (seamless, lambda r: next(r.rglob("*.mp4")).write_bytes(b"\0" * 261), "not a readable video"),
}


@pytest.mark.parametrize("name", IMPORTED)
def test_a_broken_data_set_is_refused_by_its_importer_with_the_right_reason(tmp_path, name):
    make, break_it, reason = IMPORTED[name]
    make(tmp_path / "deep/down/source")
    break_it(tmp_path / "deep/down/source")
    layout = {"ava": "ava256"}.get(name.split("_")[0], name.split("_")[0])
    try:
        report = import_captures(tmp_path / "deep/down/source", tmp_path / "raw", layout)
        said = " | ".join(entry["reason"] for entry in report.quarantine)
        assert len(report.quarantine) >= 1
    except UserError as error:  # nothing else was in the source
        said = str(error)
    assert re.search(reason, said), said
    assert not list(tmp_path.rglob("evil.txt"))


def test_features_that_are_no_features_leave_the_video_in(tmp_path):
    for number, content in enumerate([b"", b"\xff" * 40, b'{"a": 1}']):
        clip(tmp_path / f"raw/phone/p/c{number}.mp4")
        (tmp_path / f"raw/phone/p/c{number}.features.safetensors").write_bytes(content)
    clip(tmp_path / "raw/phone/p/c9.mp4")
    save_file({"valid": np.ones(6, bool)}, tmp_path / "raw/phone/p/c9.features.safetensors")
    result = ingest_captures(tmp_path / "raw", tmp_path / "manifest", tmp_path, {})
    assert result.videos == 4 and len(result.quarantine) == 4
    assert [("not safetensors" in e["reason"], "no expression_code" in e["reason"]) for e in result.quarantine] == [
        *[(True, False)] * 3,
        (False, True),
    ]
