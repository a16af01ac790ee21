"""docs/own-data.md, walked: own phone clips, own studio people, both, with and without the demo's people."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from fportrait.capture.world import write_embedded_world
from fportrait.pipelines.ingest.nodes import ingest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/own-data.md").read_text(encoding="utf-8")
WORLD = {
    **{"phone_identities": 3, "phone_clips": 1, "phone_frames": 5, "studio_identities": 2, "studio_cameras": 1},
    **{"studio_segments": 1, "studio_frames": 5, "size": 32, "supersample": 1},
}


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    """What a user brings, laid out as the page says: anna, ben and chris by phone, dora and emil in a studio."""
    root = tmp_path_factory.mktemp("mine")
    write_embedded_world(root / "filmed", root / "truth", WORLD, seed=77)
    places = re.findall(r"data/01_raw/(phone|studio)/PERSON", PAGE)
    assert set(places) == {"phone", "studio"}
    for kind, names in {"phone": ("anna", "ben", "chris"), "studio": ("dora", "emil")}.items():
        for index, name in enumerate(names):
            shutil.copytree(root / f"filmed/{kind}/{kind}{index:04d}", root / kind / name)
    return root


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load((ROOT / "conf/base/parameters_ingest.yml").read_text())["ingest"]

    def run(source: str = "folder", **changes):
        given = {**settings, "source": source, "world": WORLD, "workers": 1, **changes}
        folders = [tmp_path / "data" / name for name in ("01_raw", "02_intermediate/ingest", "truth", ".units")]
        return ingest(*folders, **given)

    return run


def people(folder: Path) -> dict[str, set[str]]:
    table = pd.read_parquet(folder / "data/02_intermediate/ingest/manifest.parquet")
    return {name: set(rows["identity"]) for name, rows in table.groupby("dataset")}


@pytest.mark.parametrize("demo", [False, True], ids=["alone", "with the demo's people"])
@pytest.mark.parametrize("kinds", [("phone",), ("studio",), ("phone", "studio")], ids="+".join)
def test_own_captures_of_one_kind_or_both_give_a_manifest_of_both(run, mine, tmp_path, kinds, demo):
    if demo:
        run("embedded")
        assert (tmp_path / "data/truth").is_dir()
    for kind in kinds:
        shutil.copytree(mine / kind, tmp_path / "data/01_raw" / kind, dirs_exist_ok=True)
    report = run()
    found = people(tmp_path)
    own = {"phone": {"anna", "ben", "chris"}, "studio": {"dora", "emil"}}
    for kind, dataset in (("phone", "PhoneCapture"), ("studio", "StudioCapture")):
        others = {name for name in found[dataset] if re.fullmatch(rf"{kind}\d{{4}}", name)}
        assert found[dataset] - others == (own[kind] if kind in kinds else set())
        assert bool(others) == (demo or kind not in kinds)
    assert report["filled"] == (
        0 if demo or len(kinds) == 2 else WORLD[f"{'studio' if kinds == ('phone',) else 'phone'}_identities"]
    )
    assert (tmp_path / "data/truth").is_dir() == (demo or len(kinds) == 1), "truth is of embedded people alone"
    before = (tmp_path / "data/02_intermediate/ingest/manifest.parquet").read_bytes()
    run()
    assert (tmp_path / "data/02_intermediate/ingest/manifest.parquet").read_bytes() == before


def test_stand_ins_leave_when_the_user_brings_people_of_that_kind_or_asks_for_none(run, mine, tmp_path):
    shutil.copytree(mine / "phone", tmp_path / "data/01_raw/phone")
    assert run()["filled"] == 2 and (tmp_path / "data/01_raw/studio/studio0000").is_dir()
    assert run(fill=False)["filled"] == 0
    assert not (tmp_path / "data/01_raw/studio/studio0000").exists() and not (tmp_path / "data/truth").exists()
    assert run()["filled"] == 2
    shutil.copytree(mine / "studio", tmp_path / "data/01_raw/studio", dirs_exist_ok=True)
    assert run()["filled"] == 0
    assert people(tmp_path)["StudioCapture"] == {"dora", "emil"}
    assert not (tmp_path / "data/truth").exists()


def test_one_person_alone_trains_and_the_page_says_what_is_held_out(run, mine, tmp_path, caplog):
    shutil.copytree(mine / "phone/anna", tmp_path / "data/01_raw/phone/anna")
    report = run()
    assert report["held_out"] == {"PhoneCapture": 0, "StudioCapture": 1}
    assert "of 1 people in PhoneCapture 0 are held out" in caplog.text


def test_a_clip_is_to_be_held_out_of_own_people_who_are_trained_on_and_of_nobody_else(run, mine, tmp_path):
    listed = tmp_path / "data/02_intermediate/ingest/own_people.json"
    run("embedded")
    assert not listed.exists(), "the demo's people are split as ever"
    shutil.copytree(
        mine, tmp_path / "data/01_raw", dirs_exist_ok=True, ignore=shutil.ignore_patterns("filmed", "truth")
    )
    run()
    table = pd.read_parquet(listed.with_name("manifest.parquet"))
    trained = set(table[(table.dataset == "PhoneCapture") & (table.split == "train")].identity)
    assert set(json.loads(listed.read_text())) == trained & {"anna", "ben", "chris"} != set()
    run(hold_out_clips=False)
    assert not listed.exists()


def test_who_has_not_agreed_is_set_aside_where_consent_is_required(run, mine, tmp_path):
    shutil.copytree(mine / "phone", tmp_path / "data/01_raw/phone")
    (tmp_path / "data/01_raw/phone/anna/consent.txt").write_text("agreed on 1 May: training, animation, two years")
    (tmp_path / "data/01_raw/phone/ben/consent.txt").touch()  # an empty file agrees to nothing
    assert run(require_consent=True, fill=False)["quarantined"] == 2
    assert people(tmp_path) == {"PhoneCapture": {"anna"}}
    told = (tmp_path / "data/02_intermediate/ingest/quarantine.json").read_text()
    assert "no consent file for ben" in told and "no consent file for chris" in told
    assert run(require_consent=True)["filled"] == 2 and people(tmp_path)["StudioCapture"]  # embedded people need not
    assert run(fill=False)["quarantined"] == 0


def test_a_list_of_stand_ins_that_names_other_folders_removes_nothing(run, mine, tmp_path):
    shutil.copytree(mine / "phone", tmp_path / "data/01_raw/phone")
    (tmp_path / "data/01_raw/filled.json").write_text('["phone/anna", "../01_raw/phone/ben", "studio/studio0000"]')
    run()
    assert people(tmp_path)["PhoneCapture"] == {"anna", "ben", "chris"}


def test_no_out_of_a_stage_is_missing_for_a_source(run):
    """`dvc repro` stops at an out that was not made; truth is made for embedded people alone."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in stages["ingest"]["outs"]]
    assert outs == [
        "data/01_raw",
        "data/02_intermediate/ingest",
        "data/08_reporting/lineage/ingest.json",
        "data/08_reporting/ingest.json",
    ]


def test_the_page_names_settings_that_exist():
    settings = yaml.safe_load((ROOT / "conf/base/parameters_ingest.yml").read_text())["ingest"]
    named = set(re.findall(r"`ingest\.([a-z_]+)", PAGE))
    assert {"source", "fill", "test_identities"} <= named <= set(settings)
