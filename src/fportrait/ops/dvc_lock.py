"""What `kedro run` did, told to DVC: afterwards `dvc repro` goes on from there, and `fportrait status` says fresh.

DVC knows what it ran itself, by hashes in dvc.lock. A stage run by hand has made the same outs from the same deps and
parameters, so its hashes are written there, too (`dvc commit`), unless that would not be true: parameters given on the
command line, code or configuration changed since the stage began, a stage that this dvc.yaml does not have.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

log = logging.getLogger(__name__)


def lock_file(environment: str, root: Path = Path()) -> Path | None:
    """The dvc.yaml that runs an environment's stages, where there is one and DVC is at home here."""
    path = root / ("dvc.yaml" if environment == "base" else f"conf/{environment}/dvc.yaml")
    return path if (root / ".dvc").is_dir() and path.is_file() else None


def tell_dvc(
    began: Mapping[str, float], environment: str = "base", given: Mapping[str, Any] | None = None
) -> list[str]:
    """Write the stages that a `kedro run` has just finished into dvc.lock; returns those that were.

    Nothing is written under `dvc repro`, which does it itself, and where DVC is not at home. A DVC that is busy or
    refuses costs a sentence, never the run.

    Args:
        began: stage to the time (`time.time()`) at which it began. given: parameters of the command line.
    """
    path = lock_file(environment)
    if os.environ.get("DVC_STAGE") or path is None:
        return []
    known = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    stages = [name for name in began if name in known]
    if not stages:
        return []
    if given:
        log.warning(
            "dvc.lock is left as it was: the run had --params, which `dvc repro` does not; set them in conf/%s instead",
            environment,
        )
        return []
    home = path.parent
    told = []
    for name in stages:
        changed = changed_since(known[name], began[name], Path(known[name].get("wdir", ".")), home)
        if changed is None:
            told.append(name)
        else:
            log.warning("%s is left out of dvc.lock: %s changed while it ran", name, changed)
    if not told:
        return []
    targets = [name if environment == "base" else f"{path}:{name}" for name in told]
    run = commit(targets)
    if run.returncode:
        said = (run.stderr or run.stdout).strip().splitlines()
        log.warning("dvc.lock is left as it was (%s): `dvc repro` runs %s again", said[0] if said else "", told[0])
        return []
    return told


def commit(targets: list[str]) -> subprocess.CompletedProcess[str]:
    """`dvc commit`: hashes of what lies there now into the lock, bytes into the cache."""
    command = [sys.executable, "-m", "dvc", "commit", "--force", "--quiet", *targets]
    return subprocess.run(command, capture_output=True, text=True)


def changed_since(stage: Mapping[str, Any], began: float, wdir: Path, home: Path) -> str | None:
    """The first file of a stage's code or parameters that is newer than the stage's beginning."""
    params = [path for entry in stage.get("params", []) for path in (entry if isinstance(entry, dict) else ())]
    code = [dep for dep in stage.get("deps", []) if not dep.startswith("data/")]
    for place in (*code, *params):
        path = home / wdir / place
        files = [path] if path.is_file() else (one for one in path.rglob("*") if "__pycache__" not in one.parts)
        for file in files:
            if file.is_file() and file.stat().st_mtime > began:
                return str(place)
    return None
