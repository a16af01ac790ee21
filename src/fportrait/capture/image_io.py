"""Reading and writing pictures: what is read is what a viewer shows, in sRGB."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from fportrait.atomic_io import atomic_path
from fportrait.errors import UserError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and microscopes keep in 16-bit pictures
BLOWN, BLOWN_SHARE = 253, 0.2  # a value that holds no detail any more, and the share of a face that is worth a word
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
DESCRIPTION = 0x010E
DNG_VERSION, BITS_PER_SAMPLE, COLOUR_SPACE, INTEROPERABILITY = 50706, 258, 0xA001, 0xA005
# Adobe RGB (1998) to sRGB, linear light, both with D65.
ADOBE_TO_SRGB = np.array([[1.39836, -0.39836, 0.0], [0.0, 1.0, 0.0], [0.0, -0.04293, 1.04293]])


@dataclass(frozen=True)
class Picture:
    """`image` `H W 3` RGB uint8, upright, sRGB; `notes`: what was done to it that its owner would want to know."""

    image: np.ndarray
    notes: tuple[str, ...] = ()


def read_image(path: str | Path) -> np.ndarray:
    """A picture of any mode as (H, W, 3) RGB uint8, as shown; see `read_picture`, which also tells what was done.

    Raises:
        UserError: missing, empty, truncated or not a picture.
    """
    return read_picture(path).image


def decode_image(source: Path | IO[bytes], where: str) -> np.ndarray:
    """`read_image` for a file or bytes in memory, called `where` in messages."""
    return decode_picture(source, where).image


def read_picture(path: str | Path) -> Picture:
    """A picture of any mode: turned upright, colour profiles converted to sRGB, transparency laid over white.

    Raises:
        UserError: missing, empty, truncated, a raw or HEIC file, or not a picture.
    """
    check_present(path, "a picture (PNG, JPEG, WebP ...)")
    return decode_picture(Path(path), str(path))


def decode_picture(source: Path | IO[bytes], where: str) -> Picture:
    """`read_picture` for a file or bytes in memory, called `where` in messages."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        data = source.read_bytes() if isinstance(source, Path) else source.read()
        _refuse_by_name(data[:32], where)
        with Image.open(source if isinstance(source, Path) else io.BytesIO(data)) as opened:
            _refuse_raw(opened, where)
            if _is_deep_colour(opened, data):
                return _deep(data, opened, where)
            opened.load()
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith(("I", "F")):  # 16-bit or float: PIL's own conversion would clip, not scale
                grey, notes = to_eight_bits(np.asarray(image, dtype=np.float64), image.mode == "F")
                return Picture(np.repeat(grey[..., None], 3, axis=2), notes)
            image, notes = _to_srgb(image, opened)
            notes = _first_of_several(opened) + notes
            if _has_alpha(image) or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return Picture(np.ascontiguousarray(np.asarray(image.convert("RGB"), dtype=np.uint8)), notes)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, UserError):
            raise
        reason = "no picture's format" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(
            f"{where}, which cannot be read as a picture ({reason})",
            "a whole PNG, JPEG or WebP picture",
            "open it in a picture viewer and save it again as PNG",
        ) from None


def to_eight_bits(values: np.ndarray, fraction: bool = False) -> tuple[np.ndarray, tuple[str, ...]]:
    """Values of any depth as uint8 of the same shape, and a note where the depth had to be found out.

    A 16-bit file may hold 10, 12 or 14 bits, unscaled: the fewest that hold its brightest value are taken.

    Args:
        fraction: values are real numbers; up to 1 they are taken to be 0..1.
    """
    brightest = float(np.nan_to_num(values, posinf=0.0).max(initial=0.0))
    notes: tuple[str, ...] = ()
    if fraction:
        top = 1.0 if brightest <= 1.0 else 255.0
    else:
        bits = next((bits for bits in DEPTHS if brightest < 2**bits), 16)
        top = 2.0**bits - 1
        if 8 < bits < 16:
            notes = (f"its 16-bit values stay below {2**bits}, and were read as {bits}-bit ones",)
    return np.clip(np.nan_to_num(values) / top * 255.0 + 0.5, 0, 255).astype(np.uint8), notes


