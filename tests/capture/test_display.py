"""Videos are read as a player shows them, whatever they are stored as."""

from fractions import Fraction

import av
import numpy as np
import pytest

from fportrait.capture import colour
from fportrait.capture.video_io import iter_video, probe, read_video, write_video
from fportrait.errors import UserError
from helpers.clips import as_hdr, cut_at, moving_frames, set_matrix, write_clip


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda v: v),
        ((-1, 0, 0, 1), lambda v: v[:, :, ::-1]),  # a selfie's mirror
        ((1, 0, 0, -1), lambda v: v[:, ::-1]),
        ((-1, 0, 0, -1), lambda v: v[:, ::-1, ::-1]),
        ((0, 1, -1, 0), lambda v: np.rot90(v, -1, axes=(1, 2))),
        ((0, -1, 1, 0), lambda v: np.rot90(v, 1, axes=(1, 2))),
        ((0, 1, 1, 0), lambda v: v.swapaxes(1, 2)),
        ((0, -1, -1, 0), lambda v: v[:, ::-1, ::-1].swapaxes(1, 2)),
    ],
)
def test_every_quarter_turn_and_mirror_of_a_display_matrix_is_shown(tmp_path, matrix, shown):
    path = write_video(tmp_path / "a.mp4", moving_frames(3))
    stored = read_video(path)
    assert np.array_equal(read_video(set_matrix(path, *matrix)), shown(stored))
    assert (probe(path).height, probe(path).width) == shown(stored).shape[1:3]


def test_a_turn_between_quarter_turns_is_left_out_and_said(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_frames(3))
    stored = read_video(path)
    set_matrix(path, 46341, 46341, -46341, 46341, one=1)  # 45 degrees
    assert read_video(path).shape[0] == 3 and "turned by less" in " ".join(probe(path).notes)
    set_matrix(path, 65000, 1200, -1200, 65000, one=1)  # a degree, and a scale
    assert np.array_equal(read_video(path), stored) and not probe(path).notes


@pytest.mark.parametrize("frames", [1, 5, 11])
def test_a_trimmed_copy_is_read_as_its_shown_frames(tmp_path, frames):
    path = tmp_path / "a.mp4"
    write_clip(path, moving_frames(24), "libx264", "yuv420p", options={"g": "12", "bf": "3", "crf": "1"})
    whole = read_video(path)
    cut_at(path, frames)
    info = probe(path)
    assert info.frames == 24 - frames and not info.variable_rate and info.fps == pytest.approx(25)
    assert np.array_equal(read_video(path), whole[frames:])
    assert "of its stored frames lie outside its cut" in info.notes[0]
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(UserError, match=r"truncated|not a readable"):
        probe(path)


@pytest.mark.parametrize(("sar", "width"), [(Fraction(2, 1), 128), (Fraction(1, 2), 32), (Fraction(16, 15), 68)])
def test_pixels_that_are_not_square_are_made_square(tmp_path, sar, width):
    path = write_clip(tmp_path / "a.mkv", moving_frames(2), "libx264", "yuv444p", options={"crf": "1"}, sar=sar)
    assert read_video(path).shape == (2, 48, width, 3) and probe(path).width == width
    assert "as wide as high" in probe(path).notes[0]
    assert np.abs(read_video(path)[0, 2, 1].astype(int) - [230, 20, 20]).max() < 6


def test_absurd_pixels_are_refused(tmp_path):
    with pytest.raises(UserError, match="times as wide as high"):
        probe(write_clip(tmp_path / "a.mkv", moving_frames(2), "libx264", "yuv420p", sar=Fraction(20, 1)))


