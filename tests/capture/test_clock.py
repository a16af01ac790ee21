"""Times: variable rates, two rates side by side, the sound beside the pictures, and what import says of them."""

import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from fportrait.animate.animator import clock_notes
from fportrait.animate.tracked import Tracked
from fportrait.capture import clock
from fportrait.capture.importers.place import import_captures
from fportrait.capture.ingest import ingest_captures
from fportrait.capture.manifest import read_manifest
from fportrait.capture.sound import Sound
from fportrait.capture.video_io import constant_frames, probe, write_video
from helpers.clips import as_hdr, moving_frames, write_clip


def test_a_gap_and_a_drift_are_variable_and_rounding_is_not():
    even = np.arange(60) / 30
    assert not clock.is_variable(even)
    assert not clock.is_variable(np.round(even, 3))
    assert not clock.is_variable(even[:1]) and not clock.is_variable(np.zeros(5))
    assert clock.is_variable(np.delete(even, 20))
    assert clock.is_variable(np.cumsum(np.linspace(1 / 30, 1 / 22, 60)))


@pytest.mark.parametrize("rate", [24000 / 1001, 25, 30000 / 1001, 30, 50, 60000 / 1001, 60, 120])
def test_the_usual_rate_survives_milliseconds_and_dropped_frames(rate):
    times = np.delete(np.round(np.arange(90) / rate, 3), [7, 30, 31, 60])
    assert clock.usual_rate(times) == pytest.approx(rate, rel=2e-3)


def test_a_variable_file_is_resampled_to_what_was_shown_at_each_time(tmp_path):
    times = [*(0.02 * np.arange(12)), *(0.24 + 0.08 * np.arange(6))]
    path = write_clip(tmp_path / "a.mkv", moving_frames(18), times=times)
    assert probe(path).variable_rate
    fps, stored = constant_frames(path)
    assert fps == pytest.approx(50) and len(stored) == round((times[-1] - times[0]) * 50) + 1
    assert stored[:13].tolist() == list(range(13))
    assert (np.bincount(stored)[12:-1] == 4).all()  # 80 ms at 20 ms a frame
    assert list(clock.picked("abcdef", [0, 0, 2, 5, 5])) == list("aacff")


def test_missing_times_lie_between_their_neighbours():
    assert clock.filled([None, 0.04, None, 0.12, None], 25) == (pytest.approx([0, 0.04, 0.08, 0.12, 0.16]), 3)
    assert clock.filled([0.2, 0.1, 0.0], 10) == ([0.0, 0.1, 0.2], 3)  # times that fall say nothing


def test_rows_at_times_mix_the_frames_on_either_side():
    before, after, share = clock.rows_at(np.arange(5) / 25, 50, 10)
    assert before.tolist() == [0, 2, 4, 6, 8] and share.tolist() == [0] * 5
    before, after, share = clock.rows_at(np.arange(4) / 50, 25, 2)
    assert before.tolist() == [0, 0, 1, 1] and np.allclose(share, [0, 0.5, 0, 0]) and after.max() == 1


def tracked(name, fps, frames):
    return Tracked(Path(name), None, None, (0, 0, 1), None, fps, frames)  # type: ignore[arg-type]


def test_two_rates_and_cuts_are_said_in_each_files_own_frames():
    notes = clock_notes(tracked("pose.mp4", 25, 49), tracked("talk.mp4", 50, 200), 49)
    assert "aligned in seconds" in notes[0] and notes[1] == "talk.mp4 was cut after 98 of its 200 frames"
    assert clock_notes(tracked("a.mp4", 25, 9), tracked("b.mp4", 25, 9), 9) == []


def heard(path) -> tuple[np.ndarray, int]:
    with av.open(str(path)) as container:
        parts = [frame.to_ndarray().mean(0) for frame in container.decode(audio=0)]
        return np.concatenate(parts), container.streams.audio[0].rate


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_the_sound_comes_along_cut_to_the_pictures(tmp_path, suffix):
    codec = ("ffv1", "yuv444p") if suffix == "mkv" else ("libx264", "yuv420p")
    source = write_clip(tmp_path / f"a.{suffix}", moving_frames(50), *codec, sound=440)
    assert probe(source).sound
    out = write_video(tmp_path / "out.mp4", moving_frames(25), metadata={"a": "b"}, sound=Sound(source, 0.4))
    wave, rate = heard(out)
    assert len(wave) / rate == pytest.approx(1.0, abs=0.05) and probe(out).frames == 25
    loud = np.abs(np.fft.rfft(wave[rate // 4 : rate // 4 + rate // 2]))
    assert np.argmax(loud) * 2 == pytest.approx(440, abs=4)
    again = write_video(tmp_path / "again.mp4", moving_frames(25), metadata={"a": "b"}, sound=Sound(source, 0.4))
    assert out.read_bytes() == again.read_bytes()


def test_sound_that_ends_early_is_followed_by_silence(tmp_path):
    source = write_clip(tmp_path / "a.mkv", moving_frames(10), "ffv1", "yuv444p", sound=440)  # 0.4 s
    wave, rate = heard(write_video(tmp_path / "out.mp4", moving_frames(25), sound=Sound(source)))
    assert np.abs(wave[: rate // 4]).max() > 0.2 and np.abs(wave[rate * 6 // 10 : rate * 9 // 10]).max() < 0.01
    assert len(wave) / rate == pytest.approx(1.0, abs=0.05)


def test_import_says_mixed_rates_and_hdr_and_the_manifest_keeps_the_notes(tmp_path):
    from fportrait.capture import colour

    source = tmp_path / "anna"
    source.mkdir()
    write_video(source / "slow.mp4", moving_frames(9), fps=25)
    write_video(source / "fast.mp4", moving_frames(9), fps=50)
    write_clip(
        source / "hdr.mkv",
        as_hdr(moving_frames(9), colour.PQ, 203),
        layout="yuv444p10le",
        source="rgb48le",
        matrix=colour.BT2020,
        color_primaries=colour.BT2020,
        color_trc=colour.PQ,
    )
    shutil.copytree(source, tmp_path / "all/anna")
    report = import_captures(source, tmp_path / "raw", "folder", copy=True)
    assert any("hdr: its HDR pictures (PQ" in note for note in report.notes)
    assert any("clips of anna have different rates (25, 50" in note for note in report.notes)
    ingest_captures(tmp_path / "raw", tmp_path / "ingest", tmp_path, {"PhoneCapture": 0})
    manifest, _ = read_manifest(tmp_path / "ingest")
    notes = dict(zip(manifest.segment, manifest.notes, strict=True))
    assert notes["slow"] == "" and "tone-mapped" in notes["hdr"]
