"""Where numbers are computed: one rule for every command and pipeline.

`auto` is CUDA where there is one, else the CPU. Another choice comes from `--device`, from `scale.device` of the
parameters, or from the variable `FPORTRAIT_DEVICE`, which worker processes inherit. Sampling is in bfloat16 where the
card computes it natively, else in float32, and so is a training that asks for bf16; codecs, encoders and metrics stay
in float32.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fportrait.errors import UserError

if TYPE_CHECKING:
    import torch

VARIABLE = "FPORTRAIT_DEVICE"
AUTO = "auto"
LOST_DEVICE = "a GPU that failed or disappeared"
NATIVE_BF16 = (8, 0)  # compute capability: Ampere and later
logger = logging.getLogger(__name__)
_said: set[str] = set()


def check_name(name: str) -> str:
    """`name`, refused unless it is auto, cpu, cuda or cuda:N.

    >>> check_name("cuda:1")
    'cuda:1'
    """
    kind, _, index = name.partition(":")
    if name not in (AUTO, "cpu", "cuda") and not (kind == "cuda" and index.isdigit()):
        raise UserError(f"the device '{name}'", "auto, cpu, cuda or cuda:N", "correct it")
    return name


def pick_device(asked: str | torch.device | None = None) -> torch.device:
    """The device to compute on: `asked`, else `FPORTRAIT_DEVICE`, else auto.

    A process that torchrun started takes the card of its local rank.

    Raises:
        UserError: an unknown name, or a card that is asked for and cannot be used; the reason is told.
    """
    import torch

    name = check_name(str(asked or os.environ.get(VARIABLE) or AUTO))
    if name == AUTO:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(*_why_no_cuda(name))
    index = int(name.partition(":")[2] or os.environ.get("LOCAL_RANK") or torch.cuda.current_device())
    count = torch.cuda.device_count()
    if index >= count:
        raise UserError(f"cuda:{index} on a machine with {count} GPUs", f"cuda:0 to cuda:{count - 1}", "choose one")
    return torch.device("cuda", index)


def _why_no_cuda(name: str) -> tuple[str, str, str]:
    import torch

    if torch.version.cuda is None:
        return (
            f"{name} with a torch that was built without CUDA ({torch.__version__})",
            "torch for CUDA",
            "install that build of torch, or take --device cpu",
        )
    try:
        torch.cuda.init()
        reason = "no card is visible"
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
    return (
        f"{name}, and CUDA cannot be used ({reason})",
        "an NVIDIA GPU with its driver",
        "look at `nvidia-smi` and CUDA_VISIBLE_DEVICES, or take --device cpu",
    )


@contextlib.contextmanager
def use_device(name: str | None) -> Iterator[None]:
    """Inside, `pick_device()` means `name`, in this process and in those it starts; None changes nothing.

    An environment variable that is set already wins over `auto`.
    """
    if name is None or (name == AUTO and os.environ.get(VARIABLE)):
        yield
        return
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = check_name(name)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


def sampling_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a card that computes it natively, else float32."""
    import torch

    return torch.bfloat16 if device.type == "cuda" and native_bf16(device) else torch.float32


def native_bf16(device: torch.device) -> bool:
    """Whether a card computes bfloat16 natively; that it does not, and float32 is taken instead, is said once."""
    import torch

    capability = torch.cuda.get_device_capability(device)
    if capability >= NATIVE_BF16:
        return True
    name = torch.cuda.get_device_name(device)
    if name not in _said:
        _said.add(name)
        logger.warning("%s (compute capability %d.%d) has no native bfloat16: float32 is used", name, *capability)
    return False


def device_of(module: Any) -> torch.device:
    """Where a module's parameters or buffers lie; the CPU for one without any."""
    import torch

    for tensor in itertools.chain(module.parameters(), module.buffers()):
        return tensor.device
    return torch.device("cpu")


def at_device(module: Any, device: torch.device | None = None) -> Any:
    """Move a network, and let it take its inputs from the CPU and return its outputs there."""
    import torch
    from torch.utils._pytree import tree_map_only

    device = device or pick_device()
    module.to(device)
    if device.type != "cpu":
        module.register_forward_pre_hook(
            lambda _, given: tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), given)
        )
        module.register_forward_hook(
            lambda _, given, made: tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), made)
        )
    return module


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """Tell in one sentence what a card says when it is too small, too old, or gone.

    Raises:
        UserError: in place of CUDA's own errors; everything else passes through.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError and torch.AcceleratorError are such
        told = device_error(error)
        if told is None:
            raise
        raise told from error


def device_error(error: BaseException) -> UserError | None:
    """What a CUDA error means, in words; None for any other error."""
    import torch

    text = str(error)
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    if isinstance(error, torch.OutOfMemoryError):
        return UserError(
            f"a card too small ({first})",
            "room for the model, its batch and its activations",
            "lower batch, size or frames, switch gradient_checkpointing on, take a larger card, or --device cpu",
        )
    if "NVIDIA driver" in text:
        return UserError(f"'{first}'", "a driver that fits this torch", "update the driver, or take --device cpu")
    if "no kernel image" in text:
        return UserError(
            f"a card that this torch has no code for ('{first}')", "a build of torch for it", "install one, or take cpu"
        )
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in text or "cuDNN error" in text or "NCCL" in text:
        return UserError(
            f"{LOST_DEVICE} ('{first}')",
            "one that answers",
            "look at `nvidia-smi`, then run the same command again: what was finished is kept",
        )
    return None
