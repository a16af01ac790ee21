"""What an importer finds: clips and studio captures to place, and what it must refuse."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.capture.calibration import Camera
from fportrait.capture.video_io import VIDEO_SUFFIXES, decode_image
from fportrait.errors import UserError

MAX_PICTURE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Options:
    """How to import. `cameras` are drawn from a studio's; `identity` names the person of a plain folder of clips."""

    cameras: int = 11
    seed: int = 0
    identity: str | None = None
    min_frames: int = 5


@dataclass(frozen=True)
class ZippedFrames:
    """Pictures inside a zip archive, in the order of the frames, `fps` apart."""

    archive: Path
    members: tuple[str, ...]
    fps: float

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames `H W 3` uint8.

        Raises:
            UserError: the archive or a picture in it is damaged, or a picture is absurdly large.
        """
        try:
            with zipfile.ZipFile(self.archive) as archive:
                for member in self.members:
                    if archive.getinfo(member).file_size > MAX_PICTURE_BYTES:
                        raise UserError(
                            f"{member} of {self.archive.name} above 256 MiB", "a picture", "download it again"
                        )
                    yield decode_image(io.BytesIO(archive.read(member)), f"{member} in {self.archive.name}")
        except (zipfile.BadZipFile, KeyError, OSError, EOFError, RuntimeError, NotImplementedError) as error:
            raise UserError(
                f"{self.archive.name}, which is damaged ({error})", "a whole zip archive", "download it again"
            ) from None


@dataclass(frozen=True)
class ClipPlan:
    """One monocular clip: its video, the field of view if known, and a file of per-frame features if there is one.

    `consent_in`: the person's folder, in which a consent file may lie.
    """

    identity: str
    clip: str
    video: Path
    fov_degrees: float | None = None
    features: Path | None = None
    consent_in: Path | None = None


@dataclass(frozen=True)
class StudioPlan:
    """One person's studio capture: cameras in metres, and per segment one source per camera; `consent_in` as in
    `ClipPlan`."""

    identity: str
    cameras: dict[str, Camera]
    segments: dict[str, dict[str, Path | ZippedFrames]]
    consent_in: Path | None = None


@dataclass(frozen=True)
class Refusal:
    """What could not be used, where it lies, and why."""

    identity: str
    path: Path
    reason: str

    def as_json(self) -> dict[str, str]:
        return {"identity": self.identity, "path": str(self.path), "reason": self.reason}


def refusal(identity: str, path: Path, found: str, expected: str, fix: str) -> Refusal:
    """A refusal in the words of `UserError`."""
    return Refusal(identity, path, str(UserError(found, expected, fix)))


Plan = Iterator[ClipPlan | StudioPlan | Refusal]


def entries(folder: Path) -> list[Path]:
    """Visible entries of a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def folders(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.is_dir()] if folder.is_dir() else []


def videos(folder: Path) -> list[Path]:
    """Entries named as videos, readable or not."""
    if not folder.is_dir():
        return []
    return [path for path in entries(folder) if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()]


def need(content: dict[str, Any], key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """`content[key]` of the expected kind.

    Raises:
        UserError: missing, or of another kind.
    """
    value = content.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        found = f"no '{key}'" if key not in content else f"'{key}' as {type(value).__name__}"
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise UserError(f"{found} in {where}", names, "download the calibration again")
    return value
