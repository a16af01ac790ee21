"""Wan 2.1's own shapes, with random weights, all the way: import in both layouts, encode, LoRA, full and sampling step.

    python benchmarks/true_size.py --scratch /tmp/true_size                    # small clips, for a CPU
    python benchmarks/true_size.py --scratch /tmp/true_size --device cuda      # the stages' own shapes
    python benchmarks/true_size.py --device cuda --size 512 --frames 13 25 49 81 --model 14b

Weights are random, so nothing here says anything of quality; names, shapes, files, memory and time are the real ones.
On a card every stage's shape is stepped beside bare diffusers under accelerate (Wan's own transformer at equal tokens,
with the same optimiser, precision and recomputation), in turns in one run, with the share of the card's peak (MFU).
Without a card only the small clip is run, and the result says so.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import resource
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from _result import machine
from accelerate import Accelerator, init_empty_weights
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from fportrait.atomic_io import write_json
from fportrait.devices import pick_device
from fportrait.diffusion.codec import encode_video, load_vae
from fportrait.diffusion.conditions import Conditions
from fportrait.diffusion.lora import LoraSettings, add_lora
from fportrait.diffusion.pipeline import FactorPortraitPipeline
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.diffusion.wan_import import ImportSettings, import_wan
from fportrait.training.cost import peak_flops, sample_cost

RESULTS = Path(__file__).parent / "results"
SIZES = {
    "1.3b": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "14b": {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
    "tiny": {"num_attention_heads": 1, "ffn_dim": 128, "num_layers": 2},  # to try the script itself
}
GIB = 2**30
TEXT_WIDTH = 4096


class Clock:
    """Seconds and memory of named parts."""

    def __init__(self, device: torch.device):
        self.device, self.rows = device, {}  # type: ignore[var-annotated]

    @contextlib.contextmanager
    def part(self, name: str, **more: Any) -> Iterator[dict[str, Any]]:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            torch.cuda.synchronize(self.device)
        started, spent = time.perf_counter(), time.process_time()
        row: dict[str, Any] = dict(more)
        yield row
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            row["gib"] = round(torch.cuda.max_memory_allocated(self.device) / GIB, 2)
        row["seconds"] = round(time.perf_counter() - started, 2)
        row["cpu_seconds"] = round(time.process_time() - spent, 2)
        row["resident_gib_so_far"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
        self.rows[name] = row
        print(name, row, flush=True)


def write_random(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A bfloat16 safetensors file of these shapes: draws of N(0, .02), one block of them over and over."""
    block = (0.02 * torch.randn(2**22, generator=torch.Generator().manual_seed(0))).bfloat16()
    raw = block.view(torch.uint8).numpy().tobytes()
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(torch.Size(shape).numel())
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        while offset > 0:
            file.write(raw[: min(offset, len(raw))])
            offset -= len(raw)


def download(folder: Path, layout: str, model: str) -> Path:
    """A download of the released names and shapes, in either layout, with a ready empty prompt beside it."""
    with init_empty_weights():
        wan = WanTransformer3DModel(attention_head_dim=128, **SIZES[model])
    shapes = {name: tuple(value.shape) for name, value in wan.state_dict().items()}
    prompt = torch.randn(1, 1, TEXT_WIDTH, generator=torch.Generator().manual_seed(1))
    folder.mkdir(parents=True)
    torch.save(prompt, folder / "prompt.pt")
    torch.manual_seed(0)
    vae = AutoencoderKLWan()
    if layout == "diffusers":
        wan.save_config(folder / "transformer")
        write_random(folder / "transformer/diffusion_pytorch_model.safetensors", shapes)
        vae.save_pretrained(folder / "vae")
        return folder
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from helpers.wan_downloads import original_name, original_vae_name

    size = SIZES[model]
    config = {"_class_name": "WanModel", "model_type": "t2v", "dim": size["num_attention_heads"] * 128}
    config |= {"num_heads": size["num_attention_heads"], "ffn_dim": size["ffn_dim"], "num_layers": size["num_layers"]}
    (folder / "config.json").write_text(json.dumps(config | {"in_dim": 16, "out_dim": 16, "text_len": 512}))
    write_random(
        folder / "diffusion_pytorch_model.safetensors", {original_name(name): shape for name, shape in shapes.items()}
    )
    torch.save({original_vae_name(name): value for name, value in vae.state_dict().items()}, folder / "Wan2.1_VAE.pth")
    return folder


