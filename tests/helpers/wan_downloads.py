"""Small downloads of Wan 2.1 in both layouts: every name of the release, at a width of 48."""

import json

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file

TINY_WAN = {"num_attention_heads": 2, "attention_head_dim": 24, "text_dim": 32, "ffn_dim": 96, "num_layers": 2}
TEXT = {"vocabulary": 16, "width": 32, "inner": 16, "wide": 24, "blocks": 3}


def original_name(key):
    """diffusers' name of a Wan tensor to the name in Wan's own release."""
    for theirs, released in [
        ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
        ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
        ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
        ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
        ("condition_embedder.time_proj", "time_projection.1"),
        ("attn1.", "self_attn."),
        ("attn2.", "cross_attn."),
        ("to_out.0", "o"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("ffn.net.0.proj", "ffn.0"),
        ("ffn.net.2", "ffn.2"),
        (".norm2.", ".norm3."),
        ("proj_out", "head.head"),
    ]:
        key = key.replace(theirs, released)
    if key == "scale_shift_table":
        return "head.modulation"
    return key.replace("scale_shift_table", "modulation")


def original_vae_name(key):
    """diffusers' name of a tensor of Wan's VAE to the one in `Wan2.1_VAE.pth`."""
    side, *rest = key.split(".")
    if side == "quant_conv":
        return f"conv1.{rest[-1]}"
    if side == "post_quant_conv":
        return f"conv2.{rest[-1]}"
    residual = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6",
                "conv_shortcut": "shortcut"}  # fmt: skip
    match rest:
        case ["conv_in", last]:
            return f"{side}.conv1.{last}"
        case ["norm_out", last]:
            return f"{side}.head.0.{last}"
        case ["conv_out", last]:
            return f"{side}.head.2.{last}"
        case ["mid_block", "attentions", _, *last]:
            return f"{side}.middle.1.{'.'.join(last)}"
        case ["mid_block", "resnets", number, part, last]:
            return f"{side}.middle.{2 * int(number)}.{residual[part]}.{last}"
        case ["down_blocks", number, *last]:
            return f"{side}.downsamples.{number}.{'.'.join([residual.get(last[0], last[0]), *last[1:]])}"
        case ["up_blocks", block, "resnets", number, part, last]:
            return f"{side}.upsamples.{4 * int(block) + int(number)}.{residual[part]}.{last}"
        case ["up_blocks", block, "upsamplers", _, *last]:
            return f"{side}.upsamples.{4 * int(block) + 3}.{'.'.join(last)}"
    raise AssertionError(key)


def text_encoder_state(original):
    """A UMT5 encoder's tensors, under Wan's own names or transformers'."""
    generator = torch.Generator().manual_seed(1)
    sizes = TEXT

    def drawn(*shape):
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    state = {"token_embedding.weight": drawn(sizes["vocabulary"], sizes["width"])}
    for number in range(sizes["blocks"]):
        block = f"blocks.{number}"
        state |= {f"{block}.norm{n}.weight": 1 + 0.1 * drawn(sizes["width"]) for n in (1, 2)}
        state |= {f"{block}.attn.{part}.weight": drawn(sizes["inner"], sizes["width"]) for part in "qkv"}
        state[f"{block}.attn.o.weight"] = drawn(sizes["width"], sizes["inner"])
        state[f"{block}.pos_embedding.embedding.weight"] = drawn(32, 2)
        state |= {f"{block}.ffn.{part}.weight": drawn(sizes["wide"], sizes["width"]) for part in ("gate.0", "fc1")}
        state[f"{block}.ffn.fc2.weight"] = drawn(sizes["width"], sizes["wide"])
    state["norm.weight"] = 1 + 0.1 * drawn(sizes["width"])
    if original:
        return state
    renamed = {}
    for name, value in state.items():
        match name.split("."):
            case ["token_embedding", _]:
                renamed["shared.weight"] = value
            case ["norm", _]:
                renamed["encoder.final_layer_norm.weight"] = value
            case ["blocks", number, *rest]:
                place = {
                    "norm1": "0.layer_norm",
                    "norm2": "1.layer_norm",
                    "attn": f"0.SelfAttention.{rest[1]}",
                    "pos_embedding": "0.SelfAttention.relative_attention_bias",
                    "ffn": "1.DenseReluDense." + {"gate": "wi_0", "fc1": "wi_1", "fc2": "wo"}.get(rest[1], ""),
                }[rest[0]]
                renamed[f"encoder.block.{number}.layer.{place}.weight"] = value
    return renamed


def models():
    torch.manual_seed(0)
    return WanTransformer3DModel(**TINY_WAN).eval(), AutoencoderKLWan(base_dim=4).eval()


def write_diffusers(folder):
    """`transformer/`, `vae/`, `text_encoder/` and `model_index.json`, as diffusers publishes Wan 2.1."""
    wan, vae = models()
    wan.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    (folder / "text_encoder").mkdir()
    save_file(text_encoder_state(False), folder / "text_encoder" / "model.safetensors")
    config = {"model_type": "umt5", "eos_token_id": 1}
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config))
    index = {"_class_name": "WanPipeline", "transformer_2": [None, None], "boundary_ratio": None}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_original(folder):
    """`config.json` and safetensors, `Wan2.1_VAE.pth` and the text encoder's `.pth`, as Wan publishes itself."""
    wan, vae = models()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {original_name(name): value for name, value in wan.state_dict().items()},
        folder / "diffusion_pytorch_model.safetensors",
    )
    config = {
        **{"_class_name": "WanModel", "model_type": "t2v", "dim": 48, "num_heads": 2, "ffn_dim": 96, "num_layers": 2},
        **{"in_dim": 16, "out_dim": 16, "text_len": 512, "text_dim": 32, "freq_dim": 256, "eps": 1e-6},
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.save({original_vae_name(name): value for name, value in vae.state_dict().items()}, folder / "Wan2.1_VAE.pth")
    torch.save(text_encoder_state(True), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    return folder


WRITERS = {"diffusers": write_diffusers, "original": write_original}
