"""A report's few numbers: for DVC's tables, MLflow's charts, and the model card."""

from __future__ import annotations

import json

from fportrait.ops import headline, model_card
from fportrait.ops.chain import CHAIN
from fportrait.ops.datasets import Report
from helpers import fabricated

REPORTS = {
    "ingest": {"videos": 36, "identities": {"PhoneCapture": 6}, "quarantined": 0},
    "pretrain": {"size": 64, "frames": 17, "hashes": {"vae/config.json": "4a10"}},
    "track": {"frames": 90, "reprojection_error_percent_of_eye_distance": 0.9},
    "validate": {"rules": 50, "identities": 10, "quarantined": {}},
    "fit_avatars": {"avatars": 2, "scores": {"a": {"psnr_both": 26.0}, "b": {"psnr_both": 28.0}}},
    "render_sweeps": {"clips": {"ViewSweep": 16}, "failures": 0},
    "encode": {"records": {"ViewSweep": {"test": 16, "train": 84}}, "vae_hash": "85937"},
    **{f"train_stage{n}": {"final_loss": 0.12784, "steps": 60} for n in (1, 2, 3, 4)},
    "evaluate": fabricated.report_of(fabricated.scores_of(fabricated.GOOD)),
    "promote": {"version": 1, "hashes": {"bundle.json": "ab"}},
}


def test_every_stage_has_a_few_numbers_under_names_that_no_other_stage_uses():
    assert set(REPORTS) <= set(CHAIN)
    found = {stage: headline.headline(stage, report) for stage, report in REPORTS.items()}
    names = [name for numbers in found.values() for name in numbers]
    assert len(names) == len(set(names)), "a name of two stages makes DVC show the whole path"
    for stage, numbers in found.items():
        assert 1 <= len(numbers) <= headline.LONGEST, stage
        assert all(isinstance(value, int | float) for value in numbers.values())
        assert all(len(name) <= 17 for name in numbers), "columns of `dvc exp show` are as wide as their names"
    assert headline.headline("distil", {"loss": 0.1, "steps": 3, "hashes": {"a": 1}}) == {
        "distil_loss": 0.1,
        "distil_steps": 3,
    }
    assert found["fit_avatars"] == {"avatars": 2, "avatar": 27.0}
    assert {"psnr", "gain", "leak"} <= set(found["evaluate"])
    few_cameras = {"a": {"psnr_both": None, "psnr_frames": 25.0}, "b": {"psnr_both": 27.0}, "c": {"psnr_both": None}}
    assert headline.headline("fit_avatars", {"avatars": 3, "scores": few_cameras})["avatar"] == 26.0
    assert headline.headline("fit_avatars", {"avatars": 1, "scores": {"a": {"psnr_both": None}}}) == {"avatars": 1}


def test_an_evaluation_has_some_dozens_of_named_scores_and_all_of_them_as_one_table():
    report = REPORTS["evaluate"]
    named = headline.named_scores(report)
    assert 24 <= len(named) <= 60 and len(named) < len(headline.numbers(report))
    assert {"PhoneCapture/psnr", "gain/jaw", "control/worst_leak"} <= set(named)
    table = headline.table(report)
    assert len({len(column) for column in table.values()}) == 1
    told = [value for name in headline.TABLE[3:] for value in table[name] if value is not None]
    assert sorted(told) == sorted(headline.numbers(report).values())
    names = list(zip(table["of"], table["method"], table["measure"], strict=True))
    assert len(set(names)) == len(names) and ("PhoneCapture", "ours", "psnr") in names


def test_a_report_is_saved_with_its_numbers_and_the_rows_that_dvc_plots(tmp_path):
    Report(str(tmp_path / "evaluate.json"), "evaluate").save(dict(REPORTS["evaluate"]))
    assert json.loads((tmp_path / "metrics/evaluate.json").read_text())["psnr"] > 0
    gains = json.loads((tmp_path / "curves/gains.json").read_text())
    assert {row["factor"] for row in gains} == set(fabricated.FACTORS)
    assert [row["dataset"] for row in json.loads((tmp_path / "curves/psnr.json").read_text())] == list(
        headline.DATASETS
    )


def test_the_card_tells_data_scores_and_limits_and_fits_the_registry(tmp_path):
    from fportrait.bundle import SHIPPED_BASE

    story = {
        "stages": {"ingest": {"parameters": {"source": "embedded"}}},
        "captures": {"PhoneCapture/a": {"clips": 2, "frames": 98, "split": "test"}},
    }
    card = model_card.card(REPORTS["evaluate"], story, SHIPPED_BASE, "3", "r" * 32, picture=True)
    assert len(card) <= model_card.LONGEST
    for words in (
        "version 3",
        "| PhoneCapture &emsp;| test | 1 | 2 | 98 |",
        "64 pixels",
        "jaw 0.80",
        "get-artifact?path=card",
    ):
        assert words in card
    bare = model_card.card({}, {}, tmp_path, "1", "", picture=False)
    assert "Not measured." in bare and "![" not in bare
