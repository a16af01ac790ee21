"""Looks at the environment: what is there, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

OK, WARN, FAIL = "ok", "warn", "fail"
GIB = 2**30
NEEDED = (
    *("torch", "diffusers", "accelerate", "safetensors", "numpy", "scipy", "numba", "pandas", "pyarrow", "duckdb"),
    *("great-expectations", "kedro", "kedro-datasets", "kedro-mlflow", "mlflow", "dvc", "optuna", "omegaconf", "av"),
    *("opencv-python", "ai-edge-litert", "psutil"),
)
EXTRAS = {  # module: the extra that brings it, and what for
    "gradio": ("web", "fportrait web"),
    "ray": ("ray", "tracking and rendering on several machines"),
    "gsplat": ("gpu", "splatting on CUDA"),
    "dvc_s3": ("outgrow", "a DVC remote on S3"),
    "psycopg2": ("outgrow", "MLflow on PostgreSQL"),
}


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report; `state` is ok, warn (something optional is missing) or fail."""

    name: str
    state: str
    found: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def python() -> Check:
    return Check("python", OK, f"{platform.python_version()}, {sys.prefix}")


def packages() -> Check:
    missing = []
    for name in NEEDED:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check("packages", FAIL, f"no {', '.join(missing)}", "run make install")
    return Check("packages", OK, f"{len(NEEDED)} of {len(NEEDED)}, torch {importlib.metadata.version('torch')}")


def torchvision() -> Check:
    """Built for CUDA beside a CPU torch it breaks diffusers, so its mere presence is worth a look."""
    if importlib.util.find_spec("torchvision") is None:
        return Check("torchvision", OK, "absent, as it should be")
    run = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True)
    if run.returncode:
        reason = run.stderr.strip().splitlines()[-1][:120] if run.stderr.strip() else "it fails to import"
        return Check("torchvision", FAIL, reason, "run pip uninstall torchvision; nothing here needs it")
    return Check("torchvision", OK, "imports")


def pictures() -> Check:
    run = subprocess.run([sys.executable, "-c", "import cv2, av"], capture_output=True, text=True)
    if run.returncode == 0:
        return Check("opencv, av", OK, "import")
    reason = run.stderr.strip().splitlines()[-1][:160] if run.stderr.strip() else "they fail to import"
    fix = "run apt install libgl1 libglib2.0-0" if "libGL" in reason or "libgthread" in reason else "run make install"
    return Check("opencv, av", FAIL, reason, fix)


def devices() -> Check:
    import torch

    if torch.cuda.is_available():
        names = []
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            names.append(f"{properties.name} {properties.total_memory / GIB:.0f} GiB")
        return Check("devices", OK, ", ".join(names))
    return Check(
        "devices", OK, f"CPU only ({torch.get_num_threads()} threads): the small world runs, the paper's needs GPUs"
    )


def memory() -> Check:
    import psutil

    total, free = (value / GIB for value in (psutil.virtual_memory().total, psutil.virtual_memory().available))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{cores} cores, {total:.1f} GiB of memory, {free:.1f} GiB free"
    if free < 3:
        return Check("memory", WARN, found, "close other programs: the chain's largest stage takes about 3 GiB")
    return Check("memory", OK, found)


def disk() -> Check:
    free = shutil.disk_usage(".").free / GIB
    found = f"{free:.1f} GiB free in {Path.cwd().name}/"
    if free < 1:
        return Check("disk", FAIL, found, "free some space: `dvc gc --workspace` drops results that nothing uses")
    return Check("disk", OK if free >= 5 else WARN, found, "" if free >= 5 else "keep 5 GiB free for a whole chain")


def base_model() -> Check:
    from fportrait.bundle import SHIPPED_BASE, read_settings
    from fportrait.errors import UserError

    try:
        settings = read_settings(SHIPPED_BASE)
    except (UserError, OSError, ValueError) as error:
        return Check("base model", FAIL, str(error)[:160], "install fportrait again: a part of the package is missing")
    return Check("base model", OK, f"shipped, {settings.size} pixels, {settings.frames} frames")


