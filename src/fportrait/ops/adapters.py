"""Adapters in the registry: one registered model, a version each, found by the tag `adapter.name`.

The version's run holds what it was made from (SHA-256 of every clip, settings, scores), so that an adapter can be
traced to its clips, and deleted with all of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from fportrait.diffusion.lora import adapter_name
from fportrait.ops import runs
from fportrait.ops.store import open_store, store_errors

MODEL = "fportrait-adapter"
NAME_TAG, HASH_TAG, BASE_TAG, CLIPS_TAG = "adapter.name", "adapter.hash", "adapter.base", "adapter.clips"


def register(name: str, folder: Path, record: Mapping[str, Any]) -> int | None:
    """A new version of `fportrait-adapter` with the adapter's files and record; None where no registry is."""
    if not open_store(write=True):
        return None
    from mlflow.exceptions import MlflowException

    with store_errors():
        server = runs.client()
        made_by = adapter_name(folder)
        tags = {"stage": "adapt", NAME_TAG: name, HASH_TAG: made_by["hash"], BASE_TAG: made_by["base"]}
        tags[CLIPS_TAG] = ",".join(sorted({clip["sha256"][:16] for clip in record["clips"]}))[:4000]
        run = server.create_run(runs.experiment_id(server), run_name=f"adapt {name}", tags=tags)
        run_id = run.info.run_id
        for person, entry in record["scores"]["people"].items():
            for label, scores in entry.items():
                for key in ("ours/psnr", "ours/csim", "repeated_portrait/psnr"):
                    if scores.get(key) is not None:
                        server.log_metric(run_id, runs.metric_name(f"{label}/{key}/{person}"), scores[key])
        server.log_artifacts(run_id, str(folder), "adapter")
        server.set_terminated(run_id)
        try:
            server.create_registered_model(MODEL)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{run.info.artifact_uri}/adapter"
        version = server.create_model_version(MODEL, source, run_id, tags=tags)
        return int(version.version)


def hashes(name: str) -> list[str]:
    """Of every adapter that was registered under a name; none where no registry is."""
    if not open_store():
        return []
    with store_errors():
        versions = runs.client().search_model_versions(f"name='{MODEL}'")
        return sorted({one.tags[HASH_TAG] for one in versions if one.tags.get(NAME_TAG) == name})


def forget(name: str) -> list[str]:
    """Remove an adapter's versions, their runs, and the files of these; returns what is gone."""
    if not open_store(write=True):
        return []
    gone = []
    with store_errors():
        server = runs.client()
        for version in list(server.search_model_versions(f"name='{MODEL}'")):
            if version.tags.get(NAME_TAG) == name:
                remove_version(server, version)
                gone.append(f"version {version.version} of {MODEL}")
        where = f"tags.`{NAME_TAG}` = '{name}'"
        for run in server.search_runs([runs.experiment_id(server)], where):
            remove_run(server, run)
            gone.append(f"run {run.info.run_id}")
    return gone


def of_clips(clips: Collection[str]) -> list[str]:
    """Names under which adapters were registered that learned from a clip of these SHA-256."""
    if not clips or not open_store():
        return []
    short = {one[:16] for one in clips}
    with store_errors():
        versions = runs.client().search_model_versions(f"name='{MODEL}'")
        hit = (one.tags for one in versions if short & set(one.tags.get(CLIPS_TAG, "").split(",")))
        return sorted({tags[NAME_TAG] for tags in hit if NAME_TAG in tags})


def remove_version(server: Any, version: Any) -> None:
    for tag in list(version.tags):  # MLflow keeps those of a deleted version
        server.delete_model_version_tag(version.name, version.version, tag)
    server.delete_model_version(version.name, version.version)


def remove_run(server: Any, run: Any) -> None:
    """A run, with the files of it that lie on this machine."""
    place = urlparse(run.info.artifact_uri or "")
    server.delete_run(run.info.run_id)
    if place.scheme in ("", "file"):
        shutil.rmtree(unquote(place.path), ignore_errors=True)
    hard_delete(run.info.run_id)


def hard_delete(run_id: str) -> None:
    """Out of a local database, too, as `mlflow gc` does; MLflow itself only hides a deleted run."""
    import mlflow
    from mlflow.tracking._tracking_service.utils import _get_store

    delete = getattr(_get_store(mlflow.get_tracking_uri()), "_hard_delete_run", None)
    if delete is not None:
        delete(run_id)
