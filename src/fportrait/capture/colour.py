"""Colours of videos as a BT.709 screen shows them, whatever they were stored in.

What a file says of its colours decides: the matrix and range of its YUV values, its primaries (BT.709, BT.601,
BT.2020, Display P3 …) and its transfer (SDR, or HDR as HLG or PQ). SDR in BT.709's primaries goes straight through
swscale. Everything else goes through one table of 33³ colours, made once a file and applied by FFmpeg's `lut3d`.

HDR is tone-mapped: HLG and PQ give light in cd/m² (BT.2100), the reference white of 203 cd/m² (BT.2408) becomes SDR's
white, and what is brighter is rolled off by the curve of BT.2390. Files differ in where their white lies, so the white
moves with what the file holds: see `white_of`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.errors import UserError

# Numbers of ISO/IEC 23091-2 (H.273), as FFmpeg has them.
BT709, UNSPECIFIED, BT470BG, SMPTE170M, SMPTE240M, BT2020, BT2020_CL = 1, 2, 5, 6, 7, 9, 10
PQ, HLG = 16, 18
LIMITED, FULL = 1, 2
MATRICES = {BT709: 1, 4: 4, BT470BG: 5, SMPTE170M: 5, SMPTE240M: 7, BT2020: 9, BT2020_CL: 9}  # to swscale's numbers
D65 = (0.3127, 0.3290)
PRIMARIES: dict[int, tuple[tuple[float, float], ...]] = {
    # red, green, blue, white: chromaticities x, y (H.273, table 2)
    BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), D65),
    4: ((0.670, 0.330), (0.210, 0.710), (0.140, 0.080), (0.310, 0.316)),
    BT470BG: ((0.640, 0.330), (0.290, 0.600), (0.150, 0.060), D65),
    SMPTE170M: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), D65),
    SMPTE240M: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), D65),
    BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),
}
PRIMARY_NAMES = {BT2020: "BT.2020", 4: "BT.470 M", 11: "DCI-P3", 12: "Display P3"}
NEAR_BT709 = (BT709, BT470BG, SMPTE170M, SMPTE240M)  # televisions' own: within a few code values of each other
LINEAR = 8
PEAK = 1000.0  # cd/m² of an HLG screen, and the most that a PQ file is believed
WHITE = (100.0, 203.0)  # cd/m²: SDR's own, and BT.2408's reference white of HDR
GREY = 0.12  # of white: where BT.709 shows a grey of 18 %, which cameras expose the average of a picture to
TABLE = 33


@dataclass(frozen=True)
class Colours:
    """What a file says of its colours, with usual values in place of what it leaves out. Numbers of H.273."""

    matrix: int
    full_range: bool
    primaries: int
    transfer: int

    @property
    def hdr(self) -> str:
        """`HLG`, `PQ` or nothing."""
        return {HLG: "HLG", PQ: "PQ"}.get(self.transfer, "")

    @property
    def plain(self) -> bool:
        """Whether BT.709 shows the values as they are."""
        return not self.hdr and self.transfer != LINEAR and self.primaries in NEAR_BT709

    @property
    def note(self) -> str:
        """One sentence for people whose colours were changed; empty when they were not."""
        gamut = PRIMARY_NAMES.get(self.primaries, "")
        if self.hdr:
            return f"its HDR pictures ({self.hdr}{f', {gamut}' if gamut else ''}) were tone-mapped to BT.709"
        return "" if self.plain else f"its colours ({gamut or 'linear light'}) were converted to BT.709"


def colours_of(frame: Any, where: str) -> Colours:
    """The colours of a decoded frame (PyAV).

    A file that names no matrix has BT.709's when it is high definition, and BT.601's otherwise, as players take it; one
    that names no range is full only when its pixel format is (`yuvj…`, RGB).

    Raises:
        UserError: a matrix that nothing here can undo (ICtCp, YCgCo).
    """
    name = frame.format.name
    matrix, full = int(frame.colorspace), int(frame.color_range) == FULL or name.startswith(("yuvj", "rgb", "gbr"))
    primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
    if matrix in (UNSPECIFIED, 0, 3):
        wide = frame.height >= 720 or frame.width >= 1280
        matrix = BT2020 if transfer in (PQ, HLG) or primaries == BT2020 else BT709 if wide else BT470BG
    if matrix not in MATRICES:
        raise UserError(
            f"{where} with colours in the rare matrix {matrix} (ICtCp or YCgCo)",
            "YUV of BT.601, BT.709 or BT.2020",
            "export it again as SDR, for example with ffmpeg -i IN -c:v libx264 -colorspace bt709 OUT.mp4",
        )
    if primaries not in PRIMARIES:
        primaries = BT2020 if transfer in (PQ, HLG) or matrix in (BT2020, BT2020_CL) else BT709
    return Colours(matrix, full, primaries, transfer)


def hlg_light(signal: np.ndarray) -> np.ndarray:
    """Light in cd/m² of HLG values `... 3` on a screen of 1000 cd/m²; BT.2100, table 5."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
    return PEAK * luminance[..., None] ** 0.2 * scene


