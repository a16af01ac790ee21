"""Folders that Kedro-Viz can look into: a picture, a table, or a stage's curve.

Kedro-Viz asks a dataset for `preview()` and reads from the annotation of its result how to show it. What is not there
yet shows nothing.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, TypeAlias

from fportrait.ops.datasets import Folder

ImagePreview: TypeAlias = str  # base64 of a PNG
TablePreview: TypeAlias = dict[str, Any]  # index, columns, data
PlotlyPreview: TypeAlias = dict[str, Any]  # data, layout
ROWS, COLUMNS, FRAMES = 20, 12, 4
WIDEST = 1200  # pixels


class PictureFolder(Folder):
    """A folder with pictures or videos; `shows` is a pattern below it, and the first match in order of names is shown.

    Of a video some frames are shown beside each other.
    """

    def __init__(self, filepath: str, made_by: str, shows: str):
        super().__init__(filepath, made_by)
        self._shows = shows

    def preview(self) -> ImagePreview:
        import cv2

        found = sorted(self._path.glob(self._shows))
        if not found:
            raise FileNotFoundError(f"nothing in {self._path} is named {self._shows}")
        _, png = cv2.imencode(".png", cv2.cvtColor(_picture(found[0]), cv2.COLOR_RGB2BGR))
        return base64.b64encode(png.tobytes()).decode()


class TableFolder(Folder):
    """A folder with a table; `shows` is its name, Parquet or a JSON list. Cells with lists are left out."""

    def __init__(self, filepath: str, made_by: str, shows: str):
        super().__init__(filepath, made_by)
        self._shows = shows

    def preview(self) -> TablePreview:
        table = _table(self._path / self._shows)
        return json.loads(table.to_json(orient="split"))


class CurveFolder(Folder):
    """A trained stage; `curve` is the CSV of its losses."""

    def __init__(self, filepath: str, made_by: str, curve: str):
        super().__init__(filepath, made_by)
        self._curve = Path(curve)

    def preview(self) -> PlotlyPreview:
        import pandas as pd

        table = pd.read_csv(self._curve)
        lines = []
        for name in ("loss", "held_out_loss"):
            kept = table[["step", name]].dropna()
            lines.append({"x": kept["step"].tolist(), "y": kept[name].tolist(), "name": name.replace("_", " ")})
        layout = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": "loss"}}}
        return {"data": [{"type": "scatter", "mode": "lines+markers", **line} for line in lines], "layout": layout}


def _picture(path: Path) -> Any:
    """`H W 3` of a picture, or of some frames of a video side by side."""
    import cv2
    import numpy as np

    from fportrait.capture.image_io import read_image
    from fportrait.capture.video_io import read_video

    if path.suffix != ".mp4":
        image = read_image(path)
    else:
        video = read_video(path)
        image = np.concatenate(list(video[np.linspace(0, len(video) - 1, FRAMES).astype(int)]), axis=1)
    share = min(1.0, WIDEST / image.shape[1])
    return image if share == 1 else cv2.resize(image, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)


def _table(path: Path) -> Any:
    """The first rows and plain columns of a table."""
    import pandas as pd

    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        table = pd.DataFrame(content["rules"] if isinstance(content, dict) else content)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path)
        plain = [field.name for field in file.schema_arrow if not pa.types.is_nested(field.type)]
        table = next(file.iter_batches(ROWS, columns=plain[:COLUMNS])).to_pandas()
    plain = [name for name in table if not table[name].map(lambda cell: isinstance(cell, list | dict)).any()]
    return table[plain[:COLUMNS]].head(ROWS)
