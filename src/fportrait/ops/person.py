"""Where a text, a file's name or a table speaks of one person, and not of somebody whose name begins as theirs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

# What follows a person's name in names of files: a shard's record, a sweep's clip.
_OF_CLIPS = r"-(?:[0-9a-f]{8}-\d{5}|(?:view|dynamic)\d{3}-[0-9a-f]+)"
# Words of fportrait's own documents: who is called so is meant only where a reference or an entry says whose it is.
_OUR_WORDS = """
    base camera captures clip clips dataset embedded expression final frames identity model name ours people phone pose
    reason scores seed shipped split stage studio test time train truth unit view
"""
WORDS = frozenset(_OUR_WORDS.split())
OF = ("identity", "person", "unit")  # keys of an entry that say whose it is
LONGEST = 500  # characters of a reference
_BEFORE = r"(?:(?:\S*/)?(?:[A-Z]\w*(?:Capture|Sweep)|01_raw/phone|01_raw/studio)/|(?:phone|studio)/)?"


class Person:
    """One person of a project, among `others` whom it knows.

    >>> anna = Person("anna", ["annabel", "anna-lena", "bo"])
    >>> [anna.mentions(text) for text in ("no face of anna.", "annabel", "anna-lena: dark", "people.anna.psnr")]
    [True, False, False, True]
    >>> [anna.mentions(text) for text in ("anna/walk/phone", "bo/with anna/phone", "PhoneCapture/anna/0c01b36b-00000")]
    [True, False, True]
    >>> [Person("test").mentions(text) for text in ("test", "the test split", "PhoneCapture/test", "test/walk/phone")]
    [False, False, True, True]
    >>> [anna.owns(name) for name in ("anna-0c01b36b-00017-ours.mp4", "anna-lena-0c01b36b-00017.png", "anna.png")]
    [True, False, False]
    """

    def __init__(self, name: str, others: Collection[str] = ()):
        self.name, self.others = name, frozenset(others)
        self._is_word = name.casefold() in WORDS
        own = re.escape(name)
        known = sorted(self.others - {name}, key=len, reverse=True)
        longer = [re.escape(other) for other in known if name in other]
        self._longer = re.compile("|".join(longer)) if longer else None
        self._others = re.compile(f"{_BEFORE}(?:{'|'.join(map(re.escape, known))})(?:/.*)?") if known else None
        self._is = re.compile(f"{_BEFORE}{own}(?:/.*)?")
        self._word = re.compile(rf"(?<![\w+-]){own}(?:(?![\w+-])|(?={_OF_CLIPS}))")
        self._file = re.compile(rf"{own}{_OF_CLIPS}.*")

    def mentions(self, text: str) -> bool:
        """Whether a text, key or reference (`anna/clip/camera`, `PhoneCapture/anna`) names the person."""
        if self.name not in text:
            return False
        if len(text) < LONGEST:  # a reference, which tells exactly; a page is none
            if self._is.fullmatch(text) and not (self._is_word and text == self.name):
                return True
            if self._others and self._others.fullmatch(text):
                return False
        return not self._is_word and bool(self._word.search(self._longer.sub("\0", text) if self._longer else text))

    def owns(self, file: str) -> bool:
        """Whether a file is named as a clip, shard record or picture of the person."""
        return bool(self._file.fullmatch(file))

    def without(self, value: Any) -> Any:
        """A JSON value without whatever names the person: keys, entries of lists, texts."""
        if isinstance(value, dict):
            return {
                key: self.without(one)
                for key, one in value.items()
                if not self.mentions(str(key)) and not (isinstance(one, str) and self.mentions(one))
            }
        if isinstance(value, list):
            return [self.without(one) for one in value if not (self.has(one) or any(map(self.mentions, _texts(one))))]
        return value

    def has(self, entry: Any) -> bool:
        """Whether an entry of a document says that it is the person's, or is their name."""
        return self.name in [entry.get(key) for key in OF] if isinstance(entry, dict) else bool(entry == self.name)


def _texts(value: Any) -> Iterable[str]:
    """The texts that an entry of a list is, or holds itself."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return (one for one in inside if isinstance(one, str))


def rows_of(path: Path, name: str) -> int:
    """Rows of a Parquet table whose `identity` is the person; 0 of a table without, or a file that is none."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        column = pq.read_table(path, columns=["identity"]).column("identity")
        return int(pc.sum(pc.equal(column.cast(pa.string()), name)).as_py() or 0)
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return 0


def drop_rows(path: Path, name: str) -> None:
    """Write a table without the person's rows, a row group at a time; one without any other row goes."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from fportrait.atomic_io import atomic_path

    left = 0
    with (
        pq.ParquetFile(path) as source,
        atomic_path(path) as target,
        pq.ParquetWriter(target, source.schema_arrow) as writer,
    ):
        for group in range(source.num_row_groups):
            rows = source.read_row_group(group)
            rows = rows.filter(pc.not_equal(rows.column("identity").cast(pa.string()), name))
            left += len(rows)
            if len(rows):
                writer.write_table(rows)
    if not left:
        path.unlink()
