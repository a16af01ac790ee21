"""Reading and writing videos: what is read is what a player shows, frame by frame.

Shown, not stored: of several streams the one that is meant, without the frames that an edit list cuts away, upright,
with square pixels, deinterlaced, transparency over white, and colours as on a BT.709 screen (HDR is tone-mapped). What
was done beyond the usual stands in `VideoInfo.notes`. The parts: `display` (geometry), `colour`, `clock` (times).

Videos on disk are H.264, yuv420p, BT.709, one encoder thread and no macroblock tree: the same frames give the same
bytes with the same x264. Yuv420p needs even sizes, so an odd frame is padded by repeating its last row or column and
its true size is kept in the container's tags; `read_video` cuts the padding off again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.atomic_io import atomic_path
from fportrait.capture import clock
from fportrait.capture.display import SIZE_TAG, Screen, choose_stream, deinterlaced
from fportrait.capture.image_io import check_frame, check_present, decode_image, read_image, write_image
from fportrait.capture.sound import Sound, SoundWriter
from fportrait.errors import UserError

__all__ = [
    "VIDEO_SUFFIXES",
    "WRITE_SUFFIXES",
    "VideoInfo",
    "constant_frames",
    "constant_rate",
    "decode_image",
    "iter_video",
    "probe",
    "read_image",
    "read_video",
    "write_image",
    "write_video",
]
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
WRITE_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
# Codecs and containers in which every packet is one shown frame; of others the frames are counted by decoding them.
FRAME_PER_PACKET = ("h264", "hevc", "vp9", "av1", "libdav1d", "mjpeg", "prores", "png", "ffv1", "dnxhd")
INDEXED = ("mov,mp4", "matroska")
_FIX_VIDEO = "record or copy the file again, or re-encode it, for example with ffmpeg -i IN -c:v libx264 OUT.mp4"


@dataclass(frozen=True)
class VideoInfo:
    """What `probe` found: `frames` counted (not promised by the header), `fps` their mean rate, sizes as displayed.

    `notes` are sentences about what was done to show the file; `start` is the first frame's time in seconds.
    """

    frames: int
    fps: float
    width: int
    height: int
    codec: str
    variable_rate: bool
    metadata: dict[str, str]
    notes: tuple[str, ...] = ()
    start: float = 0.0
    sound: bool = False


def write_video(
    path: str | Path,
    frames: np.ndarray | Iterable[np.ndarray],
    fps: float = 25.0,
    crf: float = 14.0,
    metadata: Mapping[str, str] | None = None,
    sound: Sound | None = None,
) -> Path:
    """Write frames (T, H, W, 3) RGB uint8, an array or any iterable of pictures, as an H.264 file; atomically.

    Args:
        crf: x264's constant rate factor; 0 is nearly lossless (chroma is still halved), 14 visually so, 23 small.
        metadata: tags for the container, names and values as text.
        sound: another file's sound, cut to the length of the pictures.

    Raises:
        UserError: no frames, frames of other shape, type or differing sizes, a bad rate or suffix, a full disk.
    """
    import av
    from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

    path = Path(path)
    if path.suffix.lower() not in WRITE_SUFFIXES:
        raise UserError(
            f"the video name {path.name}", f"one of {', '.join(WRITE_SUFFIXES)}", "rename it to end in .mp4"
        )
    if not (np.isfinite(fps) and 0 < fps <= 1000):
        raise UserError(f"{fps} frames per second", "a rate between 0 and 1000", "pass for example fps=25")
    source: Iterator[np.ndarray] = iter(frames)
    first = next(source, None)
    if first is None:
        raise UserError(f"no frames to write to {path.name}", "at least one frame", "check what made the frames")
    height, width = check_frame(first, path).shape[:2]
    even_height, even_width = height + height % 2, width + width % 2
    tags = {str(key): str(value) for key, value in (metadata or {}).items()}
    if (even_height, even_width) != (height, width):
        tags[SIZE_TAG] = f"{width}x{height}"
    container_options = {"fflags": "+bitexact", "movflags": "use_metadata_tags+faststart"}
    with atomic_path(path) as temporary, av.open(str(temporary), "w", options=container_options) as container:
        for key, value in tags.items():
            container.metadata[key] = value
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = even_width, even_height, "yuv420p"
        stream.thread_count = 1
        # One thread, and no macroblock tree: on small frames x264's tree reads memory it never wrote, and of 200 equal
        # videos 86 came out with other bytes.
        stream.options = {
            "crf": str(crf),
            "preset": "veryfast",
            "threads": "1",
            "flags": "+bitexact",
            "x264-params": "mbtree=0",
        }
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # studio swing
        voice = SoundWriter(container, sound) if sound else None
        image, converter, count = first, VideoReformatter(), 0
        while image is not None:
            image = check_frame(image, path)
            if image.shape[:2] != (height, width):
                raise UserError(
                    f"a frame of {image.shape[1]}x{image.shape[0]} after frames of {width}x{height}",
                    "frames of one size",
                    "resize the frames before writing",
                )
            padded = np.pad(image, ((0, even_height - height), (0, even_width - width), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
            frame = converter.reformat(
                frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
            )
            container.mux(stream.encode(frame))
            count += 1
            if voice:
                voice.advance(count / fps)
            image = next(source, None)  # type: ignore[arg-type]
        container.mux(stream.encode(None))
        if voice:
            voice.finish(count / fps)
            voice.close()
    return path


def iter_video(path: str | Path, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
    """Yield frames `start` to `stop` (H, W, 3) RGB uint8 in presentation order, as shown, one per stored frame.

    A variable frame rate is left as it is: every stored frame comes once, so frame numbers agree with `probe`.

    Raises:
        UserError: not a readable video.
    """
    if start < 0 or (stop is not None and stop < start):
        raise UserError(f"frames {start} to {stop}", "0 <= start <= stop", "swap or correct the frame numbers")
    if stop is not None and stop == start:
        return
    with _Opened(path) as video:
        index = -1
        for index, frame in enumerate(deinterlaced(video.frames())):
            if stop is not None and index >= stop:
                return
            if index >= start:
                yield video.screen(frame)
        if index < 0:
            raise UserError(f"{path} without a frame", "a video with at least one frame", _FIX_VIDEO)


def read_video(path: str | Path, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Frames `start` to `stop` of a video as (T, H, W, 3) RGB uint8; see `iter_video`.

    Raises:
        UserError: not a readable video, or it ends before `start` or `stop`.
    """
    frames = list(iter_video(path, start, stop))
    if not frames or (stop is not None and len(frames) < stop - start):
        last = "the end" if stop is None else str(stop)
        raise UserError(
            f"only {start + len(frames) if frames else 'fewer'} frames in {path}",
            f"frames {start} to {last}",
            "ask for frames the video has; `probe` tells how many",
        )
    return np.stack(frames)


