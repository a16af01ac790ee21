"""The gate on many rows: seconds, processor seconds and the most memory it took, with check columns and without.

    python benchmarks/validation.py [ROWS ...] [--measured ROWS] [--folder KEEP]

For each number of rows a synthetic table is written (every column of the schema, the 956 landmarks and 128 numbers of
the code included, and the check columns that `write_frames` adds; clips of 500 frames, four a person), then validated
in a process of its own. Of a table of `--measured` rows without check columns every list is measured. Landmarks repeat
from clip to clip, and the groups' numbers repeat: what the gate unpacks and checks is as in real tables. A million rows
take 3 GB of disk; the figures for 50 million (docs/validation.md) are of landmarks that stood still, 1 GB in all.
`BENCH=1` (`make bench`) takes small sizes.

Writing 50 million rows takes 300 processor seconds; `--folder` keeps the tables and takes those that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from _result import write_result

from fportrait.tables.annotations import MARK, VERSION, with_checks
from fportrait.tables.rollup import CHECK_PREFIX
from fportrait.tables.schema import FRAMES, IDENTITIES

FRAMES_PER_CLIP, CLIPS_PER_PERSON, GROUP = 500, 4, 50_000
MILLION = 1e6
PARTS = ("clip_structure", "clip_motion", "checked_clips", "disagreeing_rows")  # timed one by one


def write_tables(folder: Path, rows: int, checks: bool) -> None:
    """`frames.parquet` and `identities.parquet` of `rows` rows that pass every rule, with or without check columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"string": pa.string(), "int32": pa.int32(), "float32": pa.float32()}
    kinds |= {f"list<{n}>": pa.list_(getattr(pa, n)()) for n in ("float32", "float64")}
    schema, people_schema = (
        pa.schema([(name, kinds[column.kind]) for name, column in table.items()]) for table in (FRAMES, IDENTITIES)
    )
    numbers = _numbers(schema)
    if checks:
        schema, numbers = _with_checks(schema, numbers)
    person = 0
    people: dict[str, list] = {name: [] for name in IDENTITIES}
    by_clip = pa.array(np.repeat(np.arange(GROUP // FRAMES_PER_CLIP), FRAMES_PER_CLIP))
    texts = [name for name, column in FRAMES.items() if column.kind == "string"]
    narrow = [name for name in schema.names if not name.startswith(("expression", "landmarks"))]
    properties = {"use_dictionary": texts, "compression": "zstd", "compression_level": 1, "write_statistics": narrow}
    with pq.ParquetWriter(folder / "frames.parquet", schema, **properties) as writer:
        for _ in range(0, rows, GROUP):
            clips = [(person + i // CLIPS_PER_PERSON, i % CLIPS_PER_PERSON) for i in range(GROUP // FRAMES_PER_CLIP)]
            text = {
                "dataset": ["PhoneCapture"] * len(clips),
                "identity": [f"p{who:07d}" for who, _ in clips],
                "clip": [f"p{who:07d}/s{take}/phone" for who, take in clips],
                "camera": ["phone"] * len(clips),
                "segment": [f"s{take}" for _, take in clips],
                "split": ["train"] * len(clips),
                "path": [f"data/p{who:07d}/s{take}.mp4" for who, take in clips],
            }
            columns = {name: pa.array(values).take(by_clip) for name, values in text.items()}
            writer.write_table(pa.table([columns.get(field.name, numbers.get(field.name)) for field in schema], schema))
            for who in sorted({who for who, _ in clips}):
                row = {"dataset": "PhoneCapture", "identity": f"p{who:07d}", "split": "train", "shape": [0.0, 0.5]}
                row |= {"body_model": "embedded", "reference_clip": f"p{who:07d}/s0/phone", "reference_frame": 0}
                for name, value in row.items():
                    people[name].append(value)
            person = clips[-1][0] + 1
    pq.write_table(pa.table(people, people_schema), folder / "identities.parquet")


def _with_checks(schema, numbers: dict) -> tuple:
    """Schema and columns with the checks that `write_frames` would add: the same in every row group, as the numbers."""
    import pyarrow as pa

    keys = {
        "dataset": ["d"] * GROUP,
        "clip": np.repeat(np.arange(GROUP // FRAMES_PER_CLIP).astype(str), FRAMES_PER_CLIP),
    }
    checked = with_checks(pa.table({**{name: pa.array(values) for name, values in keys.items()}, **numbers}))
    names = [name for name in checked.column_names if name.startswith(CHECK_PREFIX)]
    assert names
    for name in names:
        schema = schema.append(checked.schema.field(name))
    columns = {name: checked[name].combine_chunks() for name in names}
    return schema.with_metadata({MARK: VERSION}), numbers | columns


def _numbers(schema) -> dict:
    """The columns that are the same in every row group."""
    import pyarrow as pa

    frame = np.tile(np.arange(FRAMES_PER_CLIP), GROUP // FRAMES_PER_CLIP)
    angle = 0.3 * np.sin(frame * 0.1)
    zero, one = np.zeros(GROUP), np.ones(GROUP)
    turn = np.stack([np.cos(angle), zero, np.sin(angle), zero, one, zero, -np.sin(angle), zero, np.cos(angle)], axis=1)
    wave = np.sin(np.arange(128) + frame[:, None] * 0.05)
    camera = np.array([1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 0.55, 0, 0, 0, 1.0])
    lists = {
        "world_to_camera": np.tile(camera, (GROUP, 1)),
        "intrinsics": np.tile([300.0, 0, 128, 0, 300, 128, 0, 0, 1], (GROUP, 1)),
        "crop": np.tile([0.0, 0, 256], (GROUP, 1)),
        "body_rotation": np.tile(np.eye(3).ravel(), (GROUP, 1)),
        "head_rotation": turn,
        "body_translation": np.stack([zero, 0.002 * np.cos(frame * 0.1), zero], axis=1),
        "expression_code": wave,
    }
    lists["landmarks"] = _landmarks(frame, lists).astype(np.float32)
    scalars = {"frame": frame, "width": np.full(GROUP, 256), "height": np.full(GROUP, 256), "confidence": 0.9 * one}
    columns = {}
    for name, values in lists.items():
        kind = schema.field(name).type
        flat = pa.array(values.ravel().astype(kind.value_type.to_pandas_dtype()))
        offsets = pa.array(np.arange(0, len(flat) + 1, values.shape[1], dtype=np.int32))
        columns[name] = pa.ListArray.from_arrays(offsets, flat)
    return columns | {
        name: pa.array(values.astype(schema.field(name).type.to_pandas_dtype())) for name, values in scalars.items()
    }


def _landmarks(frame: np.ndarray, lists: dict[str, np.ndarray]) -> np.ndarray:
    """`GROUP 956`: the mean head's landmarks in the cameras' pictures, with a mouth that moves as the codes do."""
    from fportrait.body.model import Pose, load_body
    from fportrait.camera.cameras import project
    from fportrait.tracking.fit import LandmarkModel

    body = load_body()
    identity = np.zeros(body.identity_dim)
    rest, codes = LandmarkModel(body).at(identity), lists["expression_code"]
    rows = []
    for at in range(FRAMES_PER_CLIP):  # every clip is the same
        points = rest.copy()
        points[14, 1] -= 0.02 * np.linalg.norm(codes[at] - codes[0]) / np.sqrt(128)
        pose = Pose(np.eye(3), lists["body_translation"][at], lists["head_rotation"][at].reshape(3, 3))
        rotations, shifts = body.bone_transforms(identity, pose)
        camera, intrinsics = lists["world_to_camera"][at].reshape(4, 4), lists["intrinsics"][at].reshape(3, 3)
        rows.append(project(points @ rotations[2].T + shifts[2], camera, intrinsics)[0].ravel())
    return np.stack(rows)[frame]


def validate(folder: Path) -> None:
    """In a process of its own: validate, and print what it took."""
    from fportrait.dataset.rules import ValidationConfig
    from fportrait.dataset.validation import validate_tables
    from fportrait.tables import rollup

    parts: dict[str, float] = {}
    for name in PARTS:
        _time(rollup, name, parts)
    import fportrait.dataset.validation as validation

    for name in PARTS:
        setattr(validation, name, getattr(rollup, name))
    wall, cpu = time.perf_counter(), time.process_time()
    report = validate_tables(folder, folder / "out", ValidationConfig())
    measured = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "passed": report["passed"]}
    measured["gib"] = _peak_gib()
    print(json.dumps(measured | {"parts": parts}))


def _peak_gib() -> float:
    """Of this process alone; `getrusage` would also count what its parent held when it was started."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 2**20


def _time(module, name: str, parts: dict[str, float]) -> None:
    inner = getattr(module, name)

    def timed(*arguments):
        started = time.process_time()
        try:
            return inner(*arguments)
        finally:
            parts[name] = time.process_time() - started

    setattr(module, name, timed)


def run(rows: int, checks: bool, keep: Path | None) -> dict:
    with tempfile.TemporaryDirectory(prefix="validation-") as temporary:
        folder = (keep or Path(temporary)) / f"{rows}-{'checked' if checks else 'plain'}"
        if not (folder / "identities.parquet").is_file():  # written last
            folder.mkdir(parents=True, exist_ok=True)
            write_tables(folder, rows, checks)
        size = (folder / "frames.parquet").stat().st_size / 2**30
        command = [sys.executable, __file__, "--validate", str(folder)]
        measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        shutil.rmtree(folder / "out")
        assert measured["passed"]
        result = {"rows": rows, "check_columns": checks, "file_gib": round(size, 3), **measured}
        print(result, flush=True)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="*", help="sizes with check columns, the largest last")
    parser.add_argument("--measured", type=int, default=1_000_000, help="rows of the table without check columns")
    parser.add_argument("--folder", type=Path, help="keep the tables here, and take those that are there")
    parser.add_argument("--validate", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.validate:
        validate(arguments.validate)
        return
    small = bool(os.environ.get("BENCH"))
    sizes = arguments.rows or ([200_000, 1_000_000] if small else [1_000_000, 5_000_000, 50_000_000])
    runs = [run(200_000 if small else arguments.measured, False, arguments.folder)]
    runs += [run(rows, True, arguments.folder) for rows in sizes]
    last = runs[-1]
    write_result(
        "gate",
        "processor seconds of the whole gate per million rows of the full schema, Great Expectations' start in",
        round(last["cpu"] / last["rows"] * MILLION, 3),
        "s",
        60 * 2 / 50,
        last["rows"],
        runs=runs,
        bound_is="60 s and 4 GB for 50 million rows on two cores: 2.4 processor seconds per million",
        wall_seconds=round(last["wall"], 1),
        peak_gib=round(last["gib"], 2),
    )


if __name__ == "__main__":
    main()
