"""Which code runs: its files by hash, whether a commit holds exactly them, and a copy of them for the registry.

Git's own idea of a clean tree trusts time stamps and flags (`assume-unchanged`, `skip-worktree`), does not see files
that it was told to ignore, and knows nothing of a package that was imported from elsewhere. Here contents are compared.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from fportrait.atomic_io import file_hash
from fportrait.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
NAME = "fportrait"
SKIPPED = ("__pycache__", ".ipynb_checkpoints", ".mypy_cache", ".ruff_cache")
COMMITTED = ("src/fportrait", "pipelines", "conf", "dvc.yaml", "pyproject.toml")
LOCAL = "conf/local/"  # a user's own overrides: ignored by Git on purpose, and recorded with every result


def files(package: Path | None = None) -> dict[str, Path]:
    """The package's files by name (`fportrait/ops/gate.py`), the pipelines among them; compiled files are left out."""
    package, found = package or PACKAGE, {}
    for folder, below, names in os.walk(package, followlinks=True):  # `pipelines` is a link beside the package
        below[:] = sorted(name for name in below if name not in SKIPPED)
        for name in names:
            path = Path(folder, name)
            if path.suffix != ".pyc" and not name.startswith(".tmp-"):
                found[f"{NAME}/{path.relative_to(package).as_posix()}"] = path
    return dict(sorted(found.items()))


def listing(package: Path | None = None) -> dict[str, str]:
    """SHA-256 of the package's files by name."""
    return {name: file_hash(path) for name, path in files(package).items()}


def listing_hash(listed: Mapping[str, str], below: str = "") -> str:
    """SHA-256 over a listing, or over the part of it below a name."""
    lines = (f"{name}\0{digest}\n" for name, digest in sorted(listed.items()) if name.startswith(below))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def in_repository(name: str) -> str:
    """Where a file of the package lies in the repository.

    >>> in_repository("fportrait/pipelines/wiring.py"), in_repository("fportrait/cli/web.py")
    ('pipelines/wiring.py', 'src/fportrait/cli/web.py')
    """
    inner = name.removeprefix(f"{NAME}/")
    return inner if inner.startswith("pipelines/") else f"src/{name}"


def head() -> str:
    """The commit checked out in the working folder; empty outside a repository."""
    try:
        return _git("rev-parse", "HEAD").decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def committed_text(commit: str, name: str) -> str | None:
    """A file of the project as a commit has it; None where there is no such commit or file."""
    try:
        return _git("show", f"{commit}:./{name}").decode()
    except (OSError, subprocess.CalledProcessError, UnicodeDecodeError):
        return None


def has_commit(commit: str) -> bool:
    """Whether this repository holds a commit."""
    try:
        _git("cat-file", "-e", f"{commit}^{{commit}}")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def changed_files() -> list[str]:
    """What differs from the commit checked out here, by content: running code, pipelines and configuration.

    Changed, missing and additional files all count, by their names in the repository; empty in a clean tree.
    """
    top = Path(_git("rev-parse", "--show-toplevel").decode().strip())
    prefix = Path.cwd().resolve().relative_to(top.resolve()).as_posix()
    root = "" if prefix == "." else f"{prefix}/"  # a project may lie below the repository's top
    committed: dict[str, str] = {}
    for line in _git("ls-tree", "-r", "-z", "--full-tree", "HEAD", "--", *(root + path for path in COMMITTED)).split(
        b"\0"
    ):
        if line:
            about, _, name = line.partition(b"\t")
            mode, _, blob = about.decode().split(" ")
            if mode != "120000":  # of a link, the files behind it are what runs
                committed[name.decode().removeprefix(root)] = blob
    present = {in_repository(name): path for name, path in files().items()}
    for path in (path for place in ("conf", "dvc.yaml", "pyproject.toml") for path in _files_at(Path(place))):
        present[path.as_posix()] = path
    present = {name: path for name, path in present.items() if not name.startswith(LOCAL) or name in committed}
    blobs = dict(zip(present, _blobs(list(present.values())), strict=True))
    names = blobs.keys() | {name for name in committed if name.startswith(COMMITTED)}
    return sorted(name for name in names if blobs.get(name) != committed.get(name))


def _files_at(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return [path for path in place.rglob("*") if path.is_file() and not set(path.parts) & set(SKIPPED)]


def _blobs(paths: list[Path]) -> list[str]:
    """Git's names of the files' contents, with the repository's own filters (line endings)."""
    lines = "".join(f"{path.absolute()}\n" for path in paths)
    return _git("hash-object", "--stdin-paths", feed=lines.encode()).decode().split() if paths else []


def _git(*arguments: str, feed: bytes | None = None) -> bytes:
    return subprocess.run(["git", *arguments], input=feed, capture_output=True, check=True).stdout


def copy_recorded(recorded: Mapping[str, str], commit: str, target: Path) -> Path:
    """Copy exactly the recorded files into `target/fportrait`: from the tree if it holds them, else from the commit.

    Raises:
        UserError: neither holds them; the first file that differs is named.
    """
    found = files()
    wrong = _differing(recorded, {name: file_hash(path) for name, path in found.items()})
    if not wrong:
        for name in recorded:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found[name], target / name)
    elif commit and not commit.endswith("+"):
        _extract(commit, recorded, target)
    copied = {name: file_hash(target / name) for name in recorded if (target / name).is_file()}
    if copied != dict(recorded):
        name = (wrong or sorted(recorded))[0]
        raise UserError(
            f"{in_repository(name)} changed since the evaluation, and no commit holds it as it was",
            "the code that the model was evaluated with",
            "commit, and run `kedro run --pipelines=evaluate` again",
        )
    return target / NAME


def _differing(recorded: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    return sorted(name for name in {*recorded, *present} if recorded.get(name) != present.get(name))


def _extract(commit: str, recorded: Mapping[str, str], target: Path) -> None:
    """Write the recorded files as the commit has them; what it lacks is left out."""
    try:
        packed = _git("archive", "--format=tar", commit, "--", "src/fportrait", "pipelines")
    except (OSError, subprocess.CalledProcessError):
        return
    wanted = {in_repository(name): name for name in recorded}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            if member.isfile() and member.name in wanted:
                path = target / wanted[member.name]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
