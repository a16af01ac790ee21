"""Take one person out of a project whose consent is withdrawn: what goes, what stays and why, and then that it is gone.

What is made again by a stage (tables, avatars, sweeps, shards, reports) loses the person's part at once, so that DVC
sees it changed and the stages run anew. Captures are the user's own and models cannot unlearn: both stay unless asked
for, and are named. Only what lies inside the project is touched; a link goes, never what it leads to.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fportrait.animate import adapters as own_adapters
from fportrait.animate.adapt import at_work, read_record
from fportrait.atomic_io import file_hash, write_json
from fportrait.capture.calibration import check_name
from fportrait.capture.ingest import FOLDERS
from fportrait.capture.withdrawn import LIST, take_off, withdraw, withdrawn
from fportrait.errors import UserError, nearest_name
from fportrait.ops import adapters, store
from fportrait.ops.forget_files import (
    UNIT,
    avatar_hash,
    below,
    clips_in,
    column_of,
    entries,
    half_written,
    is_report,
    read_list,
    read_object,
    read_value,
    size_of,
    units_in,
)
from fportrait.ops.forget_runs import clean, drop_version, named_in_database, split_of, versions
from fportrait.ops.person import Person, drop_rows, rows_of
from fportrait.ops.work_lock import alone

MODELS = ("stage1", "stage2", "stage3", "stage4", "model", "student", "study", "ablation")  # keys of globals.yml
STAGES = ("manifest", "tracks", "validated", "sweeps", "shards", "avatars", "evaluation")  # folders of people's data
MODEL_UNITS = ("checkpoints", "avatar_prior")  # below the units: weights that were trained on everybody together
LISTED = "list"  # the kind of an entry of `withdrawn.json`: last to go
UNLEARNED = "trained on them, and cannot unlearn: --models removes it"
GOES = object()  # what is left of a document of which nothing is
WHOSE = "identity.json"  # in a unit: whose it is
PAGES = (".html", ".md", ".csv", ".tex", ".txt")
TELLING = ("adapter", "entries", "rows", "captures")  # kinds that tell what else there is: last to go, in this order


@dataclass(frozen=True)
class Item:
    """Something that holds the person: `kind`, `where`, whether it `goes` and `why`, its size in `bytes`."""

    kind: str
    where: str
    goes: bool
    why: str
    bytes: int = 0
    act: Callable[[], object] | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("kind", "where", "goes", "why", "bytes")}


@dataclass(frozen=True)
class Forgotten:
    """`gone` is what went (of a dry run: would go), `left` what stays; `near` a known name most like one unknown."""

    gone: list[Item]
    left: list[Item]
    near: str | None = None


def forget(name: str, captures: bool = False, models: bool = False, dry_run: bool = False) -> Forgotten:
    """Take a person out of the project. With `dry_run` nothing changes.

    Args:
        name: of the person's folder in the captures. captures: remove that, too. models: and models trained on them.

    Raises:
        UserError: no project here, no person's name, a stage or an adapter's training at work, or a broken list of who
            withdrew.
    """
    check_name(name, "a person's")
    home = store.home().resolve()
    if not (home / "conf/base/globals.yml").is_file():
        raise UserError(f"no project in {home}", "a project's folder", "cd into a clone of the repository")
    with contextlib.ExitStack() as held:
        if not dry_run:
            held.enter_context(alone(home))
        project = Project(home, name)
        for adapter in project.adapters_at_work():
            if not dry_run:
                held.enter_context(at_work(home / own_adapters.WORK, adapter))
        found = project.items(captures, models)
        gone = [item for item in found if item.goes]
        if dry_run:
            left = [item for item in found if not item.goes]
            return Forgotten(gone, left, None if found else nearest_name(name, project.person.others))
        if found:
            project.put_on_list(done=False)  # first of all: whatever happens, no later run takes the person in
        for item in sorted(gone, key=lambda one: TELLING.index(one.kind) if one.kind in TELLING else -1):
            if item.act is not None:
                item.act()
        if found:
            project.put_on_list(done=True)
        left = Project(home, name).items(captures, models)
        if found and not [item for item in left if item.kind != LISTED]:
            project.take_off_list()
            left = Project(home, name).items(captures, models)
    return Forgotten(gone, left, None if found else nearest_name(name, project.person.others))


class Project:
    """A project as one person is looked for in it."""

    def __init__(self, home: Path, name: str):
        from fportrait.training.plan import read_folder

        self.home, self.name = home, name
        conf = home / "conf"
        names = sorted(path.parent.name for path in conf.glob("*/globals.yml"))
        self.folders = [
            {
                key: home / read_folder(key, one, conf)
                for key in (*STAGES, *MODELS, "captures", "truth", "units", "reports")
            }
            for one in sorted(names, key=lambda one: one != "base")
        ]
        self.raws = list(dict.fromkeys(folders["captures"] for folders in self.folders))
        self.lists = {raw: withdrawn(raw) for raw in self.raws}
        self.own = [raw / kind / name for raw in self.raws for kind in FOLDERS.values()]
        self.versions = list(versions(home))
        self.person = Person(name, self._others())
        self.clips = self._clips()

    def _others(self) -> set[str]:
        """Everybody whom the project knows."""
        found = {one for known in self.lists.values() for one in known}
        found |= {path.name for raw in self.raws for kind in FOLDERS.values() for path in entries(raw / kind)}
        for folders in self.folders:
            found |= {path.name for path in entries(folders["avatars"]) if path.is_dir()}
            found |= {path.stem for path in folders["shards"].glob("*/*.safetensors")}
        for _, story in self.versions:
            found |= {key.partition("/")[2] for key in story or {}}
        for folder in own_adapters.adapters(self.home).values():
            found |= {str(clip.get("person")) for clip in clips_in(read_record(folder))}
        return found - {self.name}

    def _clips(self) -> set[str]:
        """SHA-256 of the person's clips: as ingest knows them, else of the files themselves."""
        found: set[str] = set()
        for folders in self.folders:
            known = read_object(folders["units"] / "ingest/facts.json")
            for place in (folders["captures"] / kind / self.name for kind in FOLDERS.values()):
                for path in (path for path in below(place) if path.is_file() and path.stat().st_size):
                    fact = known.get(path.relative_to(folders["captures"]).as_posix(), {})
                    stamp = [str(path), path.stat().st_size, path.stat().st_mtime_ns]
                    fresh = isinstance(fact, dict) and fact.get("stamp") == stamp
                    found.add(fact["facts"]["sha256"] if fresh else file_hash(path))
            found |= set(column_of(folders["manifest"] / "manifest.parquet", self.name, "sha256"))
        for folder in own_adapters.adapters(self.home).values():  # of clips that lie elsewhere
            found |= {str(one.get("sha256")) for one in clips_in(read_record(folder)) if self._is_of(one)} - {"None"}
        return found

    def _is_of(self, clip: dict[str, Any]) -> bool:
        """Whether an adapter's record says that a clip is the person's."""
        return bool(clip.get("person") == self.name)

    def adapters_at_work(self) -> list[str]:
        """Adapters that exist or are being made: one that is being trained may be learning from the person now."""
        work = entries(self.home / own_adapters.WORK / "adapters")
        locks = {path.name[1:].removesuffix(".lock") for path in work if path.name.endswith(".lock")}
        return sorted({path.name for path in work if path.is_dir()} | locks | set(own_adapters.adapters(self.home)))

    @functools.cached_property
    def embedded(self) -> bool:
        """Whether the embedded world made the person, and would again."""
        lists = (read_list(raw / file) for raw in self.raws for file in ("embedded.json", "filled.json"))
        return any(f"{kind}/{self.name}" in found for found in lists for kind in FOLDERS.values())

    @functools.cached_property
    def trained_until(self) -> float | None:
        """Until when models may have been trained on the person (seconds since 1970): inf of one who is not on the
        list yet, None of one whom none was trained on."""
        entries = [known[self.name] for known in self.lists.values() if self.name in known]
        if entries:
            return max((float(entry.get("time", 0)) for entry in entries if entry.get("trained")), default=None)
        return float("inf") if "train" in self.splits else None

    @functools.cached_property
    def splits(self) -> set[str]:
        """`train`, `test` or both, as the tables and the versions' records know the person."""
        found = {split for _, story in self.versions for split in split_of(story, self.name)}
        for folders in self.folders:
            for key, table in (("manifest", "manifest"), ("validated", "identities"), ("shards", "index")):
                found |= set(column_of(folders[key] / f"{table}.parquet", self.name, "split"))
        return found

    def put_on_list(self, done: bool) -> None:
        for raw in self.raws:
            there = any(os.path.lexists(raw / kind / self.name) for kind in FOLDERS.values())
            if there or self.name in self.lists[raw] or (raw == self.raws[0] and self.inside(raw / LIST)):
                withdraw(raw, self.name, self.trained_until is not None, done)

    def take_off_list(self) -> None:
        for raw in () if self.embedded else self.raws:
            if self.name in withdrawn(raw):
                take_off(raw, self.name)

    def inside(self, path: Path) -> bool:
        """Whether a file or link lies in the project, by its folder's true place."""
        return path.parent.resolve().is_relative_to(self.home)

    def real(self, folder: Path) -> bool:
        """Whether a folder itself lies in the project."""
        return folder.resolve().is_relative_to(self.home)

    # What there is

    def items(self, captures: bool, models: bool) -> list[Item]:
        found = [*self.captures(captures), *self.truth(), *self.adapters(), *self.videos(), *self.units()]
        for folders in self.folders:
            for key in STAGES:
                found += self.files(folders[key])
            found += self.reports(folders["reports"])
        trials = [folders[key] for folders in self.folders for key in MODELS]
        for place in (*(self.home / place for place in own_adapters.MADE), *trials):
            found += self.evaluations(place)
        if "test" in self.splits:
            found += self.unnamed_pictures()
        found += [*self.weights(models), *self.mlflow(models), *self.cached(), *self.strays(), *self.listed()]
        if any(item.kind not in (LISTED, "cache") for item in found):
            found += self.killed()
        return list({item.where: item for item in reversed(found)}.values())[::-1]

    def killed(self) -> Iterator[Item]:
        """What stages began to write and nobody will finish: no stage is at work, and nothing says whose it is."""
        places = [folders[key] for folders in self.folders for key in (*STAGES, *MODELS, "units")]
        for path in (path for place in dict.fromkeys(places) if self.real(place) for path in half_written(place)):
            if own_adapters.WORK.name not in path.relative_to(self.home).parts:
                yield self.item("files", path, True, "half-written, by a process that was killed")

    def item(self, kind: str, path: Path, goes: bool, why: str, act: Callable[[], object] | None = None) -> Item:
        where = path.relative_to(self.home).as_posix()
        if goes and not self.inside(path):
            return Item(kind, where, False, "lies outside the project, behind a link: remove it there")
        return Item(kind, where, goes, why, size_of(path), act or functools.partial(own_adapters.remove_path, path))

    def captures(self, asked: bool) -> Iterator[Item]:
        for path in self.own:
            if os.path.lexists(path):
                links = path.is_symlink() or any(one.is_symlink() for one in below(path))
                why = (
                    "asked for with --captures" if asked else "yours: ingest passes over them; --captures removes them"
                )
                yield self.item("captures", path, asked, why + ("; files behind links stay" if asked and links else ""))
        for path in (raw / "import.json" for raw in self.raws):
            if (item := self.document(path)) is not None:
                yield item if asked else self.item("entries", path, False, "goes with the captures")

    def truth(self) -> Iterator[Item]:
        for place in dict.fromkeys(folders["truth"] for folders in self.folders):
            for path in (folder / self.name for folder in entries(place)):
                if path.is_dir():
                    yield self.item("files", path, True, "what is exactly known of an embedded person")

    def adapters(self) -> Iterator[Item]:
        known = own_adapters.adapters(self.home)
        registered = set(adapters.of_clips(self.clips)) if self.here() else set()
        for name in sorted({*self.adapters_at_work(), *registered}):
            folder = known.get(name, self.home / own_adapters.FOLDER / name)
            clips = clips_in(read_record(folder))
            by_clip = sum(clip.get("sha256") in self.clips for clip in clips)
            by_name = any(map(self._is_of, clips)) or (not clips and name == self.name)
            if not (by_clip or by_name or name in registered or self._placed(name)):
                continue
            others = sorted({str(clip.get("person")) for clip in clips} - {self.name, name})
            why = f"learned from {by_clip} of their clips" if by_clip else "learned from them"
            if others:
                why += f", and from {', '.join(others)}: adapt again without"
            yield self.item("adapter", folder, True, why, functools.partial(self.drop_adapter, name))

    def _placed(self, name: str) -> bool:
        """Whether the clips laid out for an adapter, which may never have been finished, are the person's."""
        owned = [path.resolve() for path in self.own if os.path.lexists(path)]
        for path in below(self.home / own_adapters.WORK / "adapters" / name / "clips"):
            if path.is_symlink() and any(path.resolve().is_relative_to(place) for place in owned):
                return True
            if self.clips and path.is_file() and path.stat().st_size and file_hash(path) in self.clips:
                return True
        return False

    def drop_adapter(self, name: str) -> None:
        known = adapters.hashes(name) if self.here() else []
        places = [self.home / place for place in own_adapters.MADE]
        own_adapters.remove(name, self.home, [place for place in places if self.real(place)], known)
        if self.here():
            adapters.forget(name)

    def videos(self) -> Iterator[Item]:
        places = [self.home / place for place in own_adapters.MADE]
        for path in own_adapters.made_with(self.clips, filter(self.real, places)) if self.clips else []:
            yield self.item("made", path, True, "made from their clips, by its provenance")

    def units(self) -> Iterator[Item]:
        done = any(known.get(self.name, {}).get("done") for known in self.lists.values())
        for units, avatars in dict.fromkeys((one["units"], one["avatars"]) for one in self.folders):
            others = {avatar_hash(path) for path in entries(avatars) if path.name != self.name}
            for kind in entries(units):
                if kind.name in (*MODEL_UNITS, own_adapters.WORK.name) or not kind.is_dir():
                    continue
                yield from self.files(kind)
                for path in units_in(kind):
                    fit = avatar_hash(path / "avatar")
                    if self.in_unit(path):
                        yield self.item("unit", path, True, "made of them")
                    elif fit and not ((path / WHOSE).is_file() or fit in others or done):  # from before it said whose
                        yield self.item("unit", path, True, "an avatar of theirs, or of nobody who is here")

    def in_unit(self, folder: Path) -> bool:
        return any(self.owned(one) or self.left_of(one) is not None or rows_of(one, self.name) for one in below(folder))

    def owned(self, path: Path) -> bool:
        return self.person.owns(path.name) or path.name == f"{self.name}.safetensors"

    def files(self, root: Path) -> Iterator[Item]:
        """Tables, documents, folders and files of the person below a folder that a stage wrote; units apart."""
        if root.is_symlink():
            yield self.link(root)
            return
        avatars = {folders["avatars"] for folders in self.folders}
        for entry in [] if is_report(root) else entries(root):
            if entry.is_dir() and not entry.is_symlink():
                if entry.name == self.name and (root in avatars or root.name in ("contact_sheets", "clips")):
                    yield self.item("files", entry, True, "made of them")
                elif not UNIT.fullmatch(entry.name):
                    yield from self.files(entry)
            elif entry.is_dir():
                yield self.link(entry)
            elif self.owned(entry):
                yield self.item("files", entry, True, "made of them")
            elif item := self.table(entry) or self.document(entry):
                yield item
        if is_report(root):
            yield from self.evaluations(root)

    def link(self, path: Path) -> Item:
        """A folder behind a link: inside the project it is seen at its own place, outside it is not looked at."""
        inside = path.resolve().is_relative_to(self.home)
        why = "a link within the project: look where it leads" if inside else "a link out of the project: look there"
        return Item("link", path.relative_to(self.home).as_posix(), False, why)

    def reports(self, root: Path) -> Iterator[Item]:
        """The stages' own reports; records of lineage name nobody."""
        for path in (root, root / "metrics", root / "stopped", root / "curves"):
            for entry in entries(path):
                if entry.suffix == ".json" and (item := self.document(entry)):
                    yield item

    def table(self, path: Path) -> Item | None:
        count = rows_of(path, self.name) if path.suffix == ".parquet" else 0
        if not count:
            return None
        return self.item("rows", path, True, f"{count} rows of theirs", functools.partial(drop_rows, path, self.name))

    def document(self, path: Path) -> Item | None:
        """A document that names the person: JSON loses what does, a page goes; both are made again by their stage."""
        left = self.left_of(path)
        if left is None:
            return None
        if left is GOES:
            return self.item("files", path, True, "names them")
        return self.item("entries", path, True, "names them", functools.partial(write_json, path, left))

    def left_of(self, path: Path) -> Any:
        """What is left of a document that names the person (`GOES`: nothing); None of one that does not."""
        if path.suffix == ".json" and path.is_file():
            value = read_value(path)
            if isinstance(value, dict) and self.person.has(value):
                return GOES
            left = self.person.without(value)
            return None if left == value else left
        if path.suffix in PAGES and path.is_file():
            with contextlib.suppress(OSError, ValueError):
                if self.person.mentions(path.read_text(encoding="utf-8")):
                    return GOES
        return None

    def evaluations(self, root: Path) -> Iterator[Item]:
        """Evaluations that name the person: their pages and pictures show them beside others, so each goes whole."""
        for folder in (Path(place) for place, _, _ in os.walk(root)) if not root.is_symlink() else ():
            if is_report(folder) and any(self.owned(one) or self.left_of(one) is not None for one in below(folder)):
                for path in own_adapters.report_in(folder):
                    yield self.item("report", path, True, "an evaluation that they are in")

    def unnamed_pictures(self) -> Iterator[Item]:
        """Samples of training show somebody held out, and do not say whom."""
        for folder in dict.fromkeys(folders[key] for folders in self.folders for key in MODELS):
            for place in [] if folder.is_symlink() else sorted(folder.rglob("samples")):
                yield self.item("pictures", place, True, "samples of people held out, unnamed: maybe of them")
        for path in (folder / name for folder in self.runs() for name in ("samples", "card")):
            if path.is_dir():
                yield self.item("pictures", path, True, "samples of people held out, unnamed: maybe of them")

    def runs(self) -> list[Path]:
        """Folders of runs' artifacts, those of an experiment with a place of its own among them."""
        return sorted((self.home / "mlruns").glob("*/*/artifacts"))

    def weights(self, asked: bool) -> Iterator[Item]:
        until = self.trained_until
        if until is None:
            return
        places = [folders[key] for folders in self.folders for key in MODELS]
        places += [one for folders in self.folders for key in MODEL_UNITS for one in entries(folders["units"] / key)]
        for path in dict.fromkeys(places):
            newest = max((one.lstat().st_mtime for one in below(path)), default=until)  # a stage writes all of it
            if newest < until:
                why = "asked for with --models" if asked else UNLEARNED
                yield self.item("model", path, asked, why)

    # MLflow

    def here(self) -> bool:
        """Whether runs and registry are this project's own."""
        return not os.environ.get("MLFLOW_TRACKING_URI") and (self.home / store.DATABASE).is_file()

    def mlflow(self, models: bool) -> Iterator[Item]:
        if named := os.environ.get("MLFLOW_TRACKING_URI"):
            yield Item("runs", named, False, "a server's: remove its runs and artifacts there")
        if not self.here():
            return
        kept: dict[str, set[str]] = {}  # by run: names that are not looked at
        for version, story in self.versions:
            where = f"version {version.version} of {version.name}"
            if "train" in split_of(story, self.name):
                why = "asked for with --models" if models else UNLEARNED
                yield Item("model", where, models, why, 0, functools.partial(drop_version, self.home, version))
                kept[str(version.run_id)] = {"*"} if models else {"gate"}
            elif story is None and self.trained_until is not None:
                yield Item("model", where, False, "without a record of whom it was trained on: look yourself")
        for folder in self.runs():
            apart = {"adapter", *kept.get(folder.parent.name, ())}
            for path in entries(folder) if "*" not in apart else ():
                if path.is_dir() and path.name not in apart:
                    yield from self.files(path)
                elif item := self.document(path):
                    yield item
        if count := sum(len(one) for one in named_in_database(self.home, self.person).values()):
            what = f"{count} names of metrics, parameters or tags"
            yield Item("runs", str(store.DATABASE), True, what, 0, functools.partial(clean, self.home, self.person))

    def cached(self) -> Iterator[Item]:
        """DVC's cache holds earlier outputs by their bytes; lists of folders tell whom they are of."""
        cache = self.home / ".dvc/cache/files/md5"
        count = sum(self._in_listing(path) for path in cache.glob("*/*.dir")) if cache.is_dir() else 0
        if count:
            why = f"{count} earlier outputs with their files: `dvc repro`, then `dvc gc --workspace --force`"
            yield Item("cache", ".dvc/cache", False, why)

    def _in_listing(self, path: Path) -> bool:
        names = (str(entry.get("relpath", "")).split("/") for entry in read_list(path) if isinstance(entry, dict))
        return any(
            parts[0] == self.name or self.person.owns(parts[-1]) or parts[-1] == f"{self.name}.safetensors"
            for parts in names
        )

    def strays(self) -> Iterator[Item]:
        """What of the user's own below data/ names the person; it is not touched."""
        seen = {*self.raws, self.home / own_adapters.FOLDER, *(self.home / place for place in own_adapters.MADE)}
        seen |= {place for folders in self.folders for place in folders.values()}
        for place, folders, names in os.walk(self.home / "data"):
            folders[:] = sorted(one for one in folders if Path(place, one) not in seen)
            for path in (Path(place, one) for one in folders if one == self.name):
                yield self.item("yours", path, False, "of their name, and no stage made it: look yourself")
            for path in (Path(place, one) for one in sorted(names)):
                if path.suffix in (".json", *PAGES) and self.left_of(path) is not None:
                    yield self.item("yours", path, False, "names them, and no stage wrote it: look yourself")

    def listed(self) -> Iterator[Item]:
        for raw in self.raws:
            if self.name in self.lists[raw]:
                why = "so that ingest passes over them"
                if self.embedded:
                    why += ", whom the embedded world would film again"
                yield Item(LISTED, (raw / LIST).relative_to(self.home).as_posix(), False, why)
