"""The code that every stage of dvc.yaml depends on: the import closure of its verb, and the assets that it reads.

    python -m fportrait.ops.stage_deps --write

rewrites the `deps` of dvc.yaml; without `--write` it says what is wrong and exits with 1. Data stays as it is written
there by hand. A folder stands for its files where the closure holds three quarters of them or more: the list stays
readable, and the worst is a stage that runs once too often. Kedro's own files (the registry,
settings, hooks) run around every verb, change no result and are no deps.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import click

from fportrait.ops.imports import PACKAGE, ImportGraph, Module

ASSETS = Path("src/fportrait/assets")
WHOLE = 0.75  # of a folder's modules
DEPS = re.compile(r"(?m)^    deps:\n((?:      - .*\n)+)")


class StageDeps:
    """Args:
    root: the project's folder.
    """

    def __init__(self, root: str | Path = "."):
        self.graph = ImportGraph(root)
        self.assets = asset_uses(self.graph)

    def files(self, stage: str) -> set[str]:
        """Modules of the project that a stage's verb runs."""
        verb = f"{PACKAGE}.pipelines.{stage}"
        entries = [name for name in self.graph.modules if name == verb or name.startswith(verb + ".")]
        return self.graph.closure(entries) - {f"{PACKAGE}.pipelines"}

    def code(self, stage: str) -> list[str]:
        """Files and folders, relative to the project, that a stage's verb runs and reads, without data."""
        names = self.files(stage)
        running = {name: module.path for name, module in self.graph.modules.items() if module.runs}
        code = folded({running[name] for name in names & running.keys()}, running.values())
        return [*sorted(code), *sorted(set().union(*(self.assets[name] for name in names)))]


def folded(files: set[Path], every: Iterable[Path]) -> set[str]:
    """`files`, with a folder in place of its files where they are at least `WHOLE` of what `every` has there."""
    inside: dict[Path, list[Path]] = {}
    for file in every:
        for folder in file.parents:
            inside.setdefault(folder, []).append(file)
    smallest = {"src": 3, "pipelines": 2}  # never all of src/fportrait, nor all of pipelines
    kept: set[str] = set()
    for file in files:
        folders = [folder for folder in file.parents if len(folder.parts) >= smallest[file.parts[0]]]
        whole = [
            folder for folder in folders if sum(one in files for one in inside[folder]) >= WHOLE * len(inside[folder])
        ]
        kept.add((whole[-1] if whole else file).as_posix())
    return kept


def asset_uses(graph: ImportGraph) -> dict[str, set[str]]:
    """What each module reads in `assets/`: paths written in it, and constants of other modules that it imports.

    Raises:
        ValueError: a name in `assets/` that is neither written there nor a constant of the module.
    """
    constants: dict[tuple[str, str], str] = {}
    found: dict[str, set[str]] = {}
    for name, module in graph.modules.items():
        found[name] = set()
        owned: dict[int, str] = {}  # by the node of the path's expression: a constant counts where it is read
        for statement in module.tree.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                owned |= {id(node): statement.targets[0].id for node in ast.walk(statement.value)}
        read = {n.id for n in ast.walk(module.tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        for node in ast.walk(module.tree):
            for path in _asset_paths(node, module, graph.root):
                constant = owned.get(id(node))
                if constant is None or constant in read:
                    found[name].add(path)
                if constant is not None:
                    constants[name, constant] = path
    for name, module in graph.modules.items():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom):
                keys = [(str(node.module), alias.name) for alias in node.names]
                found[name] |= {constants[key] for key in keys if key in constants}
    return found


def _asset_paths(node: ast.AST, module: Module, root: Path) -> list[str]:
    """Files and folders of `assets/` that the expression `… / "assets" / NAME` names; none for another node."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.left, ast.BinOp)):
        return []
    if not (isinstance(node.left.right, ast.Constant) and node.left.right.value == "assets"):
        return []
    name = node.right
    if isinstance(name, ast.JoinedStr):
        shape = "".join(str(v.value) if isinstance(v, ast.Constant) else "*" for v in name.values)
        return [(ASSETS / path.name).as_posix() for path in sorted((root / ASSETS).glob(shape))]
    for statement in module.tree.body:
        if (
            isinstance(name, ast.Name)
            and isinstance(statement, ast.Assign)
            and name.id == ast.unparse(statement.targets[0])
        ):
            name = statement.value
    if not isinstance(name, ast.Constant):
        raise ValueError(f"{module.path}:{node.lineno}: name the asset by a constant of the module")
    return [(ASSETS / str(name.value)).as_posix()]


def with_deps(text: str, deps: StageDeps) -> str:
    """The text of dvc.yaml with every stage's code deps replaced; data deps stay, after them."""
    stages = re.split(r"(?m)^(?=  \w+:\n)", text)
    for index, block in enumerate(stages):
        name = re.match(r"  (\w+):\n", block)
        if name is None or not (found := DEPS.search(block)):
            continue
        data = [line for line in found[1].splitlines() if line.startswith("      - data/")]
        code = [f"      - {path}" for path in deps.code(name[1])]
        stages[index] = block.replace(found[0], "    deps:\n" + "\n".join([*code, *data]) + "\n")
    return "".join(stages)


@click.command(help="Check the deps of dvc.yaml against the import closures of the stages' verbs.")
@click.option("--write", is_flag=True, help="Rewrite them.")
def main(write: bool) -> None:
    path = Path("dvc.yaml")
    text = path.read_text(encoding="utf-8")
    wanted = with_deps(text, StageDeps())
    if write:
        path.write_text(wanted, encoding="utf-8")
        return
    missing, extra = (sorted(set(a.splitlines()) - set(b.splitlines())) for a, b in ((wanted, text), (text, wanted)))
    if wanted != text:
        for mark, lines in (("missing", missing), ("not imported", extra)):
            for line in lines:
                click.echo(f"{mark}: {line.strip('- ')}")
        click.echo("To fix it: python -m fportrait.ops.stage_deps --write", err=True)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