def probe(path: str | Path) -> VideoInfo:
    """Count a video's shown frames, measure its rate and decode its first frame; the rest only where that is needed.

    Raises:
        UserError: missing, empty, truncated, without pictures, or not a video at all.
    """
    times, notes = _frame_times(path)
    with _Opened(path) as video:
        first = next(video.frames(), None)
        if first is None:
            raise UserError(f"{path} whose first frame cannot be decoded", "a whole video", _FIX_VIDEO)
        width, height = video.screen.size(first)
        stream = video.stream
        fps = clock.mean_rate(times, float(stream.average_rate or stream.guessed_rate or 0) or 25.0)
        return VideoInfo(
            len(times),
            fps,
            width,
            height,
            stream.codec_context.name,
            clock.is_variable(times),
            dict(video.container.metadata),
            tuple(n for n in (video.note, *notes, *video.screen.notes(first)) if n),
            float(times[0]),
            bool(video.container.streams.audio),
        )


def constant_rate(path: str | Path) -> tuple[float, Iterator[np.ndarray]]:
    """A video of variable rate as frames at equal distances in time: for each, the stored frame shown at that time.

    The rate is that of the usual distance of stored frames; a gap repeats the frame before it, a burst loses frames.

    Returns:
        Frames per second, and the frames (H, W, 3) RGB uint8, as shown.

    Raises:
        UserError: not a readable video, or one without times.
    """
    fps, shown = constant_frames(path)
    return fps, clock.picked(iter_video(path), shown.tolist())


def constant_frames(path: str | Path) -> tuple[float, np.ndarray]:
    """The rate of `constant_rate`, and for each of its frames the number of the stored one.

    Raises:
        UserError: not a readable video, or one without times.
    """
    times, _ = _frame_times(path)
    if not times[-1] > times[0]:
        raise UserError(f"{path} whose frames have no times", "a video with a clock", _FIX_VIDEO)
    fps = clock.usual_rate(times)
    return fps, clock.shown_at(times, fps)


def _frame_times(path: str | Path) -> tuple[np.ndarray, list[str]]:
    """Seconds of every shown frame in rising order, and notes about them.

    Raises:
        UserError: truncated, damaged, or without a frame.
    """
    with _Opened(path) as video:
        times, discarded, whole = _packet_times(video)
    notes = []
    if discarded:
        notes.append(f"{discarded} of its stored frames lie outside its cut and are not shown")
    if not whole:
        times, missing = _decoded_times(path)
        if missing:
            notes.append(f"{missing} of its frames have no times, and were taken to be evenly spaced")
    if not times:
        raise UserError(f"{path} without a frame", "a video with at least one frame", _FIX_VIDEO)
    return np.sort(np.array(times)), notes


