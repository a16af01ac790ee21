"""Reading and writing pictures and videos; the only place that talks to PyAV.

Videos on disk are H.264, yuv420p, BT.709, one encoder thread and no macroblock tree: the same frames give the same
bytes with the same x264. Yuv420p needs even sizes, so an odd frame is padded by repeating its last row or column and
its true size is kept in the container's tags; `read_video` cuts the padding off again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fportrait.atomic_io import atomic_path
from fportrait.errors import UserError

if TYPE_CHECKING:
    import av.container

SIZE_TAG = "fportrait_size"
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
WRITE_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
_FIX_VIDEO = "record or copy the file again, or re-encode it, for example with ffmpeg -i IN -c:v libx264 OUT.mp4"


@dataclass(frozen=True)
class VideoInfo:
    """What `probe` found: `frames` counted (not promised by the header), `fps` their mean rate, sizes as displayed."""

    frames: int
    fps: float
    width: int
    height: int
    codec: str
    variable_rate: bool
    metadata: dict[str, str]


def write_video(
    path: str | Path,
    frames: np.ndarray | Iterable[np.ndarray],
    fps: float = 25.0,
    crf: float = 14.0,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write frames (T, H, W, 3) RGB uint8, an array or any iterable of pictures, as an H.264 file; atomically.

    Args:
        crf: x264's constant rate factor; 0 is nearly lossless (chroma is still halved), 14 visually so, 23 small.
        metadata: tags for the container, names and values as text.

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
    height, width = _check_frame(first, path).shape[:2]
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
        image, converter = first, VideoReformatter()
        while image is not None:
            image = _check_frame(image, path)
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
            image = next(source, None)  # type: ignore[arg-type]
        container.mux(stream.encode(None))
    return path


def iter_video(path: str | Path, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
    """Yield frames `start` to `stop` (H, W, 3) RGB uint8 in presentation order, upright, one per stored frame.

    A variable frame rate is left as it is: every stored frame comes once, so frame numbers agree with `probe`.

    Raises:
        UserError: not a readable video.
    """
    from av.video.reformatter import VideoReformatter

    if start < 0 or (stop is not None and stop < start):
        raise UserError(f"frames {start} to {stop}", "0 <= start <= stop", "swap or correct the frame numbers")
    if stop is not None and stop == start:
        return
    with _open(path) as container:
        true_size, converter = _true_size(container), VideoReformatter()
        index = -1
        for index, frame in enumerate(_decode(container, path)):
            if stop is not None and index >= stop:
                return
            if index >= start:
                yield _upright(frame, true_size, converter)
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
    """Count a video's frames, measure its rate and decode its first frame, without decoding the rest.

    Raises:
        UserError: missing, empty, truncated, without pictures, or not a video at all.
    """
    from av.video.reformatter import VideoReformatter

    times, promised, nominal, codec, metadata = _frame_times(path)
    if promised and len(times) < promised:
        raise UserError(f"{len(times)} of {promised} frames in {path}: it is truncated", "a whole video", _FIX_VIDEO)
    if not times:
        raise UserError(f"{path} without a frame", "a video with at least one frame", _FIX_VIDEO)
    with _open(path) as container:
        true_size = _true_size(container)
        first = next(_decode(container, path), None)
        if first is None:
            raise UserError(f"{path} whose first frame cannot be decoded", "a whole video", _FIX_VIDEO)
        height, width = _upright(first, true_size, VideoReformatter()).shape[:2]
    gaps = np.diff(np.sort(times))
    fps = float(1.0 / gaps.mean()) if len(gaps) and gaps.mean() > 0 else nominal
    variable = bool(len(gaps) > 1 and gaps.max() > 1.5 * np.median(gaps))
    return VideoInfo(len(times), fps if fps > 0 else 25.0, width, height, codec, variable, metadata)


def _frame_times(path: str | Path) -> tuple[list[float], int, float, str, dict[str, str]]:
    """Seconds of every stored frame in the order of the file; frames and rate as the header has them; codec; tags."""
    import av

    with _open(path) as container:
        stream = container.streams.video[0]
        promised, codec, metadata = stream.frames, stream.codec_context.name, dict(container.metadata)
        nominal = float(stream.average_rate or stream.guessed_rate or 0)
        times: list[float] = []
        try:
            for packet in container.demux(stream):
                if packet.size and packet.pts is not None and not packet.is_discard:
                    if packet.is_corrupt:
                        raise UserError(f"{path} damaged at frame {len(times)}", "a whole video", _FIX_VIDEO)
                    times.append(float(packet.pts * packet.time_base))
        except av.error.FFmpegError as error:
            raise UserError(
                f"{path} damaged at frame {len(times)} ({error.strerror})", "a whole video", _FIX_VIDEO
            ) from None
    return times, promised, nominal, codec, metadata


def read_image(path: str | Path) -> np.ndarray:
    """A picture of any mode as (H, W, 3) RGB uint8, turned upright; transparency is laid over white.

    Raises:
        UserError: missing, empty, truncated or not a picture.
    """
    _check_present(path, "a picture (PNG, JPEG, WebP ...)")
    return decode_image(Path(path), str(path))


def decode_image(source: Path | IO[bytes], where: str) -> np.ndarray:
    """`read_image` for a file or bytes in memory, called `where` in messages."""
    from PIL import Image, ImageOps

    try:
        with Image.open(source) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith(("I", "F")):  # 16-bit or float: PIL's own conversion would clip, not scale
                values = np.asarray(image, dtype=np.float64)
                top = 65535.0 if image.mode.startswith("I") and values.max() > 255 else 255.0
                if image.mode == "F" and values.max() <= 1.0:
                    top = 1.0
                grey = np.clip(np.nan_to_num(values) / top * 255.0 + 0.5, 0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.ascontiguousarray(np.asarray(image.convert("RGB"), dtype=np.uint8))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{where}, which cannot be read as a picture ({error})",
            "a whole PNG, JPEG or WebP picture",
            "open it in a picture viewer and save it again as PNG",
        ) from None


def constant_rate(path: str | Path) -> tuple[float, Iterator[np.ndarray]]:
    """A video of variable rate as frames at equal distances in time: for each, the stored frame shown at that time.

    The rate is one over the median distance of stored frames; a gap repeats the frame before it, a burst loses frames.

    Returns:
        Frames per second, and the frames (H, W, 3) RGB uint8, upright.

    Raises:
        UserError: not a readable video, or one without times.
    """
    times = np.array(sorted(_frame_times(path)[0]))
    gaps = np.diff(times)
    if len(gaps) == 0 or not (gaps > 0).any():
        raise UserError(f"{path} whose frames have no times", "a video with a clock", _FIX_VIDEO)
    fps = round(float(1.0 / np.median(gaps[gaps > 0])), 3)
    frame_times = times[0] + np.arange(round((times[-1] - times[0]) * fps) + 1) / fps
    # the newest stored frame by the middle of the time that a frame is shown
    shown = np.searchsorted(times, frame_times + 0.5 / fps, side="right") - 1

    def frames() -> Iterator[np.ndarray]:
        wanted = iter(shown.tolist())
        target = next(wanted, None)
        for index, frame in enumerate(iter_video(path)):
            while target == index:
                yield frame
                target = next(wanted, None)

    return fps, frames()


def write_image(path: str | Path, image: np.ndarray) -> Path:
    """Write (H, W, 3) RGB uint8 as PNG or JPEG by suffix; atomically.

    Raises:
        UserError: another shape, type or suffix; a full disk.
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"the picture name {path.name}", "a name ending in .png or .jpg", "rename it to end in .png")
    image = _check_frame(image, path)
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".png":
            Image.fromarray(image).save(temporary)
        else:
            Image.fromarray(image).save(temporary, quality=95)
    return path


