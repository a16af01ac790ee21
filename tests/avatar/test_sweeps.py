import numpy as np
import pandas as pd
import pytest

from fportrait.avatar import sweeps
from fportrait.avatar.sweeps import plan_sweeps, render_sweeps, sweep_config
from fportrait.camera.cameras import camera_centre
from fportrait.capture.video_io import probe, read_video
from fportrait.errors import UserError

SMALL = {"clips_view": 2, "clips_dynamic": 2, "frames_view": 5, "frames_dynamic": 9, "size": 32}


@pytest.fixture(scope="module")
def rendered(truth, capture, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps")
    return folder, render_sweeps(truth, capture.frames, sweep_config(SMALL), 0, folder, "data/sweeps/clips")


def test_every_frame_has_a_row_in_the_schema_of_tracks(rendered, capture):
    folder, table = rendered
    assert list(table.columns) == list(capture.frames.columns)
    assert len(table) == 2 * 5 + 2 * 9
    for path, rows in table.groupby("path"):
        assert path.startswith("data/sweeps/clips/")
        assert probe(folder / path.rsplit("/", 1)[1]).frames == len(rows)
        assert rows.frame.tolist() == list(range(len(rows)))
    assert np.isfinite(np.stack(table.landmarks.tolist())).all() and table.landmarks.map(len).eq(956).all()


def test_a_view_sweep_moves_the_camera_alone_and_a_dynamic_sweep_everything(rendered):
    _, table = rendered
    for (dataset, _), rows in table.groupby(["dataset", "clip"]):
        spread = {
            column: float(np.ptp(np.stack(rows[column].tolist()), axis=0).max())
            for column in ("world_to_camera", "expression_code", "head_rotation", "body_translation")
        }
        assert spread["world_to_camera"] > 0.01
        if dataset == "ViewSweep":
            assert spread["expression_code"] == spread["head_rotation"] == spread["body_translation"] == 0
        else:
            assert spread["expression_code"] > 0 and spread["head_rotation"] > 0


def test_cameras_keep_their_distance_and_half_the_dynamic_clips_spin(truth, capture):
    clips = plan_sweeps(truth, capture.frames, sweep_config(SMALL), 0)
    for clip in clips:
        eyes = np.stack([camera_centre(matrix) for matrix in clip.world_to_camera])
        distance = np.linalg.norm(eyes - sweeps.head_centre(truth, clip.frames), axis=1)
        assert distance.min() > 0.24 and distance.max() < 0.41
    assert sorted(clip.path_kind for clip in clips if clip.dataset == "DynamicSweep") == ["spin", "spiral"]


def of_segments(frames: pd.DataFrame, count: int) -> pd.DataFrame:
    """The same capture as several segments, each with its own frames."""
    parts = [frames.assign(segment=f"s{part}", clip=f"p/s{part}/" + frames["camera"]) for part in range(count)]
    for number, part in enumerate(parts):
        part["expression_code"] = [code + number for code in part["expression_code"]]  # so that a frame names its own
    return pd.concat(parts, ignore_index=True)


def dynamic(truth, table: pd.DataFrame, **changes) -> list[sweeps.SweepClip]:
    config = sweep_config({**SMALL, "clips_view": 0, **changes})
    return [clip for clip in plan_sweeps(truth, table, config, 0) if clip.dataset == "DynamicSweep"]


def test_no_segment_is_played_again_before_all_have_been(truth, capture):
    clips = dynamic(truth, of_segments(capture.frames, 3), clips_dynamic=7)
    played = [clip.frames[0].segment for clip in clips]
    assert sorted(played[:3]) == sorted(played[3:6]) == ["s0", "s1", "s2"]
    assert all(len({frame.segment for frame in clip.frames}) == 1 for clip in clips)
    assert [
        clip.frames[0].segment for clip in dynamic(truth, of_segments(capture.frames, 3), clips_dynamic=4)
    ] == played[:4]


@pytest.mark.parametrize("length", [3, 31])
def test_clips_of_one_segment_start_at_different_places(truth, capture, length):
    """Shorter than the segment, and longer: then it is played forth and back."""
    clips = dynamic(truth, capture.frames, clips_dynamic=4, frames_dynamic=length)
    assert len({sweeps.clip_hash(clip, "x", sweep_config(SMALL)) for clip in clips}) == 4
    assert len({id(clip.frames[0].code) for clip in clips}) >= 3
    for clip in clips:
        assert len(clip.frames) == length
        steps = [a.code is not b.code for a, b in zip(clip.frames, clip.frames[1:], strict=False)]
        assert all(steps)


def test_the_mix_of_paths_and_how_high_they_climb_are_parameters(truth, capture):
    def kinds(share: float) -> list[str]:
        return [clip.path_kind for clip in dynamic(truth, capture.frames, clips_dynamic=4, spin_share_dynamic=share)]

    assert [kinds(share).count("spin") for share in (0, 0.25, 0.5, 1)] == [0, 1, 2, 4]
    view = plan_sweeps(truth, capture.frames, sweep_config({**SMALL, "clips_view": 4, "spin_share_view": 0.75}), 0)
    assert [clip.path_kind for clip in view if clip.dataset == "ViewSweep"].count("spin") == 3

    def climb(degrees: float) -> float:
        most = 0.0
        for clip in dynamic(truth, capture.frames, spin_share_dynamic=0, spiral_elevation_degrees=degrees):
            away = np.stack([camera_centre(m) for m in clip.world_to_camera]) - sweeps.head_centre(truth, clip.frames)
            most = max(most, float(np.degrees(np.arcsin(abs(away[:, 1]) / np.linalg.norm(away, axis=1))).max()))
        return most

    assert climb(0) < 1e-4 and 5 < climb(40) <= 40.0001 and climb(20) == pytest.approx(climb(40) / 2)
    for wrong in (
        {"spin_share_view": 1.5},
        {"spiral_elevation_degrees": 90},
        {"spin_yaw_degrees": -1},
        {"spiral_seeds": 0},
    ):
        with pytest.raises(UserError, match=next(iter(wrong))):
            sweep_config({**SMALL, **wrong})


def test_a_killed_job_renders_only_what_is_missing_and_gives_the_same_table(truth, capture, rendered, monkeypatch):
    folder, table = rendered
    videos = sorted(folder.glob("*.mp4"))
    kept = {path.name: path.stat().st_mtime_ns for path in videos[1:]}
    content = videos[0].read_bytes()
    videos[0].write_bytes(content[: len(content) // 2])
    drawn = []
    original = sweeps.render_clip
    monkeypatch.setattr(sweeps, "render_clip", lambda avatar, clip: drawn.append(clip) or original(avatar, clip))
    again = render_sweeps(truth, capture.frames, sweep_config(SMALL), 0, folder, "data/sweeps/clips")
    assert len(drawn) == 1
    assert videos[0].read_bytes() == content
    assert {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob("*.mp4"))[1:]} == kept
    assert again.equals(table)


def test_another_seed_or_size_gives_other_names(truth, capture):
    def names(seed: int, **changes) -> set[str]:
        config = sweep_config({**SMALL, **changes})
        return {sweeps.clip_hash(clip, "x", config) for clip in plan_sweeps(truth, capture.frames, config, seed)}

    assert names(0) == names(0)
    assert not names(0) & names(1) and not names(0) & names(0, size=48)


def test_parameters_that_cannot_be_rendered_are_refused():
    with pytest.raises(UserError, match="outside the head"):
        sweep_config({"distance_min": 0.05})
    with pytest.raises(UserError, match="clips_view"):
        sweep_config({"clip_view": 3})


def test_the_gate_finds_the_invariants_of_both_sweeps_in_every_rendered_clip(truth, capture, rendered, tmp_path):
    from fportrait.atomic_io import write_parquet
    from fportrait.dataset.rules import ValidationConfig
    from fportrait.dataset.validation import validate_tables

    _, table = rendered
    people = pd.DataFrame(
        {
            "dataset": dataset,
            "identity": "ada",
            "split": "train",
            "shape": truth.refined_shape.tolist(),
            "body_model": "embedded",
            "reference_clip": rows["clip"].iloc[0],
            "reference_frame": 0,
        }
        for dataset, rows in table.groupby("dataset")
    )
    write_parquet(tmp_path / "tables/frames.parquet", table)
    write_parquet(tmp_path / "tables/identities.parquet", people.astype({"reference_frame": "int32"}))
    config = ValidationConfig(moving_expression=0.1)  # the tiny capture moves one of 128 dimensions
    report = validate_tables(tmp_path / "tables", tmp_path / "gate", config)
    assert not report["quarantined"]
    frozen = table[table.dataset == "ViewSweep"].groupby("clip")
    assert all(len(np.unique(np.stack(rows.expression_code), axis=0)) == 1 for _, rows in frozen)

    moving = table.copy()
    first = moving.index[(moving.dataset == "ViewSweep") & (moving.frame == 2)][0]
    moving.at[first, "expression_code"] = moving.at[first, "expression_code"] + np.float32(3.0)
    write_parquet(tmp_path / "tables/frames.parquet", moving)
    with pytest.raises(UserError, match="expression"):
        validate_tables(tmp_path / "tables", tmp_path / "gate", config)


def test_normal_maps_are_written_beside_the_clips_when_asked_for(truth, capture, tmp_path):
    config = sweep_config({**SMALL, "clips_dynamic": 0, "clips_view": 1, "normals": True})
    table = render_sweeps(truth, capture.frames, config, 0, tmp_path / "clips")
    name = table.path.iloc[0].rsplit("/", 1)[1]
    maps = read_video(tmp_path / "normals" / name)
    assert maps.shape == (5, 32, 32, 3)
    assert maps[:, 0, 0].max() < 40 and maps[:, 16, 16].min() > 60  # black around the head; towards the camera on it


def test_a_device_that_is_not_there_is_refused(truth, capture, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=r"cuda|gsplat"):
        render_sweeps(truth, capture.frames, sweep_config({**SMALL, "device": "cuda"}), 0, tmp_path)
    with pytest.raises(UserError, match="'cpu' or 'cuda'"):
        render_sweeps(truth, capture.frames, sweep_config({**SMALL, "device": "gpu"}), 0, tmp_path)


def test_every_clip_says_that_it_is_synthetic(rendered):
    folder, table = rendered
    for path in set(table.path):
        assert (
            probe(folder / path.rsplit("/", 1)[1]).metadata["comment"].startswith("synthetic: generated by fportrait")
        )
