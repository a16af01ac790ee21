"""The ingest verb around the embedded world: it films afresh, and never touches a user's captures."""

from __future__ import annotations

import json
import shutil

import pytest

from fportrait.capture.withdrawn import withdraw
from fportrait.errors import UserError
from fportrait.pipelines.ingest.nodes import ingest

WORLD = {
    **{"phone_identities": 1, "phone_clips": 1, "phone_frames": 5, "studio_identities": 0, "size": 32},
    "supersample": 1,
}
SETTINGS = {
    "fill": True,
    "require_consent": False,
    "default_fov_degrees": 40.0,
    "test_identities": {},
    "hold_out_clips": True,
    "min_frames": 5,
    "workers": 1,
}


def run(folder, **changes):
    settings = {**SETTINGS, "source": "embedded", "world": WORLD, "seed": 1, **changes}
    return ingest(folder / "raw", folder / "manifest", folder / "truth", folder / "units", **settings)


def test_filming_again_replaces_only_what_the_embedded_world_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path)["videos"] == 1
    first = (tmp_path / "manifest/manifest.parquet").read_bytes()
    assert run(tmp_path, seed=2)["videos"] == 1
    assert run(tmp_path, seed=1)["videos"] == 1
    assert (tmp_path / "manifest/manifest.parquet").read_bytes() == first

    mine = tmp_path / "raw/phone/me"
    mine.mkdir()
    (mine / "clip.mp4").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"captures of your own in .*phone/me.*source: folder"):
        run(tmp_path)
    assert (mine / "clip.mp4").read_bytes() == b"mine" and (tmp_path / "raw/phone/phone0000").is_dir()

    report = run(tmp_path, source="folder")
    assert report["videos"] == 1 and report["quarantined"] == 1  # the broken one is set aside, the rest goes on
    assert (mine / "clip.mp4").read_bytes() == b"mine"
    facts = json.loads((tmp_path / "units/ingest/facts.json").read_text())
    assert list(facts) == ["phone/phone0000/" + next((tmp_path / "raw/phone/phone0000").glob("*.mp4")).name]


def test_an_unknown_source_is_refused(tmp_path):
    with pytest.raises(UserError, match="'embedded' or 'folder'"):
        run(tmp_path, source="embeded")


def test_who_withdrew_is_not_filmed_again_and_counts_as_nobody_of_a_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    two = {**WORLD, "phone_identities": 2}
    assert run(tmp_path, world=two)["videos"] == 2
    withdraw(tmp_path / "raw", "phone0001", trained=True, done=True)
    assert run(tmp_path, world=two)["videos"] == 1
    assert not (tmp_path / "raw/phone/phone0001").exists() and not list((tmp_path / "truth").glob("*/phone0001"))

    other = tmp_path / "other"
    for name in ("anna", "bo"):
        shutil.copytree(tmp_path / "raw/phone/phone0000", other / "raw/studio" / name)
    shutil.copytree(tmp_path / "raw/phone/phone0000", other / "raw/phone/anna")
    withdraw(other / "raw", "anna", trained=False, done=True)
    report = run(other, source="folder")
    assert report["filled"] == 1, "of whom there are none but one who withdrew, somebody embedded stands in"
    assert (other / "raw/phone/anna").is_dir() and (other / "raw/phone/phone0000").is_dir()
