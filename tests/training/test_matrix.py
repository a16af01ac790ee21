"""However a model is spread, whatever a stage asks for and whatever stops it: the numbers are those of one process."""

from collections import Counter
from importlib.util import find_spec
from itertools import combinations, product

import pytest

from helpers.forks import Forks, journal
from helpers.matrix import (
    BRIDGE,
    COLUMNS,
    FEATURES,
    INTERRUPTIONS,
    TOLERANCE,
    WAYS,
    array,
    bridge_cells,
    compare,
    run_cell,
    run_matrix,
    run_reference,
)

EVERYTHING = tuple(FEATURES)
DEEPSPEED = find_spec("deepspeed") is not None
MODULES = ("deepspeed.runtime.engine", "torch._inductor.compile_fx") if DEEPSPEED else ()


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    server = Forks(tmp_path_factory.mktemp("forks"), "peft", *MODULES)
    yield server
    server.close()


@pytest.fixture(scope="module")
def references(forks, tmp_path_factory):
    made = {}

    def reference(features, shards="buckets", model=None):
        key = features, shards, model is not None
        if key not in made:
            made[key] = tmp_path_factory.mktemp("reference")
            run_reference(forks, features, made[key], shards, model)
        return made[key]

    return reference


def test_in_the_rows_of_the_matrix_every_pair_meets_in_every_way():
    switched = [{name: name in (*features, interruption) for name in COLUMNS} for features, interruption in array()]
    assert set(array()[0][0]) == set(FEATURES)
    for one, other in combinations((*FEATURES, INTERRUPTIONS[0]), 2):
        met = Counter((row[one], row[other]) for row in switched)
        assert met == dict.fromkeys(product((True, False), repeat=2), 2), (one, other)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("features", "interruption"),
    [(EVERYTHING, "2 → 1 → 2"), (tuple(name for name in EVERYTHING if name != "LoRA"), "SIGKILL")],
    ids=["everything", "everything but LoRA"],
)
def test_two_interrupted_processes_give_the_numbers_of_one(forks, references, tmp_path, way, features, interruption):
    if way.startswith("zero") and not DEEPSPEED:
        pytest.skip("needs DeepSpeed")
    run_cell(forks, way, features, interruption, tmp_path, "buckets")
    assert compare(tmp_path, references(features)) < TOLERANCE


def test_of_way_lora_and_buckets_every_two_meet_under_the_bridge():
    met = [(way, "LoRA" in features, shards) for way, features, shards in bridge_cells()]
    for one, other in combinations(range(3), 2):
        values = [sorted({cell[place] for cell in met}) for place in (one, other)]
        assert {(cell[one], cell[other]) for cell in met} == set(product(*values)), (one, other)


@pytest.mark.parametrize(
    ("way", "features", "shards"),
    [
        pytest.param(*cell, marks=() if cell[0] == "fsdp2" else pytest.mark.slow, id=f"{cell[0]}-{number}")
        for number, cell in enumerate(bridge_cells())
    ],
)
def test_a_model_that_starts_from_the_painted_portrait_is_trained_by_two_as_by_one(
    forks, references, tmp_path, way, features, shards
):
    """Its noise, its gate and the painted latents of every bucket, spread every way, with LoRA and without."""
    if way.startswith("zero") and not DEEPSPEED:
        pytest.skip("needs DeepSpeed")
    run_cell(forks, way, features, "", tmp_path, shards, BRIDGE)
    assert compare(tmp_path, references(features, shards, BRIDGE)) < TOLERANCE
    plain = references(features, shards)
    assert journal(plain)[1]["loss"] != journal(references(features, shards, BRIDGE))[1]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("shards", ["shards", "buckets"])
def test_every_cell_of_the_matrix_gives_the_numbers_of_one_process(forks, tmp_path, shards):
    ways = WAYS if DEEPSPEED else ("none", "fsdp2")
    table = run_matrix(forks, ways, tmp_path, shards=shards)
    assert all(isinstance(value, float) and value < TOLERANCE for row in table.values() for value in row.values())
    assert all(row.keys() == set(COLUMNS) for row in table.values())