def _packet_times(video: _Opened) -> tuple[list[float], int, bool]:
    """Seconds of the stored frames, how many are discarded, and whether these are all the shown frames for certain."""
    import av

    stream, path = video.stream, video.path
    size = Path(path).stat().st_size
    times: list[float] = []
    stored = discarded = 0
    certain = stream.codec_context.name in FRAME_PER_PACKET and video.container.format.name.startswith(INDEXED)
    try:
        for packet in video.container.demux(stream):
            if packet.pts is None and packet.dts is None and not packet.size:
                continue  # the end
            if packet.is_corrupt:
                raise UserError(f"{path} damaged at frame {stored}", "a whole video", _FIX_VIDEO)
            certain &= packet.pts is not None and (stored > 0 or packet.is_keyframe) and packet.size > 0
            stored += 1
            discarded += packet.is_discard
            if packet.pts is not None:
                times.append(float(packet.pts * packet.time_base))
    except av.error.FFmpegError as error:
        raise UserError(f"{path} damaged at frame {stored} ({error.strerror})", "a whole video", _FIX_VIDEO) from None
    # An index lists what edit lists leave; other headers count everything stored.
    index = stream.index_entries if video.container.format.name.startswith("mov,mp4") else ()
    promised = len(index) or stream.frames
    if stored < promised or any(entry.pos + entry.size > size for entry in index):
        raise UserError(f"{stored} of {promised} frames in {path}: it is truncated", "a whole video", _FIX_VIDEO)
    certain &= len(set(times)) == stored and (not times or times[0] == min(times))
    return times, discarded, certain and not discarded


def _decoded_times(path: str | Path) -> tuple[list[float], int]:
    """Seconds of every frame that decoding gives, and for how many they had to be made up."""
    with _Opened(path) as video:
        rate = float(video.stream.average_rate or video.stream.guessed_rate or 25)
        stamps = [frame.time for frame in video.frames()]
    return clock.filled(stamps, rate)


def refuse_by_beginning(path: str | Path) -> None:
    """Refuse what names other files in place of holding pictures, and what FFmpeg knows by name but cannot read.

    A playlist under a video's name would make its reader open whatever files or addresses it lists.

    Raises:
        UserError: text of any kind (HLS, DASH, concat scripts), or an animated WebP.
    """
    with open(path, "rb") as file:
        head = file.read(512)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20] & 2:
        raise UserError(
            f"{path}, an animated WebP", "a video, or an animated GIF", "convert it to MP4 or GIF where it was made"
        )
    control = [byte for byte in head if byte < 32 and byte not in b"\t\n\f\r\x1b"]
    if not control and not head.startswith(b"YUV4MPEG2"):
        raise UserError(
            f"{path}, which is not a readable video but a text (a playlist, or something else saved under this name)",
            "a whole video file such as MP4 with H.264",
            "name the video itself",
        )


class _Opened:
    """An open video file: its container, the stream that is meant, and its screen."""

    def __init__(self, path: str | Path):
        import av

        check_present(path, "a video file")
        refuse_by_beginning(path)
        self.path = path
        try:
            self.container = av.open(str(path), "r")
        except av.error.FFmpegError as error:
            raise UserError(
                f"{path}, which is not a readable video ({error.strerror}): truncated, or another kind of file",
                "a whole video file such as MP4 with H.264",
                _FIX_VIDEO,
            ) from None
        try:
            self.stream, self.note = choose_stream(self.container, path)
            self.stream.thread_type = "AUTO"
            # A stream may swell on its way: its decoder asks for little more memory than its header promised.
            width, height = self.stream.codec_context.width, self.stream.codec_context.height
            if width and height:
                self.stream.codec_context.options = {"max_pixels": str(4 * (width + 256) * (height + 256))}
            self.screen = Screen(self.container, self.stream, path)
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def frames(self) -> Iterator[Any]:
        """Decoded frames (PyAV) in presentation order.

        Raises:
            UserError: damage on the way.
        """
        import av

        index, size = 0, (0, 0)
        try:
            for frame in self._clear() if self._has_clear_layer() else self.container.decode(self.stream):
                if index and (frame.width, frame.height) != size:
                    raise UserError(
                        f"{self.path}, whose picture changes from {size[0]}×{size[1]} to {frame.width}×{frame.height} "
                        f"at frame {index}",
                        "one size throughout",
                        _FIX_VIDEO,
                    )
                size = frame.width, frame.height
                yield frame
                index += 1
        except av.error.FFmpegError as error:
            raise UserError(
                f"{self.path} damaged at frame {index} ({error.strerror})", "a whole video", _FIX_VIDEO
            ) from None

    def _has_clear_layer(self) -> bool:
        """WebM keeps transparency beside the picture; FFmpeg's own decoder leaves it out, libvpx's reads it."""
        tags = {key.lower(): value for key, value in self.stream.metadata.items()}
        return tags.get("alpha_mode") == "1" and self.stream.codec_context.name in ("vp8", "vp9")

    def _clear(self) -> Iterator[Any]:
        import av

        decoder: Any = av.CodecContext.create(
            {"vp8": "libvpx", "vp9": "libvpx-vp9"}[self.stream.codec_context.name], "r"
        )
        for packet in self.container.demux(self.stream):
            if packet.size:
                yield from decoder.decode(packet)
        yield from decoder.decode(None)
