"""Diffusers without what a process that only samples never calls: half the start of a command.

Diffusers imports peft, transformers, SciPy's statistics and TorchDynamo wherever they are installed: 2,000 modules and
more processor time than sampling a window. `ask` makes its first import pass them over, by the ways that Python and
diffusers have for packages that are not installed. Diffusers keeps to that for the rest of the process, so only
commands that sample, end, and have the process to themselves may ask: `animate`, `edit` and `live` of the command line.
Training, the studio and whoever imports fportrait get diffusers whole.

What is not there then: diffusers' own adapters (`diffusion.lora.apply_adapter` needs none of them), its text encoders,
schedulers with beta sigmas, and whole-model compilation of diffusers' blocks. All of it can be imported again once
diffusers is, by everyone but diffusers.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

PASSED_OVER = ("peft", "transformers", "scipy", "torch._dynamo")
USED = (
    "diffusers.utils.torch_utils",
    "diffusers.hooks",
    "diffusers.models.modeling_utils",
    "diffusers.models.autoencoders.autoencoder_kl_wan",
    "diffusers.models.transformers.transformer_wan",
    "diffusers.pipelines.pipeline_utils",
    "diffusers.schedulers.scheduling_flow_match_euler_discrete",
    "diffusers.schedulers.scheduling_unipc_multistep",
    "diffusers.schedulers.scheduling_dpmsolver_multistep",
)
"""What sampling imports of diffusers: imported with it, while the others are passed over."""


def ask() -> None:
    """Let the first import of diffusers be lean. Does nothing where it, or peft, has been imported."""
    if not any(name in sys.modules for name in ("diffusers", "peft", "transformers")):
        sys.meta_path.insert(0, _Finder())


@contextmanager
def passed_over() -> Iterator[None]:
    """Packages of `PASSED_OVER` cannot be found, and torch marks nothing for its compiler."""
    import torch

    before = {name: sys.modules[name] for name in PASSED_OVER if name in sys.modules}
    with (
        # the names of every installed distribution, read to tell versions of packages that are called otherwise
        mock.patch.object(importlib.metadata, "packages_distributions", dict),
        mock.patch.object(torch.compiler, "disable", _unmarked),  # whose first use imports TorchDynamo
    ):
        sys.modules.update(dict.fromkeys(PASSED_OVER))  # type: ignore[arg-type]  # None: Python's way to say "not found"
        try:
            yield
        finally:
            for name in PASSED_OVER:
                del sys.modules[name]
            sys.modules.update(before)


def _unmarked(fn: Any = None, *_: Any, **__: Any) -> Any:
    return fn if fn is not None else _unmarked


def _ask_dynamo_late() -> None:
    """Whether a component is compiled is asked of each: the same answer, without TorchDynamo where nothing can be."""
    asked = sys.modules["diffusers.utils.torch_utils"].is_compiled_module

    def late(module: Any) -> bool:
        return "torch._dynamo" in sys.modules and asked(module)

    for name in ("utils.torch_utils", "pipelines.pipeline_utils", "pipelines.pipeline_loading_utils"):
        sys.modules[f"diffusers.{name}"].is_compiled_module = late  # type: ignore[attr-defined]


class _Finder(importlib.abc.MetaPathFinder):
    """Steps aside at the first import of diffusers, and gives it `_Loader`."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != "diffusers":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Diffusers' own loader, which then loads what sampling uses of it, too."""

    def __init__(self, own: Any):
        self.own = own

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self.own.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        spec.loader = module.__loader__ = self.own
        with passed_over():
            self.own.exec_module(module)
            for name in USED:
                importlib.import_module(name)
        _ask_dynamo_late()
