"""The empty prompt, computed once by a tiny text encoder of Wan's kind."""

import pytest
import torch

from fportrait.diffusion.prompt import encode_empty_prompt
from fportrait.errors import UserError


def test_the_empty_prompt_is_the_end_token_padded_with_zeros(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.UMT5Config(
        vocab_size=16, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2, eos_token_id=1
    )
    encoder = transformers.UMT5EncoderModel(config).eval()
    encoder.save_pretrained(tmp_path)
    embedding = encode_empty_prompt(tmp_path, tokens=6)
    assert embedding.shape == (1, 6, 32)
    with torch.no_grad():
        torch.testing.assert_close(embedding[:, :1], encoder(torch.tensor([[1]])).last_hidden_state)
    assert not embedding[:, 1:].any()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        encode_empty_prompt(tmp_path)
