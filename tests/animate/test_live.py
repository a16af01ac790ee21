"""The threads of a stream: the newest frame wins, errors end it, a lost face is held, let go and found again."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from tests.helpers.live import FakeStream, Frames
from threadpoolctl import threadpool_info, threadpool_limits

from fportrait.animate.driving import FADE, HOLD, REST_EVERY, Driving, Steering
from fportrait.animate.live import Ended, Live, Meter, Slot
from fportrait.animate.profile import Profile, table
from fportrait.animate.recording import Recording
from fportrait.animate.stream import Moment
from fportrait.bundle import BundleSettings
from fportrait.capture.video_io import read_video
from fportrait.errors import UserError
from fportrait.provenance import TAG, read_provenance
from fportrait.tracking.live import Sight
from fportrait.tracking.points import BLENDSHAPE_NAMES


def test_a_waiting_frame_is_replaced_by_the_next_and_counted():
    slot = Slot(replaces=True)
    for entry in range(5):
        slot.put(entry)
    assert slot.get() == 4 and slot.dropped == 4


def test_a_slot_that_does_not_replace_makes_its_giver_wait():
    slot, given = Slot(), []

    def give():
        for entry in range(3):
            slot.put(entry)
            given.append(entry)
        slot.end()

    thread = threading.Thread(target=give)
    thread.start()
    time.sleep(0.1)
    assert given == [0]
    assert [slot.get() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Ended):
        slot.get()
    thread.join()


def test_pictures_that_are_late_are_shown_faster_than_they_were_filmed():
    def seconds(windows):
        live = Live.__new__(Live)
        live.drops, live.sink, live.meter = True, lambda *_: None, Meter()
        live._slots, live._stopping = [Slot() for _ in range(5)], threading.Event()
        taken = iter(windows)
        live._slots[4].get = lambda: next(taken)
        begun = time.monotonic()
        with pytest.raises(StopIteration):
            live._show()
        return time.monotonic() - begun

    moments = [(SimpleNamespace(at=n / 25), n / 25) for n in range(8)]
    window = moments, np.zeros((8, 1, 1, 3), np.uint8)
    in_time = seconds([window, window])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Slot, "waiting", True)
        late = seconds([window, window])
    assert in_time > 14 * 0.95 / 25 - 0.01
    assert late < 0.8 * in_time


def test_a_closed_slot_sends_everyone_home():
    slot, out = Slot(), []

    def take():
        try:
            slot.get()
        except Ended:
            out.append("ended")

    thread = threading.Thread(target=take)
    thread.start()
    slot.close()
    thread.join(5)
    assert out == ["ended"]
    with pytest.raises(Ended):
        slot.put(1)


def run(stream, source, drops, **given):
    shown = []
    live = Live(stream, source, lambda frame, at: shown.append((frame, at)), drops=drops, **given)
    live.tracker = source  # gives sights in place of a face
    live.start()
    return live, shown


def test_every_frame_of_whole_windows_is_shown_once_and_in_order_when_nothing_is_dropped():
    stream = FakeStream()
    live, shown = run(stream, Frames(22), drops=False)  # the last window is not full
    assert live.wait(30)
    assert [round(at * 25) for _, at in shown] == list(range(22)) and live.meter.shown == 22
    assert live.status.dropped == 0 and not live.status.running


def test_a_slow_model_drops_frames_and_keeps_the_delay_of_a_window_or_two():
    stream = FakeStream(seconds=0.4)
    live, shown = run(stream, Frames(60, paced=True), drops=True)
    assert live.wait(30)
    assert live.status.dropped > 10
    assert live.meter.latency(0.95) < 4 * 0.4 + 0.6  # nothing piles up
    times = [at for _, at in shown]
    assert times == sorted(times)


def test_what_fails_in_a_thread_ends_all_threads_and_is_raised_where_one_waits():
    stream = FakeStream(fails_at=2)
    live, _ = run(stream, Frames(10_000), drops=False)
    with pytest.raises(UserError, match="broke"):
        live.wait(30)
    assert not live.running and "broke" in live.status.note


def test_while_a_stream_runs_linear_algebra_has_one_thread():
    """On two cores half of a stream's time went to threads of OpenBLAS that spin."""

    def threads():
        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        return {pool["num_threads"] for pool in pools if "numpy" in pool["filepath"]}

    told = []

    class Told(FakeStream):
        def sample(self, moments, drawn):
            told.append(threads())
            return super().sample(moments, drawn)

    with threadpool_limits(2, user_api="blas"):
        assert threads() == {2}
        live, _ = run(Told(), Frames(8), drops=False)
        assert live.wait(30) and told == [{1}, {1}]


