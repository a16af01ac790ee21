"""What stopped a stage is told until it is done, and a broken note breaks nothing."""

from __future__ import annotations

import pytest

from fportrait.errors import UserError
from fportrait.ops import stopped


def test_a_stage_that_stopped_says_why_until_it_is_done(tmp_path):
    records = tmp_path / "lineage"
    assert stopped.read("promote", records) is None
    stopped.write("promote", records, UserError("a worse model", "a better one", "train longer"))
    assert "a worse model" in (stopped.read("promote", records) or "")
    assert stopped.read("evaluate", records) is None, "another stage did not stop"
    stopped.forget("promote", records)
    stopped.forget("promote", records)
    assert stopped.read("promote", records) is None


@pytest.mark.parametrize("note", ["", "{", "[]", "{}", '"error"'])
def test_a_broken_note_says_nothing(tmp_path, note):
    records = tmp_path / "lineage"
    stopped.write("promote", records, ValueError("why"))
    (tmp_path / "stopped" / "promote.json").write_text(note)
    assert stopped.read("promote", records) is None
