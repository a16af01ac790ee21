"""`fportrait train-encoder`."""

from __future__ import annotations

from pathlib import Path

import click

from fportrait.cli._options import SEED, Bars, device_option, json_option, path_type, print_json


@click.command("train-encoder")
@click.option("-o", "--output", type=path_type, required=True, help="Folder for the encoder.")
@click.option(
    "--tables",
    type=path_type,
    default=Path("data/03_primary/tracks"),
    show_default=True,
    help="Folder of the stage track (or validate): frames.parquet names the videos and holds their landmarks.",
)
@click.option("--start", type=path_type, help="An encoder to go on from. Default: one from nothing.")
@click.option("--frames-per-clip", default=40, show_default=True, type=click.IntRange(2), help="Frames of a clip.")
@click.option("--steps", default=20000, show_default=True, type=click.IntRange(1), help="Steps, at most.")
@click.option("--minutes", default=240.0, show_default=True, type=click.FloatRange(0.01), help="Minutes, at most.")
@click.option("--batch", default=40, show_default=True, type=click.IntRange(2), help="Pictures of a step.")
@click.option("--width", default=64, show_default=True, type=click.IntRange(4), help="Channels; the paper's is 64.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="The same seed draws the same batches.")
@device_option
@json_option
def train_encoder(
    output: Path,
    tables: Path,
    start: Path | None,
    frames_per_clip: int,
    steps: int,
    minutes: float,
    batch: int,
    width: int,
    seed: int,
    as_json: bool,
) -> None:
    """Train the expression encoder on your own tracked captures, for faces as they are filmed.

    The shipped encoder learned rendered people. This one learns to drive a decoder that redraws the person from another
    picture (the paper's section 8.1): no labels are needed. Track first; people held out stay held out.

    \b
    Examples:
      fportrait train-encoder -o encoder
      fportrait train-encoder --tables data/paper/03_primary/tracks -o encoder --minutes 600
      fportrait weights import-wan Wan2.1-T2V-1.3B --encoder encoder
    """
    from fportrait.errors import UserError
    from fportrait.tracking.expression import ExpressionEncoder
    from fportrait.tracking.making.talking_head.filmed import filmed_talking_heads
    from fportrait.tracking.making.talking_head.training import TalkingHeadTraining, train_talking_heads

    if output.exists():
        raise UserError(f"{output}, which exists", "a new folder", "give another --output")
    known = None if start is None else ExpressionEncoder.from_pretrained(start)
    bars = Bars()
    try:
        data = filmed_talking_heads(
            tables, "train", frames_per_clip, known.crop_size if known else 96, seed=seed, report=bars
        )
        settings = TalkingHeadTraining(
            steps=steps, minutes=minutes, batch=min(batch, len(data.crops)), decoded=min(16, batch), seed=seed
        )
        bars("train", 0, steps)
        result = train_talking_heads(data, settings, known, width, lambda values, step: bars("train", step, steps))
    finally:
        bars.close()
    result.expression.cpu().save_pretrained(output)
    scores = {"samples": len(data.crops), **{name: round(value, 4) for name, value in result.scores.items()}}
    if as_json:
        print_json({"encoder": output, **scores})
        return
    click.echo(f"{output}: " + ", ".join(f"{name} {value:g}" for name, value in scores.items()))
    click.echo(f"next: fportrait weights import-wan FOLDER --encoder {output}")
