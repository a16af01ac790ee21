"""The empty prompt's embedding: Wan is a text-to-video model, the method has no text.

Wan's tokenizer turns "" into the end token alone, and Wan pads what UMT5 makes of it with zeros. Attention over one
token is that token's value, whatever the queries, keys and positions; so UMT5 shrinks to its embedding's one row, the
value and output projections and the gated feed-forward layers, run block by block: half a gigabyte of memory instead
of 23, and no further library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from fportrait.diffusion.checkpoint import check_keys, model_folder, read_config
from fportrait.diffusion.weight_files import PICKLES, Stored, pickled_tensors, stored_tensors, weight_files
from fportrait.errors import UserError

END_TOKEN = 1  # of UMT5's vocabulary
EPSILON = 1e-6
ORIGINAL_NAMES = (  # of Wan's own file to transformers'
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.block.\1.layer.0.layer_norm."),
    (r"^blocks\.(\d+)\.attn\.", r"encoder.block.\1.layer.0.SelfAttention."),
    (r"^blocks\.(\d+)\.pos_embedding\.embedding\.", r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"^blocks\.(\d+)\.ffn\.gate\.0\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (r"^blocks\.(\d+)\.ffn\.fc1\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (r"^blocks\.(\d+)\.ffn\.fc2\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
)
Report = Callable[[str, int, int], None]


@torch.no_grad()
def encode_empty_prompt(text_encoder: str | Path, tokens: int = 512, report: Report | None = None) -> torch.Tensor:
    """`1 tokens text_dim` for `FactorPortraitTransformer.from_wan(prompt_embedding=...)`; computed once, then a buffer.

    Args:
        text_encoder: UMT5 as diffusers and transformers store it (a folder of safetensors), or Wan's own
            `models_t5_umt5-xxl-enc-bf16.pth`.
        report: called with ("prompt", blocks done, blocks).

    Raises:
        UserError: no such file or folder, another model, or tensors missing, extra or misshapen.
    """
    stored, where, end = open_text_encoder(text_encoder)
    blocks = check_text_encoder(stored, where)
    hidden = stored["shared.weight"].read()[end][None].float()

    def weight(block: int, name: str) -> torch.Tensor:
        # In fresh memory: in a file's map tensors lie unaligned, and a matrix product's last bits depend on that.
        return stored[f"encoder.block.{block}.layer.{name}.weight"].read().to(torch.float32, copy=True)

    for block in range(blocks):
        normed = _rms_norm(hidden, weight(block, "0.layer_norm"))
        value = F.linear(normed, weight(block, "0.SelfAttention.v"))
        hidden = hidden + F.linear(value, weight(block, "0.SelfAttention.o"))
        normed = _rms_norm(hidden, weight(block, "1.layer_norm"))
        gate = F.gelu(F.linear(normed, weight(block, "1.DenseReluDense.wi_0")), approximate="tanh")
        wide = gate * F.linear(normed, weight(block, "1.DenseReluDense.wi_1"))
        hidden = hidden + F.linear(wide, weight(block, "1.DenseReluDense.wo"))
        if report is not None:
            report("prompt", block + 1, blocks)
    embedding = _rms_norm(hidden, stored["encoder.final_layer_norm.weight"].read().float())
    return check_prompt(padded(embedding[None], tokens), where)


def _rms_norm(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + EPSILON)


def open_text_encoder(source: str | Path) -> tuple[dict[str, Stored], str, int]:
    """UMT5's tensors under transformers' names, where they lie, and the end token."""
    source = Path(source)
    if source.suffix in PICKLES and source.is_file():
        return original_names(pickled_tensors(source)), str(source), END_TOKEN
    if source.suffix == ".safetensors" and source.is_file():
        return original_names(stored_tensors([source])), str(source), END_TOKEN
    location = model_folder(source)
    config = read_config(location)
    if config.get("model_type") != "umt5":
        raise UserError(f"a text encoder of type {config.get('model_type')} in {location}", "umt5", "use Wan 2.1's own")
    stored = original_names(stored_tensors(weight_files(location)))
    return stored, str(location), config.get("eos_token_id", END_TOKEN)


def original_names(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Tensors of either layout under transformers' names."""
    renamed = {}
    for name, entry in stored.items():
        for pattern, replacement in ORIGINAL_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed["shared.weight" if name == "encoder.embed_tokens.weight" else name] = entry
    return renamed


