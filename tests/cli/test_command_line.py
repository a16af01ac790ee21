"""The command itself: what it lists, what it costs, how it fails."""

from __future__ import annotations

import errno
import importlib.util
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fportrait.cli import COMMANDS, main

SOURCES = str(Path(__file__).parents[2] / "src")
PRESENT = [name for name, (target, _) in COMMANDS.items() if importlib.util.find_spec(target.split(":")[0])]


def test_help_imports_nothing_heavy():
    program = (
        "import sys; from click.testing import CliRunner; from fportrait.cli import main; "
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0; "
        "print([m for m in ('torch', 'numpy', 'mlflow', 'kedro', 'dvc', 'gradio', 'cv2') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("name", PRESENT)
def test_every_command_loads_and_its_help_holds_an_example_of_itself(name):
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    command = main.get_command(click.Context(main), name)
    pages = [result.output]
    if isinstance(command, click.Group):
        pages += [CliRunner().invoke(main, [name, sub, "--help"]).output for sub in command.commands]
    assert any(f"fportrait {name}" in page.split("Usage:", 1)[1].split("\n", 1)[1] for page in pages)


def test_a_mistyped_command_names_the_nearest_one():
    result = CliRunner().invoke(main, ["anmate"])
    assert result.exit_code == 2 and "Did you mean 'animate'?" in result.output


def test_a_command_whose_module_is_missing_is_not_listed(monkeypatch):
    monkeypatch.setitem(COMMANDS, "nonesuch", ("fportrait.cli.nonesuch:nonesuch", "Nothing."))
    output = CliRunner().invoke(main, ["--help"]).output
    assert "nonesuch" not in output and "animate" in output
    assert CliRunner().invoke(main, ["nonesuch"]).exit_code == 2


def test_guidance_that_is_no_number_is_one_sentence_and_exit_code_two(tmp_path: Path):
    arguments = ["animate", "--portrait", "a.png", "--driving", "b.mp4", "-o", str(tmp_path / "o.mp4")]
    result = CliRunner().invoke(main, [*arguments, "--guidance", "expression"])
    assert result.exit_code == 2
    assert "FACTOR=SCALE" in result.output and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/locked"), "'Permission denied' at /locked"),
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (FileExistsError(errno.EEXIST, "File exists", "me.png"), "choose another name"),
    ],
)
def test_what_the_system_says_about_a_place_is_one_sentence_and_other_faults_keep_their_traceback(
    monkeypatch, error, words
):
    def fails() -> None:
        raise error

    monkeypatch.setattr("fportrait.ops.doctor.examine", fails)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 2 and words in result.output and "Traceback" not in result.output
    fault = OSError(errno.EIO, "Input/output error")
    monkeypatch.setattr("fportrait.ops.doctor.examine", lambda: (_ for _ in ()).throw(fault))
    assert CliRunner().invoke(main, ["doctor"]).exception is fault


@pytest.mark.parametrize(("command", "options"), [("animate", ["--seed", "-1"]), ("track", ["--fov", "400"])])
def test_numbers_out_of_range_are_refused_before_any_work(command, options):
    result = CliRunner().invoke(main, [command, *options])
    assert result.exit_code == 2 and "is not in the range" in result.output


def test_completion_offers_the_commands():
    asked = {"_FPORTRAIT_COMPLETE": "bash_complete", "COMP_WORDS": "fportrait an", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "fportrait"]
    run = subprocess.run(command, env={**asked, "PYTHONPATH": SOURCES}, capture_output=True, text=True)
    assert "animate" in run.stdout


@pytest.mark.parametrize("asked", [["animate", "--driving", "x.mp4", "-o", "out.mp4"], ["edit", "-o", "out.png"]])
def test_links_that_go_in_circles_are_a_sentence(tmp_path, asked):
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    result = CliRunner().invoke(main, [asked[0], "--portrait", str(loop), *asked[1:]])
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "symbolic links" in result.output or "link" in result.output
