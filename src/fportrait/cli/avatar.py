"""`fportrait avatar`: fit, view, sheet, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fportrait.cli._options import SEED, force_option, json_option, print_json

AVATARS, TABLES = Path("data/06_models/avatars"), Path("data/03_primary/validated")
WRITTEN = ("avatar.safetensors", "config.json", "contact_sheet.png")  # what an avatar's folder holds
avatars_option = click.option(
    "--avatars",
    default=AVATARS,
    show_default=True,
    type=click.Path(path_type=Path),
    help="The folder with one folder per avatar.",
)
tables_option = click.option(
    "--tables",
    default=TABLES,
    show_default=True,
    type=click.Path(path_type=Path),
    help="The folder with the capture's annotations.",
)
frame_option = click.option(
    "--frame", default=0, show_default=True, type=click.IntRange(0), help="Which frame of the person's capture."
)


@click.group()
def avatar() -> None:
    """Fit Gaussian avatars to studio captures or to phone clips in which the head turns, look at them, export them.

    \b
    Examples:
      fportrait avatar view studio0000
      fportrait avatar sheet studio0000 -o sheet.png
      fportrait avatar export studio0000 -o studio0000.ply
    """


@avatar.command()
@click.argument("name")
@tables_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The avatar's folder. Default: avatars/NAME.")
@click.option("--prior", default="shipped", show_default=True, help="`shipped`, `none`, or the folder of a prior.")
@click.option("--steps", default=300, show_default=True, type=click.IntRange(1), help="Steps of refinement.")
@click.option(
    "--size", default=144, show_default=True, type=click.IntRange(16), help="Side of the pictures it is fitted to."
)
@click.option("--seed", default=0, show_default=True, type=SEED)
@force_option
@json_option
def fit(
    name: str,
    tables: Path,
    output: Path | None,
    prior: str,
    steps: int,
    size: int,
    seed: int,
    force: bool,
    as_json: bool,
) -> None:
    """Fit one identity's avatar; the pipeline `fit_avatars` does this for all."""
    from fportrait.avatar.captures import read_capture
    from fportrait.avatar.coverage import Coverage
    from fportrait.avatar.fitting import fit_capture, fit_config
    from fportrait.avatar.model import check_body_model
    from fportrait.avatar.prior import SHIPPED, AvatarPrior
    from fportrait.avatar.sheet import contact_sheet
    from fportrait.body.model import load_body
    from fportrait.capture.video_io import write_image
    from fportrait.outputs import check_folder

    check_folder(output or AVATARS / name, WRITTEN, force)
    rows, person = _person(tables, name)
    check_body_model(str(person["body_model"]))
    body = load_body()
    start = None if prior == "none" else AvatarPrior.load(SHIPPED if prior == "shipped" else Path(prior), body)
    shape: dict[str, Any] = {} if start is None else {"avatar": start.config.avatar}
    config = fit_config({"steps": steps, "size": size} | shape)
    capture = read_capture(
        rows,
        person["shape"],
        body,
        config.avatar,
        config.size,
        config.max_frames,
        config.holdout_every,
        config.holdout_camera,
        config.margin,
    )
    fitted = fit_capture(capture, config, seed, start, log=lambda line: click.echo(line, err=True))
    folder = fitted.save(output or AVATARS / name)
    write_image(folder / "contact_sheet.png", contact_sheet(capture))
    if as_json:
        print_json({"folder": folder, **fitted.scores})
    else:
        judged = {
            "both": "unseen views and expressions",
            "frames": "unseen expressions",
            "fitted": "what it was fitted to",
        }
        group = next(name for name in judged if fitted.scores[f"psnr_{name}"] is not None or name == "fitted")
        click.echo(f"{folder}: {fitted.scores[f'psnr_{group}']} dB on {judged[group]}")
        if (seen := Coverage.told(fitted.scores)) is not None:
            click.echo(f"of phone clips: {seen.words}; sweeps stay inside")


@avatar.command()
@click.argument("name")
@avatars_option
@tables_option
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0: any free port.")
def view(name: str, avatars: Path, tables: Path, port: int) -> None:
    """Open an avatar in the browser: sliders for expression, head pose and camera."""
    import time

    from fportrait.avatar.model import GaussianAvatar
    from fportrait.avatar.viewer import AvatarViewer

    frames = _frames_of(tables, name) if (tables / "frames.parquet").is_file() else []
    viewer = AvatarViewer(GaussianAvatar.load(avatars / name), frames, port)
    click.echo(f"open {viewer.url} in a browser; Ctrl+C ends")
    try:
        while True:
            time.sleep(3600)
    finally:
        viewer.close()


