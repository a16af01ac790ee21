"""What may be uploaded. Every check reads as little of a hostile file as it can before it refuses it."""

from __future__ import annotations

from pathlib import Path

from fportrait.errors import UserError

MIB = 1024 * 1024
PICTURE_BYTES, VIDEO_BYTES, CAMERA_BYTES = 20 * MIB, 200 * MIB, 4 * MIB
PICTURE_PIXELS, VIDEO_PIXELS = 50_000_000, 3840 * 2160
VIDEO_SECONDS = 600
PICTURE_SCANS = 64  # of a progressive JPEG, which has about ten; each is a pass over the whole picture
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"  # FFmpeg's names
PICTURE_KINDS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")


def check_picture(path: str | Path | None, what: str = "portrait") -> Path:
    """The path, when it is a picture of an allowed kind and size.

    Raises:
        UserError: nothing uploaded, too many bytes or pixels, or another kind of file.
    """
    from PIL import Image

    checked = _present(path, what, PICTURE_BYTES, "upload a picture with one face, or use a sample")
    try:
        with Image.open(checked, formats=PICTURE_KINDS) as opened:  # reads the header only
            width, height = opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UserError(
            f"the {what} {checked.name}, which is not a picture", "a PNG, JPEG or WebP file", "save it as PNG or JPEG"
        ) from None
    if width * height > PICTURE_PIXELS:
        raise UserError(
            f"a {what} of {width}×{height} pixels",
            f"at most {PICTURE_PIXELS // 1_000_000} megapixels",
            "make it smaller",
        )
    if opened.format in ("JPEG", "MPO") and (scans := checked.read_bytes().count(b"\xff\xda")) > PICTURE_SCANS:
        raise UserError(f"a {what} of {scans} scans", f"at most {PICTURE_SCANS}", "save it again as PNG or JPEG")
    return checked


def check_video(path: str | Path | None, what: str = "driving video") -> Path:
    """The path, when it is a video of an allowed kind, size and length.

    Only MP4/MOV, Matroska/WebM and AVI get as far as the video library: playlists and other text formats that FFmpeg
    would follow to further files or addresses do not.

    Raises:
        UserError: nothing uploaded, too many bytes or pixels, too long, or another kind of file.
    """
    import av

    checked = _present(path, what, VIDEO_BYTES, "upload a video of one person, or use a sample")
    with open(checked, "rb") as source:
        head = source.read(12)
    known = head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3" or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
    unreadable = UserError(
        f"the {what} {checked.name}, which is not a video",
        "a whole MP4, MOV, WebM, MKV or AVI file",
        "record or export it again as MP4",
    )
    if not known:
        raise unreadable
    try:
        # The first bytes are a stranger's word: FFmpeg might still find a playlist behind them.
        with av.open(str(checked), options={"format_whitelist": CONTAINERS}) as container:
            stream = container.streams.video[0]
            width, height = stream.codec_context.width, stream.codec_context.height
            seconds = (container.duration or 0) / av.time_base
    except (av.error.FFmpegError, IndexError, ValueError):
        raise unreadable from None
    if width * height > VIDEO_PIXELS:
        raise UserError(f"a {what} of {width}×{height} pixels", "at most 3840×2160", "export it smaller")
    if seconds > VIDEO_SECONDS:
        raise UserError(f"a {what} of {seconds:.0f} seconds", f"at most {VIDEO_SECONDS}", "cut it")
    return checked


def browsers_play(path: Path) -> bool:
    """Whether the usual browsers play a video that passed `check_video`: H.264, VP8, VP9 or AV1 in MP4, MOV or WebM."""
    import av

    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context.name
        return container.format.name != "avi" and codec in ("h264", "vp8", "vp9", "av1", "libdav1d", "libvpx-vp9")


def check_camera(path: str | Path | None) -> Path:
    """The path, when it may be a camera file; its content is checked where it is read.

    Raises:
        UserError: nothing uploaded, or too many bytes.
    """
    return _present(path, "camera file", CAMERA_BYTES, "upload a JSON file of cameras, or pick another path")


def _present(path: str | Path | None, what: str, max_bytes: int, fix: str) -> Path:
    if not path:
        raise UserError(f"no {what}", "a file", fix)
    path = Path(path)
    size = path.stat().st_size if path.is_file() else 0
    if size == 0:
        raise UserError(f"an empty {what} ({path.name})", "a file with content", fix)
    if size > max_bytes:
        raise UserError(
            f"a {what} of {size / MIB:.0f} MiB", f"at most {max_bytes // MIB} MiB", "make it smaller or shorter"
        )
    return path
