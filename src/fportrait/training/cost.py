"""What a training step costs, found without computing it: operations, tokens, bytes.

The model runs once on tensors that have shapes but no data, so a 14-billion-parameter model takes seconds and no
memory. Operations are counted as the model's: forward, and twice that for backward; recomputed activations count as
work of the machine, not of the model (Chowdhery et al. 2022, appendix B).
"""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fportrait.diffusion.shapes import latent_frames
from fportrait.errors import UserError

if TYPE_CHECKING:
    from fportrait.diffusion.lora import LoraSettings

GIB = 1024**3
# Dense bfloat16 peaks in TFLOP/s, from the makers' data sheets; the key is part of the device's name.
PEAK_TFLOPS = {
    "H100 PCIe": 756, "H100": 989, "H200": 989, "H20": 148, "B200": 2250, "A100": 312, "A800": 312, "L40S": 362,
    "A6000": 155, "RTX 4090": 165, "RTX 3090": 71,
}  # fmt: skip


@dataclass(frozen=True)
class SampleWork:
    """Of one sample: `flops` of one forward pass."""

    parameters: int
    tokens: int
    flops: int


@dataclass(frozen=True)
class SampleCost(SampleWork):
    """And `activation_bytes` kept for the backward pass."""

    activation_bytes: int


def sample_work(config: Mapping[str, Any], frames: int, height: int, width: int) -> SampleWork:
    """Work of one training sample of `frames` video frames and `height`×`width` latent pixels.

    Args:
        config: of a `FactorPortraitTransformer`.
    """
    return _sample_work(_frozen(config), frames, height, width)


def sample_cost(
    config: Mapping[str, Any], frames: int, height: int, width: int, precision: str = "bf16", recompute: bool = False
) -> SampleCost:
    """`sample_work`, and what autograd keeps of it, which takes ten times as long to find.

    Args:
        recompute: gradient checkpointing: only the blocks' inputs are kept, and one block's activations.
    """
    frozen = _frozen(config)
    kept = _activation_bytes(frozen, frames, height, width, precision, recompute)
    return SampleCost(**asdict(_sample_work(frozen, frames, height, width)), activation_bytes=kept)


def _frozen(config: Mapping[str, Any]) -> tuple:
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    return tuple(sorted((key, value) for key, value in values.items() if not key.startswith("_")))


@functools.lru_cache(maxsize=64)
def _sample_work(config: tuple, frames: int, height: int, width: int) -> SampleWork:
    with torch.device("meta"), _counter() as counter, torch.no_grad():
        model, inputs = _model_and_inputs(config, frames, height, width)
        model(**inputs)
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    tokens = (1 + latent_frames(frames)) * height * width // math.prod(model.config["patch_size"])
    return SampleWork(parameters, tokens, int(counter.get_total_flops()))


def _model_and_inputs(config: tuple, frames: int, height: int, width: int) -> tuple[Any, dict[str, Tensor]]:
    from fportrait.diffusion.conditions import Conditions
    from fportrait.diffusion.transformer import FactorPortraitTransformer

    model, latents = FactorPortraitTransformer(**dict(config)).train(), latent_frames(frames)
    return model, {
        "latents": torch.zeros(1, model.config["latent_channels"], latents, height, width),
        "timestep": torch.zeros(1),
        **Conditions.zeros(model.reads, 1, latents, height, width).inputs(),
    }


@functools.lru_cache(maxsize=64)
def _activation_bytes(config: tuple, frames: int, height: int, width: int, precision: str, recompute: bool) -> int:
    """All blocks are alike: a deep model keeps what one block more keeps, as often as it has them."""
    layers = dict(config).get("num_layers", 0)
    if layers <= 3:
        return _counted_bytes(config, frames, height, width, precision, recompute)
    two, three = (
        _counted_bytes(_frozen({**dict(config), "num_layers": n}), frames, height, width, precision, recompute)
        for n in (2, 3)
    )
    return two + (layers - 2) * (three - two)


def _counted_bytes(config: tuple, frames: int, height: int, width: int, precision: str, recompute: bool) -> int:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True):
        warnings.simplefilter("ignore", UserWarning)  # slow paths of a CPU that computes nothing here
        model, inputs = _model_and_inputs(config, frames, height, width)
        kept = _kept_bytes(model, inputs, precision)
        if recompute:
            layers = model.config["num_layers"]
            model.enable_gradient_checkpointing()
            kept = _kept_bytes(model, inputs, precision) + kept // layers
    return kept


