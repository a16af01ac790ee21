"""The gate's rules, as plain rows, and the thresholds that they take."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fportrait.errors import UserError, refuse_unknown_keys
from fportrait.parameters import settings_from
from fportrait.tables.schema import DATASETS

SEVERITIES = ("critical", "warning")
CAPTURES, SWEEPS = DATASETS[:2], DATASETS[2:]
PHASES = ("schema", "structure", "motion", "identities", "datasets")


@dataclass(frozen=True)
class ValidationConfig:
    """Thresholds in degrees, metres, pixels, face sizes, and standard deviations of the code.

    The defaults leave room for tracker noise; `fits` tells what is measured, and on what the numbers rest.
    """

    rotation_tolerance: float = 1e-4  # |R Rᵀ − I| and |det R − 1|
    still_camera_degrees: float = 0.5
    still_camera_metres: float = 0.005
    moving_camera_degrees: float = 3.0
    still_expression: float = 0.25
    moving_expression: float = 0.25
    still_pose_degrees: float = 1.0
    still_pose_metres: float = 0.005
    moving_pose_degrees: float = 1.0
    min_confidence: float = 0.3  # mean over a clip
    max_reprojection: float = 0.15  # of the mean head's points from their landmarks, face sizes, mean over a clip
    max_typical_reprojection: float = 0.07  # of a dataset's clip in the middle: bias, which no head explains
    max_frame_reprojection: float = 0.3  # of any single frame
    max_mesh_ratio: float = 1.4  # of any frame: mesh over landmarks, or landmarks over mesh
    max_face_off_crop: float = 0.4  # of any frame: the face's middle from the crop's, sizes of the crop
    min_face_in_crop: float = 0.15  # of any frame: face over crop
    max_face_in_crop: float = 1.2
    max_pixel_aspect: float = 1.2  # of the two focal lengths
    max_off_centre: float = 0.2  # the optical axis from the picture's middle, sizes of the picture
    min_head_metres: float = 0.1  # from the camera
    max_head_metres: float = 20.0
    min_face_pixels: float = 2.0
    min_code_size: float = 0.05  # root mean square of a standardised code, mean over a dataset
    max_code_size: float = 3.0
    max_frame_code: float = 4.0  # of any single frame
    min_code_agreement: float = 0.2  # correlation of changes of code and face
    min_code_fit: float = 0.1  # of one clip: what other people's clips make of its codes, against its face
    max_code_shift: float = 0.25  # by how much that is better when its codes are moved by some frames
    max_root_over_head: float = 5.0  # degrees that a person's root turns more than the head does on it
    max_shape: float = 20.0  # largest number among a person's shape coefficients
    max_quarantined: float = 0.5  # share of the identities; more means that something is wrong with all of them
    severities: dict[str, str] = field(default_factory=dict)  # rule name -> critical or warning, where not the default

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ValidationConfig:
        return settings_from(cls, values, "the parameters of validate")


@dataclass(frozen=True)
class Rule:
    """`low <= column <= high` for every row of one phase's table, of one dataset or all."""

    name: str
    phase: str
    column: str
    severity: str
    fix: str
    low: float | None = None
    high: float | None = None
    dataset: str | None = None

    @property
    def title(self) -> str:
        return f"{self.dataset}: {self.name}" if self.dataset else self.name


def rules(config: ValidationConfig) -> list[Rule]:
    """Every rule of the gate, in the order of its phases.

    Raises:
        UserError: `severities` names an unknown rule or severity.
    """
    listed = [*_structure(), *_motion(config), *_invariants(config), *_identities(config), *_datasets(config)]
    titles = [rule.title for rule in listed]
    refuse_unknown_keys(config.severities, titles, "validate.severities")
    wrong = [value for value in config.severities.values() if value not in SEVERITIES]
    if wrong:
        raise UserError(f"the severity '{wrong[0]}'", "critical or warning", "correct validate.severities")
    return [Rule(**asdict(rule) | {"severity": config.severities.get(rule.title, rule.severity)}) for rule in listed]


TRACK = "run `kedro run --pipelines=track` again"
WRITE = "write that table with fportrait.tables.annotations.write_frames, or without its check columns"
CONSTANTS = "give the clip one identity, split, camera, path, size, crop and intrinsics"


