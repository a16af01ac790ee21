"""What a command says while it works, and when it opens a browser."""

from __future__ import annotations

import sys

import pytest

from fportrait.cli._options import Bars
from fportrait.cli.web import on_a_desktop


def test_without_a_terminal_a_line_tells_every_few_seconds_how_far_it_is(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("fportrait.cli._options.time.monotonic", lambda: now[0])
    bars = Bars(every=5)
    for done in range(21):  # a second each
        bars("track driving", done, 20)
        now[0] += 1
    bars("note: me.jpg was cut", 0, 0)
    bars("sample", 0, 5)
    bars.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "track driving: 5 of 20, about 15 s left",
        "track driving: 10 of 20, about 10 s left",
        "track driving: 15 of 20, about 5 s left",
        "track driving: 20 of 20, about 0 s left",
        "note: me.jpg was cut",
    ]


def test_quick_work_says_nothing_without_a_terminal(capsys):
    bars = Bars()
    for done in range(6):
        bars("sample", done, 5)
    bars.close()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("terminal", "platform", "variables", "opens"),
    [
        (True, "linux", {"DISPLAY": ":0"}, True),
        (True, "linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        (True, "darwin", {}, True),
        (True, "linux", {}, False),
        (False, "darwin", {}, False),
        (True, "linux", {"DISPLAY": ":10", "SSH_CONNECTION": "x"}, False),
    ],
)
def test_a_browser_is_opened_only_where_its_owner_would_see_it(monkeypatch, terminal, platform, variables, opens):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert on_a_desktop() == opens
