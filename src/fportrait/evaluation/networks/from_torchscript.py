"""I3D as a TorchScript archive, which is how it is most often passed on for FVD, to the tensors that FVD is scored by.

    python -m fportrait.evaluation.networks.from_torchscript i3d_torchscript.pt i3d.safetensors
    fportrait weights add i3d i3d.safetensors

A TorchScript archive is a program: opening it runs what its author wrote (no Python, but still a program), which is why
`fportrait weights add` refuses it. Open one only if you trust whose it is. Layers are matched in their order and by
their shapes, whatever they are called; then both networks look at the same clips, and nothing is written unless
they answer alike.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fportrait.atomic_io import write_safetensors
from fportrait.errors import UserError
from fportrait.evaluation.networks.i3d import InceptionI3D, Unit3D

FRAMES, SIDE = 16, 224
LEAST = 1e-3  # of the logits' size, that clips must differ by: else nothing could be told from them
TOLERANCE = 1e-3  # of how far clips differ: more than sums in another order make, far less than another padding
PLAIN = {"rescale": False, "resize": False, "return_features": True}  # what archives made for FVD are asked


def read_archive(file: str | Path) -> Any:
    """The TorchScript module of a file, on the CPU.

    Raises:
        UserError: no such file, or no TorchScript archive.
    """
    if not Path(file).is_file():
        raise UserError(f"no file {file}", "a TorchScript archive", "check the path")
    try:
        return torch.jit.load(str(file), map_location="cpu").eval()
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:200]
        fix = "a file of tensors needs no conversion: give it to `fportrait weights add i3d`"
        raise UserError(f"{file}, which is no TorchScript archive ({reason})", "torch.jit.save's format", fix) from None


def converted(archive: Any, model: InceptionI3D, clips: Tensor) -> dict[str, Tensor]:
    """Tensors of `model` by name, with which it answers as the archive does.

    Args:
        archive: a TorchScript module of I3D. clips: `N 3 T H W` in [−1, 1], on which both are compared; two or more
            that look different, because what all clips share says nothing of a network.

    Raises:
        UserError: other layers, or other answers.
    """
    state = matched(archive.state_dict(), model)
    model.load_state_dict(state)
    with torch.no_grad():
        ours, theirs = model.eval()(clips), answers(archive, clips)
    if ours.shape != theirs.shape:
        raise UserError(f"{tuple(theirs.shape)} numbers of the archive", f"{tuple(ours.shape)} logits", "take I3D's")
    spread = float((theirs.amax(0) - theirs.amin(0)).max())
    if not spread > LEAST * float(theirs.abs().max()):
        raise UserError("an archive that answers alike whatever it sees", "logits that tell clips apart", "take I3D's")
    away = float((ours - theirs).abs().max()) / spread
    if not away <= TOLERANCE:
        raise UserError(
            f"an archive whose logits differ from ours by {away:.2g} of what clips differ by, with the same weights",
            f"at most {TOLERANCE:g}",
            "it is another network (padding, order of layers, input range): take pytorch-i3d's rgb_imagenet.pt",
        )
    return state


def answers(archive: Any, clips: Tensor) -> Tensor:
    """Logits `N 400` of an archive, averaged over time if it has not done so."""
    try:
        found = archive(clips, **PLAIN)
    except RuntimeError:  # no such arguments: a plain network
        found = archive(clips)
    return found.flatten(2).mean(2) if found.ndim > 2 else found


def matched(theirs: Mapping[str, Tensor], model: InceptionI3D) -> dict[str, Tensor]:
    """Their convolutions and norms under our names, by order and shape.

    A convolution may carry its norm folded into weight and bias; a norm may lack its scale, as the original's does.

    Raises:
        UserError: another number of layers, or one of another shape.
    """
    layers = _layers(theirs)
    units = [(name, unit) for name, unit in model.named_modules() if isinstance(unit, Unit3D)]
    if len(layers) != len(units):
        raise UserError(f"{len(layers)} convolutions in the archive", f"I3D's {len(units)}", "take an I3D archive")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for (name, unit), layer in zip(units, layers, strict=True):
        if layer["weight"].shape != unit.conv3d.weight.shape:
            found, wanted = tuple(layer["weight"].shape), tuple(unit.conv3d.weight.shape)
            raise UserError(f"a layer of {found} where ours is {name}", f"{wanted}", "take an I3D archive")
        state[f"{name}.conv3d.weight"] = layer["weight"].float()
        out = len(layer["weight"])
        shift = layer.get("bias", torch.zeros(out)).float()
        if unit.conv3d.bias is not None:
            state[f"{name}.conv3d.bias"] = shift
            continue
        # Ours has no bias before the norm: one there moves the mean. Without a norm, the bias is all there is.
        mean = layer["running_mean"].float() - shift if "running_mean" in layer else torch.zeros(out)
        state[f"{name}.bn.running_mean"] = mean
        state[f"{name}.bn.running_var"] = layer.get("running_var", torch.full((out,), 1 - unit.bn.eps)).float()
        state[f"{name}.bn.weight"] = layer.get("norm_weight", torch.ones(out)).float()
        state[f"{name}.bn.bias"] = (
            layer["norm_bias"].float()
            if "norm_bias" in layer
            else (torch.zeros(out) if "running_mean" in layer else shift)
        )
    return state


def _layers(theirs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """One dictionary per convolution in the archive's order: `weight`, `bias`, and of the norm after it
    `running_mean`, `running_var`, `norm_weight`, `norm_bias`."""
    layers: list[dict[str, Tensor]] = []
    owner = ""  # of the tensors that are read
    for name, value in theirs.items():
        place, _, kind = name.rpartition(".")
        if value.ndim == 5:
            layers.append({"weight": value})
            owner = place
        elif layers and kind in ("weight", "bias") and place == owner:
            layers[-1][kind] = value
        elif layers and kind in ("weight", "bias"):
            layers[-1][f"norm_{kind}"] = value
        elif layers and kind in ("running_mean", "running_var"):
            layers[-1][kind] = value
    return layers


def sample_clips() -> Tensor:
    """Noise, and a soft pattern that moves, `2 3 16 224 224` in [−1, 1]."""
    noise = torch.rand(3, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    t, y, x = torch.meshgrid(torch.arange(FRAMES), torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    soft = torch.stack([torch.sin((x + 3 * t) / 15), torch.cos((y - 2 * t) / 20), torch.sin((x + y + 5 * t) / 30)])
    return torch.stack([noise, soft])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", help="the TorchScript file, from somebody you trust")
    parser.add_argument("output", help="where the tensors go, a .safetensors file")
    given = parser.parse_args(arguments)
    try:
        if not given.output.endswith(".safetensors"):
            raise UserError(f"the output {given.output}", "a name that ends in .safetensors", "rename it")
        model = InceptionI3D()
        state = converted(read_archive(given.archive), model, sample_clips())
        write_safetensors(Path(given.output), state)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{given.output}: {len(state)} tensors; both answer alike. Now: fportrait weights add i3d {given.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
