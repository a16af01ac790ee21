"""Draw `assets/faces_acting.webp`: rendered people at rest and in each full action that an expression slider goes to.

    python tools/draw_faces_acting.py

A row per face of `fportrait.animate.retarget.ROWS`, a column per person, 96 pixels each: what an encoder reads of a row
above what it reads of the first is that slider's direction in its own code space, so a new encoder needs no new sheet.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from PIL import Image

from fportrait.animate.retarget import FACES_ACTING, ROWS
from fportrait.capture.people import sample_person
from fportrait.evaluation.embedded import Shot, Studio

FIRST_SEED = 160_000_000  # nobody of training, captures or probes
PEOPLE, SIDE = 10, 96


def main() -> None:
    studio = Studio(SimpleNamespace(crop_size=SIDE), 96)
    people = [sample_person(FIRST_SEED + index, studio.body) for index in range(PEOPLE)]
    rows = [
        np.hstack([studio._render(person, Shot(tuple(actions.items())))["crop"] for person in people])
        for actions in ROWS.values()
    ]
    Image.fromarray(np.vstack(rows)).save(FACES_ACTING, quality=92, method=6)
    print(f"{FACES_ACTING}: {FACES_ACTING.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
