"""Variants of the architecture (`variants`), begun from a full model's weights."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fportrait.diffusion.checkpoint import model_folder, read_config
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.diffusion.variants import VARIANTS
from fportrait.errors import UserError, refuse_unknown_keys

logger = logging.getLogger(__name__)


def whole_config(folder: str | Path) -> dict[str, Any]:
    """A transformer's configuration with the defaults of what its `config.json` leaves out."""
    signature = inspect.signature(FactorPortraitTransformer.__init__).parameters
    defaults = {key: entry.default for key, entry in signature.items() if entry.default is not entry.empty}
    stated = read_config(model_folder(folder), FactorPortraitTransformer.__name__)
    config = defaults | {key: value for key, value in stated.items() if not key.startswith("_")}
    return config | {"patch_size": list(config["patch_size"])}


def variant_of(folder: str | Path, variant: str, seed: int = 0) -> FactorPortraitTransformer:
    """The transformer of `folder`, as a variant: weights that both have are taken, the others start from `seed`.

    A model that is that variant already is loaded as it is. What is taken, new and left out goes to the log.

    Raises:
        UserError: an unknown variant, no model, or a model that reads landmarks already and is asked to be another one.
    """
    refuse_unknown_keys([variant], VARIANTS, "variant")
    config = whole_config(folder)
    wanted = config | dict(VARIANTS[variant].config)
    if wanted == config:
        return FactorPortraitTransformer.from_pretrained(folder)
    return change_architecture(FactorPortraitTransformer.from_pretrained(folder), wanted, seed)


@torch.no_grad()
def change_architecture(
    model: FactorPortraitTransformer, config: Mapping[str, Any], seed: int = 0
) -> FactorPortraitTransformer:
    """A model of `config` with the weights of `model`; `config` may drop the normal maps and read landmarks for codes.

    New layers end in zeros, so what they read has no influence until it is learned.

    Raises:
        UserError: `config` differs in more than that.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed = FactorPortraitTransformer(**config)
    taken = dict(model.state_dict())
    if model.config.use_normals and not changed.config.use_normals:  # the last channels of the fusion layer
        taken["patch_embedding.weight"] = taken["patch_embedding.weight"][:, : changed.patch_embedding.in_channels]
    wanted = changed.state_dict()
    ours = tuple(f"{name}." for name in (*model.new_modules(), *changed.new_modules()))
    new, left = wanted.keys() - taken.keys(), taken.keys() - wanted.keys()
    odd = [key for key in new | left if not key.startswith(ours)]
    odd += [key for key in wanted.keys() & taken.keys() if wanted[key].shape != taken[key].shape]
    if odd:
        raise UserError(
            f"a model whose {', '.join(sorted(odd)[:3])} cannot be taken",
            "one that differs in its conditions alone",
            "start from a model of the same size",
        )
    changed.load_state_dict({key: value for key, value in taken.items() if key in wanted}, strict=False)
    logger.info(
        "%s taken, %s new (%s), %s left out (%s)",
        _count(taken, wanted.keys() - new),
        _count(wanted, new),
        _parts(new),
        _count(taken, left),
        _parts(left),
    )
    return changed.train(model.training)


def _count(state: Mapping[str, torch.Tensor], names: Any) -> str:
    return f"{sum(state[name].numel() for name in names):,} weights"


def _parts(names: Any) -> str:
    parts = {name.split(".")[0] if "landmark_attention" not in name else "landmark_attention" for name in names}
    return ", ".join(sorted(parts)) or "none"
