"""What codes tell of the body's actions, and the body that portraits are painted on."""

import numpy as np
import pytest
import torch

from fportrait.atomic_io import write_safetensors
from fportrait.body.model import Pose, load_body
from fportrait.body.painting import acting_vertices
from fportrait.bundle import SHIPPED_BASE
from fportrait.errors import UserError
from fportrait.tracking.actions import READOUT, ActionReadout, told_actions
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.tracking.making.readout import MOST, calibrate


def write(folder, weight, bias):
    folder.mkdir(exist_ok=True)
    write_safetensors(folder / READOUT, {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})


def test_the_shipped_readout_tells_what_rendered_faces_do():
    from fportrait.animate.retarget import ROWS, faces_acting

    encoder, names = ExpressionEncoder.from_pretrained(SHIPPED_BASE / "expression_encoder"), load_body().action_names
    told = {row: encoder.readout(encoder.encode(crops)).mean(0) for row, crops in faces_acting().items()}
    for row in ("jaw_open", "smile", "eyes_closed", "brows_down", "gaze_left"):
        for name, strength in ROWS[row].items():
            asked = names.index(name)
            assert told[row][asked] - told["rest"][asked] > 0.5 * strength, (row, name)


def test_an_encoder_keeps_its_readout_and_one_without_tells_nothing(tmp_path):
    encoder = ExpressionEncoder(4)
    encoder.save_pretrained(tmp_path / "bare")
    assert ExpressionEncoder.from_pretrained(tmp_path / "bare").readout is None
    assert told_actions(None, np.zeros((3, 128))) == [None] * 3
    weight, bias = np.random.default_rng(0).standard_normal((52, 128)).astype(np.float32), np.zeros(52, np.float32)
    encoder.readout = ActionReadout(weight, bias)
    encoder.save_pretrained(tmp_path / "with")
    read = ExpressionEncoder.from_pretrained(tmp_path / "with").readout
    assert np.array_equal(read.weight, weight) and np.array_equal(read.bias, bias)
    codes = np.random.default_rng(1).standard_normal((5, 128))
    assert read(codes).min() >= 0 and read(codes).max() <= 1
    assert np.array_equal(told_actions(read, codes)[2], read(codes)[2])


@pytest.mark.parametrize(
    "weight, bias",
    [
        (np.zeros((52, 64)), np.zeros(52)),
        (np.zeros((52, 128)), np.zeros(51)),
        (np.full((52, 128), np.nan), np.zeros(52)),
    ],
)
def test_a_readout_of_another_shape_or_with_holes_is_refused(tmp_path, weight, bias):
    write(tmp_path, weight.astype(np.float32), bias.astype(np.float32))
    with pytest.raises(UserError, match=READOUT):
        ActionReadout.beside(tmp_path)


def test_the_body_acts_where_it_can_and_the_head_stays_where_it_is():
    body, pose = load_body(), Pose(np.eye(3), np.zeros(3), np.eye(3))
    shape, actions = np.zeros(body.identity_dim), np.zeros(52, np.float32)
    actions[body.action_names.index("jawOpen")] = 1
    rest, acting = (body.landmarks(acting_vertices(body, shape, some, pose)) for some in (None, actions))
    moved = np.linalg.norm(acting - rest, axis=1)
    assert moved[17] > 0.005 and moved[10] < 1e-4  # the lower lip, the forehead

    class Other:
        def vertices(self, shape, actions, pose):
            assert actions is None
            return np.zeros((4, 3))

    assert acting_vertices(Other(), shape, actions, pose).shape == (4, 3)


def test_a_calibrated_readout_reads_a_full_action_as_one_rest_as_none_and_noise_not_at_all():
    rng = np.random.default_rng(0)
    actions = np.zeros((4000, 52))
    actions[:, :3] = rng.random((4000, 3)) * (rng.random((4000, 3)) < 0.5)
    codes = np.zeros((4000, 128), np.float32)
    codes[:, :2] = actions[:, :2] + 0.05 * rng.standard_normal((4000, 2))
    codes[:, 2] = rng.standard_normal(4000)  # says nothing of the third
    weight = np.zeros((52, 128), np.float32)
    weight[0, 0], weight[1, 1], weight[2, 2] = 0.8, 0.3, 0.2  # reads four fifths of the first, a third of the second
    bias = np.full(52, 0.1, np.float32)
    found, factors = calibrate(ActionReadout(weight, bias), codes, actions)
    assert factors[0] == pytest.approx(1 / 0.8, rel=0.02) and factors[1] == MOST and factors[2:] == [0.0] * 50
    read = codes @ found.weight.T + found.bias
    assert np.abs(read[actions[:, 0] == 0, 0].mean()) < 0.01
    assert np.polyfit(actions[:, 0], read[:, 0], 1)[0] == pytest.approx(1, abs=0.02)
    assert np.abs(read[:, 2:]).max() == 0