def exposure_note(face: np.ndarray, name: str) -> str:
    """A sentence when much of a face's picture `H W 3` is burnt out; else nothing."""
    share = float((face >= BLOWN).all(-1).mean()) if face.size else 0.0
    if share < BLOWN_SHARE:
        return ""
    return f"{name} is overexposed: {share:.0%} of the face is pure white, and holds no skin or shape to follow"


def write_image(path: str | Path, image: np.ndarray, metadata: Mapping[str, str] | None = None) -> Path:
    """Write (H, W, 3) RGB uint8 as PNG or JPEG by suffix; atomically.

    Args:
        metadata: texts for a PNG; of a JPEG or WebP only `comment` is kept (as its EXIF description).

    Raises:
        UserError: another shape, type or suffix; a full disk.
    """
    from PIL import Image, PngImagePlugin

    path = Path(path)
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise UserError(f"the picture name {path.name}", "a name ending in .png or .jpg", "rename it to end in .png")
    image = check_frame(image, path)
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".png":
            texts = PngImagePlugin.PngInfo()
            for key, value in (metadata or {}).items():
                texts.add_itxt(key, value)
            Image.fromarray(image).save(temporary, pnginfo=texts)
        else:
            described: dict[str, Any] = {}
            if metadata and "comment" in metadata:
                described["exif"] = Image.Exif()
                described["exif"][DESCRIPTION] = metadata["comment"]
            Image.fromarray(image).save(temporary, quality=95, **described)
    return path


def check_frame(image: np.ndarray, path: str | Path) -> np.ndarray:
    """The array, when it is a picture `H W 3` uint8.

    Raises:
        UserError: another shape or type.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise UserError(
            f"a frame of shape {image.shape} and type {image.dtype} for {Path(path).name}",
            "height x width x 3, uint8 RGB",
            "scale the values to 0..255, convert to uint8 and pass three channels",
        )
    return image


def check_present(path: str | Path, what: str) -> None:
    """Refuse what is no file with content, before anything tries to decode it."""
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


def _refuse_by_name(head: bytes, where: str) -> None:
    """Kinds of picture that are known, common, and not read here."""
    fix = "save it as JPEG or PNG"
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        fix = "export it as JPEG (iPhone: Settings, Camera, Formats, Most Compatible records JPEG)"
        raise UserError(f"{where}, an HEIC picture", "a PNG, JPEG, WebP or AVIF picture", fix)
    if _is_video(head):
        fix = f"take a frame of it: ffmpeg -i '{where}' -frames:v 1 portrait.png"
        raise UserError(f"{where}, a video", "a picture: PNG, JPEG, WebP or AVIF", fix)
    if head[:12] == b"\0\0\0\x0cJXL \r\n\x87\n" or head[:2] == b"\xff\x0a":
        raise UserError(f"{where}, a JPEG XL picture", "a PNG, JPEG, WebP or AVIF picture", fix)


def _is_video(head: bytes) -> bool:
    """Whether a file begins as MP4, MOV, Matroska, WebM or AVI do."""
    boxed = head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") and head[8:12] not in (b"avif", b"avis", *HEIF_BRANDS)
    return boxed or head[:4] == b"\x1aE\xdf\xa3" or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def _has_alpha(image: Any) -> bool:
    """Whether a picture holds transparency; the A of LAB is a colour."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La")


def _first_of_several(opened: Any) -> tuple[str, ...]:
    """A note on a file of several pictures: animations, and pages. What cameras keep beside a photograph (MPO, icons'
    sizes) is no other picture."""
    count = getattr(opened, "n_frames", 1)
    if count < 2 or opened.format in ("MPO", "ICO", "ICNS"):
        return ()
    return (f"the first of its {count} pictures was taken",)


