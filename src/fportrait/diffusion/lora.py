"""LoRA: a few million numbers that teach a large base the conditions, or a trained model one more person.

Wan's own matrices stay frozen under low-rank updates; what Wan does not have (controller, widened patch embedding) can
be trained whole beside them. Needs `pip install fportrait[lora]`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fportrait.atomic_io import atomic_folder, write_json, write_safetensors
from fportrait.diffusion import checkpoint
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.errors import UserError, refuse_unknown_keys

WEIGHTS, CONFIG = "adapter.safetensors", "adapter.json"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


@dataclass(frozen=True)
class LoraSettings:
    """`conditions`: train the controller (or landmark layers) and the patch embedding whole, beside the low-rank part.

    Right for teaching a bare Wan the conditions; leave it out to adapt a trained model.
    """

    rank: int = 16
    alpha: int = 16
    targets: Sequence[str] = TARGETS
    conditions: bool = True


def add_lora(model: FactorPortraitTransformer, settings: LoraSettings | None = None) -> list[str]:
    """Freeze `model` and add trainable low-rank updates, which start at zero: its outputs do not change.

    Returns:
        the names of what is trainable now.

    Raises:
        UserError: peft is not installed, the model has an adapter, a target matches nothing, or the rank is below 1.
    """
    try:
        from peft import LoraConfig
    except ImportError:
        raise UserError("no peft package", "peft (for LoRA)", "pip install 'fportrait[lora]'") from None
    settings = settings or LoraSettings()
    if settings.rank < 1:
        raise UserError(f"a LoRA rank of {settings.rank}", "1 or more", "raise rank")
    if getattr(model, "peft_config", None):
        raise UserError("a model that has an adapter", "one without", "merge it first (`merge_lora`)")
    # Inside the blocks only, and not in the new landmark layers: those have no pretrained weights to preserve.
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    blocks = [name for name in names if name.startswith("blocks.") and "landmark_attention" not in name]
    chosen = [name for name in blocks if name.endswith(tuple(f".{target}" for target in settings.targets))]
    unmatched = [target for target in settings.targets if not any(name.endswith(f".{target}") for name in chosen)]
    if unmatched:
        raise UserError(
            f"LoRA targets that match nothing: {', '.join(unmatched)}", f"some of {', '.join(TARGETS)}", "rename them"
        )
    model.add_adapter(LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=chosen))
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        whole = settings.conditions and name.startswith((*model.new_modules(), "patch_embedding."))
        parameter.requires_grad_("lora_" in name or whole)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def save_lora(model: FactorPortraitTransformer, folder: str | Path, settings: LoraSettings | None = None) -> Path:
    """Write what `add_lora` made trainable (`adapter.safetensors`) and the settings to rebuild it (`adapter.json`)."""
    settings = settings or LoraSettings()
    state = {name: parameter.detach().cpu() for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not any("lora_" in name for name in state):
        raise UserError("a model without LoRA weights", "one that `add_lora` changed", "call `add_lora` first")
    with atomic_folder(folder) as target:
        write_safetensors(target / WEIGHTS, state)
        write_json(target / CONFIG, {**asdict(settings), "targets": list(settings.targets)})
    return Path(folder)


def load_lora(model: FactorPortraitTransformer, folder: str | Path) -> LoraSettings:
    """Add the adapter of `save_lora` to the base it was trained on.

    Raises:
        UserError: no adapter there, unknown settings, or keys missing, extra or misshapen (another base; all listed).
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise UserError(f"no {folder / CONFIG}", "a folder that `save_lora` wrote", "check the path")
    values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    refuse_unknown_keys(values, LoraSettings.__dataclass_fields__, str(folder / CONFIG))
    settings = LoraSettings(**values)
    state = checkpoint.read_tensors(folder)
    parameters = dict(model.named_parameters())
    trainable = set(add_lora(model, settings))
    parameters = {name: value for name, value in model.named_parameters() if name in trainable}
    found = {name: tuple(value.shape) for name, value in state.items()}
    checkpoint.check_keys(found, {name: tuple(value.shape) for name, value in parameters.items()}, str(folder))
    with torch.no_grad():
        for name, value in state.items():
            parameters[name].copy_(value)
    return settings


def merge_lora(model: FactorPortraitTransformer) -> FactorPortraitTransformer:
    """Add the low-rank updates to the matrices and take the adapter away: an ordinary model again, to save or export.

    Raises:
        UserError: the model has no adapter.
    """
    if not getattr(model, "peft_config", None):
        raise UserError("a model without LoRA weights", "one that `add_lora` changed", "call `add_lora` first")
    model.fuse_lora()
    model.unload_lora()
    return model.requires_grad_(True)
