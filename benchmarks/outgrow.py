"""Each configuration of conf/outgrow against a real server on this machine: `make outgrow`.

Runs tests/outgrow and keeps what ran, how long it took, and what was skipped because a server is not installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from _result import RESULTS, machine

from fportrait.atomic_io import write_json

ROOT = Path(__file__).parents[1]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "tests/outgrow", f"--junit-xml={report}"]
        code = subprocess.run(command, cwd=ROOT, env=os.environ | {"FPORTRAIT_OUTGROW": "1"}).returncode
        cases = list(ElementTree.parse(report).iter("testcase"))
    rows = []
    for case in cases:
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        what = case.get("name", "").removeprefix("test_").replace("_", " ")
        rows.append({"what": what, "outcome": outcome, "seconds": round(float(case.get("time", 0)), 1)})
    holds = code == 0 and all(row["outcome"] == "passed" for row in rows)
    passed = sum(row["outcome"] == "passed" for row in rows)
    what = "configurations of conf/outgrow that work against real local servers"
    result = {"name": "outgrow", "what": what, "ours": passed, "unit": "tests", "bound": len(rows), "holds": holds}
    write_json(RESULTS / "outgrow.json", {**result, "n": len(rows), "machine": machine(), "tests": rows})
    for row in rows:
        print(f"{row['outcome']:<8}{row['seconds']:>7.1f} s  {row['what']}")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