def pq_light(signal: np.ndarray) -> np.ndarray:
    """Light in cd/m² of PQ values; BT.2100, table 4."""
    root = np.asarray(signal, np.float64) ** (1 / 78.84375)
    return 10000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)


def pq_signal(light: np.ndarray | float) -> np.ndarray:
    """PQ values of light in cd/m², the inverse of `pq_light`."""
    power = (np.asarray(light, np.float64) / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def roll_off(light: np.ndarray, peak: float, white: float) -> np.ndarray:
    """Light up to `peak` brought below `white` (cd/m²): as it is up to a knee, then a Hermite curve; BT.2390, 5.4.1."""
    if peak <= white:
        return np.minimum(light, white)
    top = pq_signal(peak)
    value, most = np.minimum(pq_signal(light) / top, 1), float(pq_signal(white) / top)
    knee = 1.5 * most - 0.5
    t = np.clip((value - knee) / (1 - knee), 0, 1)
    curve = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return pq_light(np.where(value < knee, value, curve) * top)


def white_of(luminance: np.ndarray) -> float:
    """The light (cd/m²) that becomes SDR's white, of luminances of a file's pixels.

    BT.2408 puts white at 203, but files differ, and SDR cameras and screens put an 18 % grey at `GREY` of white. So a
    dim file, graded for SDR's 100, has its white where its log-average is `GREY` of it: at 100 to 203, and not below
    its brightest pixels. A bright file keeps 203 (a white wall, a sky behind a face), unless so much of it is brighter
    that white must lie higher (SDR stretched to all of HLG).
    """
    estimate = float(np.exp(np.log(np.maximum(luminance, 0.01)).mean())) / GREY
    if estimate <= WHITE[1]:
        return float(np.clip(max(estimate, np.percentile(luminance, 99.9)), *WHITE))
    beyond = np.clip(((luminance > WHITE[1]).mean() - 0.3) / 0.2, 0, 1)  # none at 30 % of the pixels, all at 50 %
    return float(WHITE[1] * (min(estimate, PEAK) / WHITE[1]) ** beyond)


def to_bt709(primaries: int) -> np.ndarray:
    """The matrix `3 3` from linear light in other primaries to BT.709's; white stays white."""
    return np.linalg.inv(_to_xyz(BT709, None)) @ _to_xyz(primaries, D65)


def _to_xyz(primaries: int, white: tuple[float, float] | None) -> np.ndarray:
    """RGB to XYZ (SMPTE RP 177); `white`, if given, takes the place of the primaries' own."""
    chosen = PRIMARIES[primaries]
    xyz = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in (*chosen[:3], white or chosen[3])]).T
    return xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])


def into_gamut(light: np.ndarray) -> np.ndarray:
    """Linear BT.709 colours `... 3` mixed with their own grey until they lie in 0..1: hue and luminance stay."""
    grey = np.clip(light @ np.array([0.2126, 0.7152, 0.0722]), 0, 1)[..., None]
    away = light - grey
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.where(away > 0, (1 - grey) / away, np.where(away < 0, -grey / away, np.inf))
    return np.clip(grey + away * np.minimum(room.min(-1, keepdims=True), 1), 0, 1)


def table_of(colours: Colours, white: float = WHITE[1], peak: float = PEAK, size: int = TABLE) -> np.ndarray:
    """BT.709 values `size size size 3` in 0..1 (by red, green, blue) of evenly spaced R'G'B' of the file."""
    axis = np.linspace(0, 1, size)
    return convert(np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1), colours, white, peak)


