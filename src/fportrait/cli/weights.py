"""`fportrait weights`."""

from __future__ import annotations

from pathlib import Path

import click

from fportrait.cli._options import Bars, json_option, path_type, print_json


@click.group()
def weights() -> None:
    """Pretrained weights: those of the metrics' networks, and Wan 2.1 as the base of a training.

    Nothing is downloaded. Files are read without running code; their SHA-256 stands in every result.

    \b
    Examples:
      fportrait weights list
      fportrait weights add arcface backbone.pth
      fportrait weights import-wan Wan2.1-T2V-1.3B
    """


@weights.command("list")
@json_option
def list_weights(as_json: bool) -> None:
    """Which weights are known, which are there, and where the others come from."""
    from fportrait.evaluation.weights import KNOWN, find, folder

    rows = []
    for name, entry in KNOWN.items():
        stored = find(name)
        rows.append(
            {
                "name": name,
                "metric": entry.metric,
                "what": entry.what,
                "sha256": stored.sha256 if stored else None,
                "from": stored.source if stored else entry.source,
            }
        )
    if as_json:
        print_json({"folder": folder(), "weights": rows})
        return
    for row in rows:
        state = f"there ({row['sha256'][:12]}, {row['from']})" if row["sha256"] else f"missing; {row['from']}"
        click.echo(f"{row['name']:<20}{row['metric']:<22}{row['what']:<32}{state}")
    click.echo(f"added weights lie in {folder()}")


@weights.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Put them in place of the ones that are there.")
def add(name: str, file: Path, replace: bool) -> None:
    """Check FILE against the architecture of NAME and keep it."""
    from fportrait.evaluation.weights import add as keep

    stored = keep(name, file, replace)
    click.echo(f"{name}: {stored.path}, SHA-256 {stored.sha256}")


@weights.command()
@click.argument("names", nargs=-1)
@json_option
def check(names: tuple[str, ...], as_json: bool) -> None:
    """Load weights as a metric would (all that are there, or NAMES)."""
    from fportrait.evaluation.weights import KNOWN, find, known, load, require

    good = {}
    for name in names or [name for name in KNOWN if find(name) is not None]:
        good[name] = require(name).sha256
        if known(name).build is not None:
            load(name)
        if not as_json:
            click.echo(f"{name}: good, SHA-256 {good[name]}")
    if as_json:
        print_json(good)


@weights.command()
@click.argument("name")
def remove(name: str) -> None:
    """Forget added weights."""
    from fportrait.evaluation.weights import remove as forget

    click.echo(f"{name}: removed" if forget(name) else f"{name}: none were added")


@weights.command("import-wan")
@click.argument("folder", type=path_type)
@click.option("-o", "--output", type=path_type, help="Bundle to make. Default: where conf/ENV's pretrain looks for it.")
@click.option("--env", "environment", default="paper", show_default=True, help="Environment that will train from it.")
@click.option("--dtype", default="stored", show_default=True, help="Of the transformer: stored, fp32, bf16 or fp16.")
@click.option("--vae", type=path_type, help="VAE, in place of the download's own: a folder or Wan2.1_VAE.pth.")
@click.option("--text-encoder", type=path_type, help="UMT5, in place of the download's own: a folder or a .pth file.")
@click.option(
    "--prompt",
    type=path_type,
    help="A ready embedding of the empty prompt (.safetensors, .npy, .pt): no UMT5 is needed.",
)
@click.option("--encoder", type=path_type, help="Expression encoder's folder. Default: the shipped one.")
@click.option("--size", type=click.IntRange(64), help="Pixels that it will be trained at. Default: conf/ENV's.")
@click.option("--frames", type=click.IntRange(1), help="Longest clip, 4k+1. Default: that of conf/ENV's stage 4.")
@click.option("--replace", is_flag=True, help="Put it in place of a bundle that is there.")
@json_option
def import_wan(
    folder: Path,
    output: Path | None,
    environment: str,
    dtype: str,
    vae: Path | None,
    text_encoder: Path | None,
    prompt: Path | None,
    encoder: Path | None,
    size: int | None,
    frames: int | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Make the base of a training from FOLDER, a download of Wan 2.1 text-to-video (1.3B or 14B).

    FOLDER is in diffusers' layout or the original one. Every tensor is checked by name, shape and content; the
    transformer is widened for portrait, camera, pose and expression, exactly as it was where they are absent; the empty
    prompt is computed with UMT5, block by block, in a gigabyte. Stopped, it goes on where it was.

    \b
    Examples:
      fportrait weights import-wan Wan2.1-T2V-1.3B
      fportrait weights import-wan Wan2.1-T2V-14B-Diffusers -o data/wan2.1-14b --dtype bf16
      fportrait weights import-wan Wan2.1-T2V-1.3B --prompt empty_prompt.safetensors --env gpu
    """
    from fportrait.diffusion.shapes import check_picture_size, latent_frames
    from fportrait.diffusion.wan_import import ImportSettings
    from fportrait.diffusion.wan_import import import_wan as run_import
    from fportrait.training import plan as plans

    source = plans.read_section("pretrain", environment).get("source", "")
    size = size or plans.read_section("encode", environment)["encoding"]["size"]
    frames = frames or plans.read_section("train_stage4", environment)["frames"]
    crop = plans.read_section("track", environment)["tracking"]["crop_metres"]
    check_picture_size(size, size, 16)  # the VAE's 8 times the transformer's patch of 2
    latent_frames(frames)
    named = source if source not in ("", "shipped", "rebuild") else "data/wan2.1"
    output = output or Path(named)
    bars = Bars()
    try:
        settings = ImportSettings(dtype=dtype, size=size, frames=frames, crop_metres=crop)
        made = run_import(folder, output, settings, vae, text_encoder, prompt, encoder, replace, bars)
    finally:
        bars.close()
    command = f"kedro run --env={environment} --pipelines=pretrain"
    if str(output) != source:
        command += f" --params=pretrain.source={output}"
    if as_json:
        print_json(made | {"next": command})
        return
    click.echo(f"{made['model']} ({made['layout']} layout, {made['parameters']:,} parameters) as {output}")
    for note in made["notes"]:
        click.echo(f"note: {note}")
    click.echo(f"next: {command}")
