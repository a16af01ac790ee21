"""docs/own-data.md, walked word for word by somebody with a phone: from clips in a folder to the evaluated model.

`kedro run` makes the beginning, `dvc repro` goes on where it stopped, and `fportrait status` tells the same story. Two
people's clips are real ones where the set of `benchmarks/real_people_set.py` is on this machine (`FPORTRAIT_REAL_CLIPS`
may name its folder), and else those of embedded people under other names, as are those of anna, whose head turns far
enough for an avatar. Everything is as small as it goes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from fportrait.capture.video_io import iter_video, probe, write_video
from fportrait.capture.world import write_embedded_world
from fportrait.ops.chain import CHAIN
from helpers.fabricated import ROOT, git

PAGE = (ROOT / "docs/own-data.md").read_text(encoding="utf-8")
BEFORE = CHAIN[: CHAIN.index("promote")]
REAL = {"franck": {"talk_a": 1, "talk_b": 1}, "obama": {"statement": 4}}  # every so many frames, for a move in a few
PEOPLE = {"anna", *REAL}
FRAMES = 24
STAGE = {"iterations": 2, "batch_size": 2, "warmup": 0, "checkpoint_every": 2, "held_out": 0, "frames": 5}
TINY = {
    "ingest": {
        "test_identities": {"PhoneCapture": 0, "StudioCapture": 1},
        "world": {"studio_identities": 2, "studio_cameras": 3, "studio_frames": 9, "size": 96, "supersample": 1},
        "workers": 0,
    },
    "track": {"tracking": {"identity_frames": 8}, "workers": 0},
    "fit_avatars": {"fit": {"steps": 4, "size": 48, "max_frames": 8}, "workers": 0},
    "render_sweeps": {
        "sweep": {"clips_view": 1, "clips_dynamic": 1, "frames_view": 9, "frames_dynamic": 9, "size": 64},
        "workers": 0,
    },
    "encode": {"encoding": {"window": 9, "stride": 8, "test_stride": 9, "references": 1}, "workers": 0},
    **{f"train_stage{number}": dict(STAGE) for number in range(1, 5)},
    "evaluate": {
        "protocol": {"records": 1, "steps": 1, "metrics": {"psnr": "auto"}},
        "probes": {"people": 0},
        "modes": {"people": 0},
        "cross": {"pairs": 0},
    },
}


def clips_of_somebody(folder: Path) -> None:
    """A handful of short clips, `PERSON/CLIP.mp4` in `folder`."""
    world = {"phone_identities": 3, "phone_clips": 2, "phone_frames": FRAMES, "studio_identities": 0, "size": 128}
    write_embedded_world(folder / "filmed", folder / "truth", {**world, "supersample": 1, "fps": 8.0}, seed=78)
    for index, person in enumerate(("anna", *REAL)):  # the first one's clips are a turning head, and expressions
        shutil.move(folder / f"filmed/phone/phone{index:04d}", folder / person)
    for name in ("filmed", "truth"):
        shutil.rmtree(folder / name)
    real = Path(os.environ.get("FPORTRAIT_REAL_CLIPS", ROOT / "data/real_people")) / "clips"
    if not all((real / f"{clip}.mp4").is_file() for clips in REAL.values() for clip in clips):
        return
    for person, clips in REAL.items():
        shutil.rmtree(folder / person)
        for clip, every in clips.items():
            frames = list(iter_video(real / f"{clip}.mp4", 0, FRAMES * every))[::every]
            write_video(folder / person / f"{clip}.mp4", frames, probe(real / f"{clip}.mp4").fps)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A fresh clone, its chain set to the smallest settings there are."""
    root = tmp_path / "project"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if name.startswith(("tests/", "docs/", "benchmarks/")) or not (ROOT / name).exists():
            continue
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name, follow_symlinks=False)
    monkeypatch.chdir(root)
    for stage, changes in TINY.items():
        path = Path(f"conf/base/parameters_{stage}.yml")
        settings = yaml.safe_load(path.read_text())
        settings[stage] = merged(settings[stage], changes)
        path.write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("PYTHONPATH", str(root / "src"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    git("init", "-q")
    git("add", "-A", "-f")
    git("commit", "-q", "-m", "project")
    return root


def merged(settings: dict, changes: dict) -> dict:
    both = {k: merged(settings[k], v) for k, v in changes.items() if isinstance(v, dict) and k != "metrics"}
    return {**settings, **changes, **both}


def call(*words: str, codes: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode in codes, f"{' '.join(words)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def states() -> dict[str, str]:
    return {row["stage"]: row["state"] for row in json.loads(call("fportrait", "status", "--json"))["stages"]}


def runs() -> dict[str, str]:
    """When each stage that has run did so last."""
    folder = Path("data/08_reporting/lineage")
    return {path.stem: json.loads(path.read_text())["run_id"] for path in folder.glob("*.json")}


@pytest.mark.slow
def test_phone_clips_become_an_evaluated_model_by_the_commands_of_the_page(project, tmp_path):
    (place,) = set(re.findall(r"data/01_raw/phone", PAGE))
    clips_of_somebody(project / place)
    setting = re.search(r"Set `ingest\.(source): (folder)` in `(conf/base/\S+)`", PAGE)
    path = Path(setting[3])
    path.write_text(re.sub(rf"{setting[1]}: \w+", f"{setting[1]}: {setting[2]}", path.read_text()))
    asked = re.search(r"`fit_avatars\.(phone): (true)`", PAGE)
    path = Path("conf/base/parameters_fit_avatars.yml")
    path.write_text(re.sub(rf"(?m)^  {asked[1]}: \w+", f"  {asked[1]}: {asked[2]}", path.read_text()))

    beginning = next(line for line in PAGE.splitlines() if line.startswith("kedro run --pipelines=ingest"))
    call(*beginning.split())
    done = beginning.partition("=")[2].split(",")
    assert {name for name, state in states().items() if state == "fresh"} == set(done)
    before = runs()

    assert "\ndvc repro\n" in PAGE
    call("dvc", "repro", "evaluate")
    after = runs()
    assert {name: after[name] for name in done} == before, "what kedro had made was not made again"
    assert set(after) == set(BEFORE)
    assert {name for name, state in states().items() if state == "fresh"} == set(BEFORE)

    avatars = {path.parent.name for path in Path("data/06_models/avatars").glob("*/avatar.safetensors")}
    refused = json.loads(Path("data/06_models/avatars/quarantine.json").read_text())
    assert {"anna", "studio0000"} <= avatars and PEOPLE - avatars <= {entry["identity"] for entry in refused}
    sweeps = json.loads(Path("data/08_reporting/render_sweeps.json").read_text())
    assert sweeps["of_phone_people"] >= 2 and sweeps["of_studio_people"] >= 2
    aside = json.loads(Path("data/03_primary/sweeps/quarantine.json").read_text())  # seen from one side alone
    assert len(aside) == sweeps["failures"] <= 1 and all("to either side" in entry["reason"] for entry in aside)
    found = json.loads(Path("data/08_reporting/evaluate.json").read_text())
    assert set(found["people"]) == PEOPLE, "everybody is judged by a clip of their own"
    held = pd.read_parquet("data/03_primary/validated/held_out/frames.parquet", columns=["identity", "clip"])
    trained = pd.read_parquet("data/05_model_input/shards/index.parquet")
    assert set(held["identity"]) == PEOPLE and not set(held["clip"]) & set(trained["clip"])
    assert "By person" in Path("data/07_model_output/evaluation/report.html").read_text()