def test_stop_ends_at_once_whatever_is_waited_for():
    live, _ = run(FakeStream(seconds=0.05), Frames(10_000, paced=True), drops=True)
    time.sleep(0.3)
    begun = time.monotonic()
    live.stop()
    assert time.monotonic() - begun < 3 and not live.running


def test_a_stream_that_cannot_follow_says_the_rate_and_what_to_change():
    live, _ = run(FakeStream(), Frames(8), drops=True)
    live.wait(30)
    now = time.monotonic()
    live.meter.first_shown, live.meter.last_shown, live.meter.shown = now - 10, now, 51
    assert live.slowness().startswith("5 of the 25 frames a second") and "GPU" in live.slowness()
    live.stream.calls = 4
    assert "takes 4" in live.slowness()
    live.stream.calls = 1
    live.stream.settings = BundleSettings(steps=1, size=128, sizes=[64])
    assert "--size to 64" in live.slowness()


@dataclass
class Face:
    """What `Driving` asks of a stream."""

    rest_code: np.ndarray
    settings: BundleSettings

    def rest(self, camera, at):
        return Moment(np.eye(3), np.zeros(3), self.rest_code, camera, at)

    @property
    def animator(self):
        return self

    @property
    def encoder(self):
        return self

    def encode(self, crops):
        return np.full((len(crops), 128), 3.0, np.float32)

    def matched(self, code, rises):
        return code + 10 * rises[0, 0]


def sight(degrees=20.0, x=0.0, jaw=0.0):
    from fportrait.body.pose import rotation_matrix

    rotation = rotation_matrix(np.array([[0.0, np.radians(degrees), 0.0]]))[0]
    nothing = np.zeros((4, 4, 3), np.uint8)
    scores = np.zeros(52)
    scores[BLENDSHAPE_NAMES.index("jawOpen")] = jaw
    return Sight(rotation, np.array([x, 0.0, 0.0]), nothing, scores, np.zeros((478, 2)), 1.0)


def driving(**steering):
    return Driving(Face(np.zeros(128, np.float32), BundleSettings()), Steering(**steering))  # type: ignore[arg-type]


def turned(moment):
    return float(np.degrees(np.arccos((np.trace(moment.rotation) - 1) / 2)))


def test_a_lost_face_is_held_then_goes_to_rest_and_comes_back_by_itself():
    drive = driving()
    assert drive(None, 0.0).code.max() == 0 and drive.state == "waiting for a face"
    for step in range(1, 20):
        moment = drive(sight(), step / 25, familiar=True)
    assert turned(moment) == pytest.approx(20, abs=0.1) and moment.code.max() == pytest.approx(3)
    lost = 19 / 25
    held = [drive(None, lost + step / 25) for step in range(1, 12)]
    assert drive.state == "face lost: holding" and turned(held[-1]) == pytest.approx(20, abs=0.1)
    fading = [drive(None, lost + HOLD + step / 25) for step in range(1, int(25 * FADE) + 3)]
    angles = [turned(moment) for moment in fading]
    assert angles == sorted(angles, reverse=True) and angles[-1] < 0.01 and drive.state == "face lost: at rest"
    assert max(np.diff([20, *angles])) <= 0 and min(np.diff([20, *angles])) > -2.1  # no jump on the way
    for step in range(1, 12):
        moment = drive(sight(), 5 + step / 25, familiar=True)
    assert drive.state == "following" and turned(moment) == pytest.approx(20, abs=0.1)


