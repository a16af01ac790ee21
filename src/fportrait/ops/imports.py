"""Who imports whom in the project, read from the source: for the layers' test and the deps of dvc.yaml.

Imports inside functions count like those at the top. Modules are named as Python names them (`fportrait.camera.rays`);
the Kedro pipelines, which lie in `pipelines/`, are `fportrait.pipelines.*`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

PACKAGE = "fportrait"


@dataclass(frozen=True)
class Module:
    """One file: its name, its path relative to the project, and its syntax tree."""

    name: str
    path: Path
    tree: ast.Module = field(repr=False)

    @property
    def runs(self) -> bool:
        """Whether there is more to it than a docstring."""
        return any(not isinstance(one, ast.Expr) or not isinstance(one.value, ast.Constant) for one in self.tree.body)


class ImportGraph:
    """Args:
    root: the project's folder, which holds `src/fportrait` and `pipelines`.
    """

    def __init__(self, root: str | Path = "."):
        self.root = Path(root)
        self.modules: dict[str, Module] = {}
        for prefix, folder in ((PACKAGE, "src/fportrait"), (f"{PACKAGE}.pipelines", "pipelines")):
            for path in sorted((self.root / folder).rglob("*.py")):
                relative = path.relative_to(self.root / folder)
                if relative.parts[0] == "pipelines":  # a link to the other folder
                    continue
                name = ".".join([prefix, *relative.with_suffix("").parts]).removesuffix(".__init__")
                tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
                self.modules[name] = Module(name, Path(folder) / relative, tree)

    @cached_property
    def _at_run_time(self) -> dict[str, set[str]]:
        return {name: {target for target, _, typing in self.imports(name) if not typing} for name in self.modules}

    def imports(self, name: str) -> Iterator[tuple[str, int, bool]]:
        """Modules of the project that a module imports, each with its line and whether only type checkers see it."""
        for names, line, typing in _imports(self.modules[name].tree):
            for target in {self._module_of(one) for one in names} - {None, name}:
                yield str(target), line, typing

    def outside(self, name: str) -> Iterator[tuple[str, int]]:
        """Packages from outside the project that a module imports, each with its line."""
        for names, line, typing in _imports(self.modules[name].tree):
            for top in {one.split(".")[0] for one in names} - {PACKAGE}:
                if not typing:
                    yield top, line

    def closure(self, names: Iterable[str]) -> set[str]:
        """These modules and all that run when they do: what they import, and the packages around it."""
        left, found = list(names), set()
        while left:
            name = left.pop()
            if name in found:
                continue
            found.add(name)
            left += self._at_run_time[name]
            left += [parent for parent in _parents(name) if parent in self.modules and parent != PACKAGE]
        return found

    def _module_of(self, name: str) -> str | None:
        """`fportrait.a.b.c` may be a module or something in `fportrait.a.b`."""
        for candidate in (name, name.rpartition(".")[0]):
            if candidate in self.modules:
                return candidate
        return None


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _imports(node: ast.AST, typing: bool = False) -> Iterator[tuple[list[str], int, bool]]:
    """Dotted names of every import statement below a node, its line, and whether it stands under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield [alias.name for alias in child.names], child.lineno, typing
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            yield [f"{child.module}.{alias.name}" for alias in child.names], child.lineno, typing
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for statement in child.body:
                yield from _imports(ast.Module([statement], []), True)
            for statement in child.orelse:
                yield from _imports(ast.Module([statement], []), typing)
        else:
            yield from _imports(child, typing)
