"""The student's gate: judged on its teacher's own people, and by the speed asked for."""

from __future__ import annotations

import pytest

from fportrait.atomic_io import write_json
from fportrait.ops.student_gate import judge


def scores(folder, psnr: float, gain: float):
    clips = {f"clip{n}": {"ours/psnr": psnr + 0.01 * n, "ours/expression_gain": gain} for n in range(6)}
    people = {f"clip{n}": f"person{n % 3}" for n in range(6)}
    folder.mkdir(exist_ok=True)
    write_json(folder / "scores.json", {"holdout": "same", "clips": clips, "people": people, "probes": {}})
    return folder


TOLERATED = {"ours/psnr": 0.3, "ours/expression_gain": 0.05}


@pytest.mark.parametrize(
    "psnr, gain, speed, refused",
    [
        (30.0, 0.8, 10.0, set()),
        (29.8, 0.76, 8.1, set()),
        (29.5, 0.8, 10.0, {"teacher ours/psnr"}),
        (30.0, 0.7, 10.0, {"teacher ours/expression_gain"}),
        (30.0, 0.8, 7.0, {"speed"}),
    ],
)
def test_a_student_passes_within_its_tolerances_and_names_what_it_fails(tmp_path, psnr, gain, speed, refused):
    teacher, student = scores(tmp_path / "teacher", 30.0, 0.8), scores(tmp_path / "student", psnr, gain)
    checks = judge(teacher, student, {"teacher": 0.1, "student": 0.1 / speed}, TOLERATED, 8.0)
    assert {check.name for check in checks if not check.passed} == refused


def test_scores_of_another_holdout_are_no_comparison(tmp_path):
    teacher, student = scores(tmp_path / "teacher", 30.0, 0.8), scores(tmp_path / "student", 31.0, 0.9)
    write_json(student / "scores.json", {"holdout": "other", "clips": {}, "people": {}, "probes": {}})
    checks = judge(teacher, student, {"teacher": 0.1, "student": 0.01}, TOLERATED, 8.0)
    assert not checks[0].passed and "holdout" in checks[0].detail
