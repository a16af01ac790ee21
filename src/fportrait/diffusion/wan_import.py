"""From a Wan 2.1 download to the bundle that the four stages start from.

The transformer is widened file by file, so 14 billion weights need the memory of one output file. Every tensor is
looked at on the way: a download whose end is zeros has all names and shapes. What is done is kept in `.NAME.import`
beside the bundle until all of it is there, so an import that was stopped goes on.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fportrait.atomic_io import file_hash, value_hash, write_json, write_safetensors
from fportrait.bundle import SHIPPED_BASE, BundleSettings
from fportrait.diffusion.checkpoint import (
    WAN_SHARED_CONFIG,
    check_keys,
    empty_model,
    original_config,
    original_tensors,
    read_config,
    shapes_of,
)
from fportrait.diffusion.controller import reset_parameters
from fportrait.diffusion.prompt import Report, encode_empty_prompt, read_prompt
from fportrait.diffusion.wan_folder import WanFolder, find_parts, size_of
from fportrait.diffusion.weight_files import (
    PICKLES,
    STANDARD_NAMES,
    Stored,
    pickled_tensors,
    stored_tensors,
    weight_files,
)
from fportrait.errors import UserError, refuse_unknown_keys

FILE_BYTES = 2 * 2**30  # of one written file, which is also the memory that widening takes
SPARE = 2**30  # bytes beyond the transformer: the VAE, the encoder, and room to breathe
MOST_ZEROS = 0.5  # share of a weight matrix; trained ones have none to speak of
LARGEST = 1e4  # of a weight
DTYPES = {"stored": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PROMPT = "prompt.safetensors"
logger = logging.getLogger(__name__)


def quiet(what: str, done: int, total: int) -> None:
    """The report that nobody reads."""


@dataclass(frozen=True)
class ImportSettings:
    """`dtype` of the transformer's weights; `frames` and `size` of the longest clip it will be trained on."""

    dtype: str = "stored"
    size: int = 512
    frames: int = 81
    crop_metres: float = 0.40  # as conf/paper tracks
    shift: float = 5.0
    steps: int = 30
    scheduler: str = "unipc"  # Wan's own
    tokens: int = 512  # of the prompt

    def __post_init__(self) -> None:
        refuse_unknown_keys([self.dtype], DTYPES, "dtype")


@torch.no_grad()
def import_wan(
    folder: str | Path,
    output: str | Path,
    settings: ImportSettings = ImportSettings(),  # frozen
    vae: str | Path | None = None,
    text_encoder: str | Path | None = None,
    prompt: str | Path | None = None,
    encoder: str | Path | None = None,
    replace: bool = False,
    report: Report = quiet,
) -> dict[str, Any]:
    """Make a bundle of a download; returns what was made and what to know about it (`notes`).

    Args:
        folder: the download, in either layout. vae, text_encoder: in place of its own.
        prompt: a ready embedding of the empty prompt (`read_prompt`), instead of the text encoder.
        encoder: an expression encoder's folder; the shipped one when None.
        replace: put the bundle in place of one that is there.

    Raises:
        UserError: another model, parts missing, broken, or of a strange content, too little space, or `output` exists.
    """
    output = Path(output)
    parts = find_parts(folder, vae, text_encoder)
    if output.exists() and not replace:
        raise UserError(f"{output}, which exists", "a new folder", "give another --output, or --replace")
    transformer = Transformer.of(parts, settings)
    codec_class, codec_config, codec = open_codec(parts.vae)
    if transformer.config["in_channels"] != codec_config["z_dim"]:
        raise UserError(
            f"a VAE of {codec_config['z_dim']} channels for a transformer of {transformer.config['in_channels']}",
            "parts of one model",
            "give the VAE of Wan 2.1",
        )
    if prompt is None and parts.text_encoder is None:
        raise UserError(
            f"no text encoder in {folder}",
            "text_encoder/ or models_t5_umt5-xxl-enc-bf16.pth, or the empty prompt's embedding",
            "let the download finish, or give --text-encoder or --prompt FILE",
        )
    expressions = Path(encoder) if encoder is not None else SHIPPED_BASE / "expression_encoder"
    if not (expressions / "config.json").is_file():
        raise UserError(f"no expression encoder in {expressions}", "a folder with config.json", "check the path")
    work = output.parent / f".{output.name}.import"
    sources = source_files(parts, prompt)
    check_space(output.parent, transformer.bytes(), work)
    begin(work, {"sources": [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in sources],
                 "settings": asdict(settings), "encoder": str(expressions.resolve())})  # fmt: skip

    embedding = prompt_embedding(work, parts, prompt, settings, report)
    if embedding.shape[2] != transformer.config["text_dim"]:
        raise UserError(
            f"a prompt of width {embedding.shape[2]} for a transformer that reads {transformer.config['text_dim']}",
            "the embedding of Wan's own text encoder",
            "give --text-encoder or --prompt of this model",
        )
    transformer.write(work / "transformer", embedding, report)
    quality = write_codec(work / "vae", codec_class, codec_config, codec)
    shutil.copytree(expressions, work / "expression_encoder", dirs_exist_ok=True)
    write_json(work / "bundle.json", bundle_settings(settings))
    hashes = {}
    for index, path in enumerate(sources):
        report("hash", index, len(sources))
        hashes[path.name if path.parent == Path(folder) else str(path)] = file_hash(path)
    record = {
        "model": f"Wan 2.1 text-to-video {size_of(transformer.config)}",
        "layout": parts.layout,
        "sources": hashes,
        "parameters": transformer.count,
        "codec_psnr": quality,
    }
    write_json(work / "provenance.json", record)
    (work / "import.json").unlink()
    (work / PROMPT).unlink()
    if output.exists():
        shutil.rmtree(output)
    work.replace(output)
    return record | {"output": str(output), "notes": notes(record, embedding, encoder)}


