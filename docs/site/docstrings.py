"""How the API pages read docstrings: arguments of their own row, and one entry per class.

The house writes short arguments on one line (`fps: frames a second. size: pixels.`) and lets a class's docstring begin
with `Args:`. The parser of the pages knows neither, so both are written out for it here. What a package re-exports is
listed once, under the name that users import.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Alias, Extension, Module

SECTION = re.compile(r"(?m)^(?P<indent> *)(?:Args|Attributes):\n(?P<body>(?:(?P=indent) +\S.*\n?|\n)+)")


class Docstrings(Extension):
    def on_package(self, *, pkg: Module, **kwargs: Any) -> None:
        gather(pkg)
        write_out(pkg)


def gather(module: Module) -> None:
    """Move what a package re-exports from its modules up into the package."""
    exported = set(module.exports or ())
    for name, member in list(module.members.items()):
        if member.is_alias:
            if name not in exported or not member.target_path.startswith(f"{module.path}."):
                continue
            target = member.final_target
            home = target.parent
            module.set_member(name, target)
            home.set_member(name, Alias(name, target, parent=home))
            home.imports[name] = target.path  # as if imported: found there by its old name, and not listed again
        elif member.is_module:
            gather(member)


def write_out(thing: Any) -> None:
    """Mend the docstrings of an object and of what it holds."""
    for member in thing.members.values():
        if not member.is_alias:
            write_out(member)
    if thing.docstring is not None and (thing.is_class or thing.is_function):
        thing.docstring.value = with_rows(thing.docstring.value, argument_names(thing))


def argument_names(thing: Any) -> list[str]:
    """Of a function, or of the constructor or the fields of a class."""
    if thing.is_function:
        return [parameter.name for parameter in thing.parameters]
    own = [name for name, member in thing.members.items() if not member.is_alias and member.is_attribute]
    return own + [parameter.name for parameter in thing.parameters]


def with_rows(text: str, names: list[str]) -> str:
    """The docstring with `Args:` as a section of its own and every argument in a row.

    >>> print(with_rows("Args:\\n    a: first. b: second.\\n        Still b.", ["a", "b"]))
    <BLANKLINE>
    Args:
        a: first.
        b: second.
            Still b.
    """
    if text.startswith("Args:"):
        text = "\n" + indented(text)
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    if not known:
        return text

    def rows(section: re.Match[str]) -> str:
        first = re.match(r" *", section["body"])
        indent = first[0] if first else ""
        body = re.sub(rf"(?<=[.;]) (?=(?:{known})(?:, (?:{known}))*: )", f"\n{indent}", section["body"])
        pair, count = re.compile(rf"(?m)^{indent}({known}), ((?:{known})(?:, (?:{known}))*)(?=: )"), 1
        while count:
            body, count = pair.subn(rf"{indent}\1: as `\2`.\n{indent}\2", body)
        return section[0].replace(section["body"], body)

    return SECTION.sub(rows, text)


def indented(text: str) -> str:
    """A first section whose arguments stand as far left as its title, because the docstring begins with it."""
    title, *lines = text.split("\n")
    if lines and lines[0].startswith(" "):
        return text
    for number, line in enumerate(lines):
        if not line.strip():
            return "\n".join([title, *(f"    {one}" for one in lines[:number]), *lines[number:]])
    return "\n".join([title, *(f"    {one}" for one in lines)])