def _structure() -> list[Rule]:
    """Of every clip; all critical."""
    rows = [
        ("filled cells", "empty_cells", TRACK),
        ("unique keys", "repeated_frames", "keep one row per clip and frame"),
        ("first frame is 0", "first_frame", "number frames from 0"),
        ("no missing frames", "missing_frames", "annotate every frame"),
        (
            "as many frames as the manifest",
            "frames_off_manifest",
            "annotate every frame of that video, or ingest again",
        ),
        ("list lengths", "lists_of_wrong_length", TRACK),
        ("finite numbers", "not_finite", "quarantine or track that clip again"),
        ("checks agree with the lists", "disagreeing_rows", WRITE),
        ("constants of a clip", "changing_constants", CONSTANTS),
    ]
    schema = Rule(
        "columns", "schema", "mismatch", "critical", f"{TRACK}; docs/data-contracts.md has the schema", high=0
    )
    lows = {"first_frame": 0}
    return [schema, *(Rule(name, "structure", at, "critical", fix, lows.get(at), 0) for name, at, fix in rows)]


def _motion(config: ValidationConfig) -> list[Rule]:
    """Of every clip: what matrices, pixels and distances may be."""
    tolerance, head = config.rotation_tolerance, "store places in metres, in one world with the cameras"
    confidence = "store confidence from 0 to 1"
    camera = "store world_to_camera 4x4, row major, last row 0 0 0 1"
    rows = [
        ("orthonormal rotations", "rotation_error", "store rotation matrices, row major", None, tolerance),
        ("determinants of 1", "determinant_error", "remove the mirror from that rotation", None, 4 * tolerance),
        ("last rows of cameras", "last_row_error", camera, None, tolerance),
        ("focal lengths", "focal_length", "store intrinsics in pixels", 1, None),
        ("crops", "crop_size", "store crops as x0, y0, size in pixels", 1, None),
        ("picture sizes", "picture_size", "store the video's size", 1, None),
        ("lowest confidence", "lowest_confidence", confidence, 0, None),
        ("highest confidence", "highest_confidence", confidence, None, 1),
        ("heads are metres away", "nearest_metres", head, config.min_head_metres, None),
        ("heads are not miles away", "farthest_metres", head, None, config.max_head_metres),
        (
            "landmarks are pixels",
            "face_pixels",
            "store landmarks in pixels of the full frame",
            config.min_face_pixels,
            None,
        ),
    ]
    listed = [Rule(name, "motion", at, "critical", fix, low, high) for name, at, fix, low, high in rows]
    return [
        *listed,
        Rule(
            "confident tracking",
            "motion",
            "mean_confidence",
            "warning",
            "look at that clip; lower min_confidence if it is good",
            low=config.min_confidence,
        ),
        Rule(
            "the mesh lies on the landmarks",
            "motion",
            "reprojection",
            "warning",
            "look at that clip's overlay (`fportrait track`); raise max_reprojection if it is good",
            high=config.max_reprojection,
        ),
        *_frames_and_crops(config),
        Rule(
            "the codes say what the face does",
            "motion",
            "code_fit",
            "warning",
            "film a face that moves more (talking, smiling); where it does, look whether the codes are of another clip",
            low=config.min_code_fit,
        ),
        Rule(
            "the codes are of these frames",
            "motion",
            "code_shift",
            "warning",
            "look whether that clip's codes are some frames late or early",
            high=config.max_code_shift,
        ),
        Rule(
            "codes of one size",
            "motion",
            "largest_code",
            "warning",
            "standardise that clip's codes as those of the others",
            high=config.max_frame_code,
        ),
    ]


def _frames_and_crops(config: ValidationConfig) -> list[Rule]:
    """Of every clip, by its worst frame: what a mean over the clip, or over the dataset, would forgive."""
    frames = "look at that clip frame by frame (`fportrait track` draws an overlay)"
    lens = "look for a focal length or landmarks of another picture size, or for another unit"
    crop = "look whether the crop belongs to this video, and in the pixels of its full frame"
    centre = "look for intrinsics of another picture size; raise max_off_centre if the video is a cut-out"
    rows = [
        ("the mesh lies on the landmarks of every frame", "worst_reprojection", frames, None, "max_frame_reprojection"),
        ("the mesh is no smaller than the landmarks", "smallest_mesh", lens, 1 / config.max_mesh_ratio, None),
        ("the mesh is no larger than the landmarks", "largest_mesh", lens, None, "max_mesh_ratio"),
        ("the face lies in the crop", "face_off_crop", crop, None, "max_face_off_crop"),
        ("the crop is no room around a face", "smallest_in_crop", crop, config.min_face_in_crop, None),
        ("the crop holds a face", "largest_in_crop", crop, None, "max_face_in_crop"),
        ("pixels are square", "pixel_aspect", lens, None, "max_pixel_aspect"),
        ("the camera looks along the picture's middle", "off_centre", centre, None, "max_off_centre"),
    ]
    return [
        Rule(name, "motion", at, "warning", fix, low, getattr(config, high) if high else None)
        for name, at, fix, low, high in rows
    ]


