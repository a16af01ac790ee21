"""Where numbers stop being finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@torch.no_grad()
def first_not_finite(model: torch.nn.Module, run: Callable[[], Any]) -> str | None:
    """The name of the first submodule whose output is not finite when `run()` is called, or None.

    Half precision overflows at 65,504; which layer does so tells what to keep in a wider type.
    """
    found: list[str] = []
    with _watch(model, found):
        run()
    return found[0] if found else None


@contextmanager
def _watch(model: torch.nn.Module, found: list[str]) -> Iterator[None]:
    def watcher(name: str) -> Callable[..., None]:
        def look(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            tensors = output if isinstance(output, tuple | list) else [output]
            if any(isinstance(t, torch.Tensor) and not torch.isfinite(t).all() for t in tensors):
                found.append(name)

        return look

    hooks = [module.register_forward_hook(watcher(name)) for name, module in model.named_modules() if name]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
