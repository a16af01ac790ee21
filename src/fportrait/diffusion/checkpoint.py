"""Reading model folders: configuration, safetensors shapes, and Wan 2.1 in diffusers' or the original layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import WanTransformer3DModel
from diffusers.models.modeling_utils import no_init_weights

from fportrait.diffusion.weight_files import STANDARD_NAMES, Shapes, listed, read_header, stored_tensors, weight_files
from fportrait.errors import UserError

WAN_SHARED_CONFIG = (
    "patch_size",
    "num_attention_heads",
    "attention_head_dim",
    "text_dim",
    "freq_dim",
    "ffn_dim",
    "num_layers",
    "cross_attn_norm",
    "qk_norm",
    "eps",
    "rope_max_seq_len",
)


def model_folder(folder: str | Path, subfolder: str | None = None) -> Path:
    """The folder that holds `config.json`.

    Raises:
        UserError: it does not exist or holds no `config.json`.
    """
    location = Path(folder) / (subfolder or "")
    if not (location / "config.json").is_file():
        raise UserError(f"no {location / 'config.json'}", "a model folder", "check the path, or train or download it")
    return location


def read_config(location: Path, class_name: str | None = None) -> dict[str, Any]:
    """`config.json` as a dictionary, refused when it names another class than `class_name`."""
    try:
        config = json.loads((location / "config.json").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"a broken {location / 'config.json'} ({error})", "JSON", "write or download it again"
        ) from None
    if class_name is not None and config.get("_class_name") != class_name:
        raise UserError(
            f"a {config.get('_class_name')} in {location}", f"a {class_name}", "point to the folder of that model"
        )
    return config


def read_shapes(location: Path) -> Shapes:
    """Names and shapes of all tensors in the folder, from the files' headers alone."""
    return {name: stored.shape for name, stored in stored_tensors(weight_files(location), say=False).items()}


def read_tensors(location: Path) -> dict[str, torch.Tensor]:
    """All tensors of the folder, by plain name."""
    return {name: stored.read() for name, stored in stored_tensors(weight_files(location)).items()}


