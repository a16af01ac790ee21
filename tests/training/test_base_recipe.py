"""The recipe of the small base, on a handful of clips: every part is made, checked and found again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fportrait.bundle import SHIPPED_BASE, bundle_hashes, read_settings
from fportrait.dataset.focus import focus_weights
from fportrait.errors import UserError
from fportrait.training.base import CLIPS, PICTURES, ClipBatches, rate_factor
from fportrait.training.base_clips import ClipRecipe, load_clips, render_chunk
from fportrait.training.base_recipe import build_base, parts_key

RECIPE = ClipRecipe(clips=12, frames=9, held_out=4, chunk=6, seed=77)
SMALL = {
    "patch_size": (1, 1, 1),
    "num_attention_heads": 1,
    "attention_head_dim": 32,
    "ffn_dim": 32,
    "num_layers": 1,
    "text_dim": 8,
    "prompt_tokens": 1,
    "controller_init_std": 0.02,
    "latent_channels": 16,
}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path, dict]:
    work = tmp_path_factory.mktemp("work")
    few = {"steps": 2, "minutes": 5.0, "tokens": 512, "lengths": {1: 0.5, 9: 0.5}}
    phases = (replace(PICTURES, **few), replace(CLIPS, **few))
    scores = build_base(work, work / "bundle", RECIPE, phases, 2, 2, 0.5, SMALL, faces=6)
    return work, work / "bundle", scores


def test_the_recipe_writes_a_bundle_whose_provenance_names_every_file_and_score(built):
    _, bundle, scores = built
    record = json.loads((bundle / "provenance.json").read_text())
    assert record["files"] == bundle_hashes(bundle)
    assert (record["recipe"]["clips"], record["recipe"]["faces"]) == (12, 6) and len(record["training"]) == 2
    assert {"psnr", "psnr_codec_limit", "psnr_repeated_portrait", "sharpness"} <= scores.keys()
    assert all(np.isfinite(scores[key]) for key in ("psnr", "psnr_codec_limit", "sharpness"))
    assert read_settings(bundle).frames == 9


def test_parts_of_other_settings_are_never_taken_up_again(tmp_path):
    parent = tmp_path / "parent"
    (parent / "vae").mkdir(parents=True)
    (parent / "vae/config.json").write_text("{}")
    given = (RECIPE, 6, 2, 2, 0.5, SMALL, None)
    changed = {
        parts_key(*given[:place], value, *given[place + 1 :])
        for place, value in enumerate((replace(RECIPE, seed=1), 7, 3, 4, 0.6, {**SMALL, "latent_channels": 32}, parent))
    }
    assert len(changed | {parts_key(*given)}) == 8
    assert parts_key(*given[:5], {**SMALL, "num_layers": 9}, None) == parts_key(*given)  # no part depends on it


def test_a_stopped_recipe_keeps_the_clips_and_parts_it_had_made(built):
    work, _, _ = built
    files = sorted((work / RECIPE.name).glob("clips-*.npz"))
    before = [file.stat().st_mtime_ns for file in files]
    for chunk in range(2):
        render_chunk(chunk, RECIPE, work)
    assert [file.stat().st_mtime_ns for file in files] == before


def test_a_batch_is_a_function_of_its_index_and_holds_one_camera_and_code_per_frame(built):
    from fportrait.diffusion.codec import load_vae

    work, bundle, _ = built
    clips = load_clips(sorted((work / RECIPE.name).glob("clips-*.npz")))
    codes = np.load(next(work.glob("parts-*/codes-18.npy")))[6:]  # those of the faces come first
    batches = ClipBatches(clips, codes, load_vae(bundle / "vae"), replace(CLIPS, tokens=512, lengths={9: 1.0}))
    first, again, other = batches(3), batches(3), batches(4)
    assert torch.equal(first["latents"], again["latents"])
    one, two = first["conditions"].inputs(), again["conditions"].inputs()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(first["latents"], other["latents"])
    assert first["latents"].shape[1:] == (16, 3, 8, 8) and one["rays"].shape[1:] == (24, 3, 8, 8)
    assert one["codes"].shape[1:] == (9, 128)


def test_the_recipe_goes_on_from_a_bundle_with_more_latent_channels(built, tmp_path):
    work, parent, _ = built
    for name in ("units", RECIPE.name):
        (tmp_path / name).symlink_to(work / name)
    phase = replace(CLIPS, steps=1, minutes=5.0, tokens=256, lengths={1: 1.0})
    wide = {**SMALL, "latent_channels": 24}
    build_base(tmp_path, tmp_path / "bundle", RECIPE, [phase], 2, 2, 0.5, wide, parent=parent)
    config = json.loads((tmp_path / "bundle/transformer/config.json").read_text())
    assert config["latent_channels"] == 24 == json.loads((tmp_path / "bundle/vae/config.json").read_text())["z_dim"]


def test_the_loss_weighs_the_cells_of_eyes_and_mouth_most():
    focus = np.full((1, 5, 3, 2), 12.0)
    weights = focus_weights(focus, 64, 8.0)
    assert weights.shape == (1, 1, 2, 8, 8)
    assert weights[0, 0, 0, 1, 1] == pytest.approx(9.0, abs=1e-3) and weights[0, 0, 0, 7, 7] == pytest.approx(1.0)


def test_the_rate_warms_up_and_falls_to_near_zero_only_where_asked():
    assert rate_factor(0.0, 0, CLIPS) == pytest.approx(1 / CLIPS.warmup)
    assert rate_factor(0.999, 10_000, CLIPS) < 0.03 < 1.0 == rate_factor(0.999, 10_000, PICTURES)


def test_the_shipped_base_is_the_one_its_provenance_describes():
    record = json.loads((SHIPPED_BASE / "provenance.json").read_text())
    assert record["files"] == bundle_hashes(SHIPPED_BASE)


def test_a_model_folder_with_a_part_missing_is_refused_by_name(built, tmp_path):
    with pytest.raises(UserError, match="no transformer, vae, expression_encoder"):
        read_settings(tmp_path)