def conditions(frames: int, side: int, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Random inputs of one clip at `side` latent cells."""
    latent = (frames + 3) // 4
    shape = (latent, side, side)
    made = {
        "latents": torch.randn(1, 16, *shape),
        "reference": torch.randn(1, 16, 1, side, side),
        "rays": torch.randn(1, 24, *shape),
        "normals": torch.randn(1, 16, *shape),
        "codes": torch.randn(1, frames, 128),
    }
    return {name: value.to(device, dtype) for name, value in made.items()}


def step(loss: Callable[[], torch.Tensor], parameters: list[torch.Tensor]) -> float:
    """One AdamW step in bfloat16, each gradient used and freed as it comes: weights, moments and one gradient."""
    optimisers = {parameter: torch.optim.AdamW([parameter], lr=1e-5, foreach=False) for parameter in parameters}

    def use(parameter: torch.Tensor) -> None:
        optimisers[parameter].step()
        parameter.grad = None

    hooks = [parameter.register_post_accumulate_grad_hook(use) for parameter in parameters]
    value = loss()
    value.backward()
    for hook in hooks:
        hook.remove()
    return float(value.detach())


def run_step(
    clock: Clock, name: str, forward: Callable[[], torch.Tensor], model: Any, target: torch.Tensor, flops: float
) -> None:
    """Time two steps, the first of which also allocates; MFU by the second."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def loss() -> torch.Tensor:
        return (forward().float() - target.float()).square().mean()

    turns = 2 if clock.device.type == "cuda" else 1
    for turn in range(turns):
        with clock.part(name if turn == turns - 1 else f"{name}, first") as row:
            row["loss"] = round(step(loss, trained), 4)
            row["trained"] = sum(parameter.numel() for parameter in trained)
    peak = peak_flops(clock.device, "bf16")
    if peak:
        clock.rows[name]["mfu"] = round(3 * flops / (clock.rows[name]["seconds"] * peak), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=Path, required=True, help="folder for downloads and bundles, removed again")
    parser.add_argument("--model", choices=list(SIZES), default="1.3b")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=int, help="pixels; 512 on a card, 64 without")
    parser.add_argument("--frames", type=int, nargs="+", help="of the clips; 13 25 49 81 on a card, 5 without")
    parser.add_argument("--parts", nargs="+", default=["import", "encode", "lora", "full", "sample"])
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    size = arguments.size or (512 if device.type == "cuda" else 64)
    lengths = arguments.frames or ([13, 25, 49, 81] if device.type == "cuda" else [5])
    clock = Clock(device)
    bundle = arguments.scratch / "bundle"
    if "import" in arguments.parts:
        for layout in ("original", "diffusers"):
            folder = download(arguments.scratch / layout, layout, arguments.model)
            with clock.part(f"import, {layout} layout") as row:
                made = import_wan(folder, bundle, ImportSettings(size=size), prompt=folder / "prompt.pt", replace=True)
                row["parameters"] = made["parameters"]
            shutil.rmtree(folder)
    if "encode" in arguments.parts:
        vae = load_vae(bundle / "vae").to(device)
        for frames in lengths:
            video = torch.rand(1, 3, frames, size, size, device=device) * 2 - 1
            with clock.part(f"encode {frames} frames at {size}²"):
                encode_video(vae, video)
        del vae
    models(arguments, clock, bundle, lengths, size)
    shutil.rmtree(arguments.scratch, ignore_errors=True)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    if arguments.model == "tiny":
        return
    write_json(
        RESULTS / f"true_size_{arguments.model}_{device.type}.json",
        {
            "name": "true_size",
            "what": f"Wan 2.1 {arguments.model} with random weights: import, encode, one step of each kind",
            "gpu": gpu or "none: these are a CPU's figures at a small clip; on a card nothing was measured",
            "machine": machine(),
            "threads": torch.get_num_threads(),
            "size": size,
            "frames": lengths,
            "parts": clock.rows,
        },
    )


