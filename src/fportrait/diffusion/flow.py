"""Flow matching as Wan trains it: straight paths from data (sigma 0) to noise (sigma 1), learned as a velocity.

x_sigma = (1 - sigma) x0 + sigma eps; the target is d x / d sigma = eps - x0. The shift s moves samples towards noise,
sigma' = s sigma / (1 + (s - 1) sigma) (Esser et al. 2024, eq. 23); sampling takes the same levels (`schedule`).
The reference frame never enters: the model returns the velocity of the l noisy frames only.
"""

from __future__ import annotations

import torch

from fportrait.errors import UserError


def shift_sigma(sigma: torch.Tensor, shift: float = 5.0) -> torch.Tensor:
    """s sigma / (1 + (s - 1) sigma); shift 1 changes nothing."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def sample_sigmas(
    batch: int,
    shift: float = 5.0,
    distribution: str = "uniform",
    generator: torch.Generator | None = None,
    mean: float = 0.0,
    std: float = 1.0,
) -> torch.Tensor:
    """Noise levels `B` in (0, 1]: `uniform` or `logit_normal` (of `mean`, `std`), then shifted.

    Raises:
        UserError: an unknown distribution.
    """
    if distribution == "uniform":
        sigma = 1 - torch.rand(batch, generator=generator)  # rand gives [0, 1); sigma 0 has nothing to learn
    elif distribution == "logit_normal":
        sigma = torch.sigmoid(mean + std * torch.randn(batch, generator=generator))
    else:
        raise UserError(f"the distribution '{distribution}'", "uniform or logit_normal", "set sigmas to one of them")
    return shift_sigma(sigma, shift)


def bridge_sigmas(
    batch: int,
    level: float,
    shift: float = 5.0,
    generator: torch.Generator | None = None,
    distribution: str = "uniform",
) -> torch.Tensor:
    """Noise levels `B` for a model whose paths start at `level`: below 1 more of them the nearer to it, s sqrt(u).

    The first of few steps does most, and it is made at `level` itself. At level 1 these are `sample_sigmas`. With the
    distribution `start` all are where sampling starts: what a model of one step is asked for, and nothing else.
    """
    if distribution == "start":
        return torch.full((batch,), min(float(level), 1.0))
    if level >= 1:
        return sample_sigmas(batch, shift, distribution, generator)
    return spread_sigmas(1 - torch.rand(batch, generator=generator), level, shift)


def spread_sigmas(share: torch.Tensor, level: float, shift: float = 5.0) -> torch.Tensor:
    """The noise levels that uniform numbers in (0, 1] become for paths that start at `level`; see `bridge_sigmas`."""
    return shift_sigma(share, shift) if level >= 1 else level * share.sqrt()


def _per_sample(sigma: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return sigma.to(like).reshape(-1, *[1] * (like.ndim - 1))


def noise_latents(latents: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """(1 - sigma) x0 + sigma eps; `latents` and `noise` `B C l h w`, `sigmas` `B`."""
    sigma = _per_sample(sigmas, latents)
    return (1 - sigma) * latents + sigma * noise


def bridged_noise(
    noise: torch.Tensor, latents: torch.Tensor, painted: torch.Tensor, level: float, sigmas: torch.Tensor
) -> torch.Tensor:
    """The noise that makes paths start at a noised guess instead of at noise alone, where `sigmas` are up to `level`.

    Ours: of the portrait painted on the body, p, sampling starts at (1 - s) p + s eps, s the `level`, and shall go
    straight from there to x0, as between coupled data (Albergo et al. 2023, arXiv 2310.03725; I2SB, Liu et al. 2023).
    At sigma of that path lies (1 - sigma / s) x0 + (sigma / s) ((1 - s) p + s eps) = (1 - sigma) x0 + sigma eps' with
    eps' = eps + (1 - s) / s (p - x0). So with eps' everything stays as it was: the noisy latents, the velocity
    eps' - x0, and every solver's estimate of x0, x - sigma v.

    Args:
        noise, latents, painted: `B C l h w`. level: s; 1 changes nothing. sigmas: `B`.
    """
    if level >= 1:
        return noise
    inside = _per_sample(sigmas <= level, latents)
    return noise + inside * ((1 - level) / level) * (painted.to(latents) - latents)


def velocity_target(latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    return noise - latents


def flow_loss(
    velocity: torch.Tensor,
    latents: torch.Tensor,
    noise: torch.Tensor,
    weights: torch.Tensor | None = None,
    contrast: float = 1.0,
) -> torch.Tensor:
    """Mean squared error against eps - x0, a scalar in float32.

    Args:
        weights: `B 1 l h w` (broadcast), of regions such as eyes and mouth; the mean is a weighted one, so that a
            constant weight changes nothing.
        contrast: how often the error in what differs between the l frames of a clip counts. Most of the error is what
            no condition tells (hair, skin and light of someone hardly seen); the frames share it, and it drowns the
            little that an expression or a turn changes. With e the error and m its mean over the frames, the loss is
            the mean of e^2 + (contrast - 1) (e - m)^2.
    """
    error = velocity.float() - velocity_target(latents, noise).float()
    square = error.square()
    if contrast != 1:
        square = square + (contrast - 1) * (error - error.mean(2, keepdim=True)).square()
    if weights is None:
        return square.mean()
    weights = weights.float().expand_as(square)
    return (square * weights).sum() / weights.sum()
