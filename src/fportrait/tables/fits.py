"""Do the annotations fit each other? What a mesh, a camera, landmarks and codes must share if all of them are right.

A table can be sound in form and wrong in every number: millimetres, camera-to-world for world-to-camera, OpenGL axes,
transposed rotations, a halved focal length, codes of other frames. Each of these moves the mesh off the landmarks, puts
the head at an impossible distance, or parts the codes' motion from the face's.

Per row, in the SQL of `rollup.ROW_CHECKS`: the distance of four points of the mean head (`HEAD_POINTS`), posed and
projected, from their landmarks, in face sizes (forehead to chin, or eye to eye). Tracks of the embedded world lie at
.02 to .03 in a dataset; a transposed camera moves them to .12, millimetres to .25 and more. The person's
own shape is left out: it moves the points by some percent of a face, and the table of frames does not hold it.

The mean over a clip forgives a few frames, and a wrong size that shrinks the mesh towards its place. So each frame is
also asked for itself: its distance (sound tables reach .19, from far to the side), the mesh as large as the landmarks
(`mesh_size`, .87 to 1.16, real people included; half the focal length gives .5), the face where the crop looks
(`face_off_crop` up to .26 of it, `face_in_crop` .4 to .7), the optical axis in the picture (`off_centre`, 0), and
pixels square (`pixel_aspect`, 1).

Per dataset, over a sample of clips: the correlation of changes of the code with changes of lips and lids
(`code_agreement`), .4 to .67 where codes belong to their frames, 0 when they are shuffled or shifted by five frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fportrait.tables.schema import DATASETS

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

# Of the embedded body's mean shape, metres, at rest: landmark number -> place, and the two joints that carry it.
HEAD_POINTS = {
    33: (-0.0426, 0.0030, 0.0797),  # outer corner of the right eye
    263: (0.0434, 0.0029, 0.0781),  # and of the left one
    4: (0.0005, -0.0314, 0.1141),  # tip of the nose
    168: (0.0004, 0.0063, 0.0940),  # between the eyes
}
NECK_JOINT, HEAD_JOINT, NECK_SHARE = (0.0003, -0.1443, -0.0508), (0.0, -0.0394, -0.0164), 0.4
OFF = 9.0  # face sizes: said of a point behind the camera, and the maximum that is told

SAMPLED_CLIPS = 2000  # of each dataset, for the agreement of codes and landmarks
MIN_FRAMES, MAX_LAG = 12, 8

MACROS = """
CREATE MACRO gap(l, i, j) AS sqrt((l[2 * i + 1] - l[2 * j + 1]) ** 2 + (l[2 * i + 2] - l[2 * j + 2]) ** 2);
CREATE MACRO between2(p, i, j) AS (p[2 * i + 1] - p[2 * j + 1]) ** 2 + (p[2 * i + 2] - p[2 * j + 2]) ** 2;
CREATE MACRO spread4(p) AS sqrt(between2(p, 0, 1) + between2(p, 0, 2) + between2(p, 0, 3) + between2(p, 1, 2)
    + between2(p, 1, 3) + between2(p, 2, 3));
CREATE MACRO face_size(l) AS greatest(gap(l, 10, 17), gap(l, 33, 263), 1e-9);
CREATE MACRO lips_and_lids(l) AS [gap(l, 13, 14) / greatest(gap(l, 33, 263), 1e-9),
    gap(l, 61, 291) / greatest(gap(l, 33, 263), 1e-9), gap(l, 159, 145) / greatest(gap(l, 33, 263), 1e-9),
    gap(l, 386, 374) / greatest(gap(l, 33, 263), 1e-9)];
