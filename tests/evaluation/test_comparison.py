"""Tables: everybody over the same clips, networks named, and a column that ranks us above the codec says so."""

import csv
import io

import numpy as np
import pytest

from fportrait.evaluation.comparison import compare
from fportrait.evaluation.scoring import FrechetScorer
from fportrait.evaluation.tables import table_of, to_csv, to_latex, to_markdown
from fportrait.evaluation.types import ClipResult, Scorers

NETWORKS = {"psnr": {"name": "PSNR", "sha256": ""}, "aed": {"name": "MediaPipe blendshapes, 52 scores", "sha256": "a"}}


class Brightness:
    """Two numbers of a segment of four frames."""

    segment, backbone = 4, None

    def __call__(self, segment):
        return np.array([segment.mean(), segment.std()])


def clip(name: str, **scores: float) -> ClipResult:
    person = name.split("/")[1]
    return ClipResult(name, person, {}, {key.replace("__", "/"): value for key, value in scores.items()})


def scorers(keep: bool = True) -> Scorers:
    return Scorers({}, {"fvd": FrechetScorer(Brightness(), keep)}, 1, None, False, {})


def summary_of(groups, others=None, by=None):
    return {
        "comparison": compare(groups, others or {}, by or scorers()),
        "backbones": NETWORKS,
        "settings": {"size": 64},
    }


OURS = [
    clip("ViewSweep/ada/0", ours__psnr=20.0, codec_limit__psnr=30.0, ours__aed=0.1, codec_limit__aed=0.2),
    clip("ViewSweep/ada/1", ours__psnr=22.0, codec_limit__psnr=31.0, ours__aed=0.1, codec_limit__aed=0.2),
    clip("ViewSweep/bob/0", ours__psnr=10.0, codec_limit__psnr=32.0, codec_limit__aed=0.2),
]


def test_a_clip_that_a_method_lacks_counts_for_nobody():
    theirs = [clip("ViewSweep/ada/0", ours__psnr=25.0), clip("ViewSweep/ada/1", ours__psnr=27.0)]
    entry = summary_of({"ViewSweep": OURS}, {"Theirs": theirs})["comparison"]["ViewSweep"]
    assert (entry["clips"], entry["left_out"]) == (2, ["ViewSweep/bob/0"])
    means = {name: cells["psnr"]["mean"] for name, cells in entry["methods"].items()}
    assert means == {"fportrait": 21.0, "codec's limit": 30.5, "Theirs": 26.0}
    assert "low" not in entry["methods"]["Theirs"]["psnr"]  # one person


def test_a_clip_without_a_face_in_one_methods_video_counts_for_nobody_in_that_column():
    entry = summary_of({"ViewSweep": OURS})["comparison"]["ViewSweep"]
    cells = entry["methods"]["codec's limit"]
    assert (entry["clips"], cells["psnr"]["clips"], cells["aed"]["clips"]) == (3, 3, 2)
    assert "low" in cells["psnr"]
    table = table_of(summary_of({"ViewSweep": OURS}))
    assert "0.1000† (n=2)" in to_markdown(table) and "20.00" not in to_markdown(table)
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [(row["clips"], row["clips aed"], row["not_ranked"]) for row in rows] == [("3", "2", "aed"), ("3", "2", "")]


def test_methods_with_no_clip_in_common_are_given_no_numbers():
    theirs = {"A": [clip("ViewSweep/ada/0", ours__psnr=25.0)], "B": [clip("ViewSweep/bob/0", ours__psnr=25.0)]}
    summary = summary_of({"ViewSweep": OURS}, theirs)
    assert summary["comparison"]["ViewSweep"]["methods"] == {}
    assert "over the 0 of 3 clips" in to_markdown(table_of(summary))


def test_frechet_distances_are_taken_over_the_same_clips_too():
    by = scorers()

    def feed(side: str, name: str, level: int) -> None:
        noise = np.random.default_rng(len(name) + level).integers(0, 20, (12, 4, 4, 3))
        by.frechet["fvd"].feed(side, list((noise + level).astype(np.uint8)), name)
        by.frechet["fvd"].end_clip(side)

    for name, level in (("ViewSweep/ada/0", 50), ("ViewSweep/ada/1", 60), ("ViewSweep/bob/0", 220)):
        feed("ViewSweep/truth", name, 50)
        feed("ViewSweep/ours", name, level)
        if "bob" not in name:
            feed("Theirs ViewSweep/truth", name, 50)
            feed("Theirs ViewSweep/ours", name, level)
    theirs = [clip("ViewSweep/ada/0", ours__psnr=25.0), clip("ViewSweep/ada/1", ours__psnr=27.0)]
    methods = summary_of({"ViewSweep": OURS}, {"Theirs": theirs}, by)["comparison"]["ViewSweep"]["methods"]
    assert methods["fportrait"]["fvd"]["value"] == pytest.approx(methods["Theirs"]["fvd"]["value"])
    everything = by.frechet["fvd"].distance("ViewSweep/ours", "ViewSweep/truth")
    assert everything is not None and everything[0] > 5 * methods["fportrait"]["fvd"]["value"]


def test_every_table_names_the_network_and_says_which_column_does_not_rank():
    table = table_of(summary_of({"ViewSweep": OURS}))
    markdown, latex, rows = to_markdown(table), to_latex(table), to_csv(table)
    assert rows.startswith('dataset,method,clips,psnr,"aed (MediaPipe blendshapes, 52 scores)",')
    for text in (markdown, latex):
        assert "AED (MediaPipe blendshapes, 52 scores)" in text and "PSNR (" not in text and "LPIPS" not in text
    for text in (markdown, latex):
        assert "on ViewSweep. At 64 pixels such a column does not rank methods." in text
    assert r"0.1000$^\dagger$ (n=2)" in latex and r"AED (MediaPipe blendshapes, 52 scores) $\downarrow$" in latex
    assert latex.count(r"\begin") == latex.count(r"\end") and "†" not in latex and "↑" not in latex
    worse = [clip("ViewSweep/ada/0", ours__aed=0.3, codec_limit__aed=0.2)]
    assert "rank" not in to_markdown(table_of(summary_of({"ViewSweep": worse})))
