"""Adapters by name, and what goes when consent is withdrawn."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from fportrait.animate import adapt_parts
from fportrait.animate.adapt import (
    adapt,
    at_work,
    better,
    check_adapter_name,
    earlier,
    harmless,
    stage_of,
    without_consent,
    words,
)
from fportrait.animate.adapt_parts import AdaptSettings, divide, place
from fportrait.animate.adapt_shards import shares
from fportrait.animate.adapters import FOLDER, WORK, adapters, base_of, delete, fitting, resolve
from fportrait.animate.clip_check import GOOD, UNUSABLE, ClipCheck, PersonCheck, check_clips
from fportrait.atomic_io import write_json
from fportrait.bundle import SHIPPED_BASE, read_settings
from fportrait.capture.video_io import read_video, write_video
from fportrait.capture.withdrawn import of_withdrawn, withdraw
from fportrait.cli import main
from fportrait.diffusion.architectures import variant_of as transformer_of
from fportrait.diffusion.lora import LoraSettings, adapter_name, weights_hash
from fportrait.errors import UserError
from fportrait.provenance import TAG
from helpers.trees import variable_clip


@pytest.fixture
def home(tmp_path):
    """A project with an adapter, its work, and two videos: one made with it, one with another."""
    for name in ("anna", "ben"):
        folder = tmp_path / FOLDER / name
        folder.mkdir(parents=True)
        write_json(folder / "adapter.json", {**LoraSettings(rank=2, conditions=False).as_dict(), "base": "0" * 16})
        save_file({name: torch.zeros(2)}, folder / "adapter.safetensors")
        work = tmp_path / WORK / "adapters" / name / "shards"
        work.mkdir(parents=True)
        (work / "one").write_text("x")
        tag = {TAG: json.dumps({"synthetic": True, "adapter": adapter_name(folder)})}
        write_video(tmp_path / f"videos/{name}.mp4", np.zeros((2, 16, 16, 3), np.uint8), metadata=tag)
    (tmp_path / WORK / "embedded").mkdir()
    return tmp_path


def test_a_name_finds_its_adapter_and_a_wrong_one_names_the_nearest(home):
    assert resolve("anna", home) == home / FOLDER / "anna" and set(adapters(home)) == {"anna", "ben"}
    assert resolve(home / "videos", home) == home / "videos"  # a path stays one; what it holds is checked on loading
    with pytest.raises(UserError, match=r"no adapter 'ana'.*use 'anna'"):
        resolve("ana", home)


def test_deleting_takes_everything_made_from_it_and_nothing_else(home):
    found = delete("anna", home, [home / "videos"])
    assert len(found["removed"]) == 3
    assert not (home / FOLDER / "anna").exists() and not (home / WORK / "adapters/anna").exists()
    assert not (home / "videos/anna.mp4").exists() and (home / "videos/ben.mp4").is_file()
    assert (home / FOLDER / "ben/adapter.json").is_file() and (home / WORK / "embedded").is_dir()
    with pytest.raises(UserError, match=r"no adapter 'anna'.*ben"):
        delete("anna", home)


def test_the_command_lists_deletes_and_says_what_is_missing(home, monkeypatch):
    monkeypatch.chdir(home)
    (home / "mlruns").mkdir()

    def adapt(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["adapt", *words])
        return done.exit_code, done.stdout or done.stderr

    code, told = adapt("--list", "--json")
    assert code == 0 and {name: one["fits"] for name, one in json.loads(told).items()} == {"anna": False, "ben": False}
    done = CliRunner().invoke(main, ["evaluate", "--adapter", "anna"])
    assert done.exit_code == 2 and "--adapter without --clips" in done.stderr
    assert adapt()[0] == adapt("clips")[0] == adapt("nowhere", "--name", "carl")[0] == 2
    code, told = adapt("nowhere", "--name", "../carl")
    assert code == 2 and "Traceback" not in told and sorted(adapters(home)) == ["anna", "ben"]
    assert adapt("--delete", "anna")[0] == 0 and list(adapters(home)) == ["ben"]
    code, told = adapt("--delete", "anna")
    assert code == 2 and "no adapter 'anna'" in told


def test_results_conditions_and_reports_go_too_and_the_users_own_files_beside_them_stay(home):
    tag = {TAG: json.dumps({"synthetic": True, "adapter": adapter_name(home / FOLDER / "anna")})}
    result, report, conditions = (home / "data" / place for place in MADE_OF_IT)
    for folder in (result, report, conditions):
        (folder / "videos").mkdir(parents=True)
        (folder / "mine.txt").write_text("the user's")
    write_video(result / "me-animated.mp4", np.zeros((2, 16, 16, 3), np.uint8), metadata=tag)
    for name in ("settings.json", "thumbnail.png", "me-conditions.zip"):
        (result / name).write_text("{}")
    write_json(report / "metrics.json", {"adapter": adapter_name(home / FOLDER / "anna")})
    (report / "videos/her.mp4").write_text("a face")
    write_json(conditions / "provenance.json", {"tags": tag})
    (conditions / "codes.npy").write_text("her expressions")
    for folder in (result, report, conditions):
        write_json(folder / "other/metrics.json", {"adapter": adapter_name(home / FOLDER / "ben")})
    (home / "data/07_model_output/link.mp4").symlink_to(home / "videos/anna.mp4")
    delete("anna", home)
    kept = {path.relative_to(home / "data").as_posix() for path in (home / "data/07_model_output").rglob("*.*")}
    kept |= {path.relative_to(home / "data").as_posix() for path in (home / "data/08_reporting").rglob("*.*")}
    assert kept == {f"{place}/{name}" for place in MADE_OF_IT for name in ("mine.txt", "other/metrics.json")} | {
        "07_model_output/link.mp4"
    }
    assert (home / "videos/anna.mp4").is_file(), "a folder that was not named was searched through a link"


MADE_OF_IT = ("07_model_output/studio/20260101-1", "08_reporting/clips", "07_model_output/anna-conditions")


def test_what_an_adapter_of_that_name_made_before_it_was_trained_again_goes_too(home):
    folder = home / FOLDER / "anna"
    old = home / "videos/old.mp4"
    shutil.copy(home / "videos/anna.mp4", old)
    before = earlier(folder)
    save_file({"anna": torch.ones(2)}, folder / "adapter.safetensors")  # trained again
    write_json(folder / "adapt.json", {"earlier": before})
    assert len(earlier(folder)) == 2 and earlier(folder)[0] == before[0]
    delete("anna", home, [home / "videos"])
    assert not old.exists() and (home / "videos/ben.mp4").is_file()


def test_an_adapter_that_is_being_trained_is_not_deleted_and_broken_or_linked_ones_are(home):
    with at_work(home / WORK, "anna"):
        with pytest.raises(UserError, match="at work"):
            delete("anna", home)
        with pytest.raises(UserError, match="at work"), at_work(home / WORK, "anna"):
            pass
        delete("ben", home)
    assert (home / FOLDER / "anna/adapter.safetensors").is_file()
    (home / FOLDER / "anna/adapter.safetensors").unlink()
    (home / FOLDER / "anna/adapt.json").write_text("{ torn")
    elsewhere = home / "elsewhere"
    (home / FOLDER / "anna").rename(elsewhere)
    (home / FOLDER / "anna").symlink_to(elsewhere)
    assert delete("anna", home)["hash"] is None
    assert not (home / FOLDER / "anna").is_symlink() and elsewhere.is_dir()
    assert not list((home / WORK / "adapters").iterdir()), "a name stays behind"


def test_the_shipped_base_is_called_what_an_adapter_of_it_calls_it():
    assert base_of(SHIPPED_BASE) == weights_hash(transformer_of(SHIPPED_BASE / "transformer", "full"))


def test_adapters_of_another_base_and_broken_ones_do_not_fit(home):
    model = home / "bundle"
    (model / "transformer").mkdir(parents=True)
    save_file({"w": torch.zeros(3)}, model / "transformer/weights.safetensors")
    assert fitting(model, home) == {}
    settings = LoraSettings(rank=2, conditions=False).as_dict()
    write_json(home / FOLDER / "ben/adapter.json", {**settings, "base": base_of(model)})
    (home / FOLDER / "anna/adapter.json").write_text("{ torn")
    assert fitting(model, home) == {"ben": home / FOLDER / "ben"}
    save_file({"w": torch.ones(3)}, model / "transformer/weights.safetensors")  # the base is exchanged
    assert fitting(model, home) == {}


@pytest.mark.parametrize("name", ["", "..", "../ben", "a/b", "-x", "a b", "x" * 65, "ben\n"])
def test_a_name_that_leaves_the_folder_is_refused(home, name):
    with pytest.raises(UserError):
        check_adapter_name(name)
    with pytest.raises(UserError):
        delete(name, home)
    assert (home / FOLDER / "ben").is_dir()


def test_an_adapter_must_beat_the_base_and_the_repeated_portrait_for_everyone():
    def scores(adapted: float, base: float, portrait: float) -> dict:
        entry = {"base": {"ours/psnr": base, "repeated_portrait/psnr": portrait}, "adapted": {"ours/psnr": adapted}}
        return {"people": {"anna": entry}}

    assert better(scores(22, 20, 21)) and not better(scores(20.5, 20, 21)) and not better(scores(19, 20, 18))
    two = {"people": {**scores(22, 20, 21)["people"], "ben": scores(19, 20, 18)["people"]["anna"]}}
    assert not better(two) and not better({"people": {}})
    still = scores(22, 20, 39)
    still["people"]["anna"]["base"]["codec_limit/psnr"] = 30.0  # nothing that the codec draws could reach 39 dB
    assert better(still) and "hardly moves" in words(still) and "hardly" not in words(scores(22, 20, 21))
    blurred = scores(22, 20, 21)
    blurred["people"]["anna"]["base"]["ours/lpips"] = 0.5
    blurred["people"]["anna"]["adapted"]["ours/lpips"] = 0.6
    assert not better(blurred) and "LPIPS 0.500 to 0.600" in words(blurred)


def test_a_clip_that_hardly_moves_must_not_lose_and_cannot_show_a_gain_alone():
    """Its own pixels are kept: base and adapter differ by thousandths of a decibel, either way."""

    def entry(base: dict, adapted: dict, portrait: float = 41.0) -> dict:
        of = {"repeated_portrait/psnr": portrait, "codec_limit/psnr": 30.0}
        return {
            who: {f"ours/{key}": value for key, value in one.items()} | of
            for who, one in (("base", base), ("adapted", adapted))
        }

    still = entry({"psnr": 38.726, "csim": 99.5}, {"psnr": 38.725, "csim": 99.4})
    moving = entry({"psnr": 27.54, "lpips": 0.185}, {"psnr": 27.62, "lpips": 0.186}, portrait=24.1)
    assert not better({"people": {"anna": still}})
    assert better({"people": {"anna": still, "ben": moving}}) and better({"people": {"ben": moving}})
    lost = entry({"psnr": 38.7}, {"psnr": 38.6})
    stranger = entry({"psnr": 38.7, "csim": 99.5}, {"psnr": 38.9, "csim": 98.9})
    assert not better({"people": {"anna": lost, "ben": moving}})
    assert not better({"people": {"anna": stranger}})
    assert better({"people": {"anna": entry({"psnr": 38.7}, {"psnr": 38.9})}})


def test_an_adapter_that_changes_nothing_that_is_seen_is_harmless_and_one_that_loses_is_not():
    def entry(base: float, adapted: float, portrait: float) -> dict:
        return {"base": {"ours/psnr": base, "repeated_portrait/psnr": portrait}, "adapted": {"ours/psnr": adapted}}

    level = {"people": {"anna": entry(25.13, 25.10, 21.5)}}
    assert harmless(level) and not better(level)
    assert not harmless({"people": {"anna": entry(25.13, 25.0, 21.5)}}), "more than .05 dB is a loss"
    assert not harmless({"people": {"anna": entry(25.13, 25.12, 25.2)}}), "the first frame repeated is better"
    assert not harmless({"people": {}}), "nobody was judged"


def test_a_base_of_one_step_is_adapted_at_the_level_that_is_sampled(tmp_path):
    settings, one = AdaptSettings(steps=8), read_settings(SHIPPED_BASE).steps
    assert stage_of(settings, {"PhoneCapture": 100}, SHIPPED_BASE).sigmas == ("start" if one == 1 else "uniform")
    shutil.copytree(SHIPPED_BASE, tmp_path / "base")
    path = tmp_path / "base/bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "steps": 6}))
    assert stage_of(settings, {"PhoneCapture": 100}, tmp_path / "base").sigmas == "uniform"


def test_shares_are_whole_percents_of_what_is_there():
    everything = {"PhoneCapture": 5, "StudioCapture": 3, "ViewSweep": 3, "DynamicSweep": 3}
    mixture = shares(AdaptSettings(embedded=40), everything)
    assert sum(mixture.values()) == 100 and mixture["PhoneCapture"] == 61 and mixture["ViewSweep"] == 13
    assert shares(AdaptSettings(embedded=0), everything) == {"PhoneCapture": 100}
    assert shares(AdaptSettings(embedded=2), everything) == {"StudioCapture": 1, "ViewSweep": 1, "PhoneCapture": 98}


def test_consent_is_asked_of_every_person(tmp_path):
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna/Consent.TXT").write_text("agreed")  # as Windows has it
    (tmp_path / "ben").mkdir()
    people = {"anna": [tmp_path / "anna/a.mp4"], "ben": [tmp_path / "ben/b.mp4"]}
    assert without_consent(people, tmp_path) == ["ben"]


def test_who_withdrew_from_the_captures_is_in_no_adapter(tmp_path):
    for name in ("anna", "ben"):
        write_video(tmp_path / f"01_raw/phone/{name}/a.mp4", np.zeros((2, 16, 16, 3), np.uint8))
        withdraw(tmp_path / "01_raw", name, trained=False, done=True)
    for clips in (tmp_path / "01_raw/phone", tmp_path / "01_raw/phone/anna", tmp_path / "01_raw/phone/ben/a.mp4"):
        with pytest.raises(UserError, match=r"people who withdrew \(withdrawn.json"):
            adapt(clips, "anna", SHIPPED_BASE, tmp_path / "out", tmp_path / "work")
    assert of_withdrawn(tmp_path / "01_raw/phone/ben/a.mp4") and not of_withdrawn(tmp_path / "ben/a.mp4")
    assert not of_withdrawn(tmp_path / "01_raw/phone/carl/a.mp4")


def clip(person: str, name: str, **values) -> ClipCheck:
    given = {"frames": 200, "fps": 25.0, "seconds": 8.0, "width": 640, "height": 480, "sha256": person + name}
    return ClipCheck(person, name, f"/{person}/{name}", **{**given, **values})


def test_one_clip_of_everyone_is_held_out_and_it_is_not_the_one_that_turns():
    anna = PersonCheck("anna", [clip("anna", "a", yaw=(-30, 30)), clip("anna", "b", yaw=(-5, 4)), clip("anna", "c")])
    anna.clips[2].bad(UNUSABLE, "blurred")
    three = PersonCheck("dan", [clip("dan", n, yaw=(-y, y)) for n, y in (("a", 40), ("b", 2), ("c", 12))])
    assert [part.clip.name for part in divide([three])[0] if part.held_out] == ["c"], (
        "neither still nor seen once alone"
    )
    alone = PersonCheck("ben", [clip("ben", "only")])
    short = PersonCheck("cleo", [clip("cleo", "only", seconds=1.0)])
    parts, notes = divide([anna, alone, short])
    assert [(part.clip.name, part.held_out) for part in parts[:2]] == [("a", False), ("b", True)]
    assert [(p.clip.person, p.held_out, p.start, p.stop) for p in parts[2:]] == [
        ("ben", False, 0, 140),
        ("ben", True, 140, None),
    ]
    assert any("anna/c is left out" in note for note in notes) and any("cleo is left out" in note for note in notes)
    assert any("ben has one clip" in note for note in notes)
    with pytest.raises(UserError, match="cleo is left out"):
        divide([short])


def test_an_only_clip_of_variable_rate_is_learned_from_and_judged_to_its_end(tmp_path, monkeypatch):
    """Nine stored frames are fifteen at 25 a second: cut in stored ones, the last six were lost."""
    path = variable_clip(tmp_path / "a.mp4", (0, 40, 80, 120, 160, 200, 320, 440, 560))
    (person,) = check_clips({"anna": [path]})
    (found,) = person.clips
    assert (found.frames, found.fps, found.seconds) == (15, 25, 0.6), "nothing but grey: measured, and no face"
    found.state = GOOD
    monkeypatch.setattr(adapt_parts, "LEAST_SECONDS", 0.5)
    parts, _ = divide([person])
    assert [part.as_dict()["frames"] for part in parts] == [[0, 10], [10, 15]]
    place(parts, tmp_path / "placed", AdaptSettings())
    (learned,), (held,) = (sorted((tmp_path / "placed" / kind).rglob("*.mp4")) for kind in ("learn", "held"))
    shown = np.concatenate([read_video(learned), read_video(held)]).mean((1, 2, 3))
    assert len(shown) == 15 and np.abs(shown[[0, 5, 8, 14]] - [0, 150, 180, 240]).max() < 6


def test_clips_that_were_moved_are_found_where_they_lie_now(tmp_path):
    """What was laid out for the run before linked to where they had been."""
    for name in ("a", "b"):
        write_video(tmp_path / f"clips/{name}.mp4", np.zeros((5, 16, 16, 3), np.uint8))
    for folder in ("clips", "moved"):
        if folder == "moved":
            (tmp_path / "clips").rename(tmp_path / "moved")
        one, other = (ClipCheck("p", f"{n}.mp4", str(tmp_path / folder / f"{n}.mp4"), frames=5) for n in ("a", "b"))
        parts, _ = divide([PersonCheck("p", [one, other])])
        place(parts, tmp_path / "placed", AdaptSettings())
        assert all(len(read_video(path)) == 5 for path in (tmp_path / "placed").rglob("*.mp4"))


def test_a_folder_of_videos_that_is_not_there_stops_a_deletion_and_one_video_may_be_named(home):
    """Passed over, what an adapter made would lie on where its user meant, with consent withdrawn."""
    with pytest.raises(UserError, match=r"no folder .*vidoes"):
        delete("anna", home, [home / "vidoes"])
    assert "anna" in adapters(home)
    removed = delete("anna", home, [home / "videos/anna.mp4"])["removed"]
    assert home / "videos/anna.mp4" in removed and (home / "videos/ben.mp4").is_file()
    delete("ben", home, [home / "videos/ben.mp4"])
    assert (home / "videos").is_dir(), "the user's own folder stays"


def test_a_broken_adapter_or_record_is_listed_as_such_and_trained_again(home, monkeypatch):
    monkeypatch.chdir(home)
    folder = home / FOLDER / "anna"
    for record in (
        '{"a": 1}',
        '{"clips": 3, "scores": {"people": []}}',
        '{"clips": [], "scores": 1, "earlier": 4}',
        "{",
    ):
        (folder / "adapt.json").write_text(record)
        done = CliRunner().invoke(main, ["adapt", "--list"])
        assert done.exit_code == 0 and "anna (of another base" in done.stdout and "record beside it" in done.stdout
        assert len(earlier(folder)) == 1
    write_json(folder / "adapt.json", {"earlier": ["1" * 16]})
    (folder / "adapter.json").write_text('{"rank":')
    assert "anna (a broken" in CliRunner().invoke(main, ["adapt", "--list"]).stdout
    assert earlier(folder) == ["1" * 16], "what it made before still goes with it"
