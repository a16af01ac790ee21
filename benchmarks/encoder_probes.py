"""What an expression encoder's frozen codes hold, read by linear probes on people whom nothing was trained on.

    python benchmarks/encoder_probes.py [FOLDER ...] [--people 30] [--crops 20]

Each FOLDER holds an encoder (`expression_encoder.safetensors` and its config); the shipped one by default. Prints the
table of docs/tracking.md, a column per encoder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _result import write_result

import fportrait
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.tracking.making.talking_head.embedded import probe_people
from fportrait.tracking.making.talking_head.probes import probe_codes, probe_table

SHIPPED = Path(fportrait.__file__).parent / "assets" / "base" / "expression_encoder"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[SHIPPED])
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--crops", type=int, default=20, help="of each person, in random views")
    arguments = parser.parse_args()
    probes = probe_people(arguments.people, arguments.crops)
    results = {}
    for folder in arguments.folders:
        name = "shipped" if folder == SHIPPED else folder.name
        results[name] = probe_codes(ExpressionEncoder.from_pretrained(folder).encode(probes.crops), probes)
    print(probe_table(results))
    first = next(iter(results.values()))
    write_result(
        "encoder_probes",
        "codes tell the expression of unseen people: mean correlation over actions",
        first["action_correlation"],
        "correlation",
        bound=0.45,
        n=len(probes.crops),
        lower_is_better=False,
        probes=results,
    )


if __name__ == "__main__":
    main()