def models(arguments: argparse.Namespace, clock: Clock, bundle: Path, lengths: list[int], size: int) -> None:
    """Sampling, LoRA and full steps of every length; on a card beside bare Wan."""
    device, dtype = clock.device, torch.bfloat16
    with clock.part("load the transformer"):
        model = FactorPortraitTransformer.from_pretrained(bundle / "transformer", torch_dtype=dtype).to(device, dtype)
    side = size // 8
    if "sample" in arguments.parts:
        pipeline = FactorPortraitPipeline.of(model.eval(), load_vae(bundle / "vae").to(device), 5.0, scheduler="unipc")
        pipeline.set_progress_bar_config(disable=True)
        for frames in lengths:
            given = conditions(frames, side, device, torch.float32)
            del given["latents"]
            with clock.part(f"one sampling step, {frames} frames at {size}²"):
                pipeline(**given, num_inference_steps=1, output_type="latent")
        del pipeline
    model.train().enable_gradient_checkpointing()
    for frames in lengths:
        given = conditions(frames, side, device, dtype)
        times, target = torch.full((1,), 500.0, device=device), torch.randn_like(given["latents"])
        flops = sample_cost(dict(model.config), frames, side, side, "bf16", True).flops

        def forward(given: Any = given, times: torch.Tensor = times) -> torch.Tensor:
            latents = given["latents"]
            others = Conditions(**{name: value for name, value in given.items() if name != "latents"})
            return model(latents, times, **others.inputs())

        if "full" in arguments.parts:
            run_step(clock, f"full step, {frames} frames at {size}²", forward, model, target, flops)
        if device.type == "cuda" and "full" in arguments.parts:
            beside_bare_wan(
                clock, arguments.model, given["latents"], times, target, flops, f"{frames} frames at {size}²"
            )
    if "lora" in arguments.parts:
        add_lora(model, LoraSettings(rank=16))
        model.to(device, dtype)
        for frames in lengths:
            given = conditions(frames, side, device, dtype)
            times, target = torch.full((1,), 500.0, device=device), torch.randn_like(given["latents"])
            inputs = {name: value for name, value in given.items() if name != "latents"}
            flops = sample_cost(dict(model.config), frames, side, side, "bf16", True).flops
            run_step(
                clock,
                f"LoRA step, {frames} frames at {size}²",
                lambda given=given, times=times, inputs=inputs: model(  # type: ignore[misc]
                    given["latents"], times, **Conditions(**inputs).inputs()
                ),
                model,
                target,
                flops,
            )


def beside_bare_wan(
    clock: Clock, model: str, latents: torch.Tensor, times: torch.Tensor, target: torch.Tensor, flops: float, what: str
) -> None:
    """The same step of diffusers' Wan under accelerate, with the reference's frame as one more latent frame."""
    accelerator = Accelerator(mixed_precision="bf16")
    with torch.device(clock.device):
        wan = WanTransformer3DModel(attention_head_dim=128, **SIZES[model]).bfloat16()  # type: ignore[attr-defined]
    wan.train().enable_gradient_checkpointing()
    wan = accelerator.prepare(wan)
    longer = torch.cat([latents[:, :, :1], latents], 2)
    prompt = torch.randn(1, 512, TEXT_WIDTH, device=clock.device, dtype=torch.bfloat16)

    def forward() -> torch.Tensor:
        return wan(longer, times, prompt, return_dict=False)[0][:, :, 1:]

    run_step(clock, f"bare diffusers + accelerate, {what}", forward, wan, target, flops)


if __name__ == "__main__":
    main()
