"""`fportrait check`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fportrait.cli._options import Bars, force_option, json_option, path_type, print_json


@click.command()
@click.argument("clips", type=path_type)
@click.option("--name", help="Whose the videos at the top of the folder are. Default: the folder's name.")
@click.option(
    "--sheet", type=path_type, default=Path("check.png"), show_default=True, help="The contact sheet to write (.png)."
)
@click.option("--no-sheet", is_flag=True, help="Write no contact sheet.")
@force_option
@json_option
def check(clips: Path, name: str | None, sheet: Path, no_sheet: bool, force: bool, as_json: bool) -> None:
    """What of your clips is usable, before anything runs, and what to film next.

    CLIPS is a folder of videos of one person, a folder with a subfolder per person, or one video. A few dozen frames of
    each are looked at: size, sharpness and light of the face, how far the head turns, which expressions are seen.
    Nothing is changed. The exit code is 3 when a clip cannot be used.

    \b
    Examples:
      fportrait check clips/ --name anna
      fportrait check data/01_raw/phone
      fportrait check talk.mp4 --json
    """
    from fportrait.animate.check_sheet import contact_sheet
    from fportrait.animate.clip_check import check_clips, clips_of, table
    from fportrait.capture.video_io import write_image
    from fportrait.cli import EXIT_PARTIAL
    from fportrait.errors import UserError
    from fportrait.outputs import SENTENCE, check_file, check_writable

    people = clips_of(clips, name)
    if not no_sheet:
        if sheet.suffix.lower() != ".png":
            raise UserError(f"the sheet {sheet}", "a name that ends with .png", "change --sheet")
        check_writable(sheet, "--sheet")
        check_file(sheet, force)
    bars = Bars()
    try:
        found = check_clips(people, bars)
    finally:
        bars.close()
    if not no_sheet:
        write_image(sheet, contact_sheet(found), {"comment": f"{SENTENCE}: faces of the clips that were checked"})
    if as_json:
        print_json({"people": [person.as_dict() for person in found], "sheet": None if no_sheet else str(sheet)})
    else:
        click.echo(table(found))
        if not no_sheet:
            click.echo(f"sheet: {sheet}")
    if any(not clip.usable for person in found for clip in person.clips) or any(person.reasons for person in found):
        sys.exit(EXIT_PARTIAL)
