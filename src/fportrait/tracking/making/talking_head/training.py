"""Both encoders trained end to end with a decoder (section 8.1 of the paper), and distillation from finished codes.

What keeps codes to the expression:
- the reference is another picture of the person, so the code need not say who they are; the alignment says where the
  head is, so the code need not;
- half of the targets are driven by the code of *another* person, in another pose, making the same expression;
- over a batch, each number of the two people's codes must agree (the diagonal of Barlow Twins, Zbontar et al. 2021);
- where actions are known (the embedded world), a linear readout must tell them.
The last three need pairs or actions; filmed talking heads train with the first alone (`twins=None`, `actions=None`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fportrait.devices import pick_device
from fportrait.errors import UserError
from fportrait.pixels import to_model_range
from fportrait.tracking.expression import CODE_DIM, ExpressionEncoder
from fportrait.tracking.making.alignment import AlignmentEncoder
from fportrait.tracking.making.expression import augment
from fportrait.tracking.making.talking_head.decoder import TalkingHeadDecoder

Log = Callable[[dict[str, float], int], None]


@dataclass(frozen=True)
class TalkingHeads:
    """Samples, one per row. Pictures are uint8.

    `crops` `N crop crop 3` face crops of the target; `pictures` `N S S 3` upper-body crops of the target (S = 64);
    `references` `N R S S 3` other pictures of the same person; optional: `twins` `N crop crop 3` face crops of
    someone else with the same expression, `actions` `N A`, `alignment` `N 9` and `focus` `N 3 2` (eyes and mouth,
    pixels).
    """

    crops: np.ndarray
    pictures: np.ndarray
    references: np.ndarray
    twins: np.ndarray | None = None
    actions: np.ndarray | None = None
    alignment: np.ndarray | None = None
    focus: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.crops)
        for name in ("pictures", "references", "twins", "actions", "alignment", "focus"):
            value = getattr(self, name)
            if value is not None and len(value) != count:
                raise UserError(f"{len(value)} {name} for {count} crops", "one per crop", "drop the rest")


@dataclass(frozen=True)
class TalkingHeadTraining:
    """Settings. Weights of a loss whose data is absent have no effect."""

    steps: int = 2000
    minutes: float = 25.0  # whichever limit comes first; the rate falls to zero by then
    batch: int = 40
    decoded: int = 16  # of the batch; the decoder costs three times an encoder, and agreement wants many codes
    learning_rate: float = 1e-3
    focus_weight: float = 6.0
    action_weight: float = 1.0
    agreement_weight: float = 0.5
    alignment_weight: float = 1.0
    seed: int = 0


@dataclass
class TalkingHeadResult:
    """The encoders (the expression encoder with its statistics), the decoder, and the readout of standardised codes."""

    expression: ExpressionEncoder
    alignment: AlignmentEncoder
    decoder: TalkingHeadDecoder
    readout: nn.Linear | None
    scores: dict[str, float]


def agreement_loss(a: Tensor, b: Tensor) -> Tensor:
    """Mean over the numbers of a code of (1 − correlation of `a` and `b` over the batch)², `N D` each."""
    a, b = a - a.mean(0), b - b.mean(0)
    correlation = (a * b).mean(0) / (a.square().mean(0) * b.square().mean(0) + 1e-6).sqrt()
    return (1 - correlation).square().mean()


def picture_loss(produced: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Mean absolute error of pixels and of differences between neighbours, weighted `N 1 H W` at eyes and mouth."""
    weight = torch.ones_like(target[:, :1]) if weight is None else weight
    error = produced - target
    pixels = (error.abs() * weight).mean()
    across = ((error[..., 1:] - error[..., :-1]).abs() * weight[..., 1:]).mean()
    down = ((error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]).mean()
    return pixels + across + down


def focus_weight(focus: Tensor, size: int, gain: float) -> Tensor:
    """`N 3 2` pixels to weights `N 1 S S`: one, and `gain` more at each eye and the mouth."""
    places = torch.arange(size) + 0.5
    dx = places - focus[..., 0, None]
    dy = places - focus[..., 1, None]
    sigma = size / 14
    bumps = torch.exp(-(dx[:, :, None, :] ** 2 + dy[:, :, :, None] ** 2) / (2 * sigma**2))
    return 1 + gain * bumps.amax(1, keepdim=True)


