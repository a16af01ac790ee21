"""Sharded training by combination: every way to spread a model, with everything that a stage can ask for.

Two processes, interrupted, against one that is not: `tests/helpers/matrix.py` says how the cells are chosen. With the
argument `buckets` the shards have two shapes of picture; with `bridge` the model's paths start at the painted portrait,
as the shipped base's do, and every two of way, LoRA and buckets meet. Needs `pip install fportrait[deepspeed,lora]`;
without DeepSpeed its two rows are left out.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from _result import write_result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.forks import Forks
from helpers.matrix import TOLERANCE, WAYS, run_bridge, run_matrix


def main() -> None:
    shards = sys.argv[1] if len(sys.argv) > 1 else "shards"
    bridge = shards == "bridge"
    deepspeed = find_spec("deepspeed") is not None
    modules = ("deepspeed.runtime.engine", "torch._inductor.compile_fx") if deepspeed else ()
    with tempfile.TemporaryDirectory() as folder:
        server = Forks(Path(folder), "peft", *modules)
        try:
            ways = WAYS if deepspeed else ("none", "fsdp2")
            table = (
                run_bridge(server, ways, Path(folder))
                if bridge
                else run_matrix(server, ways, Path(folder), shards=shards)
            )
        finally:
            server.close()
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    print("| | " + " | ".join(columns) + " |\n| --- |" + " --- |" * len(columns))
    for way, row in table.items():
        cells = [f"{value:.0e}" if isinstance(value, float) else value or "" for value in map(row.get, columns)]
        print(f"| {way} | " + " | ".join(cells) + " |")
    cells = [value for row in table.values() for value in row.values()]
    worst = max((value for value in cells if isinstance(value, float)), default=0.0)
    write_result(
        "sharding" if shards == "shards" else f"sharding_{shards}",
        f"two {'' if bridge else 'interrupted '}processes against one: the worst relative difference of loss, "
        "held-out score or weight",
        worst if all(isinstance(value, float) for value in cells) else 1.0,
        "relative difference",
        TOLERANCE,
        len(cells),
        table=table,
    )


if __name__ == "__main__":
    main()