def notes(record: Mapping[str, Any], embedding: torch.Tensor, encoder: str | Path | None) -> list[str]:
    """What the user should know of a bundle that was made."""
    said = []
    if record["codec_psnr"] < 25:
        said.append(
            f"the VAE gives a test picture back at {record['codec_psnr']:.1f} dB, and Wan's own is far above 30: "
            "are these its weights?"
        )
    words = int(embedding[0].any(1).sum())
    if words > 1:
        said.append(f"the prompt has {words} tokens, and the empty one has one: is it another prompt's, or not masked?")
    if encoder is None:
        said.append(
            "the expression encoder is the shipped one, trained on rendered people; for real faces train one on your "
            "captures: fportrait train-encoder"
        )
    return said


def begin(work: Path, made_from: Mapping[str, Any]) -> None:
    """Keep what an earlier import of the same files and settings left in `work`; else start anew."""
    name = value_hash(made_from)
    try:
        same = json.loads((work / "import.json").read_text())["name"] == name
    except (OSError, ValueError, KeyError):
        same = False
    if not same:
        shutil.rmtree(work, ignore_errors=True)
        write_json(work / "import.json", {"name": name, **made_from})


def check_space(folder: Path, needed: int, work: Path) -> None:
    """Refuse before the first byte what the disk cannot hold; what `work` holds already is not needed again."""
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file()) if work.is_dir() else 0
    free = shutil.disk_usage(folder).free
    needed = needed + SPARE - there
    if needed > free:
        raise UserError(
            f"{free / 2**30:.1f} GiB free on the disk of {folder}",
            f"{needed / 2**30:.1f} GiB for the bundle",
            "free some space, take another --output, or --dtype bf16",
        )


def source_files(parts: WanFolder, prompt: str | Path | None) -> list[Path]:
    """The weight files that a bundle is made from."""
    files = [*weight_files(parts.transformer)]
    files += [parts.vae] if parts.vae.is_file() else weight_files(parts.vae)
    if prompt is not None:
        return [*files, Path(prompt)]
    assert parts.text_encoder is not None
    encoder = parts.text_encoder
    return [*files, *([encoder] if encoder.is_file() else weight_files(encoder))]


def bundle_settings(settings: ImportSettings) -> dict[str, Any]:
    """`bundle.json` of a model that was not trained on the conditions yet: no factor is guided."""
    kept = {key: value for key, value in asdict(settings).items() if key not in ("dtype", "tokens")}
    return asdict(BundleSettings(**kept))


