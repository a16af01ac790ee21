"""Stretch an encoder's readout of actions, so that a face at rest reads 0 and a full action is not read as part of one.

    python -m fportrait.tracking.making.readout --clips WORK/RECIPE --encoder ENCODER --output readout.safetensors

A readout that was trained by squared error reads too little of what it is unsure of: of a full pucker .5. The body that
portraits are painted on would then pucker half. Actions that it tells (correlation above .6 over the clips, whose true
actions are known) are stretched by the inverse of their slope, up to 1.7 times, from what is read of faces without
them; those that it does not tell (below .45) are left at 0, because their noise moves the face.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from fportrait.atomic_io import write_safetensors
from fportrait.body.model import load_body
from fportrait.tracking.actions import READOUT, ActionReadout
from fportrait.tracking.expression import ExpressionEncoder

TOLD, UNTOLD, MOST = 0.6, 0.45, 1.7
ABSENT = 0.02


def calibrate(readout: ActionReadout, codes: np.ndarray, actions: np.ndarray) -> tuple[ActionReadout, list[float]]:
    """The stretched readout, and by how much each action is (0: left out).

    Args:
        codes: `N 128`. actions: `N 52`, the truth.
    """
    weight, bias = readout.weight.astype(np.float64), readout.bias.astype(np.float64)
    read = codes @ weight.T + bias
    factors = []
    for action in range(len(bias)):
        truth, found = actions[:, action], read[:, action]
        spread = truth.std()
        correlation = np.corrcoef(found, truth)[0, 1] if spread > 0.01 else 0.0
        factor = 1.0
        if correlation < UNTOLD:
            factor = 0.0
        elif correlation > TOLD:
            factor = min(truth.var() / np.cov(found, truth)[0, 1], MOST)
            bias[action] -= found[truth < ABSENT].mean()
        weight[action] *= factor
        bias[action] *= factor
        factors.append(float(factor))
    return ActionReadout(weight.astype(np.float32), bias.astype(np.float32)), factors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True, help="chunks of fportrait.training.wide_base")
    parser.add_argument("--encoder", type=Path, required=True, help="the encoder's folder, with its readout")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    encoder = ExpressionEncoder.from_pretrained(arguments.encoder)
    if encoder.readout is None:
        parser.error(f"no {READOUT} in {arguments.encoder}")
    codes, actions = [], []
    for file in sorted(arguments.clips.glob("clips-*.npz")):
        with np.load(file, allow_pickle=False) as clips:
            actions.append(clips["actions"].reshape(-1, clips["actions"].shape[-1]))
            cache = file.with_suffix(".codes.npy")  # as training keeps them
            crops = clips["crops"]
            codes.append(
                np.load(cache, allow_pickle=False).reshape(-1, 128)
                if cache.exists()
                else encoder.encode(crops.reshape(-1, *crops.shape[2:]))
            )
    stretched, factors = calibrate(encoder.readout, np.concatenate(codes).astype(np.float32), np.concatenate(actions))
    tensors = {"weight": torch.from_numpy(stretched.weight), "bias": torch.from_numpy(stretched.bias)}
    write_safetensors(arguments.output, tensors)
    for name, factor in zip(load_body().action_names, factors, strict=True):
        print(f"{name:20} {factor:.2f}")


if __name__ == "__main__":
    main()