def _counter() -> Any:
    """Counts operations; attention too, which PyTorch counts on GPUs only."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}
    return FlopCounterMode(display=False, custom_mapping=attention)


def vae_flops(config: Mapping[str, Any], frames: int, height: int, width: int) -> int:
    """Operations of one pass of a video VAE's encoder over T = 4k+1 `frames` of `height` x `width` pixels.

    A causal VAE takes the first frame, then four by four: two short clips tell what any length costs.

    Args:
        config: of a `BlockCodec` or an `AutoencoderKLWan`; an empty one is Wan 2.1's.
    """
    one, five = (_vae_flops(_frozen(config), config.get("_class_name"), few, height, width) for few in (1, 5))
    return one + (latent_frames(frames) - 1) * (five - one)


@functools.lru_cache(maxsize=64)
def _vae_flops(config: tuple, name: str | None, frames: int, height: int, width: int) -> int:
    from diffusers import AutoencoderKLWan
    from torch._subclasses.fake_tensor import FakeTensorMode

    from fportrait.diffusion.codec import BlockCodec, encode_video

    kind: Any = BlockCodec if name == "BlockCodec" else AutoencoderKLWan
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        warnings.simplefilter("ignore", UserWarning)
        vae = kind.from_config(dict(config)).eval()
        with _counter() as counter:
            encode_video(vae, torch.zeros(1, 3, frames, height, width))
    return int(counter.get_total_flops())


def _kept_bytes(model: torch.nn.Module, inputs: Mapping[str, Tensor], precision: str) -> int:
    """Bytes that autograd saves between the forward and the backward pass, parameters left out."""
    own = {id(parameter.untyped_storage()) for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[id(storage)] = storage
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        output = model(**inputs)  # held until the count is taken: what it needs is alive
        total = sum(storage.nbytes() for key, storage in kept.items() if key not in own)
    del output
    return total


def learned_parameters(config: Mapping[str, Any], lora: LoraSettings | None) -> int:
    """How many numbers a stage learns: all of the model's, or those of an adapter (`add_lora`)."""
    return _learned_parameters(_frozen(config), lora and (lora.rank, tuple(lora.targets), lora.conditions))


@functools.lru_cache(maxsize=64)
def _learned_parameters(config: tuple, lora: tuple | None) -> int:
    from fportrait.diffusion.lora import LoraSettings, adapted_matrices, trained_whole
    from fportrait.diffusion.transformer import FactorPortraitTransformer

    with torch.device("meta"):
        model = FactorPortraitTransformer(**dict(config))
    if lora is None:
        return sum(parameter.numel() for parameter in model.parameters())
    settings = LoraSettings(rank=lora[0], targets=lora[1], conditions=lora[2])
    whole = trained_whole(model, settings)
    updates = sum(settings.rank * (m.in_features + m.out_features) for m in adapted_matrices(model, settings).values())
    return updates + sum(value.numel() for name, value in model.named_parameters() if whole and name.startswith(whole))


def state_bytes(
    parameters: int,
    optimizer: str = "adamw",
    precision: str = "bf16",
    processes: int = 1,
    sharding: str = "none",
    frozen: int = 0,
) -> int:
    """Bytes of weights, gradients, two moments and the average on one process, in float32 (8-bit moments: 2 bytes).

    FSDP2 and ZeRO-3 divide them all over `processes`; ZeRO-2 gradients and moments, beside which it keeps its own part
    of the weights. Autocast keeps a bfloat16 copy of the weights through a step. Of `frozen` parameters there are the
    weights alone.
    """
    if frozen:
        divided = processes if sharding in ("fsdp2", "zero3") else 1
        return 4 * frozen // divided + state_bytes(parameters, optimizer, precision, processes, sharding)
    moments = 2 if optimizer == "adamw8bit" else 8
    copy = 2 * parameters if precision == "bf16" else 0
    if sharding == "none" or processes == 1:
        return parameters * (4 + 4 + moments + 4) + copy
    if sharding == "zero2":
        return parameters * (4 + 4) + parameters * (4 + 4 + moments) // processes + copy
    return parameters * (4 + 4 + moments + 4) // processes + copy


def peak_flops(device: torch.device, precision: str = "bf16") -> float | None:
    """Operations per second that this device could do at most; None when it is not known.

    A GPU's is its maker's; a CPU's is what one large matrix product reaches on it now.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = next((peak for key, peak in PEAK_TFLOPS.items() if key in name), None)
        return None if known is None else known * 1e12
    if device.type != "cpu":
        return None
    side = 768
    matrix = torch.ones(side, side, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    matrix @ matrix
    best = math.inf
    for _ in range(10):  # the best one: whatever else runs only slows it
        started = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def named_peak(gpu: str) -> float:
    """Peak operations per second of a GPU by its name.

    Raises:
        UserError: it is not in the table.
    """
    for key, peak in PEAK_TFLOPS.items():
        if key.lower() == gpu.lower():
            return peak * 1e12
    raise UserError(f"the GPU '{gpu}'", f"one of {', '.join(PEAK_TFLOPS)}", "name one of them")
