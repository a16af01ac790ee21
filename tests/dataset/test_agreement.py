"""One clip whose codes are not its own is told from sound ones; sound ones, and what says nothing, are left alone."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.tables.agreement import RUN_CLIPS, RUNS, _runs, dataset_agreement

FRAMES = 60


def sound(people: int = 4, takes: int = 2, noise: float = 0.2) -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
    """Codes that say linearly what lips and lids do, for everybody alike, and much besides."""
    rng = np.random.default_rng(0)
    says = rng.normal(size=(4, 128))
    clips = {}
    for person in range(people):
        for take in range(takes):
            drawn = rng.normal(size=(4, FRAMES + 4))
            face = np.stack([np.convolve(row, np.ones(5) / 5, "valid") for row in drawn], 1)  # moves within 5 frames
            besides = rng.normal(size=(FRAMES, 128))
            clips[f"p{person}/{take}"] = (f"p{person}", face @ says + noise * besides, face)
    return clips


def judged(of) -> tuple[dict, tuple[float, float]]:
    """All clips, after one clip's codes were changed; and that clip's."""
    clips = sound()
    person, code, face = clips["p1/0"]
    clips["p1/0"] = (person, of(code), face)
    found = dataset_agreement(clips)
    return found, found["p1/0"]


def test_sound_clips_fit_in_their_own_frames():
    found = dataset_agreement(sound())
    assert len(found) == 8
    assert min(fit for fit, _ in found.values()) > 0.8 and max(shift for _, shift in found.values()) < 0.05


@pytest.mark.parametrize("frames", [-5, 3, 5])
def test_a_clip_with_codes_of_other_frames_is_found_at_that_shift(frames):
    found, (_, shift) = judged(lambda code: code[np.clip(np.arange(FRAMES) - frames, 0, FRAMES - 1)])
    others = [shift for clip, (_, shift) in found.items() if clip != "p1/0"]
    assert shift > 0.25 > max(others)


@pytest.mark.parametrize(
    "of",
    [
        lambda code: code[np.random.default_rng(1).permutation(FRAMES)],
        lambda code: -code,
        lambda code: np.repeat(code[:1], FRAMES, 0),
        lambda code: sound()["p3/1"][1],
    ],
    ids=["shuffled", "turned over", "frozen", "of another clip"],
)
def test_a_clip_with_codes_that_say_something_else_does_not_fit(of):
    found, (fit, shift) = judged(of)
    assert fit < 0.1 or shift > 0.25
    assert min(fit for clip, (fit, _) in found.items() if clip != "p1/0") > 0.7  # the others are not drawn in


@pytest.mark.parametrize("second", [False, True], ids=["first half", "second half"])
def test_codes_of_other_frames_in_one_half_of_a_clip_do_not_fit(second):
    order = np.arange(FRAMES)
    half = slice(FRAMES // 2, None) if second else slice(0, FRAMES // 2)
    order[half] = np.random.default_rng(1).permutation(order[half])
    found, (fit, _) = judged(lambda code: code[order])
    assert fit < 0.1
    assert min(fit for clip, (fit, _) in found.items() if clip != "p1/0") > 0.7


def test_codes_that_follow_no_face_and_faces_that_do_not_move_accuse_nobody():
    clips = sound(noise=0.0)
    rng = np.random.default_rng(2)
    assert (
        dataset_agreement({clip: (who, rng.normal(size=code.shape), face) for clip, (who, code, face) in clips.items()})
        == {}
    )
    still = {clip: (who, np.zeros_like(code), face) for clip, (who, code, face) in clips.items()}
    assert dataset_agreement(still) == {} == dataset_agreement({}) == dataset_agreement(sound(people=1))
    clips["p0/0"] = ("p0", clips["p0/0"][1] * 0, clips["p0/0"][2] * 0.01)
    assert dataset_agreement(clips)["p0/0"] == (1.0, 0.0)


def test_of_a_large_table_runs_of_neighbouring_clips_are_looked_at():
    names = [f"{number:05d}" for number in range(5000)]
    chosen = _runs(names)
    assert len(chosen) == RUNS * RUN_CLIPS and chosen[0] == names[0] and chosen[-1] == names[-1]
    assert _runs(names[:7]) == names[:7]
