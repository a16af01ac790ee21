"""The one error type for mistakes a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What was found, what was expected, and what to do. Entry points print it without a traceback and exit 2.

    >>> print(UserError("3 frames", "T = 4k+1 frames", "use 1 or 5 frames"))
    Found 3 frames. Expected T = 4k+1 frames. To fix it: use 1 or 5 frames.
    """

    def __init__(self, found: str, expected: str, fix: str):
        self.found, self.expected, self.fix = found, expected, fix
        super().__init__(f"Found {found}. Expected {expected}. To fix it: {fix}.")


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None when nothing comes close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def refuse_unknown_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise `UserError` for the first key of `given` that is not in `known`, naming the nearest one."""
    known = list(known)
    for key in given:
        if key not in known:
            near = nearest_name(key, known)
            fix = f"rename it to '{near}'" if near else f"use one of {', '.join(sorted(known))}"
            raise UserError(f"the key '{key}' in {where}", "a known key", fix)
