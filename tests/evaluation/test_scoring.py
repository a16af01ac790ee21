"""Clips are scored a few frames at a time; what does not fit is an error, what shows no face is counted."""

import tracemalloc

import numpy as np
import pytest

from fportrait.errors import UserError
from fportrait.evaluation.clips import COMPARED, METHODS, by_person, score_clip, summarise
from fportrait.evaluation.metrics import METRICS, available, make
from fportrait.evaluation.report import GREYS, Report, hatched
from fportrait.evaluation.scoring import ClipScorer, FrechetScorer
from fportrait.evaluation.types import Request, Scorers
from fportrait.evaluation.weights import VARIABLE

FORMULAS = {name: make(name) for name in ("psnr", "ssim", "sharpness")}


def noise(frames: int, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, size, size, 3), np.uint8)


def test_streamed_scores_are_those_of_the_whole_clip():
    a, b = noise(19), noise(19, seed=1)
    scores = ClipScorer(FORMULAS).score(iter(a), iter(b), skip=[0, 7])
    kept = [t for t in range(19) if t not in (0, 7)]
    assert scores.frames == 17 and len(scores.per_frame["difference"]) == 17
    for name, metric in FORMULAS.items():
        assert scores.means[name] == pytest.approx(METRICS[name].scale * metric(a[kept], b[kept]).mean())


def test_memory_does_not_grow_with_the_clip():
    def peak(frames: int) -> int:
        tracemalloc.start()
        ClipScorer({"psnr": FORMULAS["psnr"]}).score((f for f in frames_of(frames)), (f for f in frames_of(frames)))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    def frames_of(count: int):
        for t in range(count):
            yield np.full((64, 64, 3), t % 250, np.uint8)

    assert peak(800) < 1.2 * peak(80)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda v: v[:-1],
        lambda v: v[:, :16],
        lambda v: v.astype(np.float32) / 255,
        lambda v: v[..., :2],
        lambda v: v[:0],
    ],
    ids=["length", "size", "range", "channels", "empty"],
)
def test_videos_that_do_not_fit_are_errors_never_numbers(wrong):
    truth = noise(9)
    for produced, true in ((wrong(truth), truth), (truth, wrong(truth))):
        with pytest.raises(UserError):
            ClipScorer(FORMULAS).score(produced, true)


def test_networks_may_skip_frames_and_missing_faces_are_counted():
    metric = make("aed", "blendshapes")
    scores = ClipScorer({"aed": metric, "psnr": FORMULAS["psnr"]}, every=3).score(noise(6), noise(6, seed=2))
    assert scores.missed["aed"] == 2 and "aed" not in scores.means and "psnr" in scores.means


def test_frechet_sides_are_cut_into_segments_and_rests_left_out():
    class Means:
        segment = 4

        def __call__(self, segment):
            return segment.mean((0, 1, 2))

    scorer = FrechetScorer(Means())
    for seed in range(3):
        scorer.feed("a", list(noise(10, 8, seed)))
        scorer.end_clip("a")
        scorer.feed("b", list(noise(10, 8, seed + 9)))
        scorer.end_clip("b")
    assert scorer.sets["a"].count == 6
    value, warning = scorer.distance("a", "b")
    assert value > 0 and warning == "" and scorer.distance("a", "c") is None


def test_a_metric_without_weights_says_what_to_do_and_the_others_go_on(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    made, lacking = available({"psnr": "auto", "lpips": "alex"})
    assert list(made) == ["psnr"] and "weights add alexnet" in lacking["lpips"]
    with pytest.raises(UserError, match="'psnr'"):
        available({"psrn": "auto"})
    with pytest.raises(UserError, match="backbone"):
        make("lpips", "squeeze")


def part_filmed(inside, wrong=200):
    """Scores and what is shown of a clip whose methods are right where it was filmed (the columns 8 to 24) alone."""
    truth = noise(5)
    made = np.full_like(truth, wrong)
    made[:, :, 8:24] = truth[:, :, 8:24]
    made[:, 3, 10] ^= 1
    videos = {name: made.copy() for name in METHODS} | {"truth": truth, "normals": made, "portrait": truth[0]}
    request = Request(truth, noise(1, seed=5)[0], None, np.zeros((5, 128)), np.eye(3), inside)
    scorers = Scorers(dict(FORMULAS), {}, 1, None, False, {})
    return score_clip("PhoneCapture/a/r", "a", videos, request, scorers, "")


def test_what_was_not_filmed_counts_for_no_method_and_is_black_in_all_alike():
    clip, other, whole = part_filmed((7.7, 0, 24.2, 32)), part_filmed((7.7, 0, 24.2, 32), wrong=3), part_filmed(None)
    assert clip.scores == other.scores and clip.curve == other.curve
    for method in METHODS:
        assert clip.scores[f"{method}/psnr"] > 60 > 15 > whole.scores[f"{method}/psnr"]
    for name in COMPARED:
        assert not clip.videos[name][:, :, :8].any() and not clip.videos[name][:, :, 24:].any()
        assert np.array_equal(clip.videos[name][:, :, 8:24], whole.videos[name][:, :, 8:24])
    assert (clip.videos["normals"][:, :, :8] == 200).all(), "what was asked for is shown as it is"
    nothing = part_filmed((0.0, 0.0, 0.0, 0.0))
    assert nothing.scores == {} and summarise([nothing, clip], 0)["ours"]["psnr"]["clips"] == 1


def test_a_clip_of_which_nothing_was_filmed_takes_no_number_from_the_others(tmp_path):
    """It left its person without scores, and the whole group without the difference to the portrait."""
    nothing, clip = part_filmed((0.0, 0.0, 0.0, 0.0)), part_filmed((7.7, 0, 24.2, 32))
    clip.scores["ours/psnr"] -= 1
    assert summarise([nothing, clip], 0)["ours_minus_portrait"] == summarise([clip], 0)["ours_minus_portrait"]
    assert by_person([nothing, clip])["a"]["ours/psnr"] == by_person([clip])["a"]["ours/psnr"]
    assert by_person([nothing])["a"] == {"clips": 1} and "ours" not in summarise([nothing], 0)
    report = Report(tmp_path, shown=2)
    for one in (nothing, clip):
        report.add("PhoneCapture", one)
    report.finish({"PhoneCapture": summarise([nothing, clip], 0), "comparison": {}})
    assert "hatched" in (tmp_path / "report.html").read_text()


def test_a_frame_that_is_the_portrait_is_left_out_whatever_stands_beyond_the_file():
    truth = noise(3)
    portrait = truth[1].copy()
    portrait[:, :8] = 7
    videos = {"ours": truth.copy(), "truth": truth, "portrait": portrait}
    request = Request(truth, portrait, None, np.zeros((3, 128)), np.eye(3), (8, 0, 32, 32))
    clip = score_clip("a", "a", videos, request, Scorers({"psnr": FORMULAS["psnr"]}, {}, 1, None, False, {}), "")
    assert len(clip.curve) == 2


def test_pictures_of_the_report_are_hatched_where_nothing_was_filmed():
    video = noise(2, 64)
    shown = hatched(video, (20, 0, 64, 64))
    assert np.array_equal(shown[:, :, 20:], video[:, :, 20:])
    assert set(np.unique(shown[:, :, :20])) == set(GREYS) and (shown[0, :, :20] == shown[1, :, :20]).all()
    assert hatched(video, None) is video
    assert set(np.unique(hatched(video, (0, 0, 0, 0)))) == set(GREYS)
