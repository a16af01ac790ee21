"""Where one part of a mesh ends before another, or before nothing, a large picture has no staircase; elsewhere it stays
as it is."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fportrait.body.folds import rasterize_at, smooth_folds
from fportrait.body.model import load_body, rotation_matrix
from fportrait.body.painting import PortraitPainter, acting_vertices
from fportrait.body.pose import Pose
from fportrait.body.rasterizer import rasterize
from fportrait.body.warping import Target
from helpers.ray_tracer import head_view

SIZE = 160
LENS = np.array([[540.0, 0, 80], [0, 540.0, 80], [0, 0, 1]])
BODY = load_body()
WALL = 30


def face(turned: float = 0.0, **actions: float) -> np.ndarray:
    """Vertices `V 3` of a head a metre before an OpenCV camera, turned by degrees, that acts so."""
    told = np.zeros(52, np.float32)
    for name, value in actions.items():
        told[[index for index, one in enumerate(BODY.action_names) if one.startswith(name)]] = value
    pose = Pose(rotation_matrix([0, np.radians(turned), 0]), np.zeros(3), np.eye(3))
    return acting_vertices(BODY, np.zeros(BODY.identity_dim), told, pose) * (1, -1, -1) + (0, 0, 1.0)


def target(vertices: np.ndarray, samples: int = 1) -> Target:
    return Target(vertices, LENS, BODY.faces, (SIZE, SIZE), samples)


def painter(samples: int) -> PortraitPainter:
    """Of a portrait with parted lips, whose colours change quickly, before a dark wall."""
    across, down = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    skin = np.clip((150, 120, 100) + 60 * np.sin(down / 2.5 + across / 19)[..., None], 0, 255)
    person = target(face(jawOpen=0.12)).covered
    picture = np.where(person[..., None], skin, WALL).astype(np.uint8)
    one = PortraitPainter(BODY, picture, face(jawOpen=0.12), LENS, samples, matte=person.astype(np.float32))
    one._lids = None  # closed ones lie over the folds (`body.eyelids`)
    return one


def window(vertices: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The box around such vertices, `V` true or not, in the picture: `H W`."""
    pixels = vertices[part] @ LENS.T
    (left, top), (right, bottom) = (f(pixels[:, :2] / pixels[:, 2:], 0).astype(int) for f in (np.min, np.max))
    inside = np.zeros((SIZE, SIZE), bool)
    inside[top - 2 : bottom + 3, left - 2 : right + 3] = True
    return inside


LIPS, EYES = np.asarray(BODY.masks["lips"]) > 0.5, np.asarray(BODY.part) == BODY.part_names.index("eyes")
POSES = {
    "lips": (face(mouthPucker=0.5), LIPS),
    "lids": (face(eyeBlink=0.7), EYES),
    "outline and nose": (face(30), np.ones(len(LIPS), bool)),
}


@pytest.mark.parametrize("vertices, part", POSES.values(), ids=POSES.keys())
def test_folds_are_as_smooth_as_with_many_samples_a_pixel(vertices, part):
    one, there = painter(1), target(vertices)
    rough = one.paint(there)
    drawn = smooth_folds(rough, there, one)
    changed = (drawn != rough).any(-1) & window(vertices, part)
    assert 10 < changed.sum() < 0.06 * SIZE**2, "folds are lines"
    wanted = painter(3).paint(target(vertices, 3)).astype(float)
    off, was = (np.abs(picture - wanted)[changed].mean() for picture in (drawn, rough))
    assert off < 0.6 * was, (off, was)


def test_what_does_not_fold_stays_as_it_is():
    one, there = painter(1), target(face(25, jawOpen=0.12))
    own = one.paint(target(face(jawOpen=0.12)))
    assert np.array_equal(smooth_folds(own, target(face(jawOpen=0.12)), one), own), "nor who does not move"
    drawn = one.paint(there)
    depth = np.full(there.covered.size, 9.0, np.float32)
    corners = np.asarray(there.vertices, np.float32)[there.faces[there.triangles], 2]
    depth[there.places] = (corners * there.weights).sum(1)
    depth = depth.reshape(there.covered.shape)
    near, far = (change(depth, np.ones((5, 5), np.uint8)) for change in (cv2.erode, cv2.dilate))
    even = far - near < 0.005
    assert even.mean() > 0.5
    assert np.array_equal(smooth_folds(drawn, there, one)[even], drawn[even])


def test_an_outline_is_as_bright_as_it_covers_of_each_pixel():
    """So that it does not creep from pixel to pixel as a head turns slowly. But where the portrait has the same one."""
    one, rough, smooth = painter(1), [], []
    for turned in np.arange(20, 22, 0.25):
        there = target(face(turned))
        rough.append(there.covered.astype(float))
        drawn = np.repeat(255 * there.covered[..., None].astype(np.uint8), 3, 2)
        smooth.append(smooth_folds(drawn, there, one)[..., 0] / 255)
        share = target(face(turned), 12).covered.reshape(SIZE, 12, SIZE, 12).mean((1, 3))
        rim = (share > 0) & (share < 1)
        off, was = (np.abs(one[-1] - share)[rim].mean() for one in (smooth, rough))
        assert off < 0.5 * was
        assert np.abs(smooth[-1] - share)[~rim].max() < 0.1
    shaken, before = (np.abs(np.diff(one, 2, axis=0)).sum() for one in (smooth, rough))
    assert shaken < 0.7 * before


@pytest.mark.parametrize("aside", [(0.6, 0, 0), (0.14, 0.1, 0), (0, 0, -0.95)])
def test_a_head_beside_or_at_the_edge_of_the_picture(aside):
    drawn, there = np.full((SIZE, SIZE, 3), 7, np.uint8), target(np.add(face(), aside))
    assert np.array_equal(smooth_folds(drawn, there, painter(1)), drawn)


def test_places_of_some_pixels_see_what_a_finer_picture_sees_there():
    body, vertices, w2c, k = head_view(48)
    camera = vertices @ w2c[:3, :3].T + w2c[:3, 3]
    ids, weights, _ = rasterize(camera, body.faces, np.diag([2.0, 2, 1]) @ k, 96, 96)
    at = np.arange(5, 48 * 48, 7)
    found, shares = rasterize_at(camera, body.faces, k, (48, 48), at, np.array([[0.25, 0.25], [0.75, 0.25]]))
    rows, columns = 2 * (at // 48), 2 * (at % 48)[:, None] + [0, 1]
    same = found == ids[rows[:, None], columns]
    assert same.mean() > 0.999 and (found >= 0).mean() > 0.2
    assert np.abs(shares - weights[rows[:, None], columns])[same].max() < 1e-4
