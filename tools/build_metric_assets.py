"""Make the two small assets of the metrics from published packages: `brisque.npz` and `lpips_heads.safetensors`.

    python tools/build_metric_assets.py --brisque DIR --lpips DIR

DIR: the unpacked wheels of `brisque` 0.2.0 (support vector machine and feature ranges) and `lpips` 0.1.4 (heads).
The ranges lie in a pickle of two lists of numbers: it is read operation by operation and never executed.
"""

from __future__ import annotations

import argparse
import pickletools
from pathlib import Path

import numpy as np
import torch

from fportrait.atomic_io import atomic_path, write_safetensors

ASSETS = Path(__file__).parents[1] / "src/fportrait/assets"
SIZES = {"alex": 5, "vgg": 5}


def ranges(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest value of the 36 features."""
    numbers = [value for code, value, _ in pickletools.genops(path.read_bytes()) if code.name == "BINFLOAT"]
    if len(numbers) != 72:
        raise SystemExit(f"{len(numbers)} numbers in {path}, not 72")
    return np.array(numbers[:36]), np.array(numbers[36:])


def machine(path: Path) -> dict[str, np.ndarray]:
    """A LIBSVM text model as arrays."""
    lines = path.read_text().splitlines()
    start = lines.index("SV")
    head = dict(line.split(maxsplit=1) for line in lines[:start])
    rows = [line.split() for line in lines[start + 1 :] if line.strip()]
    vectors = np.zeros((len(rows), 36))
    for row, parts in zip(vectors, rows, strict=True):
        for part in parts[1:]:
            index, value = part.split(":")
            row[int(index) - 1] = float(value)
    return {
        "vectors": vectors,
        "coefficients": np.array([float(parts[0]) for parts in rows]),
        "rho": np.array(float(head["rho"])),
        "gamma": np.array(float(head["gamma"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brisque", type=Path, required=True)
    parser.add_argument("--lpips", type=Path, required=True)
    arguments = parser.parse_args()
    models = arguments.brisque / "brisque" / "models"
    low, high = ranges(models / "normalize.pickle")
    arrays = {"low": low, "high": high, **machine(models / "svm.txt")}
    with atomic_path(ASSETS / "brisque.npz") as path, open(path, "wb") as sink:
        np.savez_compressed(sink, **{name: value.astype(np.float32) for name, value in arrays.items()})
    heads = {}
    for name, count in SIZES.items():
        state = torch.load(arguments.lpips / f"lpips/weights/v0.1/{name}.pth", map_location="cpu", weights_only=True)
        heads |= {f"{name}.{i}": state[f"lin{i}.model.1.weight"].flatten() for i in range(count)}
    write_safetensors(ASSETS / "lpips_heads.safetensors", heads)


if __name__ == "__main__":
    main()
