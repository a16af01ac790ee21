"""Whether a bundle can begin a training: everything that the first stage would refuse, found before anything runs."""

from __future__ import annotations

from pathlib import Path

from fportrait.diffusion.checkpoint import (
    check_keys,
    empty_model,
    model_folder,
    read_config,
    shapes_of,
)
from fportrait.diffusion.prompt import check_prompt
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.diffusion.weight_files import stored_tensors, weight_files
from fportrait.errors import UserError

WAN_TEXT_WIDTH = 4096  # a base that reads UMT5 was trained with the empty prompt; the small one with zeros
IMPORT = "make one of a Wan 2.1 download: fportrait weights import-wan FOLDER -o {}"


def check_base(folder: str | Path) -> None:
    """Refuse a base that no stage could start from.

    Raises:
        UserError: no such folder, a transformer that was not widened, weights that do not fit, a VAE of other latents,
            or an empty prompt of zeros in a Wan. The message names the command that makes a good one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no base in {folder}", "a bundle folder", IMPORT.format(folder))
    location = model_folder(folder, "transformer")
    config = read_config(location)
    name = config.get("_class_name")
    if name != FactorPortraitTransformer.__name__:
        raise UserError(
            f"a {name} in {location}, which has no place for portrait, camera, pose and expression",
            f"a {FactorPortraitTransformer.__name__}: Wan, widened",
            IMPORT.format(folder),
        )
    stored = stored_tensors(weight_files(location))
    model = empty_model(FactorPortraitTransformer, config)
    check_keys({key: entry.shape for key, entry in stored.items()}, shapes_of(model), str(location))
    if model.config.text_dim == WAN_TEXT_WIDTH:
        check_prompt(stored["prompt_embedding"].read().float(), str(location))
    vae = read_config(model_folder(folder, "vae"))
    made, read = vae.get("z_dim", 16), model.config.latent_channels
    if made != read:
        raise UserError(
            f"a VAE of {made} channels beside a transformer of {read} in {folder}",
            "parts of one model",
            "put the VAE there that the transformer was trained with",
        )
    weight_files(folder / "vae")
