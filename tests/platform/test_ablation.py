"""The ablation end to end on tiny shards: shared stages, resuming, scores, tables and figures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fportrait.atomic_io import write_json
from fportrait.body.model import load_body
from fportrait.capture.world import HEAD_TARGET, orbit_camera
from fportrait.dataset.encode import vae_hash
from fportrait.dataset.shards import ShardWriter, write_shard
from fportrait.diffusion.codec import BlockCodec, encode_video
from fportrait.errors import UserError
from fportrait.ops import ablation
from fportrait.ops.ablation import Plan, Run, equal_compute, plan_runs, run_ablation, stage_of
from fportrait.ops.ablation_report import Results, checks, spread, table, write_results
from fportrait.pixels import to_model_range
from fportrait.tables.schema import DATASETS
from helpers.small import moving_picture, record, references, transformer

MIXTURES = {1: [100, 0, 0, 0], 2: [60, 40, 0, 0], 3: [20, 20, 30, 30], 4: [20, 20, 30, 30]}
STAGE = {
    "variant": "full",
    "learning_rate": 1e-3,
    "batch_size": 2,
    "precision": "fp32",
    "warmup": 1,
    "log_every": 1,
    "checkpoint_every": 2,
    "held_out": 2,
    "processes": 2,
    "shards_url": None,
}


def settings() -> dict:
    frames = {1: 5, 2: 5, 3: 9, 4: 9}
    return {
        n: {
            **STAGE,
            "frames": frames[n],
            "iterations": 2,
            "seed": n,
            "mixture": dict(zip(DATASETS, MIXTURES[n], strict=True)),
        }
        for n in (1, 2, 3, 4)
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base, and shards and annotations of one known and one unseen person in each dataset."""
    root = tmp_path_factory.mktemp("mini")
    codec = BlockCodec(refiner_blocks=0)
    codec.fit_pca([to_model_range(np.stack([moving_picture(seed) for seed in range(8)]))])
    codec.save_pretrained(root / "base/vae")
    transformer().save_pretrained(root / "base/transformer")
    write_json(root / "base/bundle.json", {"size": 32, "frames": 9, "steps": 2, "shift": 5.0})
    writer = ShardWriter(root / "shards", vae_hash(root / "base/vae"), {"window": 9})
    body, frames, people = load_body(), [], []
    camera = orbit_camera(0, 0, 0.55, HEAD_TARGET)
    for number, dataset in enumerate(DATASETS):
        for person, split in ((f"known{number}", "train"), (f"unseen{number}", "test")):
            video = moving_picture(sum(map(ord, person)))
            tensors = {**record(number, 9), "latents": encode_video(codec, to_model_range(video[None]))[0]}
            if split == "test":
                tensors |= {"video": torch.from_numpy(video), "landmarks": torch.rand(9, 478, 2) * 32}
            portraits = {**references(number), "images": torch.from_numpy(video[:2])}
            rows = write_shard(
                root / "unit.safetensors",
                dataset=dataset,
                identity=person,
                split=split,
                records=[("r0", f"{person}/s0/cam", 0, tensors)],
                references=portraits,
            )
            writer.add(root / "unit.safetensors", rows)
            clip, still = f"{person}/s0/cam", np.eye(3).ravel()
            pose = {"body_rotation": still, "body_translation": np.zeros(3), "head_rotation": still}
            row = {"dataset": dataset, "identity": person, "clip": clip, "world_to_camera": camera.ravel(), **pose}
            frames += [{**row, "frame": t} for t in range(9)]
            shape = {"shape": np.zeros(body.identity_dim), "body_model": "embedded"}
            reference = {"reference_clip": clip, "reference_frame": 0}
            people.append({"dataset": dataset, "identity": person, **shape, **reference})
    writer.finish()
    (root / "tables").mkdir()
    pd.DataFrame(frames).to_parquet(root / "tables/frames.parquet")
    pd.DataFrame(people).to_parquet(root / "tables/identities.parquet")
    return root


def plan_of(world: Path, work: Path) -> Plan:
    protocol = {
        "records": 1,
        "frames": 9,
        "steps": 2,
        "batch": 2,
        "control": False,
        "metrics": {"psnr": "auto", "ssim": "auto", "sharpness": "auto"},
    }
    scoring = {"protocol": protocol, "probes": {"people": 0}, "modes": {"people": 0}, "seed": 0}
    return Plan(str(world / "base"), str(world / "shards"), (str(world / "tables"),), settings(), scoring, str(work))


