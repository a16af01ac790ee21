"""Every command that README and docs quote is run by a test, found here by a script: a new one fails until one runs it.

`test_commands.py` checks that commands exist with their options. Here each has a test that runs it, by the words that
it is called with there. What only serves a page is started, asked for its page and stopped, below (`slow`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.servers import free_port

ROOT = Path(__file__).parents[2]
HERE = "docs/test_runs.py"
# command: (the test file that runs it, words that stand there)
RUN = {
    "dvc exp run": ("platform/test_experiment_agrees.py", r'"exp", "run"'),
    "dvc exp show": ("platform/test_dvc_tables.py", r'"exp", "show"'),
    "dvc gc": ("platform/test_dvc_tables.py", r'"gc", "--workspace"'),
    "dvc metrics diff": ("platform/test_dvc_tables.py", r'"metrics", "diff"'),
    "dvc plots diff": ("platform/test_dvc_tables.py", r'"plots", "diff"'),
    "dvc plots show": ("platform/test_dvc_tables.py", r'"plots", "show"'),
    "dvc init": ("cli/test_doctor_and_status.py", r'"init", "-q"'),
    "dvc pull": ("outgrow/test_servers.py", r'"pull"'),
    "dvc push": ("outgrow/test_servers.py", r'"push"'),
    "dvc repro": ("platform/test_dvc_lock.py", r'"repro"'),
    "dvc status": ("platform/test_dvc_lock.py", r'"status"'),
    "fportrait": ("cli/test_command_line.py", r"\[\]|--help"),
    "fportrait adapt": ("animate/test_adapters.py", r'main, \["adapt"'),
    "fportrait animate": ("animate/test_animator.py", r'"animate"'),
    "fportrait avatar": ("avatar/test_commands.py", r"avatar"),
    "fportrait avatar export": ("avatar/test_commands.py", r'"export"'),
    "fportrait avatar fit": ("avatar/test_commands.py", r'"fit"'),
    "fportrait avatar sheet": ("avatar/test_commands.py", r'"sheet"'),
    "fportrait avatar view": ("avatar/test_viewer.py", r'"view"|view'),
    "fportrait bench": ("cli/test_doctor_and_status.py", r'"bench"'),
    "fportrait check": ("animate/test_clip_check.py", r'"check"'),
    "fportrait doctor": ("cli/test_doctor_and_status.py", r'"doctor"'),
    "fportrait edit": ("animate/test_edit.py", r'"edit"'),
    "fportrait evaluate": ("test_outputs.py", r'"evaluate"'),
    "fportrait forget": ("platform/test_forget.py", r'main, \["forget"'),
    "fportrait import": ("capture/test_importers.py", r'"import"'),
    "fportrait lineage": ("platform/test_archive.py", r'"lineage"'),
    "fportrait live": ("animate/test_stream.py", r'"live"'),
    "fportrait plan": ("training/test_plan.py", r'"plan"'),
    "fportrait promote": ("platform/test_evidence.py", r'"promote"'),
    "fportrait provenance": ("test_provenance.py", r'"provenance"'),
    "fportrait registry": ("platform/test_archive.py", r'"registry"'),
    "fportrait registry anchor": ("platform/test_archive.py", r'"anchor"'),
    "fportrait registry export": ("platform/test_archive.py", r'"export"|export'),
    "fportrait registry import": ("platform/test_archive.py", r'"import"'),
    "fportrait registry relocate": ("platform/test_archive.py", r'"relocate"'),
    "fportrait registry uri": ("platform/test_registry.py", r"MLFLOW_TRACKING_URI="),
    "fportrait rollback": ("platform/test_evidence.py", r'"rollback"'),
    "fportrait status": ("cli/test_doctor_and_status.py", r'"status"'),
    "fportrait track": ("cli/test_command_line.py", r'"track"'),
    "fportrait train-encoder": ("tracking/test_filmed_encoder.py", r'"train-encoder"'),
    "fportrait web": ("web/conftest.py", r'"web"'),
    "fportrait weights": ("diffusion/test_wan_import.py", r'"weights"'),
    "fportrait weights import-wan": ("diffusion/test_wan_import.py", r'"import-wan"'),
    "kedro ipython": (HERE, r'"ipython"'),
    "kedro mlflow": (HERE, r'"mlflow", "ui"'),
    "kedro registry": (HERE, r'"registry", "list"'),
    "kedro run": ("platform/conftest.py", r'"run"'),
    "kedro viz": (HERE, r'"viz"'),
    "mlflow server": ("outgrow/test_servers.py", r"mlflow"),
    "optuna-dashboard": (HERE, r'"optuna-dashboard"'),
    "python -m": ("docs/test_commands.py", r"find_spec"),
    "python -c": ("dataset/test_remote.py", r"upload"),
    "python tools/environment_stages.py": ("platform/test_project.py", r"environment_stages"),
}
# run where a page's own test would cost an installation, minutes of rendering, or needs what no test machine has
ELSEWHERE = {
    "make": "install, demo, test, docs, ablate and outgrow are what a release runs (docs/release.md)",
    "pip": "installs: docs/release.md",
    "python -m venv": "installs: docs/release.md",
    "docker": "needs a container daemon; tests/docs/test_setup.py runs the entry script",
    "ray start": "a cluster; tests/outgrow starts one in the process",
    "torchrun": "tests/outgrow starts it by its module",
    "python tools/build_body_asset.py": "needs the body's sources, which are not shipped",
    "python tools/embed_landmarks.py": "needs the body's sources, which are not shipped",
    "python tools/from_nothing.py": "hours: makes the shipped base",
    "python tools/tracking_cost.py": "a benchmark of minutes",
}
SHELL = {"cp", "cd", "set", "eval", "export", "git", "mkdir", "ln", "echo", "curl", "unzip", "apt", "rsync", "diff"}
BELOW = {"fportrait avatar", "fportrait registry", "fportrait weights", "dvc exp", "dvc plots", "dvc metrics"}


def pages():
    spec = importlib.util.spec_from_file_location("commands_of_the_pages", ROOT / "tests/docs/test_commands.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name_of(words: list[str]) -> str:
    """A command without its options and arguments: `fportrait avatar fit`, `dvc plots show`, `python -m`."""
    if words[0] == "python":
        return "python -m venv" if words[1:3] == ["-m", "venv"] else " ".join(words[:2])
    if words[0] in ("make", "pip", "docker", "torchrun", "optuna-dashboard", *SHELL):
        return words[0]
    name = words[0]
    for word in words[1:3]:
        if not re.fullmatch(r"[a-z][a-z-]+", word) or (name != words[0] and name not in BELOW):
            break
        name += f" {word}"
    return name


def quoted() -> set[str]:
    """The names of all commands in the pages and in the notebook's cells."""
    module = pages()
    known = (*module.OURS, *module.OTHERS)
    lines = [line for page in module.PAGES for line in module.commands(page)]
    notebook = (ROOT / "docs/notebook/tour.ipynb").read_text(encoding="utf-8")
    lines += re.findall(r'"[!%]+(?:bash |sh )?([^"\\]+)', notebook)
    parts = [words for line in lines for words in module.parts_of(line) if words[0] in known]
    return {name_of(words) for words in parts} - SHELL