def train_talking_heads(
    data: TalkingHeads,
    settings: TalkingHeadTraining,
    start: ExpressionEncoder | None = None,
    width: int = 16,
    log: Log = lambda values, step: None,
) -> TalkingHeadResult:
    """Train expression encoder, alignment encoder and decoder together.

    Args:
        start: an expression encoder to go on from; it is not changed.

    Raises:
        UserError: fewer samples than a batch. FloatingPointError: the loss is not finite.
    """
    if len(data.crops) < settings.batch:
        raise UserError(f"{len(data.crops)} samples", f"at least a batch of {settings.batch}", "lower the batch")
    torch.manual_seed(settings.seed)
    rng, generator = np.random.default_rng(settings.seed), torch.Generator().manual_seed(settings.seed)
    expression = ExpressionEncoder(width, data.crops.shape[1])
    if start is not None:
        expression = ExpressionEncoder(start.width, start.crop_size)
        expression.load_state_dict(start.state_dict())
    size = data.pictures.shape[1]
    alignment, decoder = AlignmentEncoder(width, size), TalkingHeadDecoder()
    readout = None if data.actions is None else nn.Linear(CODE_DIM, data.actions.shape[1])
    device = pick_device()
    modules = nn.ModuleList([expression, alignment, decoder] + ([readout] if readout else [])).to(device)
    for module in (expression, alignment, decoder):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if start is not None and readout is not None and data.actions is not None:
        readout.load_state_dict(_first_readout(start, data, rng))
        _standardise_head(expression, start)
    action_scale = None
    if data.actions is not None:
        action_scale = torch.from_numpy(1 / (data.actions.std(0) + 0.05)).float().to(device) ** 2
    optimizer = torch.optim.AdamW(modules.parameters(), lr=settings.learning_rate, weight_decay=0.02)
    modules.train()
    started, running = time.time(), []
    for step in range(settings.steps):
        progress = max(step / settings.steps, (time.time() - started) / (60 * settings.minutes))
        if progress >= 1:
            break
        rate = settings.learning_rate * min(1.0, (step + 1) / 50, 0.02 + 2 * (1 - progress))
        for group in optimizer.param_groups:
            group["lr"] = rate
        picks = np.sort(rng.choice(len(data.crops), settings.batch, replace=False))
        with torch.autocast(device.type, torch.bfloat16):
            losses = _losses(
                data, picks, settings, expression, alignment, decoder, readout, action_scale, rng, generator
            )
        loss = torch.stack(list(losses.values())).sum()
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss {loss.item()} at step {step}: lower learning_rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 5.0)
        optimizer.step()
        running.append({name: value.item() for name, value in losses.items()})
        if (step + 1) % 50 == 0:
            log({name: float(np.mean([r[name] for r in running[-50:]])) for name in losses}, step + 1)
    modules.eval()
    _measure_statistics(expression, data.crops, rng)
    if readout is not None:
        with torch.no_grad():  # the readout of standardised codes: W (s c + m) + b
            readout.bias.add_(readout.weight @ expression.code_mean)
            readout.weight.mul_(expression.code_std)
    scores = {"steps": float(len(running)), "seconds": time.time() - started}
    scores |= {name: float(np.mean([r[name] for r in running[-50:]])) for name in running[-1]}
    return TalkingHeadResult(expression, alignment, decoder, readout, scores)


