"""The expression encoder is trained on tracked captures of one's own by one command."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from fportrait.capture.video_io import write_video
from fportrait.cli import main
from fportrait.errors import UserError
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.tracking.making.talking_head.filmed import filmed_talking_heads


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Two people of two clips each; landmarks in a ring around the middle."""
    folder = tmp_path_factory.mktemp("tracks")
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 478, endpoint=False)
    ring = np.stack([32 + 12 * np.cos(angles), 32 + 12 * np.sin(angles)], 1)
    rows = []
    for person in ("anna", "ben"):
        for clip in ("a", "b"):
            path = folder / f"{person}-{clip}.mp4"
            write_video(path, rng.integers(0, 255, (6, 64, 64, 3), np.uint8), fps=25)
            rows += [
                {
                    **{"dataset": "PhoneCapture", "identity": person, "split": "train", "clip": f"{person}/{clip}"},
                    **{"path": str(path), "frame": frame, "landmarks": (ring + 0.1 * frame).ravel().tolist()},
                }
                for frame in range(6)
            ]
    rows.append({**rows[0], "split": "test", "identity": "held out"})
    rows.append({**rows[0], "clip": "anna/gone", "path": str(folder / "gone.mp4")})
    pd.DataFrame(rows).to_parquet(folder / "frames.parquet")
    return folder


def test_samples_are_cut_from_the_training_people_with_references_of_other_clips(tables):
    data = filmed_talking_heads(tables, frames_per_clip=3)
    assert data.crops.shape == (12, 96, 96, 3) and data.pictures.shape == (12, 64, 64, 3)
    assert data.references.shape == (12, 4, 64, 64, 3) and data.focus.shape == (12, 3, 2)
    assert np.all((data.focus > 0) & (data.focus < 64))
    mine, other = data.pictures[:3].reshape(3, -1), data.pictures[3:6].reshape(3, -1)  # anna/a, anna/b
    for reference in data.references[0].reshape(4, -1):
        assert any(np.array_equal(reference, picture) for picture in other)
        assert not any(np.array_equal(reference, picture) for picture in mine)


def test_the_command_leaves_an_encoder_and_names_the_next_command(tables, tmp_path):
    out = tmp_path / "encoder"
    options = ["--frames-per-clip", "3", "--steps", "2", "--batch", "4", "--width", "4"]
    result = CliRunner().invoke(main, ["train-encoder", "--tables", str(tables), "-o", str(out), *options])
    assert result.exit_code == 0, result.output
    assert f"import-wan FOLDER --encoder {out}" in result.output
    codes = ExpressionEncoder.from_pretrained(out).encode(np.zeros((1, 96, 96, 3), np.uint8))
    assert codes.shape == (1, 128) and np.isfinite(codes).all()
    again = CliRunner().invoke(main, ["train-encoder", "--tables", str(tables), "-o", str(out)])
    assert again.exit_code == 2 and "which exists" in again.output


def test_missing_tables_and_missing_people_are_sentences(tables, tmp_path):
    with pytest.raises(UserError, match="fportrait import"):
        filmed_talking_heads(tmp_path)
    with pytest.raises(UserError, match="split 'validation'"):
        filmed_talking_heads(tables, "validation")