def check_text_encoder(stored: Mapping[str, Stored], where: str) -> int:
    """The number of blocks; `UserError` unless names and shapes are those of a UMT5 encoder."""
    found = {name: entry.shape for name, entry in stored.items()}
    blocks = len({name.split(".")[2] for name in found if name.startswith("encoder.block.")})
    try:
        vocabulary, width = found["shared.weight"]
        inner = found["encoder.block.0.layer.0.SelfAttention.q.weight"][0]
        wide = found["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0]
        positions = found["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    except (KeyError, ValueError):
        raise UserError(f"no UMT5 encoder in {where}", "Wan 2.1's text encoder", "give its file or folder") from None
    expected = {"shared.weight": (vocabulary, width), "encoder.final_layer_norm.weight": (width,)}
    for number in range(blocks):
        block = f"encoder.block.{number}.layer"
        expected |= {f"{block}.{layer}.layer_norm.weight": (width,) for layer in (0, 1)}
        expected |= {f"{block}.0.SelfAttention.{part}.weight": (inner, width) for part in "qkv"}
        expected[f"{block}.0.SelfAttention.o.weight"] = (width, inner)
        expected[f"{block}.0.SelfAttention.relative_attention_bias.weight"] = positions
        expected |= {f"{block}.1.DenseReluDense.{part}.weight": (wide, width) for part in ("wi_0", "wi_1")}
        expected[f"{block}.1.DenseReluDense.wo.weight"] = (width, wide)
    check_keys(found, expected, where)
    return blocks


def read_prompt(path: str | Path, tokens: int = 512) -> torch.Tensor:
    """A ready embedding, `1 tokens text_dim`: `.safetensors` of one tensor, `.npy`, or `.pt` of a tensor.

    Raises:
        UserError: another kind of file, another shape, all zeros, or numbers that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file {path}", "the empty prompt's embedding", "check the path")
    if path.suffix == ".npy":
        try:
            embedding = torch.from_numpy(np.load(path, allow_pickle=False))
        except ValueError as error:
            raise UserError(f"a broken {path} ({error})", "an array of numbers", "write it again") from None
    elif path.suffix == ".safetensors":
        stored = stored_tensors([path])
        if len(stored) != 1:
            raise UserError(f"{len(stored)} tensors in {path}", "one, the embedding", "write it alone")
        embedding = next(iter(stored.values())).read()
    elif path.suffix in PICKLES:
        try:
            embedding = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:
            raise UserError(
                f"a broken {path}, or more than a tensor", "one tensor", "save it as .safetensors"
            ) from None
    else:
        raise UserError(f"an embedding called {path.name}", ".safetensors, .npy or .pt", "convert it")
    if not isinstance(embedding, torch.Tensor) or embedding.ndim not in (2, 3) or embedding.shape[:-2].numel() != 1:
        shape = tuple(embedding.shape) if isinstance(embedding, torch.Tensor) else type(embedding).__name__
        raise UserError(f"{shape} in {path}", "one embedding, tokens × width", "save the empty prompt's alone")
    return check_prompt(padded(embedding.float().reshape(1, *embedding.shape[-2:]), tokens), str(path))


def padded(embedding: torch.Tensor, tokens: int) -> torch.Tensor:
    """`1 n D` with zeros after its n tokens, as Wan pads."""
    if embedding.shape[1] > tokens:
        raise UserError(f"an embedding of {embedding.shape[1]} tokens", f"at most {tokens}", "save it without padding")
    return F.pad(embedding, (0, 0, 0, tokens - embedding.shape[1]))


def check_prompt(embedding: torch.Tensor, where: str) -> torch.Tensor:
    """`embedding` `1 tokens D`, refused when no Wan was trained with such a one.

    Raises:
        UserError: its first token is zero, or it holds numbers that are not finite.
    """
    if not torch.isfinite(embedding).all():
        raise UserError(f"numbers that are not finite in the prompt of {where}", "finite ones", "encode it again")
    if not embedding[:, 0].any():
        raise UserError(
            f"an empty prompt of zeros in {where}",
            "UMT5's embedding of the end token, which every Wan was trained with",
            "make it from Wan's text encoder: `fportrait weights import-wan`",
        )
    return embedding
