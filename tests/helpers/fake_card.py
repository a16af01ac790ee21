"""A card that is not there: tensors sent to it are computed on the CPU, but refuse to meet those left behind.

While `FakeCard` is entered, `torch.cuda` says that there is one, `.to("cuda")` marks a tensor as lying on it, whatever
is computed from marked tensors is marked, and an operation on marked and unmarked tensors raises, as does NumPy's look
at a marked one. (Scalars may meet anything, as in torch itself.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_flatten, tree_map


class OnCard(torch.Tensor):
    """A tensor on the card; its numbers lie in the CPU's memory."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


class FakeCard(TorchFunctionMode):
    """`moved`: how many tensors were sent to the card."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        here = [value for value in tensors if not isinstance(value, OnCard)]
        there = [value for value in tensors if isinstance(value, OnCard)]
        full = resolve_name(func) or name
        if full == "torch.Tensor.device.__get__":
            return torch.device("cuda", 0) if there else func(*args, **kwargs)
        if full == "torch.Tensor.is_cuda.__get__":
            return bool(there)
        if full in ("torch.Tensor.numpy", "torch.Tensor.__array__", "torch.Tensor.tolist") and there:
            if name == "tolist":
                return func(plain(args[0]))
            raise TypeError("can't convert cuda:0 device type tensor to numpy: copy it to the CPU first")
        target, args, kwargs = self.destination(func, name, args, kwargs)
        if name in ("cpu", "cuda"):
            target = name
        moves = name in ("to", "cpu", "cuda", "_has_compatible_shallow_copy_type")
        if there and [value for value in here if value.ndim > 0] and not moves and name not in ("__set__", "__get__"):
            shapes = [tuple(value.shape) for value in here if value.ndim > 0]
            raise AssertionError(f"left behind on the CPU in {full}: {shapes}")
        made = func(*tree_map(plain, args), **tree_map(plain, kwargs)) if name != "__set__" else func(*args, **kwargs)
        if moves and target is not None:
            self.moved += target == "cuda"
            return tree_map(on_card if target == "cuda" else plain, made)
        if target == "cuda" or (target is None and there):
            inplace = next((a for a in args if isinstance(a, OnCard) and made is not None and made is plain(a)), None)
            return inplace if inplace is not None else tree_map(on_card, made)
        return made

    @staticmethod
    def destination(func: Any, name: str, args: Any, kwargs: Any) -> tuple[str | None, Any, Any]:
        """Where the result is asked to lie (None: not said), and the call with every card's name taken out."""
        target = None

        def swap(value: Any) -> Any:
            nonlocal target
            if isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in ("cuda", "cpu")):
                target = torch.device(value).type
                return torch.device("cpu")
            if name == "to" and isinstance(value, OnCard):
                target = "cuda"
            return value

        first, rest = args[:1], args[1:]  # a tensor that is moved does not say where to
        rest = tuple(swap(value) for value in rest) if name == "to" else rest
        if "device" in kwargs and kwargs["device"] is not None:
            kwargs["device"] = swap(kwargs["device"])
        return target, (*first, *rest), kwargs


def on_card(value: Any) -> Any:
    return value.as_subclass(OnCard) if isinstance(value, torch.Tensor) and type(value) is not OnCard else value


def plain(value: Any) -> Any:
    return value.as_subclass(torch.Tensor) if isinstance(value, OnCard) else value


@contextlib.contextmanager
def fake_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCard]:
    """The card, entered; a module that is moved keeps parameters that lie on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))  # float32: comparable
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a fake card")
    monkeypatch.delenv("FPORTRAIT_DEVICE", raising=False)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with FakeCard() as mode:
            yield mode
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