def _check_frame(image: np.ndarray, path: str | Path) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise UserError(
            f"a frame of shape {image.shape} and type {image.dtype} for {Path(path).name}",
            "height x width x 3, uint8 RGB",
            "scale the values to 0..255, convert to uint8 and pass three channels",
        )
    return image


def _check_present(path: str | Path, what: str) -> None:
    path = Path(path)
    try:
        there = path.exists()
    except OSError as error:  # a loop of links, a name too long, no permission on the way
        raise UserError(f"{path} unreadable ({error.strerror})", what, "check the path and its permissions") from None
    if not there:
        kind = "a link that leads nowhere" if path.is_symlink() else "no file"
        raise UserError(f"{kind} at {path}", what, "check the path")
    if path.is_dir():
        raise UserError(f"a folder at {path}", what, "name the file inside it")
    if not path.is_file():  # reading a pipe would never end
        raise UserError(f"a pipe or device at {path}", what, "name a file")
    if path.stat().st_size == 0:
        raise UserError(f"{path} with zero bytes", what, "copy or download the file again")


def _open(path: str | Path) -> av.container.InputContainer:
    import av

    _check_present(path, "a video file")
    try:
        container = av.open(str(path), "r")
    except av.error.FFmpegError as error:
        raise UserError(
            f"{path}, which is not a readable video ({error.strerror}): truncated, or another kind of file",
            "a whole video file such as MP4 with H.264",
            _FIX_VIDEO,
        ) from None
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        container.close()
        raise UserError(f"{path} with {kinds} but no pictures", "a file with a video stream", "choose the video file")
    if container.streams.video[0].codec_context is None:
        container.close()
        raise UserError(
            f"{path} without a codec that can be decoded: truncated in its header, or a rare codec",
            "a whole video file such as MP4 with H.264",
            _FIX_VIDEO,
        )
    container.streams.video[0].thread_type = "AUTO"
    return container


def _decode(container: av.container.InputContainer, path: str | Path) -> Iterator[Any]:
    import av

    index = 0
    try:
        for frame in container.decode(video=0):
            yield frame
            index += 1
    except av.error.FFmpegError as error:
        raise UserError(f"{path} damaged at frame {index} ({error.strerror})", "a whole video", _FIX_VIDEO) from None


def _true_size(container: av.container.InputContainer) -> tuple[int, int] | None:
    tags = {key.lower(): value for key, value in container.metadata.items()}
    parts = tags.get(SIZE_TAG, "").split("x")
    if len(parts) == 2 and all(part.isdigit() for part in parts):
        return int(parts[0]), int(parts[1])
    return None


def _upright(frame: Any, true_size: tuple[int, int] | None, converter: Any) -> np.ndarray:
    # A frame's own converter would be set up anew each time, with threads: several times the conversion itself.
    image = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    if true_size:
        image = image[: true_size[1], : true_size[0]]
    quarter_turns = round(frame.rotation / 90) % 4  # the display matrix, counter-clockwise
    return np.ascontiguousarray(np.rot90(image, quarter_turns))
