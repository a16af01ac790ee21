"""`fportrait track`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fportrait.cli._options import device_option, json_option, print_json


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@click.option(
    "--fov",
    type=click.FloatRange(5, 150),
    help="Field of view of the camera across the longer side, degrees. Default: as the picture says (EXIF), else as "
    "the face tells.",
)
@click.option(
    "--force", is_flag=True, help="Go on with what is unlike a face; replace files that fportrait did not write."
)
@click.option(
    "--base", type=click.Path(path_type=Path), help="A bundle with an expression encoder. Default: the shipped base."
)
@device_option
@json_option
def track(source: Path, out: Path, fov: float | None, force: bool, base: Path | None, as_json: bool) -> None:
    """Track the face of a picture or video, or of every one in a folder.

    Writes `frames.parquet` (pose, camera, landmarks and expression code per frame), `identity.json` and an overlay to
    look at. Of a folder, each file gets its own subfolder; what cannot be tracked is listed in `quarantine.json` with
    its reason, and the exit code is 3. A face may stand at any angle, also upside down; what is no face is refused.

    \b
    Examples:
      fportrait track talk.mp4 -o tracked/
      fportrait track clips/ -o tracked/ --fov 65
    """
    from fportrait.atomic_io import write_json
    from fportrait.bundle import SHIPPED_BASE
    from fportrait.cli import EXIT_PARTIAL
    from fportrait.errors import UserError
    from fportrait.outputs import check_folder, claim_folder
    from fportrait.tracking.files import PICTURES, VIDEOS, WRITTEN, track_file

    if not source.exists():
        raise UserError(f"no {source}", "a picture, a video, or a folder of them", "check the path")
    base = base or SHIPPED_BASE
    quarantine: list[dict[str, str]] = []
    if not source.is_dir():
        check_folder(out, WRITTEN, force)
        results = [track_file(source, out, base, fov, force=force)]
    else:
        files = sorted(p for p in source.iterdir() if p.suffix.lower() in PICTURES + VIDEOS and p.is_file())
        if not files:
            raise UserError(f"no picture or video in {source}", ", ".join(PICTURES + VIDEOS), "name another folder")
        claim_folder(out, "quarantine.json", force)
        results = []
        for file in files:
            try:
                check_folder(out / file.name, WRITTEN, force)
                results.append(track_file(file, out / file.name, base, fov, force=force))
            except UserError as error:
                quarantine.append({"file": file.name, "reason": str(error)})
        write_json(out / "quarantine.json", quarantine)
    if as_json:
        print_json({"tracked": results, "quarantine": quarantine})
    else:
        for result in results:
            click.echo(
                f"{result['frames_with_face']} of {result['frames']} frames with a face, mesh within "
                f"{result['reprojection_error_percent_of_face']}% of the face: {result['overlay']}"
            )
            for note in result["notes"]:
                click.echo(f"note: {note}", err=True)
        for entry in quarantine:
            click.echo(f"not tracked: {entry['file']}: {entry['reason']}", err=True)
    if quarantine:
        sys.exit(EXIT_PARTIAL)
