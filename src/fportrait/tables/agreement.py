"""Do a clip's codes say what its face does, in its own frames? One clip among sound ones stands out by this.

`fits.code_agreement` asks it of a dataset as a whole, by two numbers a frame, and a single clip is too short for those
(sound ones lie anywhere from −.6 to 1). Here the other people's clips teach a linear map from codes to the distances of
lips and lids (ridge regression, Hoerl & Kennard, 1970; a person's own clips never teach what judges them), and a clip's
correlation of what the map says with what the face does is looked at, in its own frames and up to eight to either side.
Embedded people's front and half views reach .77 and more; their codes shuffled, reversed or turned over below .2;
shifted by five frames they are found at five frames, as well as the sound clip. Views from far to the side see little
of a mouth (.5 to .7, in profile none): they accuse nobody unless they move and another shift is clearly better.

Looked at are all clips of a table of up to `ALL_ROWS` rows, and `RUNS` runs of neighbouring clips of each dataset of a
larger one: lists of clips here and there would unpack the whole file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fportrait.tables.fits import MAX_LAG

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

ALL_ROWS, RUNS, RUN_CLIPS = 100_000, 4, 20
MIN_FRAMES, SHORT = 24, 6  # of a clip; and a shift is at most a sixth of it, so that enough is left to correlate
FOLDS, RIDGE = 5, 30.0  # codes are standardised; a dataset of a few thousand rows hardly feels this
TEACHES = (
    0.6  # median over a dataset's clips above which its codes are known to follow faces, so that one can be told off
)
SHIFTED = 0.5  # least correlation at another shift that says where the codes belong
CHANCE = 0.1  # of half a clip's correlation: in so few frames, shuffled codes reach .2
MOVES = 0.5  # of lips and lids, in deviations of the dataset: a face that moves less says nothing


def clip_agreement(database: duckdb.DuckDBPyConnection, structure: pd.DataFrame) -> pd.DataFrame:
    """Per clip of `structure`: `code_fit`, the correlation in its own frames, and `code_shift`, by how much another
    shift is better; 1 and 0 for clips that were not looked at or say nothing."""
    found: dict[tuple[Any, str], tuple[float, float]] = {}
    every = int(structure["frames"].sum()) <= ALL_ROWS
    for dataset, clips in structure.groupby("dataset", sort=True):
        names = clips.loc[clips["frames"] >= MIN_FRAMES, "clip"].sort_values().tolist()
        chosen = names if every else _runs(names)
        found |= {(dataset, clip): fit for clip, fit in dataset_agreement(_read(database, dataset, chosen)).items()}
    table = structure[["dataset", "clip"]].copy()
    fits = [found.get((row.dataset, row.clip), (1.0, 0.0)) for row in table.itertuples()]
    return table.assign(code_fit=[fit for fit, _ in fits], code_shift=[shift for _, shift in fits])


def _runs(names: list[str]) -> list[str]:
    starts = np.linspace(0, max(len(names) - RUN_CLIPS, 0), RUNS).astype(int)
    return sorted({name for start in starts for name in names[start : start + RUN_CLIPS]})


def _read(
    database: duckdb.DuckDBPyConnection, dataset: str, clips: list[str]
) -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
    """By clip: whose it is, codes `T 128` and lips and lids `T 4`."""
    if not clips:
        return {}
    places = ", ".join("?" * len(clips))
    table = database.execute(
        "SELECT identity, clip, expression_code AS code, lips_and_lids(landmarks) AS face FROM frames "
        f"WHERE dataset = ? AND clip IN ({places}) ORDER BY clip, frame",
        [dataset, *clips],
    ).df()
    return {
        str(clip): (
            str(rows["identity"].iloc[0]),
            np.stack(rows["code"].to_list()).astype(np.float64),
            np.stack(rows["face"].to_list()).astype(np.float64),
        )
        for clip, rows in table.groupby("clip", sort=True)
    }


def dataset_agreement(clips: dict[str, tuple[str, np.ndarray, np.ndarray]]) -> dict[str, tuple[float, float]]:
    """`code_fit` and `code_shift` by clip of one dataset; empty where its people do not teach each other."""
    people = sorted({person for person, *_ in clips.values()})
    if len(people) < 2:
        return {}
    fold = {person: number % min(FOLDS, len(people)) for number, person in enumerate(people)}
    codes = {clip: code - code.mean(0) for clip, (_, code, _) in clips.items()}
    faces = {clip: face - face.mean(0) for clip, (*_, face) in clips.items()}
    spread = np.concatenate(list(faces.values())).std(0) + 1e-9
    faces = {clip: face / spread for clip, face in faces.items()}
    lagged, said = {}, {}
    for number in sorted(set(fold.values())):
        taught = [clip for clip, (person, *_) in clips.items() if fold[person] != number]
        a, b = (np.concatenate([part[clip] for clip in taught]) for part in (codes, faces))
        linear = np.linalg.solve(a.T @ a + RIDGE * np.eye(a.shape[1]), a.T @ b)
        for clip in codes.keys() - set(taught):
            said[clip], done = codes[clip] @ linear, faces[clip]
            most = min(MAX_LAG, len(done) // SHORT)
            lagged[clip] = {lag: _correlation(said[clip], done, lag) for lag in range(-most, most + 1)}
    if np.median([of[0] for of in lagged.values()]) < TEACHES:
        return {}
    found = {}
    for clip, of in lagged.items():
        here, best = of[0], max(of.values())
        fits = [here] if _moves(faces[clip]) else [1.0]
        if here >= TEACHES / 2:  # a view from far aside says too little of its halves
            fits += _halves(said[clip], faces[clip])
        found[clip] = (min(fits), best - here if best >= SHIFTED else 0.0)
    return found


def _moves(face: np.ndarray) -> bool:
    return float(np.sqrt((face**2).mean())) >= MOVES


def _halves(said: np.ndarray, done: np.ndarray) -> list[float]:
    """The correlation in each half that is long enough and moves, less `CHANCE`: the whole hides a fault of a half."""
    middle = len(done) // 2
    pairs = [(part(said), part(done)) for part in (lambda a: a[:middle], lambda a: a[middle:])]
    pairs = [(a - a.mean(0), b - b.mean(0)) for a, b in pairs]
    return [_correlation(a, b, 0) - CHANCE for a, b in pairs if len(b) >= MIN_FRAMES and _moves(b)]


def _correlation(said: np.ndarray, done: np.ndarray, lag: int) -> float:
    """Of `said[t + lag]` with `done[t]`, over all their numbers."""
    later, earlier = said[max(0, lag) : len(said) + min(0, lag)], done[max(0, -lag) : len(done) + min(0, -lag)]
    return float((later * earlier).sum() / np.sqrt((later**2).sum() * (earlier**2).sum() + 1e-12))
