"""`fportrait animate`, `fportrait edit` and `fportrait provenance`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from fportrait.cli._options import (
    SEED,
    Bars,
    device_option,
    json_option,
    path_type,
    picture_options,
    print_json,
    promoted_or_shipped,
    student,
)
from fportrait.errors import UserError


def parse_pairs(entries: tuple[str, ...], option: str, expected: str, example: str) -> dict[str, float]:
    """`("expression=2",)` to `{"expression": 2.0}`.

    Raises:
        UserError: not NAME=NUMBER.
    """
    values = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        try:
            values[name.strip()] = float(value)
        except ValueError:
            raise UserError(f"{option} {entry}", expected, f"write e.g. {option} {example}") from None
    return values


def parse_numbers(text: str, count: int, option: str, example: str) -> tuple[float, ...]:
    """`"20,0,0"` to `(20.0, 0.0, 0.0)`.

    Raises:
        UserError: not so many numbers.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise UserError(f"{option} {text}", f"{count} numbers", f"write e.g. {option} {example}")
    return values


def named_adapter(given: Path | None) -> Path | None:
    """The folder of an adapter by its name in the project, or what was given as a path.

    Raises:
        UserError: a name that the project does not have, and no such path.
    """
    if given is None:
        return None
    from fportrait.animate.adapters import resolve
    from fportrait.ops.store import home

    return resolve(given, home())


