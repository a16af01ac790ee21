"""Past results: one folder each, which appears whole or not at all."""

from __future__ import annotations

import fcntl
import json
import re
import secrets
import shutil
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fportrait.atomic_io import atomic_folder, write_json
from fportrait.errors import UserError

SETTINGS, THUMBNAIL = "settings.json", "thumbnail.png"
STEM = re.compile(r"[^\w-]+")


def stem_of(portrait: str) -> str:
    """What a result's files are called, after its portrait's file: letters, digits, `-` and `_`, at most 60 of them."""
    return STEM.sub("-", Path(portrait).stem).strip("-_")[:60] or "portrait"


def file_names(stem: str) -> tuple[str, str, str]:
    """Video, picture and conditions, as they are downloaded; `stem` "" for results of before they had names."""
    if not stem:
        return "video.mp4", "picture.png", "conditions.zip"
    return f"{stem}-animated.mp4", f"{stem}-over-time.png", f"{stem}-conditions.zip"


@dataclass(frozen=True)
class Result:
    """A finished result: its folder and what it was made with."""

    folder: Path
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def _files(self) -> tuple[str, str, str]:
        return file_names(STEM.sub("-", str(self.settings.get("files", ""))))

    @property
    def video(self) -> Path:
        return self.folder / self._files[0]

    @property
    def picture(self) -> Path:
        return self.folder / self._files[1]

    @property
    def thumbnail(self) -> Path:
        """A frame of the video, or the picture of a result that has none."""
        return self.folder / THUMBNAIL if (self.folder / THUMBNAIL).is_file() else self.picture

    @property
    def conditions(self) -> Path:
        return self.folder / self._files[2]


class ResultStore:
    """Args:
    folder: holds one folder per result. keep: the oldest are removed beyond this many.

    One server at a time owns the folder; what a killed one left half-made is removed when the next one starts.

    Raises:
        UserError: another server uses the folder.
    """

    def __init__(self, folder: str | Path, keep: int = 100):
        self.folder, self.keep = Path(folder).resolve(), keep
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock: IO[str] = open(self.folder / ".lock", "w")  # noqa: SIM115 - held while the server lives
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(
                f"another studio that uses {self.folder}", "one at a time", "stop it, or pass another --results folder"
            ) from None
        for half_made in self.folder.glob(".tmp-*"):
            shutil.rmtree(half_made, ignore_errors=True)

    def close(self) -> None:
        self._lock.close()

    def add(self, write: Any, settings: Mapping[str, Any]) -> Result:
        """Let `write(folder)` make the video, picture and a folder `conditions`; keep them under a new name.

        The files are called as `file_names(settings["files"])` says.
        """
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        with atomic_folder(self.folder / name) as folder:
            write(folder)
            zip_folder(folder / "conditions", Result(folder, settings).conditions)
            shutil.rmtree(folder / "conditions")
            write_json(folder / SETTINGS, dict(settings))
        for old in self.list()[self.keep :]:
            self.delete(old.name)
        return Result(self.folder / name, settings)

    def list(self) -> list[Result]:
        """Finished results, newest first."""
        found = []
        for folder in sorted(self.folder.iterdir(), reverse=True):
            if folder.name.startswith(".") or not (folder / SETTINGS).is_file():
                continue
            try:
                result = Result(folder, json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
                whole = result.video.is_file() and result.picture.is_file()
            except (ValueError, AttributeError):
                continue
            if whole:
                found.append(result)
        return found

    def get(self, name: str) -> Result:
        """A result by its name.

        Raises:
            UserError: there is none; names are compared with what is there, never joined to a path.
        """
        for result in self.list():
            if result.name == name:
                return result
        raise UserError("a result that is gone", "one of the gallery", "open the gallery again")

    def delete(self, name: str) -> None:
        shutil.rmtree(self.get(name).folder)


def zip_folder(folder: Path, target: Path) -> Path:
    """A folder's files as a ZIP file."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder).as_posix())
    return target
