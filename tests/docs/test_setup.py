"""The image, the dev container and the page about them agree with the project."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import fportrait

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_image_takes_the_pinned_torch_and_ends_as_nobodys_root():
    pinned = re.search(r"^torch==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.M)[1]
    assert re.search(r"^ARG TORCH=(\S+)", DOCKERFILE, re.M)[1] == pinned
    assert DOCKERFILE.index("USER ${USER_ID}") < DOCKERFILE.index("ENTRYPOINT")
    assert "constraints.txt" in DOCKERFILE
    for name in ("DO_NOT_TRACK", "GX_ANALYTICS_ENABLED", "KEDRO_DISABLE_TELEMETRY", "DVC_NO_ANALYTICS"):
        assert name in DOCKERFILE
    extras = re.search(r"^ARG EXTRAS=(\S+)", DOCKERFILE, re.M)[1].split(",")
    listed = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in listed for extra in extras)


def test_hadolint_finds_nothing_where_it_is_installed():
    linter = shutil.which("hadolint")
    if linter is None:
        pytest.skip("no hadolint here")
    run = subprocess.run([linter, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def container(tmp_path: Path, *arguments: str, **variables: str) -> list[str]:
    """What tools/container.sh runs, with a `fportrait` that prints its arguments."""
    fake = tmp_path / "fportrait"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n[ -f "$5" ] && cat "$5"\n')
    fake.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["sh", str(ROOT / "tools/container.sh"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, **variables},
        check=True,
    )
    return run.stdout.splitlines() + run.stderr.splitlines()


def test_the_container_opens_the_studio_with_a_password_or_runs_what_it_is_told(tmp_path):
    lines = container(tmp_path)
    assert lines[1:5] == ["web", "--host", "0.0.0.0", "--logins"]
    password = next(line for line in lines if line.startswith("studio:")).removeprefix("studio:")
    assert len(password) >= 12 and any(password in line for line in lines if line.startswith("Log in as"))
    assert password not in container(tmp_path)
    (tmp_path / "mine").write_text("anna:secret\n")
    assert "anna:secret" in container(tmp_path, "studio", "--port", "8000", LOGINS=str(tmp_path / "mine"))
    assert container(tmp_path, "echo", "kedro", "run") == ["kedro run"]


def test_the_dev_container_forwards_the_pages_ports_and_installs_as_the_quick_start_does():
    settings = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert {4141, 5000, 7860} <= set(settings["forwardPorts"])
    assert settings["postCreateCommand"].endswith("make install")


def test_version_changelog_and_pages_say_the_same_release():
    version = fportrait.__version__
    assert re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert f"dist/fportrait-{version}-py3-none-any.whl" in (ROOT / "docs/set-up.md").read_text()
    assert f"v{version}" in (ROOT / "docs/release.md").read_text()
