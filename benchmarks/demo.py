"""How long does the whole chain take, and how much memory, from captures to a promoted model and a video?

`make demo` reuses what `dvc repro` finds unchanged; with BENCH=1 (as `make bench` sets) every stage runs again.
Where nothing was made yet, the chain runs in one process (`kedro run`), which saves the start of twelve, and
`dvc repro` then finds all of it done. A result is written only when every stage ran.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _result import write_result

from fportrait.ops.chain import CHAIN
from fportrait.ops.lineage import read_record

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
BOUND_SECONDS, BOUND_MIB = 600, 6 * 1024
DEMO = Path("data/08_reporting/demo")


def run(command: list[str]) -> float:
    """Run to the end and give its seconds; a failure ends the demo with the command's own exit code."""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    started = time.perf_counter()
    code = subprocess.run(command, env=environment, check=False).returncode
    if code:
        print(f"{' '.join(command)} ended with exit code {code}; its message is above", file=sys.stderr)
        sys.exit(code)
    return time.perf_counter() - started


COLUMNS = (
    ("PSNR", "ours", "psnr"),
    ("codec's limit", "codec_limit", "psnr"),
    ("repeated portrait", "repeated_portrait", "psnr"),
    ("SSIM", "ours", "ssim"),
    ("sharpness", "ours", "sharpness"),
    ("expression gain", "ours", "expression_gain"),
    ("limit's", "codec_limit", "expression_gain"),
)


def metrics_table(report: dict[str, Any]) -> list[str]:
    """One line per dataset; a dash where the measure does not apply or no face was found."""
    lines = [f"{'':<16}" + "".join(f"{title:>19}" for title, _, _ in COLUMNS)]
    for dataset, methods in report.items():
        if isinstance(methods, dict) and "ours" in methods:
            cells = [methods.get(method, {}).get(name, {}).get("mean") for _, method, name in COLUMNS]
            lines.append(f"{dataset:<16}" + "".join(f"{'-' if c is None else format(c, '.3f'):>19}" for c in cells))
    return lines


def a_test_portrait() -> tuple[Path, Path]:
    """A still of one unseen person and a clip of another that moves the whole face: what `animate` is shown with."""
    import pandas as pd

    from fportrait.capture.video_io import read_video, write_image

    manifest = pd.read_parquet("data/02_intermediate/ingest/manifest.parquet")
    clips = manifest[manifest.dataset == "PhoneCapture"].sort_values(["split", "clip"])
    moving = clips[clips["clip"].str.contains("expressions")]
    portrait, driving = clips.iloc[0], (clips if moving.empty else moving).iloc[-1]
    still = DEMO / "portrait.png"
    write_image(still, read_video(portrait.path, 0, 1)[0])
    return still, Path(driving.path)


def main() -> None:
    os.chdir(ROOT)
    before = {name: (read_record(name) or {}).get("run_id") for name in CHAIN}
    again = ["--force", "--no-run-cache"] if os.environ.get("BENCH") else []
    # What a cache still holds, DVC brings back in seconds.
    first = not any(before.values()) and not Path(".dvc/cache").exists()
    chain_seconds = run([str(BIN / "kedro"), "run"]) if first and not again else 0.0
    chain_seconds += run([str(BIN / "dvc"), "repro", *again])

    portrait, driving = a_test_portrait()
    video = DEMO / "animated.mp4"
    command = [str(BIN / "fportrait"), "animate", "--portrait", str(portrait), "--driving", str(driving)]
    animate_seconds = run([*command, "--camera", "spin", "-o", str(video)])

    records = {name: read_record(name) or {} for name in CHAIN}
    ran = [name for name in CHAIN if records[name].get("run_id") != before[name]]
    print(f"\n{'stage':<16}{'seconds':>9}{'peak MiB':>10}   {'':<8}")
    for name in CHAIN:
        record = records[name]
        note = "" if name in ran else "unchanged, not run again"
        print(f"{name:<16}{record['seconds']:>9.1f}{record['peak_memory_mib']:>10.0f}   {note}")
    peak = max(record["peak_memory_mib"] for record in records.values())
    total = chain_seconds + animate_seconds
    stages = sum(records[name]["seconds"] for name in ran)
    print(f"{'animate':<16}{animate_seconds:>9.1f}")
    cached = stages > chain_seconds  # DVC brought records back with what they tell of
    title, left = ("from a cache", chain_seconds) if cached else ("start-up", chain_seconds - stages)
    print(f"{title:<16}{left:>9.1f}            starting, hashing")
    print(f"{'total':<16}{total:>9.1f}{peak:>10.0f}   bounds: {BOUND_SECONDS} s, {BOUND_MIB} MiB")

    print("\non people never trained on (all of it: data/08_reporting/evaluate.json)")
    print("\n".join(metrics_table(json.loads(Path("data/08_reporting/evaluate.json").read_text()))))
    print(
        f"\nlook at\n  {video} and {video.with_suffix('.png')}: portrait, driving, normals, result\n"
        "  data/07_model_output/evaluation/report.html: strips of every evaluated clip\n"
        "  data/08_reporting/: reports, plots, lineage\n"
        "  data/03_primary/validated/data_docs/index.html: the annotations' validation\n"
        "  kedro mlflow ui: every stage's run, loss curves, samples\n"
        "  kedro viz: the graph      dvc dag: the stages"
    )
    if len(ran) == len(CHAIN) and not cached:
        write_result(
            *("demo", "make demo: the whole chain and one animated video", round(total, 1), "s", BOUND_SECONDS, 1),
            peak_memory_mib=peak,
            peak_memory_bound_mib=BOUND_MIB,
            peak_memory_holds=peak <= BOUND_MIB,
            stages={name: [records[name]["seconds"], records[name]["peak_memory_mib"]] for name in CHAIN},
        )


if __name__ == "__main__":
    main()
