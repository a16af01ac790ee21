import gc
import io
import struct
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from fportrait.capture.video_io import iter_video, probe, read_image, read_video, write_image, write_video
from fportrait.errors import UserError


def moving_frames(frames=9, height=48, width=64):
    """Smooth colours that move, with a marked corner, so that order, size and turning show."""
    y, x = np.mgrid[0:height, 0:width]
    video = [np.stack([x * 3 + 8 * t, y * 4, np.full_like(x, 100 + 10 * t)], axis=-1) for t in range(frames)]
    video = np.clip(np.stack(video), 0, 255).astype(np.uint8)
    video[:, :12, :12] = (230, 20, 20)
    return video


def test_a_written_video_reads_back_with_its_colours_frames_rate_and_tags(tmp_path):
    frames = moving_frames()
    path = write_video(tmp_path / "a.mp4", frames, fps=30, metadata={"fportrait_seed": "7", "title": "portrait"})
    read = read_video(path)
    assert read.shape == frames.shape
    assert np.abs(read.astype(int) - frames).mean() < 3
    assert np.abs(read[4, 5, 5].astype(int) - [230, 20, 20]).max() < 12  # a wrong colour matrix is off by more
    info = probe(path)
    assert (info.frames, info.width, info.height, info.codec) == (9, 64, 48, "h264")
    assert info.fps == pytest.approx(30) and not info.variable_rate
    assert info.metadata["fportrait_seed"] == "7" and info.metadata["title"] == "portrait"


def test_the_same_frames_give_the_same_bytes(tmp_path):
    one = write_video(tmp_path / "one.mp4", moving_frames())
    two = write_video(tmp_path / "two.mp4", iter(moving_frames()))
    assert one.read_bytes() == two.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.mp4", "two.mp4"]  # no temporary file stays


@pytest.mark.parametrize(("height", "width"), [(47, 63), (48, 63), (47, 64), (1, 1)])
def test_odd_sizes_come_back_as_they_were(tmp_path, height, width):
    frames = moving_frames(3, height, width)
    path = write_video(tmp_path / "odd.mp4", frames)
    assert read_video(path).shape == frames.shape
    assert (probe(path).width, probe(path).height) == (width, height)


def test_a_window_of_frames_equals_the_slice_of_the_whole(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_frames(12))
    whole = read_video(path)
    assert np.array_equal(read_video(path, 3, 7), whole[3:7])
    assert np.array_equal(np.stack(list(iter_video(path, 10))), whole[10:])
    with pytest.raises(UserError, match="12 frames"):
        read_video(path, 8, 20)
    with pytest.raises(UserError, match="frames 5 to 2"):
        read_video(path, 5, 2)


def test_a_one_frame_video_works(tmp_path):
    path = write_video(tmp_path / "one.mp4", moving_frames(1))
    assert probe(path).frames == 1 and probe(path).fps == pytest.approx(25)
    assert read_video(path).shape == (1, 48, 64, 3)


def test_decoded_pictures_leave_memory_as_soon_as_they_are_read(tmp_path):
    """Not only when Python looks for cycles: in a large process that is rare, and a played file fills the memory."""
    write_video(tmp_path / "v.mp4", np.zeros((30, 16, 16, 3), np.uint8))

    def decoded():
        return sum(type(one) is av.VideoFrame for one in gc.get_objects())

    gc.collect()
    before, most = decoded(), 0
    gc.disable()
    try:
        for _picture in iter_video(tmp_path / "v.mp4"):
            most = max(most, decoded() - before)
        del _picture  # it looks into the last one's memory
        probe(tmp_path / "v.mp4")
        left = decoded() - before
    finally:
        gc.enable()
    assert 0 < most < 15 and left == 0  # the decoder gives some at once


def test_a_video_recorded_sideways_is_turned_upright(tmp_path):
    path = write_video(tmp_path / "turned.mp4", moving_frames())
    straight = read_video(path)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version and flags, times and track, then reserved to volume
    one = 1 << 16
    data[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 48 * one, 0, 1 << 30)  # 90 degrees clockwise
    path.write_bytes(data)
    assert np.array_equal(read_video(path), np.rot90(straight, -1, axes=(1, 2)))
    assert (probe(path).width, probe(path).height) == (48, 64)


def test_a_variable_rate_is_reported_and_every_stored_frame_comes_once(tmp_path):
    path = tmp_path / "variable.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, image in zip([0, 33, 66, 300, 333, 366], moving_frames(6), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info = probe(path)
    assert info.variable_rate and info.frames == 6 == len(read_video(path))
    assert info.fps == pytest.approx(5 / 0.366, rel=0.02)


def truncated_at_the_end(path):
    data = write_video(path, moving_frames(40, 96, 96)).read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def truncated_without_index(path):
    with av.open(str(path), "w") as container:  # no faststart: the index comes last and is lost
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in moving_frames(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[:-200])


def audio_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


def wave_renamed(path):
    with wave.open(str(path), "wb") as sink:
        sink.setparams((1, 2, 16000, 0, "NONE", ""))
        sink.writeframes(b"\0" * 3200)