def _losses(
    data: TalkingHeads,
    picks: np.ndarray,
    settings: TalkingHeadTraining,
    expression: ExpressionEncoder,
    alignment: AlignmentEncoder,
    decoder: TalkingHeadDecoder,
    readout: nn.Linear | None,
    action_scale: Tensor | None,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """One batch's losses, weighted."""
    count, device = len(picks), expression.head.weight.device
    shown = picks[rng.choice(count, min(settings.decoded, count), replace=False)]
    target = to_model_range(data.pictures[shown]).to(device)
    others = data.references[shown, rng.integers(0, data.references.shape[1], len(shown))]
    reference = to_model_range(others).to(device)
    driving = to_model_range(data.crops[picks])
    if data.twins is not None:
        driving = torch.cat([driving, to_model_range(data.twins[picks])])
    driving = augment(driving, generator).to(device)
    codes = expression(driving.contiguous(memory_format=torch.channels_last)).float()
    # Statistics of batch normalisation are those of targets and references together.
    where = alignment(torch.cat([target, reference]).contiguous(memory_format=torch.channels_last)).float()
    own, place = codes[:count], torch.from_numpy(np.searchsorted(picks, shown)).to(device)
    used = own[place]
    if data.twins is not None:
        used = torch.where(torch.rand(len(shown), 1, generator=generator).to(device) < 0.5, used, codes[count:][place])
    produced = decoder(reference, used, where[: len(shown)], where[len(shown) :]).float()
    weight = None
    if data.focus is not None:
        focus = torch.from_numpy(data.focus[shown]).float()
        weight = focus_weight(focus, target.shape[-1], settings.focus_weight).to(device)
    losses = {"picture": picture_loss(produced, target, weight), "size": 1e-3 * codes.square().mean()}
    if readout is not None and data.actions is not None and action_scale is not None:
        wanted = torch.from_numpy(data.actions[picks]).float().to(device).repeat(len(codes) // count, 1)
        losses["actions"] = settings.action_weight * ((readout(codes) - wanted) ** 2 * action_scale).mean()
    if data.twins is not None:
        losses["agreement"] = settings.agreement_weight * agreement_loss(own, codes[count:])
    if data.alignment is not None:
        wanted = torch.from_numpy(data.alignment[shown]).float().to(device)
        losses["alignment"] = settings.alignment_weight * 10 * F.mse_loss(where[: len(shown)], wanted)
    return losses


def _standardise_head(encoder: ExpressionEncoder, start: ExpressionEncoder) -> None:
    """Let the raw outputs be `start`'s standardised codes."""
    with torch.no_grad():
        encoder.head.weight.div_(start.code_std[:, None])
        encoder.head.bias.sub_(start.code_mean).div_(start.code_std)
        encoder.code_mean.zero_()
        encoder.code_std.fill_(1)


def _first_readout(start: ExpressionEncoder, data: TalkingHeads, rng: np.random.Generator) -> dict[str, Tensor]:
    """Ridge regression from `start`'s standardised codes to the actions."""
    assert data.actions is not None
    picks = np.sort(rng.choice(len(data.crops), min(2000, len(data.crops)), replace=False))
    codes = np.concatenate([start.encode(data.crops[picks]), np.ones((len(picks), 1), np.float32)], 1)
    ridge = codes.T @ codes + 1e-2 * len(codes) * np.eye(codes.shape[1])
    weights = np.linalg.solve(ridge, codes.T @ data.actions[picks]).astype(np.float32)
    return {"weight": torch.from_numpy(weights[:-1].T.copy()), "bias": torch.from_numpy(weights[-1].copy())}


def _measure_statistics(encoder: ExpressionEncoder, crops: np.ndarray, rng: np.random.Generator) -> None:
    """Mean and spread of raw codes over at most 6,000 crops."""
    picks = np.sort(rng.choice(len(crops), min(len(crops), 6000), replace=False))
    with torch.no_grad():
        encoder.code_mean.zero_()
        encoder.code_std.fill_(1)
        raw = torch.from_numpy(encoder.encode(crops[picks]))
        encoder.code_mean.copy_(raw.mean(0))
        encoder.code_std.copy_(raw.std(0).clamp_min(1e-4))


def distil_expression_encoder(
    crops: np.ndarray,
    codes: np.ndarray,
    steps: int,
    width: int = 16,
    batch: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    log: Log = lambda values, step: None,
) -> ExpressionEncoder:
    """Train an encoder to give known codes, such as another encoder's features released with a data set.

    Args:
        crops: `N crop crop 3` uint8. codes: `N 128`; the result's standardised codes approach these, standardised.

    Raises:
        UserError: codes of another length, fewer pairs than a batch, or codes that are not finite.
    """
    if codes.shape != (len(crops), CODE_DIM) or len(crops) < batch or not np.isfinite(codes).all():
        raise UserError(
            f"codes {codes.shape} for {len(crops)} crops",
            f"finite codes N {CODE_DIM}, N at least {batch}",
            "pass one code per crop",
        )
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    mean, std = codes.mean(0), np.maximum(codes.std(0), 1e-4)
    wanted = torch.from_numpy(((codes - mean) / std).astype(np.float32))
    device = pick_device()
    encoder = ExpressionEncoder(width, crops.shape[1]).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    wanted = wanted.to(device)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.15)
    for step in range(steps):
        picks = np.sort(rng.integers(0, len(crops), batch))
        images = augment(to_model_range(crops[picks]), generator).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            produced = encoder(images)
        loss = F.mse_loss(produced.float(), wanted[picks])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            log({"distillation": loss.item()}, step + 1)
    return encoder.eval()
