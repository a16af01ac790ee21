"""What loss does the holdout of an environment see? Its held-out people alone, filmed and scored; nobody is trained.

    python benchmarks/holdout_power.py --env mini --work FOLDER --base BUNDLE --model NAME=FOLDER --model NAME=FOLDER

The people that `conf/ENV` holds out go through the chain as everybody would: tracks, validation, avatars, sweeps,
shards. Two or more models are scored on the clips that `evaluate` would take, and every pair is compared as the gate
does. The people whom the environment trains on are left out: no comparison looks at them. What is finished in FOLDER is
not made again, so a stopped run goes on. `--until STAGE` stops there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from _result import write_result

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("ingest", "track", "validate", "fit_avatars", "render_sweeps", "encode", "evaluate")


def parameters_of(environment: str) -> dict[str, Any]:
    """The parameters of `conf/base` under those of `conf/ENVIRONMENT`, as Kedro reads them."""
    from kedro.config import OmegaConfigLoader

    from fportrait.ops.config_loader import CONFIG_LOADER_ARGS

    loader = OmegaConfigLoader(str(ROOT / "conf"), env=environment, **CONFIG_LOADER_ARGS)
    return dict(loader["parameters"])


def film_held_out(work: Path, section: dict[str, Any]) -> dict[str, int]:
    """Film those whom the split holds out, under their own names, and write the manifest that `ingest` would."""
    import pandas as pd

    from fportrait.capture.ingest import ingest_captures, split_identities
    from fportrait.capture.world import film_identity, world_units
    from fportrait.scale.process_map import process_map

    captures, manifest = work / "01_raw", work / "ingest"
    units = world_units(captures, work / "truth", section["world"], section["seed"])
    people = {name: [unit.identity for unit in units if unit.dataset == name] for name in section["test_identities"]}
    held = split_identities(people, section["test_identities"], section["seed"])
    wanted = [unit for unit in units if unit.identity in held[unit.dataset]]
    missing = [unit for unit in wanted if not any(captures.glob(f"*/{unit.identity}"))]
    list(process_map(section["workers"])(film_identity, missing))
    names = frozenset(f"{path.parent.name}/{path.name}" for path in captures.glob("*/*/"))
    fov, frames = section["default_fov_degrees"], section["min_frames"]
    result = ingest_captures(captures, manifest, ".", {}, fov, frames, section["seed"], nobody_real=names)
    table = pd.read_parquet(manifest / "manifest.parquet")
    table.assign(split="test").to_parquet(manifest / "manifest.parquet")  # alone here, but held out where they belong
    return {"frames": int(table["frames"].sum()), **result.identities}


def make(stage: str, work: Path, base: Path, parameters: dict[str, Any]) -> Any:
    """One stage of the chain on `work`'s folders, by the verb that the pipeline calls."""
    from fportrait.pipelines.encode.nodes import encode
    from fportrait.pipelines.fit_avatars.nodes import fit_avatars
    from fportrait.pipelines.render_sweeps.nodes import render_sweeps
    from fportrait.pipelines.track.nodes import track
    from fportrait.pipelines.validate.nodes import validate

    own, units = parameters[stage], work / "units"
    tracks, validated, avatars, sweeps = (work / name for name in ("tracks", "validated", "avatars", "sweeps"))
    if stage == "ingest":
        return film_held_out(work, own)
    if stage == "track":
        return track(work / "ingest", base, tracks, units, **own)
    if stage == "validate":
        window = parameters["encode"]["encoding"]["window"]
        return validate(work / "ingest", tracks, validated, window, **own)
    if stage == "fit_avatars":
        return fit_avatars(validated, avatars, units, **own)
    if stage == "render_sweeps":
        return render_sweeps(validated, avatars, sweeps, units, parameters["validate"]["thresholds"], **own)
    return encode(validated, sweeps, base, work / "shards", units, **own)


def score(name: str, transformer: Path, work: Path, base: Path, section: dict[str, Any]) -> dict[str, Any]:
    """A model's `scores.json` on the held-out clips; probes, modes and crossed drivers are left out."""
    from fportrait.evaluation.run import evaluate

    folder = work / "scores" / name
    if not (folder / "scores.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        evaluate(transformer, base, work / "shards", folder, {**section["protocol"], "shown": 0}, section["seed"])
    return dict(json.loads((folder / "scores.json").read_text()))


def differences(mine: dict[str, Any], other: dict[str, Any], name: str) -> dict[str, list[float]]:
    """Per person, what the first model is better by in each clip that both have: what the gate compares."""
    from fportrait.evaluation.measures import measure_of

    found: dict[str, list[float]] = {}
    for clip, values in mine["clips"].items():
        theirs = other["clips"].get(clip, {})
        if name in values and name in theirs:
            gained = measure_of(name).benefit(values[name]) - measure_of(name).benefit(theirs[name])
            found.setdefault(mine["people"][clip], []).append(gained)
    return found


def main() -> None:
    from fportrait.evaluation.bootstrap import compare_people

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="mini")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True, help="bundle with vae/, transformer/, expression_encoder/")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=TRANSFORMER")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1])
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    parameters, done = parameters_of(asked.env), asked.work / "done.json"
    finished = json.loads(done.read_text()) if done.is_file() else {}
    for stage in STAGES[: STAGES.index(asked.until) + 1]:
        if stage in finished or stage == "evaluate":
            continue
        before, started = sum(os.times()[:4]), time.perf_counter()
        report = make(stage, asked.work, asked.base, parameters)
        cpu = round(sum(os.times()[:4]) - before, 1)
        finished[stage] = {"report": report, "cpu": cpu, "seconds": round(time.perf_counter() - started, 1)}
        done.write_text(json.dumps(finished, indent=1, default=str))
        print(f"{stage:<15}{cpu:8.1f} CPU s", flush=True)
    if asked.until != "evaluate":
        return
    models = dict(model.split("=", 1) for model in asked.model)
    scores = {}
    for name, folder in models.items():
        before = sum(os.times()[:4])
        scores[name] = score(name, Path(folder), asked.work, asked.base, parameters["evaluate"])
        print(f"score {name:<9}{sum(os.times()[:4]) - before:8.1f} CPU s", flush=True)
    rows: dict[str, Any] = {}
    for one, other in itertools.combinations(scores, 2):
        assert scores[one]["holdout"] == scores[other]["holdout"]
        pair = rows.setdefault(f"{other} - {one}", {})
        for name in parameters["promote"]["against_champion"]:
            found = differences(scores[other], scores[one], name)
            if found:
                pair[name] = {key: round(value, 5) for key, value in compare_people(found)._asdict().items()}
                print(f"{other} - {one}  {name:<24}" + "  ".join(f"{k} {v}" for k, v in pair[name].items()), flush=True)
    psnr = max(pair["ours/psnr"]["detectable"] for pair in rows.values())
    tolerance = parameters["promote"]["against_champion"]["ours/psnr"]
    write_result(
        f"holdout_power_{asked.env}",
        f"the loss of PSNR that the holdout of conf/{asked.env} sees with 80%: the widest of the pairs",
        psnr,
        "dB",
        tolerance,
        next(iter(rows.values()))["ours/psnr"]["clips"],
        rows=rows,
        cpu={stage: entry["cpu"] for stage, entry in finished.items()},
    )


if __name__ == "__main__":
    main()
