"""The contact sheet of `fportrait check`: every clip's faces beside what was judged of it."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np

from fportrait.animate.clip_check import GOOD, UNUSABLE, PersonCheck

CELL, TEXT = 96, 420
ACROSS, LINES = 90, 3  # letters of a reason in a line, and lines that a clip has room for
COLOURS = {GOOD: (32, 120, 60), UNUSABLE: (176, 32, 32)}
OTHER = (176, 112, 0)


def contact_sheet(found: Sequence[PersonCheck]) -> np.ndarray:
    """A picture `H W 3`: a row a clip (at rest, turned to either side, mouth open, then the verdict), a bar per person
    with the angles that are covered."""
    rows: list[np.ndarray] = []
    for person in found:
        rows.append(bar(person))
        for clip in person.clips:
            cells: list[np.ndarray] = [np.full((CELL, CELL, 3), 235, np.uint8)] * 4
            for index, crop in enumerate(clip.shown[:4]):
                cells[index] = cv2.resize(crop, (CELL, CELL))
            panel = np.full((CELL, TEXT, 3), 255, np.uint8)
            colour = COLOURS.get(clip.state, OTHER)
            write(panel, f"{clip.name}", 18, (20, 20, 20), 0.5)
            write(panel, clip.state, 36, colour, 0.5)
            angles = f"yaw {clip.yaw[0]:+.0f} to {clip.yaw[1]:+.0f}, pitch {clip.pitch[0]:+.0f} to {clip.pitch[1]:+.0f}"
            numbers = f"face {clip.face_pixels:.0f} px, sharp {clip.sharpness:.2f}, light {clip.light:.2f}, {angles}"
            write(panel, numbers, 54, (70, 70, 70), 0.36)
            lines = [line for reason in clip.reasons for line in textwrap.wrap(reason, ACROSS)]
            if len(lines) > LINES:
                lines = [*lines[: LINES - 1], lines[LINES - 1][: ACROSS - 2] + " …"]
            for index, line in enumerate(lines):
                write(panel, line, 67 + 12 * index, colour, 0.36)
            rows.append(np.hstack([*cells, panel]))
    return np.vstack(rows)


def bar(person: PersonCheck) -> np.ndarray:
    """Who, how many clips are usable, and yaw and pitch covered of -60 to +60 degrees, as two lines."""
    panel = np.full((40, 4 * CELL + TEXT, 3), 245, np.uint8)
    write(panel, f"{person.person}: {len(person.usable)} of {len(person.clips)} clips usable", 25, (20, 20, 20), 0.55)
    for y, (low, high), name in ((14, person.yaw, "yaw"), (30, person.pitch, "pitch")):
        left = 4 * CELL + 60
        cv2.line(panel, (left, y), (left + 240, y), (205, 205, 205), 4)
        ends = [int(left + 120 + 2 * np.clip(angle, -60, 60)) for angle in (low, high)]
        cv2.line(panel, (ends[0], y), (ends[1], y), (40, 120, 200), 4)
        write(panel, name, y + 4, (90, 90, 90), 0.36, 4 * CELL + 12)
    return panel


def write(panel: np.ndarray, text: str, y: int, colour: tuple[int, int, int], size: float, x: int = 10) -> None:
    text = text.replace("°", " deg").replace("…", "...")
    text = unicodedata.normalize("NFKD", text)  # of what the font lacks, the letter without its accent
    text = "".join(one for one in text if not unicodedata.combining(one)).encode("ascii", "replace").decode()
    cv2.putText(panel, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
