"""Commands that only sample start without what diffusers imports beside; nobody else is told that it is missing."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("peft", "transformers", "scipy.stats", "torch._dynamo", "sympy", "pandas", "mlflow", "kedro")
PROGRAM = """
import json, sys
from fportrait.diffusion import lean
lean.ask()
import fportrait.animate.animator
from fportrait.bundle import SHIPPED_BASE
from fportrait.diffusion.pipeline import FactorPortraitPipeline
pipeline = FactorPortraitPipeline.from_bundle(SHIPPED_BASE)
pipeline.maybe_free_model_hooks()  # as every call ends
late = [name for name in HEAVY if name in sys.modules]
import diffusers, scipy.stats, torch._dynamo
from importlib.metadata import packages_distributions
compiled = torch._dynamo.eval_frame.OptimizedModule(pipeline.vae, torch._dynamo.disable)
loading = sys.modules["diffusers.pipelines.pipeline_loading_utils"]
print(json.dumps({
    "heavy": late,
    "scipy": hasattr(scipy.stats, "norm") and hasattr(scipy, "stats"),
    "names": bool(packages_distributions()),
    "marks": torch.compiler.disable.__module__.startswith("torch."),
    "compiled": [loading.is_compiled_module(pipeline.vae), loading.is_compiled_module(compiled)],
    "finders": [type(one).__name__ for one in sys.meta_path if "lean" in type(one).__module__],
    "loader": diffusers.__spec__.loader.__class__.__module__,
}))
"""


def told_by(program: str) -> dict:
    lines = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    return json.loads(lines.strip().splitlines()[-1])


def test_a_process_that_samples_loads_a_model_without_heavy_packages_and_leaves_everything_as_it_was():
    found = told_by(PROGRAM.replace("HEAVY", repr(HEAVY)))
    assert found["heavy"] == []
    assert found["scipy"] and found["names"] and found["marks"]
    assert found["compiled"] == [False, True]
    assert found["finders"] == [] and "lean" not in found["loader"]


def test_only_sampling_commands_of_a_process_of_their_own_ask_for_it():
    program = """
import json, os, sys
from click.testing import CliRunner
from fportrait.cli import main
os.environ.pop("OPENBLAS_NUM_THREADS", None)
waiting = lambda: any("lean" in type(one).__module__ for one in sys.meta_path)
told = []
CliRunner().invoke(main, ["animate", "--portrait", "none.png"])
told.append(waiting())
for name in ("plan", "animate"):
    try:
        main([name, "--nonsense"])
    except SystemExit:
        told.append(waiting())
print(json.dumps([*told, os.environ.get("OPENBLAS_NUM_THREADS"), "numpy" in sys.modules]))
"""
    assert told_by(program) == [False, False, True, "1", False]  # early enough for NumPy to read it


def test_asked_too_late_it_changes_nothing():
    program = """
import json, sys
import diffusers
from fportrait.diffusion import lean
before = list(sys.meta_path)
lean.ask()
print(json.dumps(sys.meta_path == before))
"""
    assert told_by(program) is True
