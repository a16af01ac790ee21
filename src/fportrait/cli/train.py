"""`fportrait plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fportrait.cli._options import json_option, print_json

ROWS = (
    # key, label, how it is printed
    ("frames", "frames T", "{:,}"),
    ("parameters", "parameters", "{:,}"),
    ("learned", "of which are learned (or an adapter beside them)", "{:,}"),
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
    help="wan-1.3b, wan-14b, or a model folder. Default: Wan 1.3B for the environments paper and gpu, "
    "else the environment's base.",
)
@click.option("--gpu", help="Name of the GPU whose hours are counted. Default: H100, or a usual one of --gpu-memory.")
@click.option(
    "--gpu-memory",
    type=click.FloatRange(min=1),
    help="Memory of your one card in GB (24, 48, 80): also print what fits on it, and the hours.",
)
@click.option("--mfu", default=0.35, show_default=True, help="Share of the GPU's peak that training reaches.")
@click.option(
    "--live",
    "calls",
    type=click.IntRange(1, 1000),
    help="Model calls per window of a stream: print what a frame of it costs, instead of training.",
)
@click.option("--shards", help="Folder or URL of the latent shards. Default: the environment's.")
@json_option
def plan(
    number: int | None,
    environment: str,
    model: str | None,
    gpu: str | None,
    gpu_memory: float | None,
    mfu: float,
    calls: int | None,
    shards: str | None,
    as_json: bool,
) -> None:
    """Print what training will cost, without training: parameters, operations, memory, shards found, GPU-hours.

    \b
    Examples:
      fportrait plan
      fportrait plan --env paper
      fportrait plan --env gpu --gpu-memory 24
      fportrait plan --stage 4 --env paper --model wan-14b --gpu H200 --json
      fportrait plan --env paper --live 1
    """
    from fportrait.dataset.shards import ShardReader
    from fportrait.errors import UserError
    from fportrait.training import plan as plans

    if not model:
        trained = plans.read_folder("base", environment)
        shipped = Path(__file__).parents[1] / "assets" / "base"
        model = "wan-1.3b" if environment in ("paper", "gpu") else trained if Path(trained).is_dir() else str(shipped)
    config = plans.model_config(model)
    gpu = gpu or ("H100" if gpu_memory is None else plans.usual_card(gpu_memory))
    if calls is not None:
        size = plans.read_section("encode", environment)["encoding"]["size"]
        stream(plans, config, model, size, calls, gpu, mfu, as_json)
        return
    reader, missing = None, None
    try:
        reader = ShardReader(shards or plans.read_folder("shards", environment))
    except UserError as error:
        if shards:
            raise
        missing = str(error)
    encoding = plans.read_section("encode", environment)["encoding"]
    picture = encoding["size"]
    numbers = [number] if number else list(plans.STAGES)
    stages = [plans.read_stage(n, environment) for n in numbers]
    costs = [plans.plan(stage, config, picture, reader, gpu, mfu) for stage in stages]
    tables = [Path(plans.read_folder(name, environment)) for name in ("validated", "sweeps")]
    encode = plans.plan_encode(encoding, plans.vae_config(model), tables, gpu, mfu)
    proposed = [] if gpu_memory is None else plans.propose(stages, config, gpu_memory, gpu, mfu)
    total = sum(cost["gpu_hours"] for cost in costs)
    warnings = [] if reader is None else shard_warnings(reader, environment, config, picture)
    if as_json:
        print_json(
            {
                "environment": environment,
                "model": model,
                "picture": picture,
                "stages": costs,
                "gpu_hours": total,
                "encode": encode,
                **({"proposed": proposed} if gpu_memory is not None else {}),
                "shards": None if reader is None else reader.hash,
                "warnings": warnings,
            }
        )
        return
    click.echo(f"{model}, {picture}² pixels, settings of conf/{environment}")
    table("", [cost["stage"] for cost in costs])
    for key, label, form in ROWS:
        table(label, [form.format(cost[key]) for cost in costs])
    table(f"{gpu}-hours at {mfu:.0%} MFU", [f"{cost['gpu_hours']:,.4g}" for cost in costs])
    click.echo(f"{gpu}-hours of {'all stages' if len(costs) > 1 else costs[0]['stage']}: {total:,.4g}")
    show_buckets(costs)
    show_encode(encode, gpu)
    if gpu_memory is not None:
        show_proposals(proposed, gpu_memory, gpu, environment)
    if reader is None:
        click.echo(f"shards: {missing}")
        return
    for warning in warnings:
        click.echo(f"shards: {warning}")
    for cost in costs:
        found = ", ".join(
            f"{name} {count} records ({cost['epochs'].get(name, 0):g} epochs)"
            if count
            else f"{name} none, and it has a share"
            for name, count in cost["records"].items()
        )
        click.echo(f"shards of {cost['stage']}: {found}")


def show_buckets(costs: list[dict[str, Any]]) -> None:
    """The shapes of pictures that a stage trains on, where the shards have several."""
    for cost in costs:
        if len(cost["buckets"]) > 1:
            shown = ", ".join(
                f"{one['picture']} {one['share']:.0%} ({one['tokens_per_sample']:,} tokens)" for one in cost["buckets"]
            )
            click.echo(f"buckets of {cost['stage']}: {shown}; memory is that of the largest")


def show_encode(cost: dict[str, Any], gpu: str) -> None:
    """What `encode` takes, by the window or as a whole."""
    each = f"{cost['flops_per_window']:.3g} FLOPs a window of {cost['window']} frames at {cost['picture']}"
    if "windows" not in cost:
        seconds = cost["seconds_per_window"]
        click.echo(f"encode: {each}, {seconds:.3g} s each; no annotation tables yet to count windows in")
        return
    click.echo(f"encode: {cost['windows']:,} windows, {each}: {cost['gpu_hours']:,.3g} {gpu}-hours (TF32)")


def shard_warnings(reader: Any, environment: str, config: dict[str, Any], picture: int) -> list[str]:
    """Why these shards are not what a model of this configuration should be trained on."""
    from fportrait.training import plan as plans

    found = []
    own_folder = environment == "base" or str(reader.folder) != plans.read_folder("shards", "base")
    large = config.get("num_layers", 0) >= plans.WAN["wan-1.3b"]["num_layers"]
    other_base = large or plans.read_section("pretrain", environment)["source"] != "shipped"
    if not own_folder or (other_base and reader.vae_hash == shipped_vae()):
        found.append(f"the demo's ({reader.folder}), of the shipped base's VAE: encode this environment's own")
    encoded = reader.info["parameters"].get("size", picture)
    if encoded != picture:
        found.append(f"of {encoded}² pixels, and these settings train on {picture}²: run encode with them")
    return found


def shipped_vae() -> str:
    """The hash of the VAE that the demo's latents are of."""
    from fportrait.bundle import SHIPPED_BASE
    from fportrait.dataset.encode import vae_hash

    return vae_hash(SHIPPED_BASE / "vae")


