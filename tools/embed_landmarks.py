"""Find where the 478 face landmarks lie on the body mesh, and store it in `src/fportrait/assets/body.npz`.

    python tools/embed_landmarks.py [--picture overlay.png]      # about a minute, after build_body_asset.py

Renders plainly shaded, neutral people from several views, runs the face landmarker, carries each landmark back to the
triangle under it, and keeps the place where most renders agree.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from fportrait.atomic_io import atomic_path
from fportrait.body.model import ASSET, BodyModel, Pose
from fportrait.body.rasterizer import rasterize, vertex_normals
from fportrait.camera.cameras import intrinsics_from_fov, project
from fportrait.camera.paths import orbit
from fportrait.tracking.landmarks import FaceLandmarker

SIZE = 512
INNER_LOWER_LIP = (95, 88, 178, 87, 14, 317, 402, 318, 324)
COLOURS = {
    "face": (224, 180, 152), "scalp": (70, 50, 40), "ears": (214, 160, 140), "neck": (215, 172, 146),
    "torso": (70, 90, 140), "eyes": (245, 245, 245), "teeth": (235, 230, 220), "tongue": (190, 90, 90),
    "mouth_cavity": (80, 25, 25), "eye_cavity": (160, 110, 95),
}  # fmt: skip


def shade(
    body: BodyModel, vertices: np.ndarray, w2c: np.ndarray, k: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A plain picture good enough for a landmark network, with triangle ids and weights."""
    camera = vertices @ w2c[:3, :3].T + w2c[:3, 3]
    ids, bary, _ = rasterize(camera, body.faces, k, SIZE, SIZE)
    seen = ids >= 0
    corners = body.faces[ids[seen]]
    weights = bary[seen]
    palette = np.array([COLOURS[name] for name in body.part_names], float)
    colour = palette[body.part[corners[:, 0]]]
    place = (body.template[corners] * weights[..., None]).sum(1)
    is_eye = body.part[corners[:, 0]] == body.part_names.index("eyes")
    gaze = np.min([np.linalg.norm((place - c)[:, :2], axis=1) for c in body.eye_centres], 0)
    colour[is_eye & (gaze < 0.0062)] = (90, 60, 40)
    colour[is_eye & (gaze < 0.0028)] = (10, 10, 10)
    lips = np.clip((body.masks["lips"][corners] * weights).sum(1) * 1.6 - 0.3, 0, 1)[:, None]
    colour = colour * (1 - 0.7 * lips) + np.array([175, 75, 80]) * 0.7 * lips
    # Brows: two arcs above the eyes, in template space.
    for eye in body.eye_centres:
        dx, dy = place[:, 0] - eye[0], place[:, 1] - eye[1]
        arc = np.exp(-(((dy - 0.021 + 9 * dx**2) / 0.0035) ** 2)) * (np.abs(dx) < 0.022) * (place[:, 2] > 0.03)
        colour *= 1 - 0.65 * arc[:, None]
    normals = vertex_normals(camera, body.faces, body.weld)
    facing = np.abs((normals[corners] * weights[..., None]).sum(1) @ np.array([0.2, -0.3, -0.93]))
    image = np.full((SIZE, SIZE, 3), (150, 160, 170), np.uint8)
    image[seen] = np.clip(colour * (0.35 + 0.65 * facing[:, None]), 0, 255)
    return cv2.GaussianBlur(image, (0, 0), 0.8), ids, bary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--asset", type=Path, default=ASSET)
    arguments = parser.parse_args()
    body = BodyModel(arguments.asset)
    landmarker = FaceLandmarker()
    rng = np.random.default_rng(0)
    k = intrinsics_from_fov(25.0, SIZE, SIZE)
    views = [(0, 0), (0, 8), (-12, 0), (12, 0), (-25, 3), (25, 3), (0, -10)]

    renders = []
    for person in range(arguments.people):
        identity = rng.normal(size=body.identity_dim) * (0 if person == 0 else 0.7)
        vertices = body.vertices(identity, None, Pose.rest())
        for yaw, elevation in views:
            w2c = orbit(np.array([yaw]), np.array([elevation]), np.array([0.75]))[0]
            image, ids, bary = shade(body, vertices, w2c, k)
            faces = landmarker.detect(image)
            if faces:
                renders.append((vertices, w2c, image, ids, bary, faces[0].landmarks))
    print(f"face found in {len(renders)} of {arguments.people * len(views)} renders")

    skin = [
        body.part_names.index(name) for name in ("face", "scalp", "ears", "neck", "eyes", "mouth_cavity", "eye_cavity")
    ]
    votes: list[list[np.ndarray]] = [[] for _ in range(478)]
    for _, _, _, ids, bary, points in renders:
        for index, (x, y) in enumerate(points):
            col, row = int(x), int(y)
            if 0 <= col < SIZE and 0 <= row < SIZE and ids[row, col] >= 0:
                corners = body.faces[ids[row, col]]
                if body.part[corners[0]] in skin:
                    votes[index].append((body.template[corners] * bary[row, col][:, None]).sum(0))

    triangles = np.zeros(478, np.int32)
    barycentric = np.tile(np.array([1, 0, 0], np.float32), (478, 1))
    valid = np.zeros(478, bool)
    face_part = body.part[body.faces[:, 0]]
    usable = np.isin(face_part, [body.part_names.index(n) for n in ("face", "scalp", "ears", "neck")])
    # With the mouth shut both lips' inner edges are one line: what the jaw carries tells the lower lip from the upper.
    lowered = body.actions[body.action_names.index("jawOpen")][body.faces, 1].mean(1) < -0.012
    everywhere, lower_lip = np.flatnonzero(usable), np.flatnonzero(usable & lowered)
    spreads = np.full(478, np.inf)
    for index, points in enumerate(votes):
        if len(points) < 0.4 * len(renders):
            continue
        cloud = np.array(points)
        centre = np.median(cloud, 0)
        spreads[index] = np.median(np.linalg.norm(cloud - centre, axis=1))
        candidates = lower_lip if index in INNER_LOWER_LIP else everywhere
        corners = body.template[body.faces[candidates]]
        nearest = np.argsort(np.linalg.norm(corners.mean(1) - centre, axis=1))[:24]
        best = min(((*closest_point(corners[i], centre), candidates[i]) for i in nearest), key=lambda hit: hit[1])
        barycentric[index], triangles[index] = best[0], best[2]
        valid[index] = spreads[index] < 0.006 and best[1] < 0.006
    valid[468:] = False  # irises turn with the gaze
    print(f"{valid.sum()} landmarks embedded; spread median {np.median(spreads[valid]) * 1e3:.1f} mm")

    # A landmark without a place of its own takes its most similar valid neighbour's, so that every index has a point.
    mean_points = np.mean([r[5] for r in renders if np.allclose(r[1], renders[0][1])], 0)
    for index in np.flatnonzero(~valid):
        near = np.flatnonzero(valid)[np.linalg.norm(mean_points[valid] - mean_points[index], axis=1).argmin()]
        triangles[index], barycentric[index] = triangles[near], barycentric[near]

    with np.load(arguments.asset, allow_pickle=False) as data:
        asset = {key: data[key] for key in data.files}
    asset |= {"landmark_triangles": triangles, "landmark_barycentric": barycentric, "landmark_valid": valid}
    with atomic_path(arguments.asset) as target:
        np.savez_compressed(target, **asset)

    body = BodyModel(arguments.asset)
    errors, pictures = [], []
    for vertices, w2c, image, _, _, points in renders:
        pixels, _ = project(body.landmarks(vertices), w2c, k)
        width = np.linalg.norm(points[33] - points[263])
        errors.append(np.linalg.norm(pixels[valid] - points[valid], axis=1).mean() / width)
        if len(pictures) < 14:
            picture = image.copy()
            for p, q in zip(pixels[valid], points[valid], strict=True):
                cv2.circle(picture, (int(q[0]), int(q[1])), 1, (255, 0, 0), -1)
                cv2.circle(picture, (int(p[0]), int(p[1])), 1, (0, 255, 0), -1)
            pictures.append(picture)
    print(f"mean distance, embedded to detected: {np.mean(errors) * 100:.2f}% of the eye distance")
    if arguments.picture:
        rows = [np.hstack(pictures[i : i + 4]) for i in (0, 4, 8)]
        cv2.imwrite(str(arguments.picture), np.vstack(rows)[..., ::-1])


def closest_point(triangle: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, float]:
    """Barycentric weights of the point of a triangle nearest to `point` (clamped), and the distance."""
    a, b, c = triangle
    weights = np.linalg.lstsq(np.stack([b - a, c - a], 1), point - a, rcond=None)[0]
    u, v = np.clip(weights, 0, 1)
    if u + v > 1:
        u, v = u / (u + v), v / (u + v)
    bary = np.array([1 - u - v, u, v], np.float32)
    return bary, float(np.linalg.norm(bary @ triangle - point))


if __name__ == "__main__":
    main()