@avatar.command()
@click.argument("name")
@avatars_option
@tables_option
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The picture to write (.png).")
@click.option("--size", default=192, show_default=True, type=click.IntRange(16, 2048), help="Side of each cell.")
@click.option("--expressions", default=5, show_default=True, type=click.IntRange(1, 20))
@click.option("--cameras", default=4, show_default=True, type=click.IntRange(1, 20))
@force_option
def sheet(
    name: str, avatars: Path, tables: Path, output: Path, size: int, expressions: int, cameras: int, force: bool
) -> None:
    """A contact sheet: views across, expressions down, the truth beside the avatar."""
    from fportrait.avatar.captures import read_capture
    from fportrait.avatar.model import GaussianAvatar
    from fportrait.avatar.sheet import contact_sheet
    from fportrait.capture.image_io import write_image
    from fportrait.outputs import check_file
    from fportrait.provenance import SYNTHETIC

    check_file(output, force)
    rows, _ = _person(tables, name)
    fitted = GaussianAvatar.load(avatars / name)
    capture = read_capture(
        rows, fitted.shape, fitted.body, fitted.config, size, 256, 8, bool(fitted.scores.get("kept_camera")), 1.2
    )
    capture.avatar = fitted
    write_image(output, contact_sheet(capture, expressions, cameras), SYNTHETIC)
    click.echo(f"sheet: {output}")


@avatar.command()
@click.argument("name")
@avatars_option
@tables_option
@frame_option
@click.option("--rest", is_flag=True, help="A neutral face, looking ahead, instead of a frame of the capture.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The file to write (.ply).")
@force_option
def export(name: str, avatars: Path, tables: Path, frame: int, rest: bool, output: Path, force: bool) -> None:
    """One posed frame as a Gaussian PLY, which public viewers of Gaussian splatting open."""
    import torch

    from fportrait.avatar.model import GaussianAvatar
    from fportrait.avatar.ply import export_ply
    from fportrait.body.model import Pose
    from fportrait.errors import UserError
    from fportrait.outputs import check_file

    check_file(output, force)
    fitted = GaussianAvatar.load(avatars / name)
    if rest:
        expression = fitted.expression_of_actions(torch.zeros(len(fitted.body.action_names)))
        pose = Pose.rest()
    else:
        frames = _frames_of(tables, name)
        if frame >= len(frames):
            raise UserError(f"frame {frame} of {name}", f"0 to {len(frames) - 1}", "choose another --frame")
        expression, pose = fitted.expression(fitted.check_code(frames[frame].code)), frames[frame].pose
    click.echo(f"ply: {export_ply(fitted, output, expression, fitted.guide(pose))}")


def _person(tables: Path, name: str) -> tuple[Any, Any]:
    """One identity's annotation rows and its row of identities: of the studio, else of the phone clips."""
    import pandas as pd

    from fportrait.errors import UserError, nearest_name

    if not (tables / "identities.parquet").is_file():
        raise UserError(
            f"no annotations in {tables}", "validated tables", "kedro run --pipelines=ingest,track,validate"
        )
    captured = [("dataset", "in", ["StudioCapture", "PhoneCapture"])]
    people = pd.read_parquet(tables / "identities.parquet", filters=captured)
    people = people.sort_values("dataset").drop_duplicates("identity", keep="last")
    if name not in set(people.identity):
        near = nearest_name(name, list(people.identity))
        raise UserError(
            f"no capture '{name}'",
            "one of " + ", ".join(sorted(people.identity)[:20]),
            f"use '{near}'" if near else "choose one of them",
        )
    person = people[people.identity == name].iloc[0]
    own = [("dataset", "==", person["dataset"]), ("identity", "==", name)]
    return pd.read_parquet(tables / "frames.parquet", filters=own), person


def _frames_of(tables: Path, name: str) -> list[Any]:
    from fportrait.avatar.views import combine_rows, rows_by_frame

    return [combine_rows(rows) for rows in rows_by_frame(_person(tables, name)[0]).values()]
