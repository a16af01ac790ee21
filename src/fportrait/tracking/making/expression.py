"""Training of the expression encoder on crops whose facial actions are known.

The code must explain the actions through a linear readout and is kept small otherwise, so that identity and pose, which
the readout does not need, fade from it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fportrait.pixels import to_model_range
from fportrait.tracking.expression import CODE_DIM, ExpressionEncoder


def mirrored_actions(names: list[str]) -> np.ndarray:
    """For each action, the index of the action that a mirror image shows."""

    def swap(name: str) -> str:
        if name.endswith("Left"):
            return name[:-4] + "Right"
        return name[:-5] + "Left" if name.endswith("Right") else name

    return np.array([names.index(swap(name)) for name in names])


def augment(crops: Tensor, generator: torch.Generator, wider: float = 1.0, size: int | None = None) -> Tensor:
    """Colour, light, noise, loss of resolution, and a jitter of the crop like that of detected landmarks.

    Args:
        crops: `N 3 S S`, wider than what an encoder sees by `wider`. size: of the result `N 3 size size`; default S.
    """
    count, _, stored, _ = crops.shape
    size = size or stored

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    angle, scale = uniform(-0.1, 0.1), uniform(0.9, 1.1) / wider
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale * torch.cos(angle)
    theta[:, 0, 1], theta[:, 1, 0] = -scale * torch.sin(angle), scale * torch.sin(angle)
    theta[:, :, 2] = uniform(-0.08, 0.08, 2) / wider
    grid = F.affine_grid(theta, [count, 3, size, size], align_corners=False)
    crops = F.grid_sample(crops, grid, align_corners=False)
    small = int(torch.randint(size // 4, size + 1, (1,), generator=generator))
    if small < size * 0.9:
        crops = F.interpolate(crops, size=small, mode="area")
        crops = F.interpolate(crops, size=size, mode="bilinear", align_corners=False)
    gain, bias = uniform(0.7, 1.3, 1, 1, 1) * uniform(0.9, 1.1, 3, 1, 1), uniform(-0.2, 0.2, 1, 1, 1)
    crops = crops * gain + bias
    grey = (uniform(0, 1, 1, 1, 1) < 0.1).float()
    crops = crops * (1 - grey) + crops.mean(1, keepdim=True) * grey
    return (crops + torch.randn(crops.shape, generator=generator) * uniform(0, 0.06, 1, 1, 1)).clamp(-1, 1)


def train_expression_encoder(
    crops: np.ndarray,
    actions: np.ndarray,
    action_names: list[str],
    steps: int,
    width: int = 24,
    batch: int = 64,
    learning_rate: float = 2e-3,
    code_penalty: float = 1e-3,
    held_out: int = 1000,
    seed: int = 0,
    log: Callable[[dict[str, float], int], None] = lambda values, step: None,
) -> tuple[ExpressionEncoder, nn.Linear, dict[str, float]]:
    """Train on `crops` `N S S 3` uint8 and `actions` `N 52`; the last `held_out` samples score the result.

    Returns:
        the encoder with its statistics, the linear readout from standardised codes to actions, and the correlation of
        each readout with the truth on the held-out samples (`mean` over the actions that occur).
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    encoder, readout = ExpressionEncoder(width, crops.shape[1]), nn.Linear(CODE_DIM, actions.shape[1])
    flip = torch.from_numpy(mirrored_actions(action_names))
    count = len(crops) - held_out
    weight = torch.from_numpy(1 / (actions[:count].std(0) + 0.05)).float() ** 2
    optimizer = torch.optim.AdamW([*encoder.parameters(), *readout.parameters()], lr=learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.15)
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    for step in range(steps):
        picks = np.sort(rng.integers(0, count, batch))
        images = to_model_range(crops[picks])
        wanted = torch.from_numpy(actions[picks]).float()
        mirror = torch.rand(batch, generator=generator) < 0.5
        images[mirror], wanted[mirror] = images[mirror].flip(3), wanted[mirror][:, flip]
        images = augment(images, generator).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            codes = encoder(images)
        codes = codes.float()
        loss = ((readout(codes) - wanted) ** 2 * weight).mean() + code_penalty * codes.square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            log({"expression_loss": loss.item()}, step + 1)
    encoder.eval()
    with torch.no_grad():
        sample = np.sort(rng.choice(count, min(count, 6000), replace=False))
        raw = torch.from_numpy(encoder.encode(crops[sample]))
        encoder.code_mean.copy_(raw.mean(0))
        encoder.code_std.copy_(raw.std(0).clamp_min(1e-4))
        # The readout of standardised codes: W (s c + m) + b.
        readout.bias.copy_(readout.bias + readout.weight @ encoder.code_mean)
        readout.weight.mul_(encoder.code_std)
    return encoder, readout, readout_correlations(encoder, readout, crops[count:], actions[count:], action_names)


@torch.no_grad()
def readout_correlations(
    encoder: ExpressionEncoder, readout: nn.Linear, crops: np.ndarray, actions: np.ndarray, names: list[str]
) -> dict[str, float]:
    """Correlation of the readout of `crops` `N S S 3` with `actions` `N 52`, per action that occurs, and their mean."""
    produced = readout(torch.from_numpy(encoder.encode(crops))).numpy()
    moving = [index for index in range(len(names)) if actions[:, index].std() > 0.03]
    scores = {names[i]: float(np.corrcoef(produced[:, i], actions[:, i])[0, 1]) for i in moving}
    return {"mean": float(np.mean(list(scores.values()))), **scores}