def test_every_command_of_the_pages_is_run_by_a_test():
    found = quoted()
    missing = found - set(RUN) - set(ELSEWHERE)
    assert not missing, f"no test runs {missing}: run it, and say in RUN where"
    assert not set(RUN) - found - {"fportrait"}, "quoted no longer"
    for name, (file, words) in RUN.items():
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(words, text), f"tests/{file} does not run `{name}`"


def test_a_new_command_would_be_noticed():
    assert name_of(["fportrait", "dance", "--fast"]) not in {*RUN, *ELSEWHERE}
    assert name_of(["dvc", "plots", "templates"]) not in {*RUN, *ELSEWHERE}
    assert name_of(["kedro", "viz", "deploy"]) == "kedro viz"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The project without data: what `git clone` brings, the package by a link."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("pyproject.toml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "conf", folder / "conf")
    (folder / "src").mkdir()  # Kedro wants it inside
    (folder / "src/fportrait").symlink_to(ROOT / "src/fportrait")
    (folder / "pipelines").symlink_to(ROOT / "pipelines")
    for name in ("data", "mlruns"):
        (folder / name).mkdir()
    return folder


@contextmanager
def started(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen, Path]]:
    """A program in the project, in a group of its own, which is stopped as by Ctrl+C; nothing strays into the root."""
    before = {path.name for path in folder.iterdir()}
    log = folder.parent / f"{words[0]}-{words[1].rpartition('/')[2]}.log"
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment |= {"BROWSER": "true", "PYTHONPATH": str(ROOT / "src")}
    program = Path(sys.executable).parent / words[0]
    with log.open("w") as output:
        process = subprocess.Popen(
            [program, *words[1:]], cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield process, log
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    strays = {path.name for path in folder.iterdir()} - before - {"data", "mlruns", ".viz", ".telemetry"}
    assert not strays, f"{' '.join(words)} left {strays} in the project"


def group_of(leader: int) -> list[str]:
    """What of a group of processes still runs."""
    import psutil

    running = [one for one in psutil.process_iter(["pid", "status"]) if one.info["status"] != psutil.STATUS_ZOMBIE]
    found = []
    for one in running:
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(one.pid) == leader:
                found.append(" ".join(one.cmdline()))
    return found


def page_of(process: subprocess.Popen, log: Path, address: str, seconds: float = 300) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            return urllib.request.urlopen(address, timeout=30).read().decode()
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"no page at {address}: {log.read_text()[-2000:]}")


