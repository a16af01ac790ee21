"""Draws the loss curves of the four stages, as a finished chain left them, into one picture.

python tools/training_curves.py --curves data/08_reporting/curves --output docs/images/training-curves.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=Path, default=Path("data/08_reporting/curves"))
    parser.add_argument("--output", type=Path, default=Path("docs/images/training-curves.png"))
    arguments = parser.parse_args()
    files = sorted(arguments.curves.glob("stage*.csv"))
    if not files:
        parser.error(f"no stageN.csv in {arguments.curves}: run `kedro run` first")
    figure, axes = plt.subplots(1, len(files), figsize=(3.2 * len(files), 2.8), sharey=True, squeeze=False)
    for axis, file in zip(axes[0], files, strict=True):
        table = pd.read_csv(file)
        axis.plot(table["step"], table["loss"], label="training loss")
        held_out = table.dropna(subset=["held_out_loss"])
        axis.plot(held_out["step"], held_out["held_out_loss"], "o-", label="held-out loss")
        axis.set(title=file.stem.replace("stage", "stage "), xlabel="step")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("flow-matching loss")
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, dpi=110)


if __name__ == "__main__":
    main()
