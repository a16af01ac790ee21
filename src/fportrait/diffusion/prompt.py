"""The empty prompt's embedding: Wan is a text-to-video model, the method has no text."""

from __future__ import annotations

from pathlib import Path

import torch

from fportrait.diffusion.checkpoint import model_folder
from fportrait.errors import UserError


@torch.no_grad()
def encode_empty_prompt(text_encoder_folder: str | Path, tokens: int = 512) -> torch.Tensor:
    """`1 tokens text_dim` for `FactorPortraitTransformer.from_wan(prompt_embedding=...)`; computed once, then a buffer.

    Wan's tokenizer turns "" into the end token alone, and Wan pads its embedding with zeros, so no tokenizer is needed.

    Args:
        text_encoder_folder: Wan's `text_encoder` folder (UMT5, safetensors).

    Raises:
        UserError: no such folder, or transformers is not installed.
    """
    location = model_folder(text_encoder_folder)
    try:
        from transformers import UMT5EncoderModel
    except ImportError:
        raise UserError(
            "no transformers package", "transformers (to run UMT5 once)", "pip install transformers"
        ) from None
    encoder = UMT5EncoderModel.from_pretrained(str(location), use_safetensors=True).eval()
    end = torch.tensor([[encoder.config.eos_token_id]])
    embedding = encoder(input_ids=end, attention_mask=torch.ones_like(end)).last_hidden_state.float()
    return torch.cat([embedding, embedding.new_zeros(1, tokens - 1, embedding.shape[2])], 1)