def load_model(
    cls: Any, location: Path, loader: Callable[..., Any], torch_dtype: torch.dtype | None = None, **options: Any
) -> Any:
    """A diffusers model from its folder, refused unless exactly its configuration's tensors are there.

    Args:
        loader: diffusers' own `from_pretrained`. Files that it would not find, and names that carry a wrapper's
            prefix, are loaded here.

    Raises:
        UserError: another class, no weights, or keys missing, extra or misshapen.
    """
    model = empty_model(cls, read_config(location, cls.__name__))
    files = weight_files(location)
    stored = stored_tensors(files)
    check_keys({name: entry.shape for name, entry in stored.items()}, shapes_of(model), str(location))
    whole = files == [location / f"{STANDARD_NAMES[0]}.safetensors"]
    indexed = (location / f"{STANDARD_NAMES[0]}.safetensors.index.json").is_file()
    if (whole or indexed) and read_header(files[0]).keys() <= stored.keys():
        return loader(location, use_safetensors=True, torch_dtype=torch_dtype, **options)
    state = {name: entry.read().to(_type_of(cls, name, torch_dtype) or entry.dtype) for name, entry in stored.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def cast(model: Any, torch_dtype: torch.dtype | None) -> Any:
    """A model in memory as `load_model` gives it for this type; None leaves it as it is."""
    if torch_dtype is not None:
        state = {name: value.to(_type_of(type(model), name, torch_dtype)) for name, value in model.state_dict().items()}
        model.load_state_dict(state, assign=True)
    return model


def _type_of(cls: Any, name: str, torch_dtype: torch.dtype | None) -> torch.dtype | None:
    """What a tensor becomes when its model is loaded as `torch_dtype`: the class keeps some in float32."""
    kept = set(getattr(cls, "_keep_in_fp32_modules", None) or ())
    return torch.float32 if torch_dtype is not None and kept & set(name.split(".")) else torch_dtype


def empty_model(cls: Any, config: Mapping[str, Any]) -> Any:
    """A model of `config` whose parameters lie on the meta device; its buffers are real."""
    with no_init_weights(), init_empty_weights(include_buffers=False):  # drawing for meta tensors loads TorchDynamo
        return cls.from_config({key: value for key, value in config.items() if key != "_class_name"})


def shapes_of(model: torch.nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def check_keys(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise `UserError` unless `found` is `expected`: the first keys of each kind are named, and how many there are."""
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    misshapen = [
        f"{key} {found[key]} instead of {expected[key]}"
        for key in sorted(expected.keys() & found.keys())
        if tuple(found[key]) != tuple(expected[key])
    ]
    if missing or extra or misshapen:
        parts = (("missing", missing), ("extra", extra), ("misshapen", misshapen))
        told = "; ".join(f"{len(keys)} {kind}: {listed(keys)}" for kind, keys in parts if keys)
        prefix = _common_prefix(missing, extra)
        fix = f"take '{prefix}' off the names, or " if prefix else ""
        raise UserError(
            f"a checkpoint in {where} that does not fit its configuration ({told})",
            f"exactly the {len(expected)} keys of the configuration",
            f"{fix}use the weights and config.json of the same model",
        )


def _common_prefix(missing: Sequence[str], extra: Sequence[str]) -> str:
    """What stands before every name that is missing, when that is all that is wrong; else nothing."""
    if not missing or len(missing) != len(extra):
        return ""
    prefix = extra[0].removesuffix(missing[0]) if extra[0].endswith(missing[0]) else ""
    return prefix if prefix and list(extra) == sorted(prefix + name for name in missing) else ""


@dataclass(frozen=True)
class WanCheckpoint:
    """A Wan 2.1 text-to-video transformer on disk or in memory, known to be whole before a weight is read.

    `config` and `shapes` are in diffusers' words, whatever the layout.
    """

    config: dict[str, Any]
    shapes: Shapes
    where: str
    read: Callable[[], dict[str, torch.Tensor]]


def open_wan(source: str | Path | WanTransformer3DModel) -> WanCheckpoint:
    """Find, name and check a checkpoint by its headers alone; `read()` then loads it.

    Args:
        source: a model in memory, or a folder: the transformer's own, or a pipeline's that holds `transformer/`. The
            original layout is recognised by its `config.json` (`dim`, `num_heads`).

    Raises:
        UserError: a pickle, an image-to-video model, another class, or keys missing, extra or misshapen (all listed).
    """
    if isinstance(source, WanTransformer3DModel):
        config = {key: value for key, value in source.config.items() if not key.startswith("_")}
        state = source.state_dict()
        found = WanCheckpoint(
            config, shapes_of(source), "the given model", lambda: {k: v.detach().clone() for k, v in state.items()}
        )
    else:
        found = _open_wan_folder(Path(source))
    if found.config.get("image_dim") or found.config.get("added_kv_proj_dim"):
        raise UserError(f"an image-to-video Wan in {found.where}", "text-to-video", "use the text-to-video weights")
    expected = shapes_of(empty_model(WanTransformer3DModel, found.config))
    check_keys(found.shapes, expected, found.where)
    return found


def _open_wan_folder(location: Path) -> WanCheckpoint:
    if not (location / "config.json").is_file() and (location / "transformer" / "config.json").is_file():
        location = location / "transformer"
    location = model_folder(location)
    config = read_config(location)
    original = "dim" in config and "num_heads" in config
    if not original and config.get("_class_name") != "WanTransformer3DModel":
        raise UserError(
            f"a {config.get('_class_name')} in {location}", "a Wan 2.1 transformer", "point to Wan's transformer folder"
        )
    if original and config.get("model_type", "t2v") != "t2v":
        raise UserError(f"a Wan model of type {config['model_type']}", "t2v", "use the text-to-video weights")
    shapes = read_shapes(location)
    if not original:
        named = {key: value for key, value in config.items() if not key.startswith("_")}
        return WanCheckpoint(named, shapes, str(location), lambda: read_tensors(location))
    empty = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    shapes = {key: tuple(value.shape) for key, value in original_tensors(empty).items()}
    return WanCheckpoint(
        original_config(config), shapes, str(location), lambda: original_tensors(read_tensors(location))
    )


def original_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Wan's own `config.json` in diffusers' words; what Wan leaves out are its constants."""
    return {
        "patch_size": tuple(config.get("patch_size", (1, 2, 2))),
        "num_attention_heads": config["num_heads"],
        "attention_head_dim": config["dim"] // config["num_heads"],
        "in_channels": config.get("in_dim", 16),
        "out_channels": config.get("out_dim", 16),
        "text_dim": config.get("text_dim", 4096),
        "freq_dim": config.get("freq_dim", 256),
        "ffn_dim": config["ffn_dim"],
        "num_layers": config["num_layers"],
        "cross_attn_norm": config.get("cross_attn_norm", True),
        "eps": config.get("eps", 1e-6),
    }


def original_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Wan's original tensor names in diffusers' (with diffusers' own table)."""
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    return convert_wan_transformer_to_diffusers(dict(tensors))
