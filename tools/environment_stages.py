"""Write conf/ENV/dvc.yaml: the chain of dvc.yaml in the folders of an environment.

    python tools/environment_stages.py paper
    dvc repro conf/paper/dvc.yaml

Every stage keeps its name, code and metrics; folders become the environment's, and parameters are watched in both
files, the base's and the environment's. The lock is conf/ENV/dvc.lock: that of the demo is not touched. Write it again
after dvc.yaml has changed. A `kedro run --env=ENV` needs none of this.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from fportrait.atomic_io import write_text
from fportrait.errors import UserError
from fportrait.training.plan import read_folder, read_section


def environment_stages(environment: str, root: Path = Path()) -> dict[str, Any]:
    """The stages of `dvc.yaml` as the environment runs them.

    Raises:
        UserError: no such environment, one without folders of its own, or folders that another dvc.yaml makes.
    """
    conf = root / "conf"
    base = yaml.safe_load((conf / "base/globals.yml").read_text())
    base = {"reports": base["reports"], **base["folders"]}
    own = {name: read_folder(name, environment, conf) for name in base}
    shared = sorted(name for name, folder in own.items() if folder in base.values())
    if shared:
        raise UserError(
            f"{', '.join(shared)} of conf/{environment} in the folders of conf/base",
            "folders of its own for every key",
            f"write conf/{environment}/globals.yml after conf/paper/globals.yml",
        )
    moved = {base[name]: own[name] for name in base}
    source = yaml.safe_load((root / "dvc.yaml").read_text())
    plots = source.get("plots", [])
    source = source["stages"]
    stages = {name: _in_environment(name, stage, environment, moved, root) for name, stage in source.items()}
    made = {out for stage in stages.values() for out in map(_path, [*stage["outs"], *stage.get("plots", [])])}
    for other in sorted({*root.glob("conf/*/dvc.yaml"), *root.glob("docs/**/dvc.yaml")}):
        if other == conf / environment / "dvc.yaml":
            continue
        twice = made & {
            _path(o) for s in yaml.safe_load(other.read_text())["stages"].values() for o in s.get("outs", [])
        }
        if twice:
            raise UserError(
                f"{sorted(twice)[0]}, which {other.relative_to(root)} makes already",
                "one stage for every folder",
                f"run `dvc repro {other.relative_to(root)}`",
            )
    return {"stages": stages, "plots": [_plot(plot, moved) for plot in plots]}


def _plot(plot: Any, moved: dict[str, str]) -> Any:
    """A plot of the environment's files; DVC takes their places from conf/ENV, where its dvc.yaml lies."""
    if isinstance(plot, str):
        return f"../../{_moved(plot, moved)}"
    return {
        title: {**drawn, "y": {f"../../{_moved(path, moved)}": column for path, column in drawn["y"].items()}}
        for title, drawn in plot.items()
    }


def _in_environment(
    name: str, stage: dict[str, Any], environment: str, moved: dict[str, str], root: Path
) -> dict[str, Any]:
    def place(entry: Any) -> Any:
        if isinstance(entry, dict):
            return {_moved(path, moved): options for path, options in entry.items()}
        return _moved(entry, moved)

    params: list[Any] = []
    for entry in stage["params"]:
        params.append(entry)
        for path, keys in entry.items():
            theirs = path.replace("conf/base/", f"conf/{environment}/", 1)
            if (root / theirs).is_file():
                params.append({theirs: list(keys)})  # a list of its own: YAML would write a reference
    made = {key: [place(entry) for entry in stage[key]] for key in ("deps", "outs", "metrics", "plots") if key in stage}
    made["deps"].append(f"conf/{environment}/globals.yml")
    if name == "pretrain":
        given = read_section("pretrain", environment, root / "conf")["source"]
        if given not in ("shipped", "rebuild"):
            made["deps"] = [given if dep == "src/fportrait/assets/base" else dep for dep in made["deps"]]
    command = stage["cmd"].replace("kedro run ", f"kedro run --env={environment} ", 1)
    return {"cmd": command, "wdir": "../..", "params": params, **made}


def _moved(path: str, moved: dict[str, str]) -> str:
    """`path` in the environment: the longest folder that it lies in decides."""
    for folder in sorted(moved, key=len, reverse=True):
        if path == folder or path.startswith(f"{folder}/"):
            return moved[folder] + path[len(folder) :]
    return path


def _path(out: Any) -> str:
    return str(next(iter(out))) if isinstance(out, dict) else str(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("environment", help="folder of conf/, for example paper")
    environment = parser.parse_args().environment
    try:
        stages = environment_stages(environment)
    except UserError as error:
        sys.exit(str(error))
    note = "# Made by tools/environment_stages.py from dvc.yaml; run it again after that has changed.\n"
    target = Path("conf") / environment / "dvc.yaml"
    write_text(target, note + yaml.safe_dump(stages, sort_keys=False, width=120))
    print(f"{target}: dvc repro {target}")


if __name__ == "__main__":
    main()
