"""What Kedro-Viz shows of a folder and of a node."""

from __future__ import annotations

import base64
import inspect
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from fportrait.capture.image_io import write_image
from fportrait.capture.video_io import write_video
from fportrait.ops.chain import CHAIN
from fportrait.ops.datasets import Report
from fportrait.ops.previews import CurveFolder, PictureFolder, TableFolder

ROOT = Path(__file__).resolve().parents[2]


def test_a_picture_or_frames_of_a_video_are_shown_as_png(tmp_path):
    write_image(tmp_path / "b/sheet.png", np.full((40, 60, 3), 200, np.uint8))
    write_video(tmp_path / "clips/a.mp4", np.zeros((9, 32, 32, 3), np.uint8), 25.0)
    for shows, width in (("*/sheet.png", 60), ("clips/*.mp4", 4 * 32)):
        shown = PictureFolder(str(tmp_path), "track", shows).preview()
        assert Image.open(io.BytesIO(base64.b64decode(shown))).width == width
    with pytest.raises(FileNotFoundError, match=r"\*\.webp"):
        PictureFolder(str(tmp_path), "track", "*.webp").preview()


def test_a_table_is_shown_without_its_lists(tmp_path):
    pd.DataFrame({"clip": [f"c{i}" for i in range(40)], "codes": [[1.0, 2.0]] * 40}).to_parquet(tmp_path / "t.parquet")
    shown = TableFolder(str(tmp_path), "track", "t.parquet").preview()
    assert shown["columns"] == ["clip"] and len(shown["data"]) == 20
    (tmp_path / "report.json").write_text(json.dumps({"rules": [{"rule": "a", "checked": 3, "failures": []}]}))
    assert TableFolder(str(tmp_path), "validate", "report.json").preview()["columns"] == ["rule", "checked"]


def test_losses_are_shown_as_curves(tmp_path):
    (tmp_path / "stage1.csv").write_text("step,loss,held_out_loss\n5,0.3,\n10,0.2,0.25\n")
    shown = CurveFolder(str(tmp_path), "train_stage1", str(tmp_path / "stage1.csv")).preview()
    assert [line["y"] for line in shown["data"]] == [[0.3, 0.2], [0.25]]


def test_viz_reads_from_the_annotation_how_to_show_a_data_set():
    known = {PictureFolder: "ImagePreview", TableFolder: "TablePreview", CurveFolder: "PlotlyPreview"}
    for kind, name in {**known, Report: "JSONPreview"}.items():
        assert inspect.signature(kind.preview).return_annotation == name


def test_the_catalog_previews_pictures_tables_and_curves_and_every_node_draws_its_inside():
    from fportrait.pipeline_registry import register_pipelines

    kinds = [entry["type"] for entry in yaml.safe_load((ROOT / "conf/base/catalog.yml").read_text()).values()]
    for kind in ("PictureFolder", "TableFolder", "CurveFolder"):
        assert f"fportrait.ops.previews.{kind}" in kinds
    pipelines = register_pipelines()
    for name in (*CHAIN, "study", "ablate"):
        (node,) = pipelines[name].nodes
        drawn = node.preview()
        assert drawn.kind == "mermaid" and drawn.content.count("-->") >= 2, name