def show_proposals(rows: list[dict[str, Any]], memory: float, gpu: str, environment: str) -> None:
    """What fits on one card, and the settings of the first that does."""
    click.echo(f"\non one card of {memory:g} GB ({gpu}), settings of conf/{environment} otherwise:")
    for row in rows:
        takes = f"{row['memory_gib']:.1f} GiB at most, {row['gpu_hours']:,.3g} hours"
        click.echo(f"  {row['picture']}²  {row['method']:<20} {takes if row['fits'] else needs(row)}")
    best = next((row for row in rows if row["fits"]), None)
    if best is None:
        click.echo("nothing fits: take a smaller picture (encode's size), fewer frames, or more cards (sharding)")
        return
    click.echo(f"for {best['method']} at {best['picture']}², in conf/{environment} (or conf/local):")
    click.echo(f"  encode: {{encoding: {{size: {best['picture']}}}}}")
    from fportrait.training.plan import METHODS

    for one in best["stages"]:
        chosen = {**METHODS[best["method"]], **{key: one[key] for key in ("accumulation", "gradient_checkpointing")}}
        values = ", ".join(f"{key}: {json.dumps(value)}" for key, value in chosen.items())
        click.echo(f"  train_{one['stage']}: {{{values}}}  # {one['memory_gib']:.1f} GiB, {one['gpu_hours']:.3g} h")


def needs(row: dict[str, Any]) -> str:
    """How much memory a row that does not fit would take with one sample at a time."""
    return f"does not fit: {row['memory_gib']:.1f} GiB at the least"


def table(label: str, row: list[Any]) -> None:
    """One labelled line of right-aligned columns."""
    click.echo(f"  {label:<52}" + "".join(f"{value:>16}" for value in row))


def stream(
    plans: Any, config: dict[str, Any], model: str, picture: int, calls: int, gpu: str, mfu: float, as_json: bool
) -> None:
    """What a frame of a stream costs, for windows of one and two new latents."""
    costs = [plans.stream_cost(config, picture, calls, latents, gpu, mfu) for latents in (1, 2)]
    if as_json:
        print_json({"model": model, "picture": picture, "windows": costs})
        return
    click.echo(f"{model}, {picture}² pixels, {calls} calls per window; the transformer alone")
    table("", [f"{cost['frames']} frames" for cost in costs])
    for key, label, form in (
        ("tokens", "tokens per call", "{:,}"),
        ("flops", "FLOPs per call", "{:.3g}"),
        ("flops_per_frame", "FLOPs per frame", "{:.3g}"),
        ("seconds_per_frame", f"seconds per frame, {gpu} at {mfu:.0%} of its peak", "{:.4g}"),
        ("frames_per_second", "frames per second", "{:.3g}"),
    ):
        table(label, [form.format(cost[key]) for cost in costs])
