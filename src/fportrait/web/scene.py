"""Pictures of a camera path: in 3D around a head, and as a map of angles to click on."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np

from fportrait.animate.viewpoint import KEY_LIMITS
from fportrait.body.model import Pose, load_body
from fportrait.camera.cameras import camera_centre

MAP_SIZE = (480, 240)  # pixels, width and height
MAP_RANGE = ((-90.0, 90.0), (-45.0, 45.0))  # degrees, yaw and elevation


@functools.cache
def head_mesh(cell: float = 0.012) -> tuple[np.ndarray, np.ndarray]:
    """Vertices `V 3` and triangles `F 3` of the mean head, coarse enough to send to a browser with every change."""
    body = load_body()
    vertices = body.vertices(np.zeros(body.identity_dim), None, Pose.rest())
    cells, index = np.unique(np.round(vertices / cell).astype(int), axis=0, return_inverse=True)
    index = index.ravel()
    sums = np.stack([np.bincount(index, vertices[:, axis], len(cells)) for axis in range(3)], 1)
    merged = sums / np.bincount(index, minlength=len(cells))[:, None]
    faces = np.unique(index[body.faces], axis=0)
    whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    near = (merged[faces, 1] > -0.22).all(1)
    return merged, faces[whole & near]


def camera_scene(world_to_camera: np.ndarray, size: float = 0.05) -> Any:
    """A Plotly figure of cameras `T 4 4` around a head, first frame green, last one red."""
    import plotly.graph_objects as go

    vertices, faces = head_mesh()
    centres = camera_centre(world_to_camera)
    figure = go.Figure()
    # Plotly's z is up; the world's y is.
    figure.add_trace(
        go.Mesh3d(
            x=vertices[:, 2],
            y=vertices[:, 0],
            z=vertices[:, 1],
            i=faces[:, 0],
            j=faces[:, 1],
            k=faces[:, 2],
            color="#c9a58c",
            flatshading=False,
            hoverinfo="skip",
            name="head",
        )
    )
    figure.add_trace(
        go.Scatter3d(
            x=centres[:, 2],
            y=centres[:, 0],
            z=centres[:, 1],
            mode="lines+markers",
            name="camera path",
            line={"width": 5, "color": "#3366cc"},
            marker={"size": 2.5, "color": "#3366cc"},
            text=[f"frame {index}" for index in range(len(centres))],
            hoverinfo="text",
        )
    )
    moves = bool(np.ptp(world_to_camera, axis=0).max() > 1e-6)
    shown = np.unique(np.linspace(0, len(centres) - 1, 9).round().astype(int)) if moves else [0]
    for index in shown:
        lines = frustum(world_to_camera[index], size)
        colour = "#1a9850" if index == 0 else "#d73027" if index == len(centres) - 1 else "#8899bb"
        figure.add_trace(
            go.Scatter3d(
                x=lines[:, 2],
                y=lines[:, 0],
                z=lines[:, 1],
                mode="lines",
                line={"width": 3, "color": colour},
                hoverinfo="skip",
                showlegend=False,
            )
        )
    hidden = {"visible": False}
    figure.update_layout(
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        height=300,
        showlegend=False,
        paper_bgcolor="rgba(0,0,0,0)",  # the page's own, light or dark
        modebar_remove=["zoom3d", "pan3d", "orbitRotation", "tableRotation", "resetCameraLastSave3d", "toImage"],
        scene={
            "bgcolor": "rgba(0,0,0,0)",
            "aspectmode": "data",
            "xaxis": hidden,
            "yaxis": hidden,
            "zaxis": hidden,
            "camera": {"eye": {"x": 0.9, "y": 1.3, "z": 0.6}, "center": {"x": 0, "y": 0, "z": -0.05}},
        },
    )
    return figure


def frustum(world_to_camera: np.ndarray, size: float) -> np.ndarray:
    """The edges of a camera's pyramid as one line `N 3` in the world."""
    a = 0.45 * size
    corners = np.array([[-a, -a, size], [a, -a, size], [a, a, size], [-a, a, size]])
    apex = np.zeros(3)
    line = [
        apex,
        corners[0],
        corners[1],
        apex,
        corners[1],
        corners[2],
        apex,
        corners[2],
        corners[3],
        apex,
        corners[3],
        corners[0],
    ]
    rotation, centre = world_to_camera[:3, :3], camera_centre(world_to_camera)
    return np.array(line) @ rotation + centre


def angle_map(keys: list[tuple[float, float, float]], path: np.ndarray | None = None) -> np.ndarray:
    """A picture `H W 3` of yaw (across) and elevation (up) with the key positions in order and the path `T 4 4`."""
    width, height = MAP_SIZE
    picture = np.full((height, width, 3), 250, np.uint8)
    for yaw in range(-90, 91, 30):
        x, _ = to_pixel(yaw, 0)
        cv2.line(picture, (x, 0), (x, height), (225, 225, 225) if yaw else (170, 170, 170), 1)
        cv2.putText(
            picture, f"{yaw}", (x + 3, height - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (110, 110, 110), 1, cv2.LINE_AA
        )
    for elevation in range(-30, 31, 15):
        _, y = to_pixel(0, elevation)
        cv2.line(picture, (0, y), (width, y), (225, 225, 225) if elevation else (170, 170, 170), 1)
    if path is not None and len(path) > 1:
        centres = camera_centre(path)
        yaws = np.degrees(np.arctan2(centres[:, 0], centres[:, 2]))
        elevations = np.degrees(np.arcsin(centres[:, 1] / np.linalg.norm(centres, axis=1)))
        points = np.array([to_pixel(*pair) for pair in zip(yaws, elevations, strict=True)], np.int32)
        cv2.polylines(picture, [points], False, (51, 102, 204), 2, cv2.LINE_AA)
    for index, key in enumerate(keys):
        x, y = to_pixel(key[0], key[1])
        cv2.circle(picture, (x, y), 7, (51, 102, 204), -1, cv2.LINE_AA)
        cv2.putText(
            picture, str(index + 1), (x + 9, y - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (20, 40, 90), 1, cv2.LINE_AA
        )
    return picture


def to_pixel(yaw: float, elevation: float) -> tuple[int, int]:
    (left, right), (low, high) = MAP_RANGE
    return (
        round((float(yaw) - left) / (right - left) * MAP_SIZE[0]),
        round((high - float(elevation)) / (high - low) * MAP_SIZE[1]),
    )


def to_angles(x: float, y: float) -> tuple[float, float]:
    """Yaw and elevation in whole degrees of a click on `angle_map`."""
    (left, right), (low, high) = MAP_RANGE
    yaw = left + x / MAP_SIZE[0] * (right - left)
    elevation = high - y / MAP_SIZE[1] * (high - low)
    limits = KEY_LIMITS
    return (
        float(np.clip(round(yaw), *limits["yaw"])),
        float(np.clip(round(elevation), *limits["elevation"])),
    )