def _invariants(config: ValidationConfig) -> list[Rule]:
    """What must move and what must stay, by dataset (the paper's Table 4)."""
    still = "the camera of a capture stands still; leave that clip out of the captures"
    again = "run `kedro run --pipelines=render_sweeps` again"
    turning = "capture clips in which the head turns"
    degrees, metres = config.still_camera_degrees, config.still_camera_metres
    expression, pose = config.moving_expression, config.moving_pose_degrees
    listed = []
    for dataset in CAPTURES:
        rows: list[tuple[Any, ...]] = [
            ("camera does not turn", "motion", "camera_degrees", "critical", still, None, degrees),
            ("camera does not travel", "motion", "camera_metres", "critical", still, None, metres),
            ("expression moves", "identities", "expression_motion", "warning", "film moving faces", expression, None),
            ("pose moves", "identities", "pose_degrees", "warning", turning, pose, None),
        ]
        listed += [Rule(*row) for row in ((*row, dataset) for row in rows)]
    sweeps: list[tuple[Any, ...]] = [
        ("camera moves", "camera_degrees", config.moving_camera_degrees, None, "ViewSweep"),
        ("camera moves", "camera_degrees", config.moving_camera_degrees, None, "DynamicSweep"),
        ("expression is frozen", "expression_motion", None, config.still_expression, "ViewSweep"),
        ("pose does not turn", "pose_degrees", None, config.still_pose_degrees, "ViewSweep"),
        ("pose does not travel", "pose_metres", None, config.still_pose_metres, "ViewSweep"),
        ("expression moves", "expression_motion", expression, None, "DynamicSweep"),
        ("pose moves", "pose_degrees", pose, None, "DynamicSweep"),
    ]
    return listed + [Rule(name, "motion", at, "critical", again, *rest) for name, at, *rest in sweeps]


def _identities(config: ValidationConfig) -> list[Rule]:
    reference = "name a clip and frame that the frames table has"
    exchanged = "look whether head_rotation and body_rotation are exchanged; the head's is relative to the root"
    rows = [
        ("listed once", "listed", "write one row per identity", 1, 1),
        ("has clips", "clips", "drop identities without frames from the table", 1, None),
        ("one split", "split_conflicts", "give an identity one split", None, 0),
        ("sound shape", "bad_shapes", "fit the shape of that identity again", None, 0),
        ("plausible shape", "largest_shape", "fit the shape of that identity again", None, config.max_shape),
        ("reference exists", "missing_reference", reference, None, 0),
    ]
    listed = [Rule(name, "identities", at, "critical", fix, low, high) for name, at, fix, low, high in rows]
    high = config.max_root_over_head
    return [*listed, Rule("the head turns", "identities", "root_over_head", "warning", exchanged, high=high)]


def _datasets(config: ValidationConfig) -> list[Rule]:
    """Of a dataset as a whole: faults that are the same everywhere, which no single clip or person stands out by."""
    cameras = (
        "look for camera-to-world matrices, OpenGL axes, transposed rotations, another unit, a focal length of another "
        "picture size, landmarks as y, x"
    )
    codes = "standardise the codes of the encoder (mean 0, deviation 1)"
    shifted = "look whether the codes belong to other frames; agreement_lag tells the shift at which they agree best"
    share = "raise the share of test identities in ingest, or give a person the split"
    typical = config.max_typical_reprojection
    rows: list[tuple[Any, ...]] = [
        ("known datasets", "unknown", "critical", f"name it as one of {', '.join(DATASETS)}", None, 0),
        ("no clips lost", "lost_clips", "critical", f"{TRACK}; the table lacks clips of the manifest", None, 0),
        ("meshes lie on the landmarks", "typical_reprojection", "critical", cameras, None, typical),
        ("codes are standardised", "mean_code_size", "critical", codes, config.min_code_size, config.max_code_size),
        ("codes follow faces", "code_agreement", "critical", shifted, config.min_code_agreement, None),
        ("people to train on", "train_identities", "warning", share + " train", 1, None),
        ("people held out", "test_identities", "warning", share + " test", 1, None),
    ]
    return [Rule(name, "datasets", at, severity, fix, low, high) for name, at, severity, fix, low, high in rows]
