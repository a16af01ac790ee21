"""`fportrait evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fportrait.cli._options import (
    SEED,
    device_option,
    json_option,
    picture_options,
    print_json,
    promoted_or_shipped,
)

SHARDS = Path("data/05_model_input/shards")
ANNOTATIONS = (Path("data/03_primary/validated"), Path("data/03_primary/sweeps"))


@click.command()
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="A model folder or a trained stage. Default: the champion, else the shipped base.",
)
@click.option(
    "--shards",
    type=click.Path(path_type=Path),
    default=SHARDS,
    show_default=True,
    help="Latent shards with held-out people.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("evaluation"),
    show_default=True,
    help="Folder of the report.",
)
@click.option("--records", type=click.IntRange(1), default=4, show_default=True, help="Clips per dataset.")
@click.option("--steps", type=click.IntRange(1, 1000), help="Sampling steps. Default: the model's own.")
@click.option(
    "--every", type=click.IntRange(1), default=1, show_default=True, help="Networks look at every so many frames."
)
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME[=BACKBONE]", help="Only these metrics; may be repeated."
)
@click.option(
    "--probes", type=click.IntRange(0), default=1, show_default=True, help="People on whom one factor is moved alone."
)
@click.option("--modes", type=click.IntRange(0), default=1, show_default=True, help="People per control mode.")
@click.option(
    "--cross", type=click.IntRange(0), default=0, show_default=True, help="Cross-reenactment pairs per dataset."
)
@click.option(
    "--clips",
    type=click.Path(path_type=Path),
    help="Score on the videos of this folder instead: each from its first frame. A subfolder is a person.",
)
@click.option(
    "--adapter",
    type=click.Path(path_type=Path),
    metavar="NAME|FOLDER",
    help="With --clips: an adapter over the model (`fportrait adapt --list`).",
)
@click.option(
    "--max-frames", type=click.IntRange(5), default=49, show_default=True, help="With --clips: frames of each clip."
)
@click.option(
    "--scale",
    type=click.IntRange(1, 8),
    default=1,
    show_default=True,
    help="With --clips: judge pictures so many times the model's own size; animate writes 4.",
)
@picture_options
@click.option("--external", multiple=True, metavar="NAME=FOLDER", help="Score another method's videos beside ours.")
@click.option(
    "--export",
    "export_to",
    type=click.Path(path_type=Path),
    help="Only write every clip's portrait, driving video and cameras there, with a README for other methods.",
)
@click.option(
    "--run", "method", help="Only call another method (gagavatar, cap4d, hunyuanportrait) for every exported clip."
)
@click.option("--repo", type=click.Path(path_type=Path), help="With --run: the method's repository.")
@click.option("--inputs", type=click.Path(path_type=Path), help="With --run: what --export wrote.")
@click.option(
    "--command", default="", help="With --run: another command; {portrait} {driving} {cameras} {output} are filled in."
)
@click.option("--seed", default=0, show_default=True, type=SEED, help="The same seed gives the same scores.")
@click.option("--force", is_flag=True, help="Write into a folder with files that fportrait did not write.")
@device_option
@json_option
def evaluate(
    model: Path | None,
    shards: Path,
    output: Path,
    records: int,
    steps: int | None,
    every: int,
    metrics: tuple[str, ...],
    probes: int,
    modes: int,
    cross: int,
    clips: Path | None,
    adapter: Path | None,
    max_frames: int,
    scale: int,
    size: str | None,
    aspect: str | None,
    external: tuple[str, ...],
    export_to: Path | None,
    method: str | None,
    repo: Path | None,
    inputs: Path | None,
    command: str,
    seed: int,
    force: bool,
    as_json: bool,
) -> None:
    """Score a model on held-out people: pictures, control, slices, cross-reenactment, other methods beside it.

    \b
    Examples:
      fportrait evaluate -o report
      fportrait evaluate --model data/06_models/stage4 --records 50 --cross 50
      fportrait evaluate --clips my_clips -o report
      fportrait evaluate --export inputs
      fportrait evaluate --run gagavatar --repo ../GAGAvatar --inputs inputs -o theirs
      fportrait evaluate --external GAGAvatar=theirs -o report
    """
    from fportrait.errors import UserError
    from fportrait.outputs import claim_folder

    if method:
        if repo is None or inputs is None:
            raise UserError("--run without --repo and --inputs", "both", "name the repository and the exported folder")
        from fportrait.evaluation.external import run_method

        claim_folder(output, "made_by.json", force)
        done = run_method(method, repo, inputs, output, command)
        print_json(done) if as_json else click.echo(f"{done['done']} clips done, {len(done['failed'])} failed")
        if done["failed"]:
            for clip, reason in done["failed"].items():
                click.echo(f"{clip}: {reason}", err=True)
            raise SystemExit(3)
        return
    if not clips and (size or aspect or scale > 1):
        raise UserError(
            "--size, --aspect or --scale without --clips", "both", "shards are scored as they hold pictures"
        )
    if export_to:
        claim_folder(export_to, "clips.json", force)
        count = _export(model, shards, export_to, records)
        click.echo(f"{count} clips in {export_to}; {export_to / 'README.md'} says what to do with them")
        return
    claim_folder(output, "report.html", force)
    from fportrait.evaluation.metrics import METRICS
    from fportrait.evaluation.tables import table_of, to_markdown

    chosen = dict(part.partition("=")[::2] for part in metrics) or dict.fromkeys(METRICS, "auto")
    protocol = {
        "records": records,
        "steps": steps,
        "network_every": every,
        "metrics": {name: backbone or "auto" for name, backbone in chosen.items()},
    }

    def show(summary: dict[str, Any]) -> None:
        if as_json:
            print_json(summary)
            return
        click.echo(to_markdown(table_of(summary)))
        for name, fix in summary["not_measured"].items():
            click.echo(f"not measured: {name}; {fix}")
        for person, scores in summary.get("people", {}).items():
            click.echo(
                f"{person}: {scores['clips']} clips, {scores.get('ours/psnr', float('nan')):.1f} dB; the first "
                f"frame repeated {scores.get('repeated_portrait/psnr', float('nan')):.1f}"
            )
        click.echo(f"report: {output / 'report.html'}")

    if adapter is not None and not clips:
        raise UserError("--adapter without --clips", "a folder of videos to score it on", "name them with --clips")
    if clips:
        from fportrait.animate.adapters import resolve
        from fportrait.animate.animator import Animator
        from fportrait.animate.own_clips import evaluate_clips
        from fportrait.ops.store import home

        given = None if adapter is None else resolve(adapter, home())
        animator = Animator(promoted_or_shipped(model), size=size, adapter=given, aspect=aspect)
        summary = evaluate_clips(animator, clips, output, protocol, seed, max_frames, scale)
        show(summary)
        if "withdrawn" in summary:
            click.echo(f"note: {summary['withdrawn']} clips passed over: consent was withdrawn", err=True)
        for name, reason in summary["failures"].items():
            click.echo(f"{name}: {reason}", err=True)
        if summary["failures"]:
            raise SystemExit(3)
        return
    from fportrait.evaluation.run import evaluate as score

    transformer, base = _parts(model)
    others = {}
    for entry in external:
        name, equals, folder = entry.partition("=")
        if not equals:
            raise UserError(f"--external {entry}", "NAME=FOLDER", "name the method and the folder of its videos")
        others[name] = folder
    summary = score(
        transformer,
        base,
        shards,
        output,
        protocol,
        seed,
        {"people": probes, "frames": 9},
        {"people": modes},
        {"pairs": cross},
        ANNOTATIONS,
        others,
    )
    show(summary)
    if any(found["missing"] or found["refused"] for found in summary.get("external", {}).values()):
        raise SystemExit(3)


def _parts(model: Path | None) -> tuple[Path, Path]:
    """Transformer folder and base folder of a bundle or of a trained stage."""
    from fportrait.errors import UserError

    if model is None:
        from fportrait.ops.registry import default_model

        model = default_model()
    if not (model / "transformer").is_dir():
        raise UserError(f"no transformer in {model}", "a model folder or a trained stage", "check --model")
    base = model if (model / "vae").is_dir() else Path("data/06_models/base")
    return model / "transformer", base


def _export(model: Path | None, shards: Path, folder: Path, records: int) -> int:
    """The clips that `evaluate` scores this model on: as many frames as it makes."""
    from fportrait.dataset.shards import ShardReader
    from fportrait.errors import UserError
    from fportrait.evaluation.export import export_inputs
    from fportrait.evaluation.run import chosen_records
    from fportrait.evaluation.types import Protocol, sampling_settings

    transformer, base = _parts(model)
    reader = ShardReader(shards)
    chosen = chosen_records(reader, records, sampling_settings(Protocol(records), transformer, base).frames)
    if not chosen:
        raise UserError(f"no held-out records in {shards}", "identities of the split 'test'", "encode test identities")
    return export_inputs(reader, ANNOTATIONS, chosen, folder, progress=True)