def convert(signal: np.ndarray, colours: Colours, white: float = WHITE[1], peak: float = PEAK) -> np.ndarray:
    """R'G'B' `... 3` of a file, 0..1, as BT.709 values, 0..1, for a screen of BT.1886 (gamma 2.4)."""
    if colours.hdr:
        light = light_of(signal, colours)
        most = light.max(-1, keepdims=True)  # all three by one factor: the hue stays
        light = light * roll_off(most, peak, white) / np.maximum(most, 1e-6) / white
    else:
        light = np.asarray(signal, np.float64) ** (1.0 if colours.transfer == LINEAR else 2.4)
    return into_gamut(light @ to_bt709(colours.primaries).T) ** (1 / 2.4)


def light_of(signal: np.ndarray, colours: Colours) -> np.ndarray:
    """Linear light in cd/m², in the file's own primaries, of HDR values `... 3`."""
    signal = np.asarray(signal, np.float64)
    return hlg_light(signal) if colours.transfer == HLG else pq_light(signal)


class ColourConverter:
    """Frames (PyAV) of one file as RGB. `exposure` is what `exposure_of` says of the file, where it is HDR."""

    def __init__(self, colours: Colours, exposure: tuple[float, float] | None = None):
        from av.video.reformatter import VideoReformatter

        self.colours, self._reformat = colours, VideoReformatter().reformat
        self._exposure = exposure or (WHITE[1], PEAK)
        self._graph: Any = None
        self._folder: tempfile.TemporaryDirectory | None = None

    def __call__(self, frame: Any) -> np.ndarray:
        """`H W 3` uint8 as stored: neither turned nor stretched. Transparency is laid over white."""
        clear = any(component.is_alpha for component in frame.format.components)
        if self.colours.plain:
            # A frame's own converter would be set up anew each time, with threads: several times the conversion itself.
            image = self._rgb(frame, "rgba" if clear else "rgb24")
            return over_white(image) if clear else image
        wide = self._rgb(frame, None)
        if self._graph is None:
            self._graph = self._lut3d(wide)
        self._graph.push(wide)
        image = self._graph.pull().to_ndarray(format="rgb24")
        return over_white(np.concatenate([image, self._rgb(frame, "rgba")[..., 3:]], -1)) if clear else image

    def light(self, frame: Any) -> np.ndarray:
        """Linear light in cd/m², `N 3`, of some of an HDR frame's pixels."""
        return light_of(self._rgb(frame, "rgb48le")[::4, ::4].reshape(-1, 3) / 65535, self.colours)

    def _rgb(self, frame: Any, layout: str | None) -> Any:
        converted = self._reformat(
            frame,
            format=layout or "gbrp16le",
            src_colorspace=MATRICES[self.colours.matrix],
            src_color_range=FULL if self.colours.full_range else LIMITED,
            dst_color_range=FULL,
            threads=1,
        )
        return converted.to_ndarray() if layout else converted

    def _lut3d(self, frame: Any) -> Any:
        from av.filter import Graph

        self._folder = tempfile.TemporaryDirectory(prefix="fportrait-colours-")
        path = write_cube(Path(self._folder.name) / "table.cube", table_of(self.colours, *self._exposure))
        graph = Graph()
        graph.link_nodes(
            graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=frame.time_base or Fraction(1, 1000),
            ),
            graph.add("lut3d", file=str(path), interp="tetrahedral"),
            graph.add("buffersink"),
        ).configure()
        return graph


def write_cube(path: Path, table: np.ndarray) -> Path:
    """A table `N N N 3` as a .cube file: red runs fastest."""
    rows = table.transpose(2, 1, 0, 3).reshape(-1, 3)
    lines = "\n".join("{:.6f} {:.6f} {:.6f}".format(*row) for row in rows)
    path.write_text(f"LUT_3D_SIZE {len(table)}\n{lines}\n", encoding="ascii")
    return path


def over_white(image: np.ndarray) -> np.ndarray:
    """`H W 4` uint8 laid over white, `H W 3`."""
    alpha = image[..., 3:].astype(np.uint16)
    return ((image[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def exposure_of(frames: Iterable[Any], colours: Colours) -> tuple[float, float]:
    """White and peak, cd/m², of an HDR file, from some of its frames; see `white_of`."""
    converter = ColourConverter(colours)
    samples = [converter.light(frame) for frame in frames]
    if not samples:
        return WHITE[1], PEAK
    light = np.concatenate(samples)
    luminance = light @ _to_xyz(colours.primaries, D65)[1]
    return white_of(luminance), float(np.clip(np.percentile(light.max(-1), 99.95), WHITE[0], PEAK))