BROKEN = {
    "truncated_at_the_end": (truncated_at_the_end, "truncated|damaged"),
    "truncated_without_index": (truncated_without_index, "truncated"),
    "audio_only": (audio_only, "audio but no pictures"),
    "wave_renamed": (wave_renamed, "no pictures"),
    "zero_bytes": (lambda path: path.write_bytes(b""), "zero bytes"),
    "text_renamed": (lambda path: path.write_text("not a video\n" * 50), "not a readable video"),
    "folder": (lambda path: path.mkdir(), "a folder at"),
    "missing": (lambda path: None, "no file at"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_found_expected_and_fix(tmp_path, name):
    make, message = BROKEN[name]
    make(tmp_path / "clip.mp4")
    with pytest.raises(UserError, match=message) as raised:
        probe(tmp_path / "clip.mp4")
    assert raised.value.expected and raised.value.fix
    with pytest.raises(UserError):
        # reading a file that lost its end gives the frames that are left, unless more are asked for
        read_video(tmp_path / "clip.mp4", 0, 40)


def failing_frames():
    yield from moving_frames(3)
    raise RuntimeError("the renderer broke")


def test_a_failure_while_writing_leaves_the_old_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_frames(2))
    before = path.read_bytes()
    with pytest.raises(RuntimeError):
        write_video(path, failing_frames())
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "frames", "message"),
    [
        ("a.gif", moving_frames(2), "a.gif"),
        ("a.mp4", np.zeros((0, 4, 4, 3), np.uint8), "no frames"),
        ("a.mp4", np.zeros((2, 8, 8, 3), np.float32), "float32"),
        ("a.mp4", np.zeros((2, 8, 8), np.uint8), "shape"),
        ("a.mp4", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)], "10x8"),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path, name, frames, message):
    with pytest.raises(UserError, match=message):
        write_video(tmp_path / name, frames)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_a_picture_of_any_mode_reads_as_rgb(tmp_path, mode):
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (20, 1))
    if mode == "I;16":
        image = Image.fromarray(ramp.astype(np.uint16) * 257)
    elif mode in ("I", "F"):
        image = Image.fromarray(ramp.astype(np.int32 if mode == "I" else np.float32))
    else:
        image = Image.fromarray(ramp).convert(mode) if mode != "P" else Image.fromarray(ramp).convert("RGB").quantize()
    suffix = {"CMYK": "tif", "F": "tif", "I": "tif", "YCbCr": "jpg"}.get(mode, "png")
    path = tmp_path / f"a.{suffix}"
    image.save(path)
    read = read_image(path)
    assert read.shape == (20, 32, 3) and read.dtype == np.uint8
    assert np.abs(read[..., 1].astype(int) - ramp).max() <= (3 if mode not in ("1", "P") else 255)
    assert read[0, 0].max() < 30 and read[0, -1].min() > 220


def test_a_photo_with_an_orientation_tag_is_turned_and_a_transparent_one_lies_on_white(tmp_path):
    image = Image.new("RGB", (30, 20), "black")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (30, 20, 3)
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png") == 255).all()


def test_written_pictures_read_back_and_broken_ones_are_refused(tmp_path):
    frame = moving_frames(1)[0]
    assert np.array_equal(read_image(write_image(tmp_path / "a.png", frame)), frame)
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("broken.png", "text.jpg", "empty.png", "missing.png"):
        with pytest.raises(UserError, match=name.split(".")[0]):
            read_image(tmp_path / name)
    with pytest.raises(UserError, match=r"a\.bmp"):
        write_image(tmp_path / "a.bmp", frame)


def test_reading_needs_no_more_than_the_bytes_on_disk(tmp_path):
    """A jpeg written through PIL into memory and saved under a png name is still read by its content."""
    buffer = io.BytesIO()
    Image.fromarray(moving_frames(1)[0]).save(buffer, "JPEG")
    (tmp_path / "really_jpeg.png").write_bytes(buffer.getvalue())
    assert read_image(tmp_path / "really_jpeg.png").shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("before", "size", "message"),
    [(3, 80, "changes from 96×96 to 80×80 at frame 3"), (250, 1024, "damaged at frame 250")],
    ids=["smaller", "larger, where FFmpeg did not look for the size"],
)
def test_a_stream_that_changes_its_size_on_the_way_is_refused_and_takes_no_memory(tmp_path, before, size, message):
    """In-band headers may promise more than the file's: a decoder would ask for gigabytes."""
    packets = []
    for side, count in ((96, before), (size, 3)):
        with av.open(str(tmp_path / f"{side}.h264"), "w", format="h264") as raw:
            stream = raw.add_stream("libx264", rate=25, options={"x264-params": "keyint=1:repeat-headers=1"})
            stream.width = stream.height = side
            for frame in moving_frames(count, side, side):
                raw.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
            raw.mux(stream.encode())
        with av.open(str(tmp_path / f"{side}.h264")) as raw:
            packets += [bytes(packet) for packet in raw.demux(video=0) if packet.size]
    with av.open(str(tmp_path / "96.h264")) as first, av.open(str(tmp_path / "grows.mkv"), "w") as grown:
        stream = grown.add_stream_from_template(first.streams.video[0])
        for index, content in enumerate(packets):
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 25), index, index
            grown.mux(packet)
    with pytest.raises(UserError, match=message):
        list(iter_video(tmp_path / "grows.mkv"))


@pytest.mark.parametrize(
    "text",
    ["ffconcat version 1.0\nfile clip.mp4\n", "#EXTM3U\n#EXTINF:1,\nclip.ts\n", "<?xml version='1.0'?>\n<MPD>ü</MPD>"],
)
def test_a_list_of_other_files_is_not_read_as_a_video_whatever_it_is_called(tmp_path, text):
    write_video(tmp_path / "clip.mp4", np.zeros((3, 16, 16, 3), np.uint8))
    for name in ("list.mp4", "list.m3u8", "list.ffconcat"):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="a text"):
            probe(tmp_path / name)
        with pytest.raises(UserError, match="a text"):
            next(iter_video(tmp_path / name))


def test_an_animated_webp_is_named_as_what_it_is(tmp_path):
    from PIL import Image

    first, second = (Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (20, 200))
    first.save(tmp_path / "moves.webp", save_all=True, append_images=[second], duration=100)
    with pytest.raises(UserError, match="an animated WebP"):
        probe(tmp_path / "moves.webp")