def weights() -> Check:
    """Networks that metrics look through, which the user may add."""
    from fportrait.evaluation.weights import KNOWN, find

    added = [name for name in KNOWN if find(name) is not None]
    found = f"{len(added)} of {len(KNOWN)} added" + (f" ({', '.join(added)})" if added else "; offline ones stand in")
    return Check("metric weights", OK, found, "" if added else "see fportrait weights list")


def project() -> Check:
    if not (Path("pyproject.toml").is_file() and Path("conf/base").is_dir()):
        fix = "cd into a clone of the repository; animate and web work anywhere"
        return Check("project", WARN, f"{Path.cwd()} is no fportrait project", fix)
    return Check("project", OK, str(Path.cwd()))


def git() -> Check:
    if shutil.which("git") is None:
        return Check("git", FAIL, "not installed", "run apt install git")
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if run.returncode:
        return Check("git", WARN, "not a repository: runs will not know their code", "clone the repository with git")
    return Check("git", OK, f"at {run.stdout.strip()}")


def dvc_store() -> Check:
    if not Path(".dvc").is_dir():
        return Check("dvc", WARN, "no .dvc here", "run dvc init in the project's folder")
    run = subprocess.run([sys.executable, "-m", "dvc", "remote", "list"], capture_output=True, text=True)
    if run.returncode:
        return Check("dvc", FAIL, (run.stderr.strip().splitlines() or ["it fails"])[-1][:160], "mend .dvc/config")
    remotes = [line.split()[0] for line in run.stdout.splitlines() if line.split()]
    return Check("dvc", OK, f"remotes: {', '.join(remotes)}" if remotes else "cache on this machine only (no remote)")


def mlflow_store() -> Check:
    from fportrait.errors import UserError
    from fportrait.ops.store import DATABASE, check_schema

    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri and uri.startswith("http"):
        import urllib.error
        import urllib.request

        try:
            with urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=5) as answer:
                return Check("mlflow", OK, f"{uri} answers {answer.status}")
        except (OSError, urllib.error.URLError) as error:
            return Check("mlflow", FAIL, f"{uri}: {error}", "start the server, or unset MLFLOW_TRACKING_URI")
    if uri:
        return Check("mlflow", OK, uri.split("@")[-1])
    if not DATABASE.is_file():
        return Check("mlflow", OK, "no runs yet (mlruns/mlflow.db is made by the first)")
    if not os.access(DATABASE, os.W_OK):
        return Check("mlflow", FAIL, f"{DATABASE} is read-only", f"run chmod u+w {DATABASE}")
    try:
        check_schema(DATABASE)
    except UserError as error:
        return Check("mlflow", FAIL, error.found, error.fix)
    return Check("mlflow", OK, f"{DATABASE}, {DATABASE.stat().st_size / 2**20:.1f} MiB")


def extras() -> list[Check]:
    checks = []
    for module, (extra, purpose) in EXTRAS.items():
        present = importlib.util.find_spec(module) is not None
        fix = "" if present else f"run pip install 'fportrait[{extra}]'"
        checks.append(Check(module, OK if present else WARN, f"{'present' if present else 'absent'}: {purpose}", fix))
    return checks


CHECKS: tuple[Callable[[], Check], ...] = (
    *(python, packages, torchvision, pictures, devices, memory, disk),
    *(base_model, weights, project, git, dvc_store, mlflow_store),
)


def examine() -> list[Check]:
    """All checks in order; one that breaks becomes a failure of its own instead of ending the report."""
    checks = []
    for check in CHECKS:
        try:
            checks.append(check())
        except Exception as error:
            name = check.__name__.replace("_", " ")
            checks.append(Check(name, FAIL, f"{type(error).__name__}: {error}"[:160], "run make install"))
    return checks + extras()