def test_an_ablation_trains_scores_and_shows_its_variants_and_never_trains_twice(world, tmp_path, monkeypatch):
    plan, variants = plan_of(world, tmp_path / "work"), ["full", "c1", "c3"]
    found = run_ablation(plan, variants, [0], tmp_path / "units", workers=1)
    assert {run["variant"] for run in found["runs"]} == set(variants) and not found["failures"]
    folders = {run["variant"]: [stage["folder"] for stage in run["stages"]] for run in found["runs"]}
    assert folders["c1"][:2] == folders["full"][:2] and not set(folders["c1"][2:]) & set(folders["full"])
    assert not set(folders["c3"]) & set(folders["full"])
    configs = {
        name: json.loads((Path(some[-1]) / "transformer/config.json").read_text()) for name, some in folders.items()
    }
    assert configs["c3"]["expression"] == "landmarks" and configs["full"].get("expression", "codes") == "codes"

    pages = tmp_path / "results"
    write_results({**found, "seconds": 1.0, "workers": 1}, plan, pages)
    text = (pages / "tables.md").read_text()
    for words in ("C1: without DynamicSweep", "portrait on the tracked mesh", "codec's limit", "StudioCapture"):
        assert words in text
    named = {part.split(")")[0] for part in text.split("](")[1:] if part.split(")")[0].endswith((".png", ".jpg"))}
    assert named == {path.name for path in pages.iterdir() if path.suffix in (".png", ".jpg")}
    assert all(0 < (pages / name).stat().st_size < 400_000 for name in named)
    ours = Results(found).over_seeds("full", "ViewSweep", "psnr")
    (full,) = (run for run in json.loads((pages / "results.json").read_text())["runs"] if run["variant"] == "full")
    assert [full["scores"]["ViewSweep"]["ours"]["psnr"]["mean"]] == ours

    monkeypatch.setattr(ablation, "train_one", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(ablation, "score_one", lambda *_: pytest.fail("scored again"))
    assert run_ablation(plan, variants, [0], tmp_path / "units", workers=1)["runs"] == found["runs"]

    ablation.forget_lost_stages(tmp_path / "units/runs")
    assert len(list((tmp_path / "units/runs").glob("*/result.json"))) == 3
    (Path(folders["c3"][1]) / "stage.json").unlink()  # one run's stage is lost: its result no longer stands for it
    ablation.forget_lost_stages(tmp_path / "units/runs")
    assert len(list((tmp_path / "units/runs").glob("*/result.json"))) == 2


def test_a_run_that_was_killed_keeps_its_finished_stages(world, tmp_path, monkeypatch):
    plan, calls = plan_of(world, tmp_path / "work"), []
    real = ablation.train_one

    def until_the_third(stage, *rest):
        calls.append(stage.name)
        if calls.count("stage3") == 1 and stage.name == "stage3":
            raise KeyboardInterrupt
        real(stage, *rest)

    monkeypatch.setattr(ablation, "train_one", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        ablation.train_run(Run("full", 0), tmp_path, plan)
    ablation.train_run(Run("full", 0), tmp_path, plan)
    assert calls == ["stage1", "stage2", "stage3", "stage3", "stage4"]


def test_variants_differ_in_what_they_leave_out_and_in_nothing_else():
    plan = replace(plan_of(Path("."), Path(".")), lengths={1: 2, 2: 2, 3: 4, 4: 4})
    stages = {name: [stage_of(Run(name, 1), n, plan) for n in (1, 2, 3, 4)] for name in ablation.TITLES}
    for name in ("c1", "c2", "c3", "identity_rays"):
        for full, other in zip(stages["full"], stages[name], strict=True):
            changed = {"variant"} if name != "c1" else {"mixture"} if full.name in ("stage3", "stage4") else set()
            assert {key for key, value in full.learned_from().items() if other.learned_from()[key] != value} == changed
            assert full.iterations == other.iterations
    assert list(stages["c1"][3].mixture.values()) == [20, 40, 40, 0]
    assert {stage.frames for stage in stages["one_mixture"]} == {9}
    assert [stage.learning_rate for stage in stages["one_mixture"]] == [stage.learning_rate for stage in stages["full"]]
    assert [stage.seed for stage in stages["full"]] == [1001, 1002, 1003, 1004]
    assert all(stage.processes == 1 for stage in stages["full"])  # whatever the chain's own stage would do


def test_training_without_the_curriculum_takes_as_many_operations(world):
    from fportrait.training.cost import sample_cost

    config = json.loads((world / "base/transformer/config.json").read_text())
    given = {n: {**stage, "iterations": 600} for n, stage in settings().items()}
    lengths = equal_compute(given, config, 4)
    flops = {frames: sample_cost(config, frames, 4, 4).flops for frames in (5, 9)}
    assert lengths[4] == 600 and lengths[1] < 600
    for number, stage in given.items():
        assert lengths[number] * flops[9] == pytest.approx(600 * flops[stage["frames"]], rel=0.01)


def test_the_full_model_comes_first_and_must_be_there():
    runs = plan_runs(["c1", "c2", "full"], [0, 1])
    assert [run.name for run in runs] == ["full-0", "full-1", "c2-0", "c2-1", "c1-0", "c1-1"]
    for variants, seeds in ((["c1"], [0]), (["full", "full"], [0]), (["full"], []), (["full", "c4"], [0])):
        with pytest.raises(UserError):
            plan_runs(variants, seeds)


def test_numbers_over_seeds_show_their_spread_and_what_is_missing_is_a_dash():
    assert spread([20.0, 21.0], 2) == "20.50 ± 0.50" and spread([3.0], 1) == "3.0" and spread([None], 1) == "–"
    assert table(["a", "b"], [["x", 1]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"


def scored(psnr: float, gains: dict[str, float], head: float = 2.0) -> dict:
    """Scores of one run in the shape that `evaluate` gives, with these numbers and a clean leakage matrix."""
    entry = {
        "ours": {"psnr": {"mean": psnr}, "head_pose_error": {"mean": head}},
        "codec_limit": {"psnr": {"mean": 30.0}},
    }
    probed = {name: {"gain": {"mean": value}, "correlation": {"mean": 0.9}} for name, value in gains.items()}
    matrix = {row: {column: value if row == column else 0.1 for column in gains} for row, value in gains.items()}
    methods = {name: {"gains": probed, "leakage": matrix} for name in ("ours", "codec_limit")}
    return {"DynamicSweep": entry, "control": {"methods": methods}}


def test_every_bar_is_judged_by_the_means_over_seeds():
    good, weak = {"pose": 0.9, "jaw": 0.6}, {"pose": 0.7, "jaw": 0.6}
    runs = [
        {"variant": "full", "seed": 0, "scores": scored(24.0, good)},
        {"variant": "full", "seed": 1, "scores": scored(22.0, weak)},
        {"variant": "c2", "seed": 0, "scores": scored(18.0, good, head=5.0)},
        {"variant": "c1", "seed": 0, "scores": scored(23.5, good)},
    ]
    baselines = {"warped_portrait": {"DynamicSweep": {"ours": {"psnr": {"mean": 22.5}}}}}
    judged = {
        what: (came, holds)
        for what, came, holds in checks(Results({"runs": runs, "baselines": baselines, "points": {}}))
    }
    assert judged["DynamicSweep: PSNR above every baseline"] == ("+0.50 dB to the portrait on the tracked mesh", True)
    assert judged["gain of pose at least 0.8"][1] and judged["gain of jaw at least 0.5"][1]
    assert "gain of view at least 0.8" not in judged  # it was not probed
    assert judged["every other factor moves at most a third as much"] == ("0.10: pose moves jaw", True)
    assert judged["C2: head error without normals at least twice the full model's"] == ("5 against 2", True)
    assert judged["C1: joint motion is worse without DynamicSweep (PSNR)"] == ("23.5 against 23", False)


def test_factors_keep_the_order_of_the_probes_pictures_which_json_forgets():
    run = {"variant": "full", "seed": 0, "scores": scored(20.0, {"blink": 0.5, "jaw": 0.25})}
    names, matrix = Results({"runs": [run]}).leakage("full")
    assert names == ["jaw", "blink"] and matrix == [[0.25, 0.1], [0.1, 0.5]]


def test_mlflow_holds_a_run_per_variant_and_seed_with_one_curve_over_all_stages(dry_project, monkeypatch):
    import mlflow

    from fportrait.ops.ablation import log_runs
    from fportrait.ops.runs import StageRun

    shown = {"frames": 5, "learning_rate": 1e-4, "mixture": {"PhoneCapture": 100}, "seed": 1}
    stages = [
        {
            "name": f"stage{n}",
            "iterations": 2,
            **shown,
            "folder": "x",
            "curve": [{"step": 1, "loss": n + 0.5}, {"step": 2, "loss": float(n), "held_out_loss": n + 1.0}],
        }
        for n in (1, 2)
    ]
    runs = [
        {"variant": name, "seed": 0, "stages": stages, "scores": scored(20.0, {"jaw": 0.5})} for name in ("full", "c2")
    ]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{dry_project}/mlruns/mlflow.db")
    mlflow.set_tracking_uri(None)  # what another test may have set
    parent = StageRun("ablate", environment="mini")
    log_runs({"runs": runs})
    parent.finish()
    client = mlflow.MlflowClient()
    (experiment,) = [one for one in client.search_experiments() if one.name == "fportrait"]
    found = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    assert {run.info.run_name for run in found} == {"full seed 0", "c2 seed 0"}
    for run in found:
        points = client.get_metric_history(run.info.run_id, "loss")
        assert [(point.step, point.value) for point in points] == [(1, 1.5), (2, 1.0), (3, 2.5), (4, 2.0)]
        assert run.data.params["stage2.iterations"] == "2"
        assert run.data.metrics["DynamicSweep.ours.psnr.mean"] == 20.0