def test_strengths_scale_expression_and_pose_and_the_camera_turns_no_faster_than_in_training():
    drive = driving(expression=2.0, pose=0.5, yaw=400.0)
    moments = [drive(sight(), step / 25, familiar=True) for step in range(40)]
    assert turned(moments[-1]) == pytest.approx(10, abs=0.1) and moments[-1].code.max() == pytest.approx(6)
    axes = np.stack([moment.camera[2, :3] for moment in moments])
    steps = np.degrees(np.arccos(np.clip((axes[1:] * axes[:-1]).sum(1), -1, 1)))
    limit = BundleSettings()
    assert steps.max() <= limit.trained_turn + 1e-6
    assert np.degrees(np.arctan2(-axes[-1, 0], -axes[-1, 2])) == pytest.approx(limit.trained_yaw)


def test_a_driver_who_moves_to_another_place_comes_back_to_the_middle():
    drive = driving()
    drive(sight(0), 0.0, familiar=True)
    moments = [drive(sight(0, 0.1), step / 25, familiar=True) for step in range(1, 500)]
    offset = moments[-1].translation[0]
    assert moments[12].translation[0] - offset > 0.06  # shown as a move first


def test_a_drivers_strength_is_matched_once_his_rest_is_known_and_comes_gently():
    drive = driving()
    before = [drive(sight(), step / 25, familiar=True).code[0] for step in range(REST_EVERY - 1)][10:]
    assert np.ptp(before) == pytest.approx(0)
    after = [drive(sight(jaw=0.2), (REST_EVERY + step) / 25, familiar=True).code[0] for step in range(20)]
    assert after[-1] == pytest.approx(3 + 10 * 0.2) and max(np.diff([before[-1], *after])) < 0.4


def test_a_recording_repeats_frames_where_some_were_dropped_and_says_that_it_is_synthetic(tmp_path):
    recording = Recording(tmp_path / "out.mp4", 25.0, {TAG: '{"synthetic": true}'}, scale=1)
    for number in (0, 1, 5):
        recording(np.full((32, 32, 3), 40 * number, np.uint8), 10 + number / 25)
    assert recording.close() == tmp_path / "out.mp4"
    levels = read_video(tmp_path / "out.mp4").mean((1, 2, 3)).round(-1)
    assert levels.tolist() == [0, 40, 40, 40, 40, 200]
    assert read_provenance(tmp_path / "out.mp4")["synthetic"]


def test_a_recording_without_frames_leaves_no_file(tmp_path):
    assert Recording(tmp_path / "out.mp4", 25.0, {}).close() is None
    assert not list(tmp_path.iterdir())


def test_a_named_pipe_gives_pictures_while_the_stream_still_runs(tmp_path):
    import os

    import av

    pipe, seen, more = tmp_path / "pipe", [], threading.Event()
    os.mkfifo(pipe)

    def read():
        with av.open(str(pipe)) as container:
            for frame in container.decode(video=0):
                seen.append(frame.to_ndarray(format="rgb24").mean())
                more.set()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    recording = Recording(pipe, 25.0, {"synthetic": "true"}, scale=2)
    for number in range(200):
        recording(np.full((32, 32, 3), 120, np.uint8), number / 25)
        if more.is_set():
            break
        time.sleep(0.01)
    assert more.wait(10)
    recording.close()
    thread.join(10)
    assert seen and abs(seen[0] - 120) < 6


def test_a_pipe_that_nobody_reads_holds_up_neither_the_stream_nor_its_end(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    recording = Recording(tmp_path / "pipe", 25.0, {}, scale=1)
    for number in range(60):
        recording(np.zeros((32, 32, 3), np.uint8), number / 25)
    recording.close()


def test_stages_within_a_stage_are_taken_off_it_and_the_table_sums_to_all():
    profile = Profile()
    with profile.measured("write"), profile.measured("decode"):
        sum(range(3_000_000))
    assert profile.seconds["decode"] > 10 * profile.seconds["write"] >= 0
    lines = table({"load": 1.0, "sample": 3.0}, 10).splitlines()
    assert lines[-1].split() == ["all", "4.00", "100%", "400.0"] and "300.0" in lines[3]
    assert "draw" not in lines[3] and table({"draw": 1.0, "sample": 3.0}, 10).splitlines()[3].split()[0] == "draw"


def test_the_meter_tells_the_latency_below_which_a_share_of_frames_came():
    meter = Meter()
    for latency in [0.05] * 90 + [0.31] * 10:
        meter.show(latency)
    assert meter.latency(0.5) == pytest.approx(0.06) and meter.latency(0.95) == pytest.approx(0.32)
