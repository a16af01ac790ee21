"""What a Wan download is: its layout, its parts, and whether it is the one model that can be used here.

Wan 2.1 text-to-video comes in diffusers' layout (`transformer/`, `vae/`, `text_encoder/`) and in its own
(`config.json` and safetensors, `Wan2.1_VAE.pth`, `models_t5_umt5-xxl-enc-bf16.pth`). Image-to-video, VACE, Wan 2.2 and
others look alike and are refused by name: they take other inputs, or another VAE.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fportrait.diffusion.checkpoint import read_config
from fportrait.diffusion.weight_files import UNFINISHED, listed
from fportrait.errors import UserError

SIZES = {(1536, 30): "1.3B", (5120, 40): "14B"}  # width, blocks
OURS = "Wan 2.1 text-to-video (1.3B or 14B)"
FIX = "download Wan 2.1 T2V, in diffusers' or the original layout"
TYPES = {  # `model_type` of the original config
    "i2v": "image-to-video",
    "flf2v": "first-and-last-frame-to-video",
    "vace": "VACE",
    "ti2v": "Wan 2.2 TI2V-5B",
    "s2v": "Wan 2.2 speech-to-video",
    "animate": "Wan 2.2 Animate",
}


@dataclass(frozen=True)
class WanFolder:
    """The parts of a download; `text_encoder` is None when it is not there."""

    layout: str  # diffusers, original
    transformer: Path
    vae: Path
    text_encoder: Path | None


def find_parts(folder: str | Path, vae: str | Path | None = None, text_encoder: str | Path | None = None) -> WanFolder:
    """The parts of a download.

    Args:
        vae, text_encoder: files or folders that take the place of the download's own.

    Raises:
        UserError: no folder, no Wan, another Wan (named), or no VAE.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}", f"a download of {OURS}", "check the path")
    refuse_other_wans(folder)
    inside = folder / "transformer" / "config.json"
    if not inside.is_file() and not (folder / "config.json").is_file():
        raise _no_transformer(folder)
    transformer = folder / "transformer" if inside.is_file() else folder
    config = read_config(transformer)
    refuse_other_config(config, transformer)
    original = "dim" in config
    home = folder if inside.is_file() or original else folder.parent  # given diffusers' transformer/ itself
    if vae is None:
        vae = home / "vae" if not original else _first(home, "Wan2.1_VAE.*", "vae/config.json")
        if vae is None or not Path(vae).exists():
            raise UserError(
                f"no VAE in {home}", "vae/ or Wan2.1_VAE.pth", "let the download finish, or give it with --vae"
            )
    if text_encoder is None:
        found = home / "text_encoder"
        text_encoder = found if found.is_dir() else _first(home, "models_t5_umt5*", "*umt5*enc*.safetensors")
    for part in (vae, text_encoder):
        if part is not None and not Path(part).exists():
            raise UserError(f"no {part}", "a file or folder", "check the path")
    layout = "original" if original else "diffusers"
    return WanFolder(layout, transformer, Path(vae), None if text_encoder is None else Path(text_encoder))


def _first(home: Path, *patterns: str) -> Path | None:
    for pattern in patterns:
        for path in sorted(home.glob(pattern)):
            if not path.name.endswith(UNFINISHED):
                return path.parent if path.name == "config.json" else path
    return None


def _no_transformer(folder: Path) -> UserError:
    there = sorted(path.name for path in folder.iterdir())
    started = [path.name for path in folder.rglob("*") if path.name.endswith(UNFINISHED)]
    if started:
        return UserError(f"an unfinished download in {folder} ({listed(started)})", OURS, "let it finish")
    singles = [name for name in there if name.endswith((".safetensors", ".gguf"))]
    if singles:
        return UserError(
            f"{listed(singles)} in {folder} without a config.json", OURS, "put Wan's config.json beside it"
        )
    return UserError(f"no Wan in {folder} ({listed(there) or 'it is empty'})", OURS, FIX)


def refuse_other_wans(folder: Path) -> None:
    """Raise `UserError` naming the model when the folder's own files say that it is another Wan."""
    if (folder / "model_index.json").is_file():
        try:
            index: dict[str, Any] = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"a broken {folder / 'model_index.json'}", "JSON", "download it again") from None
        name = str(index.get("_class_name"))
        second = index.get("transformer_2") or []
        if any(second) or index.get("boundary_ratio") or index.get("expand_timesteps"):
            raise _other("Wan 2.2", folder)
        if name not in ("WanPipeline", "WanVideoToVideoPipeline"):
            raise _other(f"a {name}", folder)
    for mark, name in (
        ("transformer_2", "Wan 2.2 (two experts)"),
        ("high_noise_model", "Wan 2.2 (two experts)"),
        ("low_noise_model", "Wan 2.2 (two experts)"),
        ("Wan2.2_VAE.pth", "Wan 2.2 TI2V-5B"),
        ("image_encoder", "image-to-video"),
        ("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", "image-to-video"),
    ):
        if (folder / mark).exists():
            raise _other(name, folder)
    if folder.resolve().name in ("high_noise_model", "low_noise_model"):
        raise _other("one expert of Wan 2.2", folder)


def refuse_other_config(config: dict[str, Any], location: Path) -> None:
    """Raise `UserError` naming the model when a transformer's configuration is not Wan 2.1 text-to-video's."""
    kind = config.get("model_type", "t2v")
    if "dim" in config and kind != "t2v":
        raise _other(TYPES.get(kind, f"a Wan of type {kind}"), location)
    name = str(config.get("_class_name"))
    if "VACE" in name or config.get("vace_layers"):
        raise _other("VACE", location)
    if name not in ("WanTransformer3DModel", "WanModel", "None"):
        raise _other(f"a {name}", location)
    channels = config.get("in_dim", config.get("in_channels", 16))
    if config.get("image_dim") or config.get("added_kv_proj_dim") or channels == 36:
        raise _other("image-to-video", location)
    if channels == 48:
        raise _other("Wan 2.2 TI2V-5B", location)
    if channels != config.get("out_dim", config.get("out_channels", 16)):
        raise _other(f"a Wan with {channels} input channels (control or inpainting)", location)


def size_of(config: dict[str, Any]) -> str:
    """`1.3B` or `14B` by a configuration in diffusers' words; else its width and blocks."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    blocks = config["num_layers"]
    return SIZES.get((width, blocks), f"{width} wide, {blocks} blocks")


def _other(name: str, where: Path) -> UserError:
    return UserError(f"{name} in {where}", OURS, FIX)
