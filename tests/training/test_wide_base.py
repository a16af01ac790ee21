"""Training on the wide world: chunks taken up as they come, two picture sizes, a bundle that says how it was made."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fportrait.bundle import SHIPPED_BASE, bundle_hashes, read_settings
from fportrait.diffusion.codec import load_vae
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.training.base_clips import render_chunk
from fportrait.training.wide_base import HOLD, LARGE, SMALL, GrowingClips, MixedBatches, train_wide

FEW = replace(SMALL, clips=4, chunk=2, frames=5, crop_size=96)
FEW_LARGE = replace(LARGE, clips=2, chunk=2, frames=5)
PHASE = replace(HOLD, steps=1, tokens=384, lengths={1: 0.5, 5: 0.5})


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    render_chunk(0, FEW, folder)
    return folder


def test_chunks_are_taken_up_as_they_come_and_read_into_codes_once(work):
    encoder = ExpressionEncoder.from_pretrained(SHIPPED_BASE / "expression_encoder")
    clips = GrowingClips(work / FEW.name, encoder)
    assert clips.refresh() and not clips.refresh()
    assert len(clips.joined()[1]) == 2
    batches = MixedBatches([(clips, PHASE), (GrowingClips(work / FEW_LARGE.name, encoder), PHASE)], [0.5], _vae(), 0.0)
    sizes = {batches(step)["latents"].shape[-1] for step in range(6)}
    assert sizes == {8}  # no large ones yet
    codes = next((work / FEW.name).glob("*.codes.npy"))
    before = codes.stat().st_mtime_ns
    render_chunk(1, FEW, work)
    render_chunk(0, FEW_LARGE, work)
    sizes = {batches(step)["latents"].shape[-1] for step in range(8)}
    assert sizes == {8, 16} and len(clips.joined()[1]) == 4
    assert codes.stat().st_mtime_ns == before


def _vae():
    return load_vae(SHIPPED_BASE / "vae")


def test_the_bundle_lists_both_sizes_and_its_provenance_both_worlds(work, tmp_path):
    bundle = train_wide(work, tmp_path / "bundle", phases=[PHASE], small=FEW, large=FEW_LARGE, large_share=0.5)
    assert read_settings(bundle).sizes == [128] and read_settings(bundle).size == 64
    record, parent = (json.loads((folder / "provenance.json").read_text()) for folder in (bundle, SHIPPED_BASE))
    assert record["files"] == bundle_hashes(bundle) and record["parent"] == bundle_hashes(SHIPPED_BASE)
    assert len(record["training"]) == len(parent["training"]) + 1
    assert [recipe["variety"] for recipe in record["training"][-1]["wide"]] == [1.0, 1.0]
    assert "_name_or_path" not in (bundle / "transformer/config.json").read_text()
