"""Going on from a base with a finer codec or another expression encoder, without losing what it has learned.

The wider codec's first latents are the old one's, and the wider transformer starts from what the old one knew of them;
the new channels are learned. New codes reach the old controller through the linear map
that predicts the old ones best.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from fportrait.diffusion.codec import BlockCodec
from fportrait.diffusion.transformer import FactorPortraitTransformer


@torch.no_grad()
def widen_codec(codec: BlockCodec, channels: int, videos: Iterable[torch.Tensor], whitening: float) -> BlockCodec:
    """A codec of more latent channels, of which the first are those of `codec`; its refiner still needs training.

    Args:
        videos: as `BlockCodec.fit_pca` takes them.
        whitening: the new channels are divided by their standard deviation to this power.
    """
    wide = BlockCodec(**{**_arguments(codec), "z_dim": channels, "latents_mean": None, "latents_std": None})
    keep = codec.config.z_dim
    for name, value in codec.state_dict().items():
        target = wide.state_dict()[name]
        if value.shape == target.shape:
            target.copy_(value)
        elif name.startswith("refiner."):  # the input layer: pixels, latents, place in the group
            place = target.shape[1] - value.shape[1] + _first_place(codec)
            target.zero_()
            target[:, : _first_place(codec)] = value[:, : _first_place(codec)]
            target[:, place:] = value[:, _first_place(codec) :]
        else:
            target[:, :keep] = value
    wide.register_to_config(
        latents_mean=list(codec.config.latents_mean) + [0.0] * (channels - keep),
        latents_std=list(codec.config.latents_std) + [1.0] * (channels - keep),
    )
    wide.fit_pca(videos, keep)
    std = wide.config.latents_std
    wide.register_to_config(latents_std=[*std[:keep], *(np.array(std[keep:]) ** whitening).tolist()])
    return wide


def _first_place(codec: BlockCodec) -> int:
    assert codec.refiner is not None
    return 3 * codec.refiner.FOLD**2 + codec.config.z_dim


def _arguments(model) -> dict:
    return {key: value for key, value in model.config.items() if not key.startswith("_")}


@torch.no_grad()
def widen_transformer(model: FactorPortraitTransformer, channels: int) -> FactorPortraitTransformer:
    """A transformer for latents of more channels: where the new noisy ones are zero it computes what `model` did.

    Of the new columns those of the noisy latents are drawn from torch's generator, half as large as the old ones. Their
    noise is most of what the new outputs, which start at zero, have to say: with both at zero neither gets a gradient,
    and 50 steps taught nothing; drawn, 100 steps took the new channels' error from 1.17 to 0.37.
    """
    old = model.config.latent_channels
    wide = FactorPortraitTransformer(**{**_arguments(model), "latent_channels": channels})
    state = dict(model.state_dict())
    weight = state["patch_embedding.weight"]
    sizes = [old, old, model.config.ray_channels] + [old] * model.config.use_normals
    groups = []
    for index, (size, group) in enumerate(zip(sizes, weight.split(sizes, 1), strict=True)):
        new = group.new_zeros(group.shape[0], channels - old if size == old else 0, *group.shape[2:])
        if index == 1:  # the noisy latents
            new.normal_(std=0.5 * group.std().item())
        groups += [group, new]
    state["patch_embedding.weight"] = torch.cat(groups, 1)
    for name in ("proj_out.weight", "proj_out.bias"):  # rows: place in the patch, then channel
        by_channel = state[name].unflatten(0, (-1, old))
        wide_rows = by_channel.new_zeros(len(by_channel), channels, *by_channel.shape[2:])
        wide_rows[:, :old] = by_channel
        state[name] = wide_rows.flatten(0, 1)
    wide.load_state_dict(state)
    return wide


@torch.no_grad()
def adopt_codes(model: FactorPortraitTransformer, new: np.ndarray, old: np.ndarray, ridge: float = 1e-3) -> float:
    """Let the controller take another encoder's codes; returns the share of the old codes' variance it can predict.

    Args:
        new, old: codes `N E` of the same frames by both encoders. `ridge` is relative to the new codes' variance.
    """
    assert model.controller is not None
    x, y = torch.from_numpy(new).double(), torch.from_numpy(old).double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weights = torch.linalg.solve(gram, x.T @ y)  # new to old
    layer = model.controller.input
    layer.bias.add_(layer.weight.double() @ (y_mean - x_mean @ weights))
    layer.weight.copy_(layer.weight.double() @ weights.T)
    return float(1 - (y - x @ weights).square().sum() / y.square().sum())