def prompt_embedding(
    work: Path, parts: WanFolder, prompt: str | Path | None, settings: ImportSettings, report: Report
) -> torch.Tensor:
    """The empty prompt's embedding `1 tokens D`, kept in `work` once it is made."""
    if (work / PROMPT).is_file():
        return read_prompt(work / PROMPT, settings.tokens)
    if prompt is not None:
        embedding = read_prompt(prompt, settings.tokens)
    else:
        assert parts.text_encoder is not None
        embedding = encode_empty_prompt(parts.text_encoder, settings.tokens, report)
    write_safetensors(work / PROMPT, {"prompt_embedding": embedding})
    return embedding


def check_weights(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor that no training leaves: not finite, huge, or a matrix that is mostly zeros.

    Raises:
        UserError: it names the tensor.
    """
    found = None
    if not torch.isfinite(tensor).all():
        found = "numbers that are not finite"
    elif tensor.abs().max() > LARGEST:
        found = f"a number of {tensor.abs().max().item():.3g}"
    elif tensor.ndim > 1 and (tensor == 0).float().mean() > MOST_ZEROS:
        found = f"{(tensor == 0).float().mean().item():.0%} zeros"
    if found is not None:
        raise UserError(f"{found} in {name}", "trained weights", "download that file again: its size alone is right")


@dataclass(frozen=True)
class Transformer:
    """A Wan transformer on disk, on its way to ours: `stored` and `config` in diffusers' words."""

    config: dict[str, Any]
    stored: dict[str, Stored]
    model: Any  # ours, on the meta device
    dtype: torch.dtype | None

    @classmethod
    def of(cls, parts: WanFolder, settings: ImportSettings) -> Transformer:
        """Found, and checked by names and shapes.

        Raises:
            UserError: keys missing, extra or misshapen.
        """
        from diffusers import WanTransformer3DModel

        from fportrait.diffusion.transformer import FactorPortraitTransformer

        given = read_config(parts.transformer)
        stored = stored_tensors(weight_files(parts.transformer))
        if parts.layout == "original":
            given = original_config(given)
            names: Mapping[str, Any] = original_tensors({n: torch.empty(0) for n in stored})  # type: ignore[misc]
            stored = dict(zip(names, stored.values(), strict=True))
        config = {key: value for key, value in given.items() if not key.startswith("_")}
        expected = shapes_of(empty_model(WanTransformer3DModel, config))
        check_keys({name: entry.shape for name, entry in stored.items()}, expected, str(parts.transformer))
        shared = {key: config[key] for key in WAN_SHARED_CONFIG if key in config}
        channels = config.get("in_channels", 16)
        ours = {**shared, "latent_channels": channels, "prompt_tokens": settings.tokens}
        model = empty_model(FactorPortraitTransformer, ours)
        whole = {"text_dim": 4096, "in_channels": channels, **config}
        return cls(whole, stored, model, DTYPES[settings.dtype])

    @property
    def count(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def dtype_of(self, name: str) -> torch.dtype:
        """As asked, else as stored; new tensors take the type of most."""
        if self.dtype is not None:
            return self.dtype
        return self.stored[name].dtype if name in self.stored else self.stored["proj_out.weight"].dtype

    def bytes(self) -> int:
        """What the written transformer takes."""
        state = self.model.state_dict()
        return sum(value.numel() * self.dtype_of(name).itemsize for name, value in state.items())

    def files(self) -> Iterator[tuple[str, list[str]]]:
        """Names of the files to write, and of the tensors in each."""
        groups: list[list[str]] = [[]]
        size = 0
        for name, value in self.model.state_dict().items():
            bytes_ = value.numel() * self.dtype_of(name).itemsize
            if groups[-1] and size + bytes_ > FILE_BYTES:
                groups.append([])
                size = 0
            groups[-1].append(name)
            size += bytes_
        for number, names in enumerate(groups):
            suffix = f"-{number + 1:05d}-of-{len(groups):05d}" if len(groups) > 1 else ""
            yield f"{STANDARD_NAMES[0]}{suffix}.safetensors", names

    def write(self, folder: Path, prompt: torch.Tensor, report: Report) -> None:
        """Write the widened transformer; files that are there already are kept."""
        files = list(self.files())
        total, done = len(self.model.state_dict()), 0
        weight_map: dict[str, str] = {}
        fresh = self.new_tensors(prompt)
        for file, names in files:
            weight_map |= dict.fromkeys(names, file)
            if not (folder / file).is_file():
                tensors = {}
                for name in names:
                    tensors[name] = fresh[name] if name in fresh else self.widened(name)
                    report("widen", done + len(tensors), total)
                write_safetensors(folder / file, tensors, {"format": "pt"})
            done += len(names)
            report("widen", done, total)
        if len(files) > 1:
            index = {"metadata": {"total_size": self.bytes()}, "weight_map": weight_map}
            write_json(folder / f"{STANDARD_NAMES[0]}.safetensors.index.json", index)
        self.model.save_config(folder)

    def widened(self, name: str) -> torch.Tensor:
        """One of Wan's tensors as ours."""
        tensor = self.stored[name].read()
        check_weights(name, tensor)
        if name == "patch_embedding.weight":
            tensor = self.model.widen_patch_embedding(tensor)
        return tensor.to(self.dtype_of(name)).contiguous()

    def new_tensors(self, prompt: torch.Tensor) -> dict[str, torch.Tensor]:
        """What Wan does not have: the controller as it starts, and the prompt."""
        fresh = {"prompt_embedding": prompt.to(self.dtype_of("prompt_embedding"))}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for prefix, module in self.model.new_modules().items():
                reset_parameters(module.to_empty(device="cpu"))
                for name, value in module.state_dict().items():
                    fresh[f"{prefix}.{name}"] = value.to(self.dtype_of(f"{prefix}.{name}")).contiguous()
        return fresh


def open_codec(source: Path) -> tuple[Any, dict[str, Any], dict[str, Stored]]:
    """Class, configuration and tensors (diffusers' names) of Wan's VAE, checked by names and shapes.

    Raises:
        UserError: another model, or keys missing, extra or misshapen.
    """
    from diffusers import AutoencoderKLWan
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    if source.is_file():
        stored = pickled_tensors(source) if source.suffix in PICKLES else stored_tensors([source])
        if "encoder.conv1.weight" in stored:
            stored = convert_wan_vae_to_diffusers(stored)
        try:
            width, channels = stored["encoder.conv_in.weight"].shape[0], stored["post_quant_conv.weight"].shape[0]
        except (KeyError, IndexError):
            raise UserError(
                f"no VAE in {source}", "Wan2.1_VAE.pth", "download that file, or give it with --vae"
            ) from None
        config = {"base_dim": width, "z_dim": channels} if width != 96 or channels != 16 else {}
    else:
        config = {k: v for k, v in read_config(source, "AutoencoderKLWan").items() if not k.startswith("_")}
        stored = stored_tensors(weight_files(source))
    model = empty_model(AutoencoderKLWan, config)
    if model.config.z_dim == 48:
        raise UserError(f"the VAE of Wan 2.2 in {source}", "Wan 2.1's, with 16 channels", "give that one with --vae")
    check_keys({name: entry.shape for name, entry in stored.items()}, shapes_of(model), str(source))
    return AutoencoderKLWan, dict(model.config), stored


def write_codec(folder: Path, kind: Any, config: Mapping[str, Any], stored: Mapping[str, Stored]) -> float:
    """Write the VAE in diffusers' layout; returns the PSNR of a test picture sent through it.

    Raises:
        UserError: weights that no training leaves, or pictures that are not finite.
    """
    from fportrait.diffusion.codec import decode_latents, encode_video

    model = empty_model(kind, config)
    state = {}
    for name, entry in stored.items():
        tensor = entry.read()
        check_weights(f"the VAE's {name}", tensor)
        state[name] = tensor.clone()
    write_safetensors(folder / f"{STANDARD_NAMES[0]}.safetensors", state, {"format": "pt"})
    model.save_config(folder)
    model.load_state_dict(state, assign=True)
    model.eval()
    picture = _test_picture()
    again = decode_latents(model.float(), encode_video(model, picture))
    if not torch.isfinite(again).all():
        raise UserError("a VAE whose pictures are not finite", "Wan 2.1's", "download it again")
    error = (again - picture).square().mean().item()
    return round(10 * float(torch.log10(torch.tensor(4.0 / max(error, 1e-12)))), 2)


def _test_picture(side: int = 64) -> torch.Tensor:
    """`1 3 1 S S` in [-1, 1]: smooth colours with an edge."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    face = ((x / 0.6) ** 2 + (y / 0.8) ** 2 < 1).float()
    return torch.stack([0.5 * x + 0.4 * face, 0.5 * y, 0.6 * face - 0.3])[None, :, None]