@click.command()
@click.option(
    "--portrait",
    "portraits",
    required=True,
    multiple=True,
    type=path_type,
    help="A picture with one face: identity. Given again: more pictures of the person, for what the first one does not "
    "see, such as a side of the head.",
)
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
    metavar="NAME|FILE|FOLDER",
    help="LoRA weights over the model they were trained on: a name (`fportrait adapt --list`), adapter.safetensors, "
    "its folder, or a trained stage.",
)
@click.option(
    "--guidance",
    multiple=True,
    metavar="FACTOR=SCALE",
    help="Strengthen expression, pose, view or identity; 1 is off. Default: the model's own.",
)
@click.option("--steps", type=click.IntRange(1, 1000), help="Sampling steps. Default: the model's own.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="The same seed gives the same video.")
@picture_options
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
    "--adjust",
    multiple=True,
    metavar="SLIDER=STRENGTH",
    help="Add to the expression in every frame: eyes, lips, smile, brows, pucker or gaze; 1 is a full action.",
)
@click.option(
    "--fov",
    type=click.FloatRange(5, 150),
    help="Field of view of the videos across the longer side, degrees. Default: as the face tells.",
)
@click.option(
    "--portrait-fov",
    type=click.FloatRange(5, 150),
    help="The same of the portrait. Default: as the picture says (EXIF), else as the face tells.",
)
@click.option("--conditions", type=path_type, help="A folder for normal maps, cameras and codes that were used.")
@click.option("--fast", is_flag=True, help="Take the student, which samples in one call, instead of its teacher.")
@click.option("--profile", is_flag=True, help="Print where processor time went: load, track, sample, decode, write.")
@click.option("--no-audio", is_flag=True, help="Leave the sound of the driving video out.")
@click.option(
    "--force", is_flag=True, help="Replace files that fportrait did not write; go on with what is unlike a face."
)
@device_option
@json_option
def animate(
    portraits: tuple[Path, ...],
    driving: Path,
    expression: Path | None,
    camera: str,
    output: Path,
    model: Path | None,
    adapter: Path | None,
    guidance: tuple[str, ...],
    steps: int | None,
    seed: int,
    size: str | None,
    aspect: str | None,
    scale: int,
    max_frames: int,
    neutral: str,
    adjust: tuple[str, ...],
    fov: float | None,
    portrait_fov: float | None,
    conditions: Path | None,
    fast: bool,
    profile: bool,
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
      fportrait animate --portrait me.jpg --driving talk.mp4 --adapter anna -o adapted.mp4
      fportrait animate --portrait me.jpg --driving talk.mp4 --model BASE --adapter STAGE/adapter -o adapted.mp4
      fportrait animate --portrait me.jpg --portrait left.jpg --driving talk.mp4 --camera spin -o spin.mp4
      fportrait animate --portrait me.jpg --driving talk.mp4 --aspect 9:16 -o upright.mp4
      fportrait animate --portrait me.jpg --driving talk.mp4 --fast --profile -o quick.mp4
    """
    scales = parse_pairs(guidance, "--guidance", "FACTOR=SCALE", "expression=2")
    if fast and model is not None:
        raise UserError("--fast and --model", "one of them", "leave --fast out: a student is named by --model, too")
    begun = time.process_time()
    chosen = student() if fast else promoted_or_shipped(model)
    from fportrait.animate import animate as run_animation
    from fportrait.animate.profile import Profile, table

    adapter = named_adapter(adapter)
    spent = Profile()
    spent.seconds["load"] = time.process_time() - begun  # of a cold command most of it is imports
    bars = Bars()
    try:
        written = run_animation(
            portraits[0],
            driving,
            camera,
            output,
            chosen,
            bars,
            conditions,
            profile=spent,
            size=size,
            aspect=aspect,
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
            adjust=parse_pairs(adjust, "--adjust", "SLIDER=STRENGTH", "smile=0.5"),
            fov=fov,
            portrait_fov=portrait_fov,
            more=portraits[1:],
        )
    finally:
        bars.close()
    if as_json:
        print_json({**written, "profile": spent.seconds} if profile else written)
        return
    for name, path in written.items():
        click.echo(f"{name}: {path}")
    if profile:
        from fportrait.capture.video_io import probe

        click.echo(table(spent.seconds, probe(written["video"]).frames))


@click.command()
@click.option("--portrait", required=True, type=path_type, help="A picture with one face.")
@click.option("-o", "--output", required=True, type=path_type, help="The picture to write (.png).")
@click.option(
    "--adjust",
    multiple=True,
    metavar="SLIDER=STRENGTH",
    help="Change the expression: eyes, lips, smile, brows, pucker or gaze; 1 is a full action, -1 its opposite.",
)
@click.option("--at-rest", is_flag=True, help="Begin with a face at rest, not with the picture's own expression.")
@click.option("--head", default="0,0,0", metavar="YAW,PITCH,ROLL", help="Turn the head, degrees from its own pose.")
@click.option(
    "--camera", default="0,0", show_default=True, metavar="YAW,ELEVATION[,DISTANCE]", help="Where it is seen from."
)
@click.option("--model", type=path_type, help="A model folder. Default: the promoted one, else the shipped base.")
@click.option(
    "--adapter",
    type=path_type,
    metavar="NAME|FILE|FOLDER",
    help="LoRA weights over the model they were trained on, as of `fportrait animate`.",
)
@click.option("--guidance", multiple=True, metavar="FACTOR=SCALE", help="As of `fportrait animate`.")
@click.option("--steps", type=click.IntRange(1, 1000), help="Sampling steps. Default: the model's own.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="The same seed gives the same picture.")
@picture_options
@click.option("--scale", default=8, show_default=True, type=click.IntRange(1, 16), help="Enlarge the written picture.")
@click.option("--portrait-fov", type=click.FloatRange(5, 150), help="As of `fportrait animate`.")
@click.option(
    "--force", is_flag=True, help="Replace a file that fportrait did not write; go on with what is unlike a face."
)
@device_option
@json_option
def edit(
    portrait: Path,
    output: Path,
    adjust: tuple[str, ...],
    at_rest: bool,
    head: str,
    camera: str,
    model: Path | None,
    adapter: Path | None,
    guidance: tuple[str, ...],
    steps: int | None,
    seed: int,
    size: str | None,
    aspect: str | None,
    scale: int,
    portrait_fov: float | None,
    force: bool,
    as_json: bool,
) -> None:
    """Give a portrait another expression, head pose or view, as a picture.

    Expressions are changed by arithmetic on codes: what full actions of rendered people add to a face at rest. The
    picture says in its metadata that it is synthetic: `fportrait provenance out.png`.

    \b
    Examples:
      fportrait edit --portrait me.jpg --adjust smile=1 -o smiling.png
      fportrait edit --portrait me.jpg --adjust eyes=-1 --adjust lips=0.5 -o yawning.png
      fportrait edit --portrait me.jpg --head 20,0,0 --camera=-15,10 -o turned.png
    """
    changes = parse_pairs(adjust, "--adjust", "SLIDER=STRENGTH", "smile=0.5")
    scales = parse_pairs(guidance, "--guidance", "FACTOR=SCALE", "expression=2")
    yaw, pitch, roll = parse_numbers(head, 3, "--head", "20,0,0")
    from fportrait.animate.edit import Edit, write_edit
    from fportrait.animate.run import for_portrait

    wanted = Edit(
        *(portrait, changes, at_rest, (yaw, pitch, roll), camera, scales, steps, seed, scale, portrait_fov, force)
    )
    chosen = promoted_or_shipped(model)
    animator = for_portrait(chosen, portrait, size, aspect, named_adapter(adapter), portrait_fov, force)
    prepared = write_edit(animator, wanted, output)
    if as_json:
        print_json({"picture": output, "notes": prepared.notes})
        return
    for note in prepared.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"picture: {output}")


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