"""


def _bound(name: str, values: list[str], body: str) -> str:
    """SQL: `body`, in which `name` is the list of `values`, evaluated once and not at every mention."""
    return f"list_transform([[{', '.join(values)}]], lambda {name}: {body})[1]"


def _in_camera(body: str) -> str:
    """SQL: `body`, in which `c` holds the coordinates `x, y, z` of all `HEAD_POINTS` in the camera's axes.

    The neck turns by a share of the head's rotation; here the share is taken of the displacement and not of the angle,
    which differs by 2 mm at 45 degrees.
    """
    neck, head = np.array(NECK_JOINT), np.array(HEAD_JOINT)
    rest = neck + (1 - NECK_SHARE) * (head - neck)
    carried = [np.array(point) - head + NECK_SHARE * (head - neck) for point in HEAD_POINTS.values()]
    root = [
        " + ".join(f"head_rotation[{1 + j + 3 * i}] * {point[j]:.5f}" for j in range(3)) + f" + {rest[i]:.5f}"
        for point in carried
        for i in range(3)
    ]
    points = range(len(carried))
    world = [
        " + ".join(f"body_rotation[{1 + j + 3 * i}] * r[{3 * n + 1 + j}]" for j in range(3))
        + f" + body_translation[{i + 1}]"
        for n in points
        for i in range(3)
    ]
    camera = [
        " + ".join(f"world_to_camera[{1 + j + 4 * i}] * w[{3 * n + 1 + j}]" for j in range(3))
        + f" + world_to_camera[{4 + 4 * i}]"
        for n in points
        for i in range(3)
    ]
    return _bound("r", root, _bound("w", world, _bound("c", camera, body)))


MARKS = [f"landmarks[{2 * number + 1 + axis}]" for number in HEAD_POINTS for axis in (0, 1)]


def _pixel(n: int) -> tuple[str, str, str]:
    """SQL of point `n` of `c`: its place in the picture, `u` and `v`, and how far before the camera it is."""
    x, y, z = (f"c[{3 * n + 1 + axis}]" for axis in range(3))
    u = f"(intrinsics[1] * {x} + intrinsics[2] * {y}) / {z} + intrinsics[3]"
    return u, f"intrinsics[5] * {y} / {z} + intrinsics[6]", z


def _reprojection() -> str:
    """SQL: mean distance of the points from their landmarks, in face sizes."""
    off = []
    for n in range(len(HEAD_POINTS)):
        u, v, z = _pixel(n)
        apart = f"sqrt(({u} - m[{2 * n + 1}]) ** 2 + ({v} - m[{2 * n + 2}]) ** 2)"
        far = f"least({apart} / m[{len(MARKS) + 1}], {OFF})"
        off.append(f"CASE WHEN {z} > 0.01 THEN {far} ELSE {OFF} END")
    mean = f"({' + '.join(off)}) / {len(off)}"
    return _bound("m", [*MARKS, "face_size(landmarks)"], _in_camera(mean))


def _mesh_size() -> str:
    """SQL: how far the points lie from each other, over the same of their landmarks; 0 behind a camera."""
    pixels = [_pixel(n) for n in range(len(HEAD_POINTS))]
    before = " AND ".join(f"{z} > 0.01" for *_, z in pixels)
    ratio = _bound("p", [at for u, v, _ in pixels for at in (u, v)], "spread4(p) / greatest(spread4(m), 1e-9)")
    return _bound("m", MARKS, _in_camera(f"CASE WHEN {before} THEN least({ratio}, {OFF}) ELSE 0 END"))


def _face_off_crop() -> str:
    """SQL: how far the points' middle lies from the crop's, along the worse axis, in sizes of the crop."""
    off = [
        f"abs(({' + '.join(MARKS[axis::2])}) / {len(HEAD_POINTS)} - crop[{axis + 1}] - crop[3] / 2)" for axis in (0, 1)
    ]
    return f"least(greatest({', '.join(off)}) / greatest(crop[3], 1e-9), {OFF})"


# Per row, as `rollup.ROW_CHECKS`; `b0`, `h0` and `f0` are the clip's first rotations and lip and lid distances.
FIT_CHECKS = {
    "reprojection": _reprojection(),
    "head_metres": _in_camera("sqrt(c[1] ** 2 + c[2] ** 2 + c[3] ** 2)"),
    "face_pixels": "face_size(landmarks)",
    "mesh_size": _mesh_size(),
    "face_off_crop": _face_off_crop(),
    "face_in_crop": f"least(face_size(landmarks) / greatest(crop[3], 1e-9), {OFF})",
    "off_centre": "greatest(abs(intrinsics[3] / width - 0.5), abs(intrinsics[6] / height - 0.5))",
    "pixel_aspect": f"least(greatest(intrinsics[1] / greatest(intrinsics[5], 1e-9), "
    f"intrinsics[5] / greatest(intrinsics[1], 1e-9)), {OFF})",
    "code_size": "sqrt(list_inner_product(expression_code, expression_code) / 128)",
    "face_motion": "list_distance(lips_and_lids(landmarks), f0)",
    "body_degrees": "degrees_of(cosine(body_rotation, b0, 3))",
    "head_degrees": "degrees_of(cosine(head_rotation, h0, 3))",
}
FIT_STARTS = "body_rotation AS b0, head_rotation AS h0, lips_and_lids(landmarks) AS f0"
# Per clip: name -> (aggregate, check).
CLIP_FITS = {
    "reprojection": ("avg", "reprojection"),
    "nearest_metres": ("min", "head_metres"),
    "farthest_metres": ("max", "head_metres"),
    "face_pixels": ("min", "face_pixels"),
    "worst_reprojection": ("max", "reprojection"),
    "smallest_mesh": ("min", "mesh_size"),
    "largest_mesh": ("max", "mesh_size"),
    "face_off_crop": ("max", "face_off_crop"),
    "smallest_in_crop": ("min", "face_in_crop"),
    "largest_in_crop": ("max", "face_in_crop"),
    "off_centre": ("max", "off_centre"),
    "pixel_aspect": ("max", "pixel_aspect"),
    "code_size": ("avg", "code_size"),
    "largest_code": ("max", "code_size"),  # .5 to 2.8 where they are standardised
    "body_degrees": ("max", "body_degrees"),
    "head_degrees": ("max", "head_degrees"),
}


def leave_out_other_bodies(database: duckdb.DuckDBPyConnection, motion: pd.DataFrame) -> pd.DataFrame:
    """Per clip `motion`, with no mesh held to the landmarks of people who have another body than the embedded one."""
    own = database.execute(
        "SELECT DISTINCT dataset, identity FROM identities WHERE body_model <> 'embedded'"
    ).fetchall()
    others = set(own)
    mask = [pair in others for pair in zip(motion["dataset"], motion["identity"], strict=True)]
    motion.loc[mask, ["reprojection", "worst_reprojection"]] = 0.0
    motion.loc[mask, ["smallest_mesh", "largest_mesh"]] = 1.0
    return motion


def dataset_rollup(
    database: duckdb.DuckDBPyConnection,
    structure: pd.DataFrame,
    motion: pd.DataFrame,
    people: pd.DataFrame,
    source: str,
    lost: dict[str, int],
) -> pd.DataFrame:
    """Per dataset: how its clips fit in the mean, whether codes move with faces, who is held out, what was lost.

    Args:
        source: SQL of the two motions of a row, `expression_motion` and `face_motion`, or the names of its checks.
        lost: per dataset, clips of the manifest that the table lacks.
    """
    import pandas as pd

    rows = []
    for dataset in sorted(set(structure["dataset"]) | set(lost)):
        clips = motion[motion["dataset"] == dataset]
        members = people[people["dataset"] == dataset]
        agreement, clips_read, lag = code_agreement(database, dataset, source)
        rows.append(
            {
                "dataset": dataset,
                "unknown": int(dataset not in DATASETS),
                "lost_clips": lost.get(dataset, 0),
                # of the clip in the middle: one bad clip has a rule of its own, and does not accuse the others
                "typical_reprojection": clips["reprojection"].quantile(0.5, "lower") if len(clips) else 0.0,
                "mean_code_size": clips["code_size"].mean() if len(clips) else 1.0,
                "code_agreement": agreement,
                "agreement_clips": clips_read,
                "agreement_lag": lag,
                "train_identities": int((members["split"] == "train").sum()),
                "test_identities": int((members["split"] == "test").sum()),
            }
        )
    return pd.DataFrame(rows)


def code_agreement(database: duckdb.DuckDBPyConnection, dataset: str, source: str) -> tuple[float, int, int]:
    """How well the code's changes follow the changes of lips and lids, over up to `SAMPLED_CLIPS` clips of a dataset.

    Per clip, the correlation of the steps of both distances from frame 0; the mean over clips plus its standard error,
    so that a few clips do not accuse. 1 when no clip is long enough or none moves.

    Returns:
        The agreement, the clips read, and the shift of the codes in frames (-8 to 8) at which they agree best.
    """
    quoted = dataset.replace("'", "''")
    table = database.execute(
        f"""
        WITH chosen AS (SELECT clip FROM frames WHERE dataset = '{quoted}' GROUP BY clip
            HAVING count(*) >= {MIN_FRAMES} ORDER BY hash(clip) LIMIT {SAMPLED_CLIPS}), {source}
        SELECT clip, code, face FROM moves ORDER BY clip, frame
        """.replace("{dataset}", quoted)
    ).df()
    lags = range(-MAX_LAG, MAX_LAG + 1)
    by_clip = []
    for _, rows in table.groupby("clip", sort=False):
        code, face = (_standardised(np.diff(rows[name].to_numpy())[1:]) for name in ("code", "face"))
        if code is None or face is None:
            continue
        count = len(code)
        by_clip.append([_lagged(code, face, lag) if abs(lag) < count - 3 else 0.0 for lag in lags])
    if not by_clip:
        return 1.0, 0, 0
    agreement = np.array(by_clip)
    spread = agreement[:, MAX_LAG].std(ddof=1) / np.sqrt(len(agreement)) if len(agreement) > 1 else 1.0
    best = lags[int(agreement.mean(0).argmax())]
    return float(agreement[:, MAX_LAG].mean() + spread), len(agreement), best


def _standardised(values: np.ndarray) -> np.ndarray | None:
    spread = values.std()
    return None if spread < 1e-6 else (values - values.mean()) / spread


def _lagged(code: np.ndarray, face: np.ndarray, lag: int) -> float:
    """Correlation of `code[t + lag]` with `face[t]`."""
    later, earlier = code[max(0, lag) : len(code) + min(0, lag)], face[max(0, -lag) : len(face) + min(0, -lag)]
    return float((later * earlier).mean())