@pytest.mark.slow
def test_kedro_viz_serves_its_page_with_every_stage(project):
    with started(project, "kedro", "viz") as (process, log):
        end = time.monotonic() + 300
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())) and time.monotonic() < end:
            assert process.poll() is None, log.read_text()[-2000:]
            time.sleep(0.5)
        assert "<html" in page_of(process, log, found[0])
        assert '"train_stage4"' in page_of(process, log, f"{found[0]}/api/main")


@pytest.mark.slow
def test_kedro_mlflow_ui_serves_its_page_by_one_process_and_leaves_none_when_it_alone_is_ended(project):
    port = free_port()
    with started(project, "kedro", "mlflow", "ui", "--port", str(port)) as (process, log):
        assert "<title>MLflow</title>" in page_of(process, log, f"http://127.0.0.1:{port}/")
        assert (
            log.read_text().count("Started server process") == 1
        )  # four, restarted when busy, are MLflow's own choice
        process.send_signal(signal.SIGTERM)  # as a service manager does; Ctrl+C reaches the whole group
        process.wait(60)
        end = time.monotonic() + 30
        while group_of(process.pid) and time.monotonic() < end:
            time.sleep(0.1)
        assert not group_of(process.pid), group_of(process.pid)


@pytest.mark.slow
def test_the_optuna_dashboard_serves_its_page(project):
    import optuna

    pytest.importorskip("optuna_dashboard")
    optuna.create_study(storage=f"sqlite:///{project}/mlruns/optuna.db", study_name="learning rate")
    port = free_port()
    with started(project, "optuna-dashboard", "sqlite:///mlruns/optuna.db", "--port", str(port)) as (process, log):
        assert "Optuna" in page_of(process, log, f"http://127.0.0.1:{port}/dashboard")


@pytest.mark.slow
def test_kedro_ipython_has_the_catalog_and_kedro_registry_lists_the_pipelines(project):
    program, environment = Path(sys.executable).parent / "kedro", {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    told = subprocess.run(
        [program, "ipython", "--simple-prompt"],
        input="print('tracks' in catalog)\nexit()\n",
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0 and "True" in told.stdout, told.stderr[-2000:]
    told = subprocess.run([program, "registry", "list"], cwd=project, env=environment, capture_output=True, text=True)
    assert told.returncode == 0 and "train_stage4" in told.stdout
