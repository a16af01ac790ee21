"""`fportrait animate`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--portrait", required=True, type=click.Path(path_type=Path), help="A picture with one face.")
@click.option(
    "--driving", required=True, type=click.Path(path_type=Path), help="A video: its expressions and head pose."
)
@click.option("--camera", default="front", show_default=True, metavar="front|spin|spiral|PATH.json",
              help="The viewpoint: a named path or a file of cameras.")  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The video to write (.mp4).")
@click.option("--model", type=click.Path(path_type=Path),
              help="A model folder. Default: the promoted one, else the shipped base.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1, 1000), help="Sampling steps. Default: the model's own.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same video.")
@click.option("--scale", default=4, show_default=True, type=click.IntRange(1, 16),
              help="Enlarge the written video by this factor for viewing.")  # fmt: skip
def animate(portrait: Path, driving: Path, camera: str, output: Path, model: Path | None, steps: int | None,
            seed: int, scale: int) -> None:  # fmt: skip
    """Animate a portrait with the expressions and head pose of a driving video.

    Writes the video and, beside it, a picture (.png) of portrait, driving frames, normal maps and result.

    \b
    Examples:
      fportrait animate --portrait me.jpg --driving talk.mp4 -o out.mp4
      fportrait animate --portrait me.jpg --driving talk.mp4 --camera spin -o spin.mp4
    """
    from fportrait.animate import animate as run_animation

    if model is None:
        from fportrait.ops.registry import default_model

        model = default_model()
    written = run_animation(
        portrait, driving, camera, output, model, steps=steps, seed=seed, scale=scale, progress=True
    )
    for name, path in written.items():
        click.echo(f"{name}: {path}")