@pytest.mark.parametrize("transfer", [colour.PQ, colour.HLG])
@pytest.mark.parametrize("white", [100, 203, 1000])
def test_hdr_comes_back_as_the_sdr_it_was_made_of_wherever_its_white_lies(tmp_path, transfer, white):
    """A grey ramp and skin, exposed as cameras do it; an untreated picture is 30 to 80 values off."""
    images = np.full((2, 48, 64, 3), 105, np.uint8)
    images[:, :24] = (188, 133, 108)  # skin
    images[:, 30:40] = np.linspace(20, 200, 64).astype(np.uint8)[:, None]
    path = write_clip(
        tmp_path / "a.mkv",
        as_hdr(images, transfer, white),
        layout="yuv444p10le",
        source="rgb48le",
        matrix=colour.BT2020,
        color_primaries=colour.BT2020,
        color_trc=transfer,
    )
    shown = read_video(path)
    assert difference(shown, images) < (14 if white == 203 else 20)
    skin = shown[0, 5, 5].astype(float)
    assert np.abs(skin / skin.mean() - np.array([188, 133, 108]) / 143).max() < 0.06  # the hue stays
    (note,) = probe(path).notes
    assert "tone-mapped to BT.709" in note and ("PQ" if transfer == colour.PQ else "HLG") in note


def test_highlights_of_hdr_are_rolled_off_and_stay_apart():
    light = np.linspace(0, 1000, 200)
    shown = colour.roll_off(light, 1000, 203)
    assert shown[-1] == pytest.approx(203, rel=1e-3) and (np.diff(shown) > 0).all()
    assert np.allclose(shown[light < 80], light[light < 80], rtol=1e-6)
    assert colour.hlg_light(np.array([0.75] * 3)) == pytest.approx(203, rel=0.01)  # BT.2408's reference white
    assert colour.pq_light(colour.pq_signal(203.0)) == pytest.approx(203)


def test_white_stays_where_the_standard_has_it_before_a_bright_wall_and_a_sky():
    generator = np.random.default_rng(0)
    wall = np.concatenate([np.full(600, 190.0), generator.uniform(1, 120, 400)])
    sky = np.concatenate([np.full(280, 800.0), generator.uniform(1, 150, 720)])
    assert colour.white_of(wall) == colour.white_of(sky) == 203
    assert colour.white_of(sky * 5) > 900  # nothing that a camera would record with its white at 203
    assert colour.white_of(np.full(1000, 12.0)) == pytest.approx(100)  # graded for 100


@pytest.mark.parametrize(("primaries", "name"), [(colour.BT2020, "BT.2020"), (12, "Display P3")])
def test_wide_gamut_sdr_is_brought_into_bt709(tmp_path, primaries, name):
    images = moving_frames(2)
    inside = np.linalg.inv(colour.to_bt709(primaries))
    wide = ((images / 255) ** 2.4 @ inside.T).clip(0, 1) ** (1 / 2.4)
    path = write_clip(
        tmp_path / "a.mkv",
        (wide * 65535).astype(np.uint16),
        layout="yuv444p10le",
        source="rgb48le",
        matrix=colour.BT709,
        color_primaries=primaries,
    )
    assert difference(read_video(path), images) < 2
    assert f"({name})" in probe(path).notes[0]


@pytest.mark.parametrize("matrix", [colour.BT709, colour.SMPTE170M, colour.SMPTE240M, colour.BT2020])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("layout", ["yuv444p", "yuv444p10le", "yuv420p"])
def test_the_matrix_and_range_that_a_file_names_are_used(tmp_path, matrix, full, layout):
    images = moving_frames(2)
    path = write_clip(tmp_path / "a.mkv", images, layout=layout, matrix=matrix, full=full, color_primaries=1)
    assert difference(read_video(path), images) < 2.5  # another matrix or range is off by 6 and more


@pytest.mark.parametrize(("height", "width", "matrix"), [(48, 64, colour.BT470BG), (720, 96, colour.BT709)])
def test_a_file_without_a_matrix_has_that_of_its_size(tmp_path, height, width, matrix):
    images = moving_frames(1, height, width)
    named = write_clip(tmp_path / "a.mkv", images, layout="yuv444p", matrix=matrix)
    with av.open(str(named)) as source, av.open(str(tmp_path / "b.mkv"), "w") as sink:
        stream = sink.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        for frame in source.decode(video=0):
            plain = av.VideoFrame.from_ndarray(frame.to_ndarray(), format="yuv444p")
            sink.mux(stream.encode(plain))
        sink.mux(stream.encode(None))
    assert difference(read_video(tmp_path / "b.mkv"), images) < 2