def _refuse_raw(opened: Any, where: str) -> None:
    if getattr(opened, "tag_v2", None) is not None and DNG_VERSION in opened.tag_v2:
        raise UserError(
            f"{where}, a raw picture (DNG), of which only the thumbnail is an image",
            "a developed picture",
            "develop it and export a JPEG or PNG",
        )


def _is_deep_colour(opened: Any, data: bytes) -> bool:
    """Whether a PNG or TIFF holds 16 bits in several channels, of which PIL keeps eight, or none."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return data[24] == 16 and data[25] in (2, 4, 6)
    tags = getattr(opened, "tag_v2", None)
    bits = tags.get(BITS_PER_SAMPLE) if tags is not None else None
    return isinstance(bits, tuple) and len(bits) > 1 and max(bits) > 8


def _deep(data: bytes, opened: Any, where: str) -> Picture:
    """A picture of 16 bits and several channels, through OpenCV, which keeps them."""
    import cv2
    from PIL import Image, ImageOps

    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 3:
        raise ValueError("16 bits a channel in a rare arrangement")
    eight, notes = to_eight_bits(values[..., :3].astype(np.float64), values.dtype.kind == "f")
    image = Image.fromarray(np.ascontiguousarray(eight[..., ::-1]))
    if values.shape[2] == 4:
        alpha = values[..., 3].astype(np.float64) / {1: 255, 2: 65535}.get(values.dtype.itemsize, 1)
        image.putalpha(Image.fromarray((alpha * 255 + 0.5).astype(np.uint8)))
    image.info["icc_profile"] = opened.info.get("icc_profile")
    image, more = _to_srgb(image, opened)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    turned = Image.Exif()
    turned[0x0112] = opened.getexif().get(0x0112, 1)
    image.info["exif"] = turned.tobytes()
    image = ImageOps.exif_transpose(image.convert("RGB"))
    return Picture(np.ascontiguousarray(np.asarray(image, dtype=np.uint8)), notes + more)


def _to_srgb(image: Any, opened: Any) -> tuple[Any, tuple[str, ...]]:
    """The picture in sRGB when it names other colours (an ICC profile, or Adobe RGB in its EXIF), and a note."""
    from PIL import ImageCms

    profile = image.info.get("icc_profile") or opened.info.get("icc_profile")
    if not profile:
        return _from_adobe(image) if _says_adobe(opened) else (image, ())
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(given).strip() or "unnamed"
        if "sRGB" in name and image.mode != "CMYK":
            return image, ()
        alpha = image.getchannel("A") if _has_alpha(image) else None
        plain = image.convert({"LA": "L", "RGBA": "RGB", "P": "RGB", "PA": "RGB", "1": "L"}.get(image.mode, image.mode))
        converted = ImageCms.profileToProfile(
            plain, given, ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC, "RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        return image, (f"its colour profile cannot be used ({str(error)[:80]}), and was left out",)
    if converted is not None and alpha is not None:
        converted.putalpha(alpha)
    return converted, (f"its colours ({name}) were converted to sRGB",)


def _says_adobe(opened: Any) -> bool:
    """DCF's way to mark Adobe RGB without a profile: colour space uncalibrated, interoperability R03."""
    try:
        details = opened.getexif()
        return details.get_ifd(0x8769).get(COLOUR_SPACE) == 0xFFFF and details.get_ifd(INTEROPERABILITY).get(1) == "R03"
    except Exception:  # damaged EXIF says nothing
        return False


def _from_adobe(image: Any) -> tuple[Any, tuple[str, ...]]:
    from PIL import Image

    values = np.asarray(image.convert("RGB"), np.float64) / 255
    light = np.clip(values ** (563 / 256) @ ADOBE_TO_SRGB.T, 0, 1)
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return Image.fromarray((shown * 255 + 0.5).astype(np.uint8)), ("its colours (Adobe RGB) were converted to sRGB",)
