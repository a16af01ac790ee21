"""`fportrait plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fportrait.cli._options import json_option, print_json

ROWS = (
    # key, label, how it is printed
    ("frames", "frames T", "{:,}"),
    ("parameters", "parameters", "{:,}"),
    ("tokens_per_sample", "tokens per sample", "{:,}"),
    ("tokens_per_step", "tokens per step", "{:,}"),
    ("flops_per_step", "FLOPs per step", "{:.3g}"),
    ("flops_of_stage", "FLOPs of the stage", "{:.3g}"),
    ("processes", "devices", "{:,}"),
    ("sharding", "sharding", "{}"),
    ("launch", "started by", "{}"),
    ("state_gib", "weights, gradients, moments, average (GiB a device)", "{:.2f}"),
    ("activations_gib", "activations (GiB a device, about)", "{:.2f}"),
    ("memory_gib", "together (GiB a device, about)", "{:.2f}"),
    ("seconds_per_step", "seconds per step", "{:.3g}"),
    ("samples", "samples drawn", "{:,}"),
)


@click.command()
@click.option("--stage", "number", type=click.IntRange(1, 4), help="One stage. Default: all four.")
@click.option("--env", "environment", default="base", show_default=True, help="Folder of conf/ with the settings.")
@click.option(
    "--model",
    help="wan-1.3b, wan-14b, or a model folder. Default: Wan 1.3B for the environment paper, "
    "else the environment's base.",
)
@click.option("--gpu", default="H100", show_default=True, help="Name of the GPU whose hours are counted.")
@click.option("--mfu", default=0.35, show_default=True, help="Share of the GPU's peak that training reaches.")
@click.option("--shards", help="Folder or URL of the latent shards. Default: the environment's.")
@json_option
def plan(
    number: int | None, environment: str, model: str | None, gpu: str, mfu: float, shards: str | None, as_json: bool
) -> None:
    """Print what training will cost, without training: parameters, operations, memory, shards found, GPU-hours.

    \b
    Examples:
      fportrait plan
      fportrait plan --env paper
      fportrait plan --stage 4 --env paper --model wan-14b --gpu H200 --json
    """
    from fportrait.dataset.shards import ShardReader
    from fportrait.errors import UserError
    from fportrait.training import plan as plans

    if not model:
        trained = plans.read_folder("base", environment)
        shipped = Path(__file__).parents[1] / "assets" / "base"
        model = "wan-1.3b" if environment == "paper" else trained if Path(trained).is_dir() else str(shipped)
    config = plans.model_config(model)
    reader, missing = None, None
    try:
        reader = ShardReader(shards or plans.read_folder("shards", environment))
    except UserError as error:
        if shards:
            raise
        missing = str(error)
    picture = plans.read_section("encode", environment)["encoding"]["size"]
    numbers = [number] if number else list(plans.STAGES)
    costs = [plans.plan(plans.read_stage(n, environment), config, picture, reader, gpu, mfu) for n in numbers]
    total = sum(cost["gpu_hours"] for cost in costs)
    if as_json:
        print_json(
            {
                "environment": environment,
                "model": model,
                "picture": picture,
                "stages": costs,
                "gpu_hours": total,
                "shards": None if reader is None else reader.hash,
            }
        )
        return
    click.echo(f"{model}, {picture}² pixels, settings of conf/{environment}")
    table("", [cost["stage"] for cost in costs])
    for key, label, form in ROWS:
        table(label, [form.format(cost[key]) for cost in costs])
    table(f"{gpu}-hours at {mfu:.0%} MFU", [f"{cost['gpu_hours']:,.4g}" for cost in costs])
    click.echo(f"{gpu}-hours of {'all stages' if len(costs) > 1 else costs[0]['stage']}: {total:,.4g}")
    if reader is None:
        click.echo(f"shards: {missing}")
        return
    encoded = reader.info["parameters"].get("size", picture)
    if encoded != picture:
        click.echo(f"shards: of {encoded}² pixels, and these settings train on {picture}²: run encode with them")
    for cost in costs:
        found = ", ".join(
            f"{name} {count} records ({cost['epochs'].get(name, 0):g} epochs)"
            if count
            else f"{name} none, and it has a share"
            for name, count in cost["records"].items()
        )
        click.echo(f"shards of {cost['stage']}: {found}")


def table(label: str, row: list[Any]) -> None:
    """One labelled line of right-aligned columns."""
    click.echo(f"  {label:<52}" + "".join(f"{value:>16}" for value in row))