@pytest.mark.parametrize(
    ("name", "codec", "layout"), [("a.mkv", "ffv1", "yuva444p"), ("a.webm", "libvpx-vp9", "yuva420p")]
)
def test_what_is_transparent_lies_on_white(tmp_path, name, codec, layout):
    images = np.concatenate([moving_frames(3), np.full((3, 48, 64, 1), 255, np.uint8)], -1)
    images[:, :, 32:, 3] = 0
    path = write_clip(tmp_path / name, images, codec, layout, source="rgba", options={"deadline": "realtime"})
    shown = read_video(path)
    assert shown[:, 4:-4, 36:].min() > 245
    assert difference(shown[:, :, 4:28], images[:, :, 4:28, :3]) < 8


def write_streams(path, sizes):
    """A cover picture, then streams of `sizes` (width, height), the last one marked as the default."""
    from av.stream import Disposition

    with av.open(str(path), "w") as sink:
        cover = sink.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 200, 200, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        streams = []
        for width, height in sizes:
            stream = sink.add_stream("libx264", rate=25, options={"crf": "1"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.disposition = Disposition.default if len(streams) == len(sizes) - 1 else 0
            streams.append(stream)
        sink.mux(cover.encode(av.VideoFrame(200, 200, "yuvj420p")))
        sink.mux(cover.encode(None))
        for image in moving_frames(5):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame = frame.reformat(width=stream.width, height=stream.height, format="yuv420p")
                sink.mux(stream.encode(frame))
        for stream in streams:
            sink.mux(stream.encode(None))
    return path


def test_a_cover_picture_is_not_the_video_and_a_choice_of_streams_is_said(tmp_path):
    info = probe(write_streams(tmp_path / "one.mp4", [(64, 48)]))
    assert (info.frames, info.width, info.codec, info.notes) == (5, 64, "h264", ())
    info = probe(write_streams(tmp_path / "two.mp4", [(32, 24), (64, 48)]))
    assert (info.frames, info.width) == (5, 64) and "2 video streams" in info.notes[0]
    assert read_video(tmp_path / "two.mp4").shape == (5, 48, 64, 3)
    with pytest.raises(UserError, match="a cover picture but no pictures"):
        probe(write_streams(tmp_path / "none.mp4", []))


def test_woven_fields_are_taken_apart(tmp_path):
    wide = np.zeros((24, 48, 160, 3), np.uint8)
    for t in range(24):
        wide[t, :, 6 * t : 6 * t + 12] = 255
    woven = wide[0::2].copy()
    woven[:, 1::2] = wide[1::2, 1::2]
    path = tmp_path / "a.mp4"
    options = {"flags": "+ildct+ilme", "x264-params": "interlaced=1:tff=1", "crf": "1"}
    write_clip(path, woven, "libx264", "yuv420p", options=options)
    shown = read_video(path).astype(int)
    assert len(shown) == 12 == probe(path).frames and "interlaced" in probe(path).notes[0]
    combs = [np.abs(video[3:9, 20:28:2] - video[3:9, 21:29:2]).mean() for video in (woven.astype(int), shown)]
    assert combs[1] < 0.3 * combs[0]


def bare_stream(path):
    write_clip(path, moving_frames(9), "libx264", "yuv420p", container={"format": "h264"})


def below_zero(path):
    times = [-0.2 + 0.04 * t for t in range(9)]
    write_clip(path, moving_frames(9), times=times, container={"avoid_negative_ts": "disabled"})


def with_hidden_frames(path):
    options = {"auto-alt-ref": "1", "lag-in-frames": "8", "deadline": "good", "cpu-used": "5"}
    write_clip(path, moving_frames(9), "libvpx", "yuv420p", options=options)


def with_order_in_avi(path):
    write_clip(path, moving_frames(9), "mpeg4", "yuv420p", options={"bf": "2", "qscale": "2"})


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (bare_stream, "a.h264"),
        (below_zero, "a.mkv"),
        (with_hidden_frames, "a.webm"),
        (with_order_in_avi, "a.avi"),
    ],
)
def test_missing_and_negative_times_lose_no_frame(tmp_path, make, name):
    path = tmp_path / name
    make(path)
    info = probe(path)
    assert info.frames == 9 == len(list(iter_video(path)))
    assert not info.variable_rate and info.fps == pytest.approx(25, rel=0.02)
