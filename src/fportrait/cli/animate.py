"""`fportrait animate` and `fportrait provenance`."""

from __future__ import annotations

from pathlib import Path

import click

from fportrait.cli._options import SEED, Bars, device_option, json_option, path_type, print_json, promoted_or_shipped
from fportrait.errors import UserError


def parse_guidance(entries: tuple[str, ...]) -> dict[str, float]:
    """`("expression=2",)` to `{"expression": 2.0}`.

    Raises:
        UserError: not FACTOR=SCALE.
    """
    scales = {}
    for entry in entries:
        factor, _, value = entry.partition("=")
        try:
            scales[factor.strip()] = float(value)
        except ValueError:
            raise UserError(f"--guidance {entry}", "FACTOR=SCALE", "write e.g. --guidance expression=2") from None
    return scales


@click.command()
@click.option("--portrait", required=True, type=path_type, help="A picture with one face: identity.")
@click.option("--driving", required=True, type=path_type, help="A video: head pose, and expressions.")
@click.option("--expression", type=path_type, help="Another video: take the expressions from it instead.")
@click.option(
    "--camera",
    default="front",
    show_default=True,
    metavar="front|spin|spiral|KEYS|PATH.json",
    help="The viewpoint: a named path, key positions 'YAW,ELEVATION[,DISTANCE]; …', or a file.",
)
@click.option("-o", "--output", required=True, type=path_type, help="The video to write (.mp4).")
@click.option("--model", type=path_type, help="A model folder. Default: the promoted one, else the shipped base.")
@click.option(
    "--adapter",
    type=path_type,
    metavar="FILE|FOLDER",
    help="LoRA weights over the model they were trained on: adapter.safetensors, its folder, or a trained stage.",
)
@click.option(
    "--guidance",
    multiple=True,
    metavar="FACTOR=SCALE",
    help="Strengthen expression, pose, view or identity; 1 is off. Default: the model's own.",
)
@click.option("--steps", type=click.IntRange(1, 1000), help="Sampling steps. Default: the model's own.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="The same seed gives the same video.")
@click.option(
    "--size",
    type=click.IntRange(16),
    help="Pixels of the model's picture, one of those it was trained at (bundle.json). Default: its own.",
)
@click.option(
    "--scale",
    default=4,
    show_default=True,
    type=click.IntRange(1, 16),
    help="Enlarge the written video by this factor for viewing.",
)
@click.option(
    "--max-frames", default=250, show_default=True, type=click.IntRange(1), help="Cut longer driving videos here."
)
@click.option(
    "--neutral",
    default="auto",
    show_default=True,
    metavar="auto|off|FRAME",
    help="The driver's face at rest: estimated from the clip, left in, or a frame of it.",
)
@click.option(
    "--fov", type=click.FloatRange(5, 150), help="Field of view of the videos across the longer side, degrees: 40."
)
@click.option(
    "--portrait-fov",
    type=click.FloatRange(5, 150),
    help="The same of the portrait. Default: as the picture says (EXIF), else 40.",
)
@click.option("--conditions", type=path_type, help="A folder for normal maps, cameras and codes that were used.")
@click.option("--no-audio", is_flag=True, help="Leave the sound of the driving video out.")
@click.option(
    "--force", is_flag=True, help="Replace files that fportrait did not write; go on with what is unlike a face."
)
@device_option
@json_option
def animate(
    portrait: Path,
    driving: Path,
    expression: Path | None,
    camera: str,
    output: Path,
    model: Path | None,
    adapter: Path | None,
    guidance: tuple[str, ...],
    steps: int | None,
    seed: int,
    size: int | None,
    scale: int,
    max_frames: int,
    neutral: str,
    fov: float | None,
    portrait_fov: float | None,
    conditions: Path | None,
    no_audio: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Animate a portrait with the expressions and head pose of a driving video.

    Writes the video and, beside it, a picture (.png) of portrait, driving frames, normal maps and result. Both say in
    their metadata that they are synthetic: `fportrait provenance out.mp4`. The video has the driving video's rate (a
    variable one is made constant) and its sound; with --expression the sound of that video, if it has one.

    PATH.json may be our own camera file, nerfstudio's transforms.json or camera_path.json, or NeRSemble's
    camera_params.json. Files that fportrait did not write are replaced only with --force.

    \b
    Examples:
      fportrait animate --portrait me.jpg --driving talk.mp4 -o out.mp4
      fportrait animate --portrait me.jpg --driving talk.mp4 --camera spin -o spin.mp4
      fportrait animate --portrait me.jpg --driving talk.mp4 --camera '-40,0; 0,15,0.9; 40,0' -o keys.mp4
      fportrait animate --portrait me.jpg --driving nod.mp4 --expression talk.mp4 -o mixed.mp4
      fportrait animate --portrait me.jpg --driving talk.mp4 --guidance expression=2 -o strong.mp4
      fportrait animate --portrait me.jpg --driving talk.mp4 --model BASE --adapter STAGE/adapter -o adapted.mp4
    """
    scales = parse_guidance(guidance)
    from fportrait.animate import animate as run_animation

    bars = Bars()
    try:
        written = run_animation(
            portrait,
            driving,
            camera,
            output,
            promoted_or_shipped(model),
            bars,
            conditions,
            size=size,
            force=force,
            adapter=adapter,
            sound=not no_audio,
            expression=expression,
            guidance=scales,
            steps=steps,
            seed=seed,
            scale=scale,
            max_frames=max_frames,
            neutral=neutral,
            fov=fov,
            portrait_fov=portrait_fov,
        )
    finally:
        bars.close()
    if as_json:
        print_json(written)
        return
    for name, path in written.items():
        click.echo(f"{name}: {path}")


@click.command()
@click.argument("file", type=path_type)
@json_option
def provenance(file: Path, as_json: bool) -> None:
    """Show what a generated video, or the picture beside it, says about itself.

    \b
    Examples:
      fportrait provenance out.mp4
      fportrait provenance out.png --json

    Without fportrait: `ffprobe -show_entries format_tags out.mp4`. A file without these tags may still be synthetic,
    because tags can be removed.
    """
    from fportrait.provenance import read_provenance

    found = read_provenance(file)
    if as_json:
        print_json(found)
        return
    click.echo("synthetic" if found.get("synthetic") else "does not say that it is synthetic")
    click.echo(f"made by    {found.get('generator', '?')}")
    model = found.get("model", {})
    click.echo(f"model      {model.get('name', '?')} {model.get('hash', '')}")
    if adapter := found.get("adapter"):
        click.echo(f"adapter    {adapter.get('hash', '?')} of base {adapter.get('base', '?')[:16]}")
    for name, entry in found.get("inputs", {}).items():
        click.echo(f"{name:<10} sha256 {entry.get('sha256', '?')}")
    for name, value in found.get("settings", {}).items():
        click.echo(f"{name:<10} {value}")
