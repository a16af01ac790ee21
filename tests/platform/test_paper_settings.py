"""conf/paper says of every number whether it is published or ours, and the published ones are those of the paper."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

PAPER = Path(__file__).parents[2] / "conf/paper"
TABLE_1 = {  # frames, iterations, learning rate, shares in percent
    1: (13, 20_000, 1e-4, (100, 0, 0, 0)),
    2: (25, 20_000, 1e-4, (60, 40, 0, 0)),
    3: (49, 20_000, 5e-5, (20, 20, 30, 30)),
    4: (81, 30_000, 2e-5, (20, 20, 30, 30)),
}


@pytest.mark.parametrize("path", sorted(PAPER.glob("parameters_*.yml")), ids=lambda path: path.stem)
def test_every_file_says_what_is_ours(path):
    text = path.read_text(encoding="utf-8")
    assert "# Chosen by us" in text
    for heading in re.finditer(r"^( *)# As published.*\n", text, re.M):
        if heading[1]:  # a section ends where ours begin, at the same depth
            assert f"\n{heading[1]}# Chosen by us\n" in text[heading.end() :]


@pytest.mark.parametrize("stage", TABLE_1)
def test_the_published_section_of_a_stage_is_table_1(stage):
    text = (PAPER / f"parameters_train_stage{stage}.yml").read_text(encoding="utf-8")
    published = text[text.index("# As published") : text.index("# Chosen by us")]
    found = yaml.safe_load("\n".join(line.strip() for line in published.splitlines()))
    frames, iterations, rate, shares = TABLE_1[stage]
    assert (found["frames"], found["iterations"], found["learning_rate"]) == (frames, iterations, rate)
    assert tuple(found["mixture"].values()) == shares and found["variant"] == "full"
    assert found["batch_size"] == 64 == found["processes"] * found["nodes"]
