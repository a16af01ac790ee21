"""Every command in README and docs: it exists, and so do its options, files and targets. None is stale.

Commands of this project are checked against their own parsers (click, Kedro, DVC, make); what they do is tested beside
their code. A fence may hold a command of another tool only if that tool is listed here.
"""

from __future__ import annotations

import ast
import functools
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import click
import pytest

from fportrait.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OURS = ("fportrait", "kedro", "dvc", "make", "python", "torchrun")
OTHERS = (
    *("pip", "apt", "git", "cp", "cd", "set", "eval", "export", "ray", "mlflow", "ffmpeg", "ffprobe", "exiftool"),
    *("optuna-dashboard", "curl", "unzip", "mkdir", "ln", "echo", "rsync", "docker", "sbatch", "srun", "psql", "diff"),
)
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```", re.M | re.S)


def commands(page: Path) -> list[str]:
    """Lines of fenced blocks that are shell commands, and `inline` commands of ours; continued lines are joined."""
    text = page.read_text(encoding="utf-8")
    lines = []
    for fence in FENCE.finditer(text):
        if fence["language"] in ("", "sh", "bash", "shell", "console"):
            body = fence["body"].replace("\\\n", " ")
            lines += [line.strip().removeprefix("$ ") for line in body.splitlines()]
    prose = FENCE.sub("", text)
    lines += [match[1] for match in re.finditer(r"`((?:fportrait|kedro|dvc|make) [^`\n]+)`", prose)]
    return [line for line in lines if line]


def parts_of(line: str) -> list[list[str]]:
    """The commands of one line, without comments, variables, redirections and the folder of the environment."""
    line = re.sub(r"(^|\s)#.*$|\s{3,}.*$", "", line)  # a comment, or an explanation in a second column
    found = []
    for part in re.split(r"\s*(?:&&|\|\||;|\|)\s*(?=(?:[^']*'[^']*')*[^']*$)(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)", line):
        try:
            words = shlex.split(part)
        except ValueError:
            continue
        while words and (re.fullmatch(r"[A-Z_]+=.*", words[0]) or words[0] in ("nohup", "nice", "time", "sudo", ".")):
            words = words[1:] if words[0] != "." else []
        words = [word for word in words if not re.match(r"[<>&]", word)]
        if words:
            words[0] = words[0].rsplit("/", 1)[-1]
            found.append(words)
    return found


ALL = [
    pytest.param(words, id=f"{page.relative_to(ROOT)}: {' '.join(words)[:70]}")
    for page in PAGES
    for line in dict.fromkeys(commands(page))
    for words in parts_of(line)
    if words[0] in OURS
]


def check_click(group: click.Command, words: list[str]) -> None:
    """Walk groups by name; the options of the command at the end must be its own, or begin nothing."""
    context, command = click.Context(group, info_name=words[0]), group
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        below = command.get_command(context, rest[0])
        assert below is not None, f"no command '{rest[0]}' in {context.info_name}"
        command, rest = below, rest[1:]
        context = click.Context(command, info_name=command.name)
    if not isinstance(command, click.Group) and not any(p.param_type_name == "argument" for p in command.params):
        flags = {name for p in command.params if getattr(p, "is_flag", False) for name in p.opts}
        loose = [
            word
            for before, word in zip(["", *rest], rest, strict=False)
            if not word.startswith("-") and (not before.startswith("-") or "=" in before or before in flags)
        ]
        assert not loose, f"{' '.join(words)}: {loose} stands alone, and the command takes no arguments"
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    known |= set(command.get_help_option_names(context))
    for word in rest:
        if word.startswith("-") and not re.fullmatch(r"-?\d.*|-", word):
            assert word.split("=")[0] in known, f"{' '.join(words[:3])} has no option {word}"


@functools.cache
def kedro() -> click.Group:
    from kedro.framework.cli.cli import KedroCLI

    return KedroCLI(project_path=ROOT)


@functools.cache
def dvc_help(*command: str) -> str:
    run = subprocess.run([sys.executable, "-m", "dvc", *command, "--help"], capture_output=True, text=True)
    assert run.returncode == 0, f"dvc has no command {' '.join(command)}"
    return run.stdout


def check_kedro(words: list[str]) -> None:
    from fportrait.ops.chain import BESIDE, CHAIN

    check_click(kedro(), words)
    text = " ".join(words)
    for names in re.findall(r"--pipelines?[= ](\S+)", text):
        for name in names.split(","):
            assert name in (*CHAIN, *BESIDE, "__default__") or not name.islower(), f"no pipeline {name}"
    for name in re.findall(r"--env[= ](\S+)", text):
        assert (ROOT / "conf" / name).is_dir(), f"no conf/{name}"


def check_dvc(words: list[str]) -> None:
    import yaml

    depth = 2 if len(words) > 2 and words[1] in ("exp", "plots", "metrics", "params", "remote", "stage", "queue") else 1
    text = dvc_help(*words[1 : 1 + depth])
    for word in words[1 + depth :]:
        if re.fullmatch(r"-{1,2}[a-zA-Z][\w-]*(=.*)?", word):
            assert re.search(rf"(?<![\w-]){re.escape(word.split('=')[0])}(?![\w-])", text), f"{words} has no {word}"
        override = re.fullmatch(r"(conf/\S+\.yml):([\w.]+)=.*", word)
        if override:
            value = yaml.safe_load((ROOT / override[1]).read_text())
            for key in override[2].split("."):
                assert key in value, f"no {override[2]} in {override[1]}"
                value = value[key]
    if words[1] == "repro":
        stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
        made = [f"conf/{path.parent.name}/dvc.yaml" for path in (ROOT / "conf").glob("*/globals.yml")]
        made += [str(path.relative_to(ROOT)) for path in ROOT.glob("pipelines/*/dvc.yaml")]
        for word in words[2:]:  # tools/environment_stages.py makes those of environments
            assert word in made or word.startswith("-") or word in stages or not word.islower(), f"no stage {word}"


def check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for word in words[1:]:
        assert "=" in word or word.startswith("-") or word in targets, f"no target {word}"


def check_python(words: list[str]) -> None:
    import importlib.util

    if "-m" in words:
        module = words[words.index("-m") + 1]
        assert importlib.util.find_spec(module) is not None, f"no module {module}"
    elif len(words) > 1 and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), f"no {words[1]}"


@pytest.mark.parametrize("words", ALL)
def test_a_command_of_the_documentation_exists_with_its_options(words):
    checks = {"fportrait": functools.partial(check_click, main), "kedro": check_kedro, "dvc": check_dvc}
    checks |= {"make": check_make, "python": check_python}
    if words[0] in checks:
        checks[words[0]](words)


def test_a_stale_command_would_be_noticed():
    for words, check in (
        (["fportrait", "animate", "--portrat", "x"], functools.partial(check_click, main)),
        (["fportrait", "anmate"], functools.partial(check_click, main)),
        (["fportrait", "plan", "train_stage4"], functools.partial(check_click, main)),
        (["kedro", "run", "--pipelines=train_stage9"], check_kedro),
        (["kedro", "run", "--pipeliness=ingest"], check_kedro),
        (["dvc", "repro", "train_stage9"], check_dvc),
        (["dvc", "exp", "run", "-S", "conf/base/parameters_track.yml:track.nothing=1"], check_dvc),
        (["make", "dmeo"], check_make),
    ):
        with pytest.raises(AssertionError):
            check(words)


def module_file(name: str) -> Path | None:
    path = ROOT / "src" / Path(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def names_of(file: Path) -> set[str]:
    """What a module defines or imports at its top level."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


# Pages of docs/adding show files that the reader makes; tests/docs/test_adding.py follows them to the letter.
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name != "adding"], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_python_of_the_pages_parses_and_imports_what_is_there(page):
    for fence in FENCE.finditer(page.read_text(encoding="utf-8")):
        if fence["language"] != "python":
            continue
        for node in ast.walk(ast.parse(textwrap.dedent(fence["body"]))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fportrait":
                file = module_file(node.module)
                assert file is not None, f"{page.name}: no module {node.module}"
                for alias in node.names:
                    there = alias.name in names_of(file) or module_file(f"{node.module}.{alias.name}")
                    assert there, f"{page.name}: no {alias.name} in {node.module}"


def test_every_picture_of_the_pages_is_there_and_small():
    for page in PAGES:
        for picture in re.findall(r"!\[[^\]]*\]\(([^)\s]+)", page.read_text(encoding="utf-8")):
            path = page.parent / picture
            assert path.is_file(), f"{page.name} shows {picture}, which is not there"
            assert path.stat().st_size < 400_000, f"{picture} is larger than 400 KB"


def test_files_that_pages_name_exist():
    pattern = re.compile(r"`((?:conf/(?:base|paper|outgrow)|src|tests|benchmarks|tools|pipelines|docs)/[\w./-]+\.\w+)`")
    for page in PAGES:
        for name in pattern.findall(page.read_text(encoding="utf-8")):
            made_up = re.search(r"STAGE|NAME|PERSON|stageN", name)
            assert made_up or (ROOT / name).is_file(), f"{page.name} names {name}, which is not there"


def test_the_site_lists_every_page():
    import yaml

    text = re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text())
    listed = re.findall(r"[\w/-]+\.md", str(yaml.safe_load(text)["nav"]))
    missing = [p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")]
    assert [page for page in missing if page not in listed] == []


def test_the_page_of_dvc_plots_needs_no_network(tmp_path):
    from dvc.repo import Repo
    from dvc_render.html import render_html
    from dvc_render.vega import VegaRenderer

    template = ROOT / ".dvc" / Repo(ROOT).config["plots"]["html_template"]
    points = [{"step": "1", "loss": "0.5"}, {"step": "2", "loss": "0.25"}]
    curve = VegaRenderer(points, "curve", x="step", y="loss")
    page = Path(render_html([curve], tmp_path / "index.html", template)).read_text(encoding="utf-8")
    assert "vegaEmbed('#curve'" in page and page.count("<script>") == 3
    assert not re.search(r"<(script|link)[^>]+(src|href)\s*=", page)
