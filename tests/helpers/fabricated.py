"""A fabricated project at the gate: every folder and record that `promote` reads, in a second and a few kilobytes.

Weights are a line of text; what is real is everything the gate looks at: hashes, records, MLflow runs, Git, parameters.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.atomic_io import atomic_folder, write_json, write_text
from fportrait.ops import evidence, runs
from fportrait.ops.chain import CHAIN

ROOT = Path(__file__).resolve().parents[2]
STAGES = CHAIN[: CHAIN.index("promote")]
TRAINED, BASE, SHARDS = (
    Path(path) for path in ("data/06_models/stage4", "data/06_models/base", "data/05_model_input/shards")
)
INPUTS = evidence.Inputs(TRAINED, BASE, SHARDS)
EVALUATION, REPORT = Path("data/07_model_output/evaluation"), Path("data/08_reporting/evaluate.json")
# a model as the demo's is: METRIC of `ours` in a clip
GOOD = {
    **{"psnr": 24.0, "ssim": 80.0, "expression_gain": 0.8, "lip_error": 0.035, "gaze_error": 0.05},
    **{"head_pose_error": 2.5, "reprojection_error": 1.5, "faces_found": 1.0},
}
FACTORS = ("jaw", "smile", "pucker", "blink", "brows", "gaze", "pose", "view", "identity")
PEOPLE = ("anna", "ben", "cleo", "dora")


def git(*arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def write_code(project: Path) -> Path:
    """A small package with its pipelines beside it, as the repository has them; returns the package."""
    package = project / "src/fportrait"
    write_text(package / "ops/gate.py", "FLOOR = 1\n")
    write_text(package / "evaluation/metrics.py", "METRIC = 1\n")
    write_text(project / "pipelines/promote.py", "VERB = 1\n")
    (package / "pipelines").symlink_to("../../pipelines")
    return package


def write_model(weight: str = "one") -> None:
    write_text(TRAINED / "transformer/config.json", "{}")
    write_text(TRAINED / "transformer/weights.safetensors", f"transformer {weight}")
    write_text(TRAINED / "adapter/adapter.safetensors", f"low-rank updates {weight}")
    write_json(TRAINED / "adapter/adapter.json", {"rank": 2, "base": "b" * 64})
    for part in ("transformer", "vae", "expression_encoder"):
        write_text(BASE / part / "config.json", "{}")
        write_text(BASE / part / "weights.safetensors", f"{part} of the base")
    write_json(BASE / "bundle.json", {"size": 64})
    write_text(SHARDS / "index.json", "{}")


def scores_of(values: dict[str, float], noise: float = 0.0, seed: int = 0, gain: float | None = None) -> dict[str, Any]:
    """Per-clip scores of three clips of each person; `noise` in shares of each value."""
    random = np.random.default_rng(seed)
    spread = random.normal(0, 0.1, (len(PEOPLE), 3))  # the clips' own difficulty, the same for every model
    random = np.random.default_rng(seed + 1)
    clips: dict[str, dict[str, float]] = {}
    people = {}
    for i, person in enumerate(PEOPLE):
        for j in range(3):
            name = f"PhoneCapture/{person}/{j}"
            people[name] = person
            clips[name] = {
                f"ours/{key}": value * (1 + 0.2 * spread[i, j] + noise * float(random.normal()))
                for key, value in values.items()
            }
            clips[name]["codec_limit/psnr"] = clips[name]["ours/psnr"] + 4 + 0.1 * i
    probe = {f"gain_{factor}": values["expression_gain"] if gain is None else gain for factor in FACTORS}
    probes = {f"probed person {i}": {**probe, "worst_leak": 0.3} for i in range(3)}
    return {"holdout": "h", "clips": clips, "people": people, "probes": probes}


def report_of(scores: dict[str, Any]) -> dict[str, Any]:
    """`evaluate.json` of these scores, in the shape that an evaluation gives."""
    names = sorted({name for clip in scores["clips"].values() for name in clip})
    mean = {name: float(np.mean([clip[name] for clip in scores["clips"].values() if name in clip])) for name in names}
    entry: dict[str, Any] = {"clips": len(scores["clips"]), "identities": len(set(scores["people"].values()))}
    for name, value in mean.items():
        method, metric = name.split("/")
        entry.setdefault(method, {})[metric] = {"mean": round(value, 4), "clips": len(scores["clips"])}
    entry["ours_minus_portrait"] = {"mean": round(mean["ours/psnr"] - 20, 4)}
    first = next(iter(scores["probes"].values()))
    control = {
        "methods": {
            "ours": {
                "gains": {f: {"gain": {"mean": first[f"gain_{f}"]}, "correlation": {"mean": 0.8}} for f in FACTORS},
                "worst_leak": first["worst_leak"],
            }
        },
        "settings": {"people": 3},
    }
    datasets = dict.fromkeys(("PhoneCapture", "StudioCapture", "ViewSweep", "DynamicSweep"), entry)
    slices = {"view": {"under 15°": {"clips": 3, "ours": {k: {"mean": v["mean"]} for k, v in entry["ours"].items()}}}}
    settings = {"frames": 17, "steps": 4, "shift": 5.0, "seed": 0, "guidance": {}, "guidance_below": 1.0}
    settings |= {"network_every": 1, "same": {"frames": 17, "steps": 4}}
    return {**datasets, "slices": slices, "control": control, "holdout": scores["holdout"], "settings": settings}


def run_stage(
    name: str,
    inputs: dict[str, Path],
    outputs: dict[str, Path],
    work: Any = None,
    parameters: dict[str, Any] | None = None,
) -> None:
    """One stage as the hooks run it: an MLflow run, and a lineage record."""
    run = runs.StageRun(name)
    run.add_inputs({key: path.as_posix() for key, path in inputs.items()})
    run.add_parameters(parameters or {})
    report = work() if work else {"done": 1}
    path = Path(f"data/08_reporting/{name}.json")
    write_json(path, report)
    run.add_outputs({key: value.as_posix() for key, value in {**outputs, f"{name}_report": path}.items()})
    run.add_report(report)
    run.finish()


def evaluate(scores: dict[str, Any], parameters: dict[str, Any] | None = None) -> None:
    """The stage `evaluate`, with the scores given, and the parameters that its record then keeps."""

    def work() -> dict[str, Any]:
        taken, report = evidence.take(INPUTS), report_of(scores)
        with atomic_folder(EVALUATION) as folder:
            write_json(folder / "scores.json", scores)
            write_json(folder / "metrics.json", report)
            evidence.seal(taken, INPUTS, folder, report, STAGES[:-1])
        return report

    inputs = {"shards": SHARDS, "base": BASE, "stage4": TRAINED}
    run_stage("evaluate", inputs, {"evaluation": EVALUATION}, work, parameters)


def build(project: Path, environment: str = "base") -> None:
    """Everything, in the working folder `project`: code in a commit, configuration, the chain's records."""
    shutil.copy(ROOT / "pyproject.toml", project)
    shutil.copytree(ROOT / "conf/base", project / "conf/base")
    shutil.copytree(ROOT / f"conf/{environment}", project / f"conf/{environment}", dirs_exist_ok=True)
    gate = project / f"conf/{environment}/parameters_promote.yml"
    gate.write_text(gate.read_text().replace("smoke: true ", "smoke: false"))  # these weights animate nothing
    (project / "conf/local").mkdir(parents=True)
    shutil.copy(ROOT / "conf/logging.yml", project / "conf")
    shutil.copy(ROOT / "dvc.yaml", project)
    write_text(project / ".gitignore", "/data/*\n/mlruns/*\n/conf/local/*\n__pycache__/\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "code")
    write_model()
    made = {"pretrain": {"base": BASE}, "encode": {"shards": SHARDS}, "train_stage4": {"stage4": TRAINED}}
    for name in STAGES[:-1]:
        run_stage(name, {}, made.get(name, {}))
    evaluate(scores_of(GOOD))


def read(path: Path) -> Any:
    return json.loads(path.read_text())
