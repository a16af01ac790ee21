"""The transformer under torch.compile, other attention backends and gradient checkpointing; no per-token modulation."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fportrait.diffusion.transformer import FactorPortraitTransformer

TINY = {
    "patch_size": (1, 1, 1),
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "text_dim": 32,
    "ffn_dim": 48,
    "num_layers": 2,
    "prompt_tokens": 4,
    "reference_init": "wan",
    "controller_init_std": 0.1,
}


def tiny(**config):
    torch.manual_seed(0)
    return FactorPortraitTransformer(**{**TINY, **config}).eval()


def inputs(frames=5, width=128, size=4):
    generator = torch.Generator().manual_seed(0)
    latent = (frames + 3) // 4

    def draw(*shape):
        return torch.randn(1, *shape, generator=generator)

    return {
        "latents": draw(16, latent, size, size),
        "timestep": torch.tensor([300.0]),
        "reference": draw(16, 1, size, size),
        "rays": draw(24, latent, size, size),
        "normals": draw(16, latent, size, size),
        "codes": draw(frames, width),
    }


def test_it_compiles_as_one_graph_forward_and_backward():
    model = tiny(num_layers=1)
    given = inputs()
    # The tracing backend: graph breaks are errors, and no C++ compiler is needed. Inductor takes the same graph.
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    gradients = []
    for forward in (model, compiled):
        model.zero_grad()
        velocity = forward(**given)
        velocity.square().mean().backward()
        gradients.append([velocity.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for eager, traced in zip(*gradients, strict=True):
        torch.testing.assert_close(traced, eager, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_its_blocks_compile_alone_and_once():
    """Regional compilation: one graph serves all blocks, so a deep model compiles as fast as a shallow one."""
    torch._dynamo.reset()
    model = tiny(num_layers=4)
    given = inputs()
    plain = model(**given)
    counter = torch._dynamo.testing.CompileCounter()
    model.compile_repeated_blocks(backend=counter, fullgraph=True)
    torch.testing.assert_close(model(**given), plain, atol=1e-6, rtol=1e-5)
    assert counter.frame_count == 1


@pytest.mark.parametrize("backend", ["native", "_native_math"])
@torch.no_grad()
def test_diffusers_attention_backends_agree(backend):
    model = tiny()
    given = inputs()
    plain = model(**given)
    model.set_attention_backend(backend)
    torch.testing.assert_close(model(**given), plain, atol=1e-5, rtol=1e-4)
    assert {block.attn1.processor._attention_backend.value for block in model.blocks} == {backend}


def test_an_unknown_attention_backend_is_refused():
    with pytest.raises(ValueError, match="fast"):
        tiny().set_attention_backend("fast")


@pytest.mark.parametrize("expression", ["codes", "landmarks"])
def test_gradient_checkpointing_changes_no_gradient_and_keeps_less(expression):
    model = tiny(num_layers=3, expression=expression).train()
    given = inputs(width=model.expression_width)
    gradients, kept = [], []
    for enable in (False, True):
        if enable:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        size = 0

        def count(tensor):
            nonlocal size
            size += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(**given).square().mean()
        kept.append(size)
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert kept[1] < 0.5 * kept[0]


class LargestModulation(TorchDispatchMode):
    """The largest number of numbers in any tensor that ends in `6 D` or `6D`."""

    def __init__(self, dim):
        super().__init__()
        self.dim, self.found = dim, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not isinstance(tensor, torch.Tensor) or tensor.shape == (self.dim, 6 * self.dim):  # the weight itself
                continue
            if tensor.shape[-2:] == (6, self.dim) or tensor.shape[-1:] == (6 * self.dim,):
                self.found = max(self.found, tensor.numel())
        return out


@torch.no_grad()
def test_modulation_is_never_a_tensor_per_token_at_full_size():
    """1.3B, 512 x 512, 81 frames: 22 x 6 x 1536 numbers (0.8 MB); per token they were 22,528 x 6 x 1536 (0.8 GB)."""
    with torch.device("meta"):
        model = FactorPortraitTransformer(num_layers=1)
        given = {name: value.to("meta") for name, value in inputs(81, size=64).items()}
        with LargestModulation(1536) as watch:
            model(**given)
    assert watch.found == 22 * 6 * 1536
