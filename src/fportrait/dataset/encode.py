"""Annotated clips to latent shards: what the four stages train on and the evaluation scores against.

One unit of work is one identity: its clips are cropped and resized, its neutral body is drawn as normal maps in each
frame's pose and camera, and windows of both go through the video VAE. The name of a unit says which code, VAE,
parameters, annotations and video bytes made it, so nothing made by other means is ever reused.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fportrait.atomic_io import code_hash, file_hash, value_hash
from fportrait.body.model import BodyModel, Pose, load_body
from fportrait.body.painting import PortraitPainter, acting_vertices, paint_each
from fportrait.body.rasterizer import normal_map
from fportrait.camera.cameras import in_camera, rectangle_intrinsics
from fportrait.dataset.buckets import Bucket, bucket_counts, bucket_crop, parse_buckets
from fportrait.dataset.crops import clip_buckets, inside_file, read_crops, whole_pixels
from fportrait.dataset.focus import FOCUS_LANDMARKS
from fportrait.dataset.identities import IdentityUnit, identity_units, window_starts
from fportrait.dataset.mixing import draw_integer
from fportrait.dataset.shards import ShardWriter, write_shard
from fportrait.dataset.upright import TURNS, upright
from fportrait.devices import device_of, pick_device
from fportrait.diffusion.shapes import check_picture_size, latent_frames
from fportrait.errors import UserError
from fportrait.parameters import settings_from
from fportrait.pixels import to_model_range
from fportrait.scale.map_engine import Resources, map_units
from fportrait.tracking.actions import ActionReadout, told_actions

if TYPE_CHECKING:
    import pandas as pd
    import torch

# What decides a shard besides tables, videos, VAE and settings: a unit made by other code is not reused.
CODE = (
    "dataset/buckets.py",
    "dataset/crops.py",
    "dataset/encode.py",
    "dataset/focus.py",
    "dataset/mixing.py",
    "dataset/shards.py",
    "dataset/upright.py",
    "diffusion/codec.py",
    "pixels.py",
    "tracking/actions.py",
    "tracking/points.py",
    "body",
    "camera",
    "capture/video_io.py",
    "capture/colour.py",
    "capture/display.py",
    "assets/body.npz",
)
SHARD = "shard.safetensors"
LIST_SHAPES = {"world_to_camera": (4, 4), "intrinsics": (3, 3), "body_rotation": (3, 3), "head_rotation": (3, 3)}


@dataclass(frozen=True)
class EncodeConfig:
    """What a shard holds.

    `window` frames from every `stride`-th frame of a clip (`test_stride` for held-out identities, whose pixels are kept
    too); `references` portraits per identity; normal maps drawn with `supersample`² samples per pixel.

    Pictures are `size` pixels square. `buckets` ("HEIGHTxWIDTH") are further sizes and shapes, for clips of training
    alone (`dataset.buckets`): scores are taken of squares. With `warped` every portrait is also painted on the body in
    every window's poses, for a model of `warped_reference`; the body acts as the codes tell by the readout of the
    encoder beside the VAE, if it has one.
    """

    size: int = 64
    buckets: Sequence[str] = ()
    window: int = 17
    stride: int = 8
    test_stride: int = 17
    references: int = 4
    supersample: int = 2
    warped: bool = False
    encode_batch: int = 8  # windows through the VAE at once
    seed: int = 0

    def __post_init__(self) -> None:
        latent_frames(self.window)
        check_picture_size(self.size, self.size)
        parse_buckets(self.size, self.buckets)
        for key in ("stride", "test_stride", "references", "supersample", "encode_batch"):
            if getattr(self, key) < 1:
                raise UserError(f"{key} = {getattr(self, key)}", "at least 1", f"raise encode's {key}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncodeConfig:
        return settings_from(cls, values, "the parameters of encode")


def vae_hash(folder: str | Path) -> str:
    """Names a VAE by the bytes of its configuration and weights."""
    files = sorted(path for path in Path(folder).iterdir() if path.suffix in (".json", ".safetensors"))
    return value_hash([[path.name, file_hash(path)] for path in files])


def encode_tables(
    annotation_folders: Sequence[str | Path],
    vae_folder: str | Path,
    out_folder: str | Path,
    units_folder: str | Path,
    config: EncodeConfig | Mapping[str, Any],
    workers: int = 0,
) -> dict[str, Any]:
    """Encode every identity of the annotation folders (`frames.parquet`, `identities.parquet`) into `out_folder`.

    Returns:
        Records by dataset and split, clips too short for the window, and identities that failed with their reasons.

    Raises:
        UserError: no VAE, tables off the schema, no clip as long as the window, or every identity failed.
    """
    config = config if isinstance(config, EncodeConfig) else EncodeConfig.from_dict(config)
    vae_folder = Path(vae_folder)
    if not (vae_folder / "config.json").is_file():
        raise UserError(f"no VAE in {vae_folder}", "a folder with config.json", "run `kedro run --pipelines=pretrain`")
    vae_name = vae_hash(vae_folder)
    units = [
        unit
        for folder in annotation_folders
        for unit in identity_units(Path(folder), Path(units_folder) / "hashes", workers)
    ]
    parameters = {key: value for key, value in asdict(config).items() if key != "encode_batch"}
    parameters["buckets"] = list(config.buckets)
    if not config.buckets:
        del parameters["buckets"]  # shards of one bucket are named as ever
    readout = readout_of(vae_folder) if config.warped else None
    told = [] if readout is None else [value_hash([readout.weight.tolist(), readout.bias.tolist()])]
    code = code_hash(*CODE)
    device = pick_device()
    report = map_units(
        functools.partial(encode_identity, vae_folder=str(vae_folder), config=config, device=device.type),
        units,
        workers=workers,
        cache_folder=units_folder,
        key=lambda unit: [code, vae_name, parameters, {**asdict(unit), "folder": ""}, *told],
        progress="encode",
        resources=Resources(gpus=1) if device.type == "cuda" else Resources(),
    )
    writer = ShardWriter(out_folder, vae_name, parameters)
    short: list[str] = []
    for result in report.results:
        short += result.value["short_clips"]
        for bucket, rows in result.value["rows"].items():
            writer.add(result.folder / shard_name(bucket), rows, bucket)
    failures = {f"{failure.unit.dataset}/{failure.unit.identity}": failure.reason for failure in report.failures}
    if not writer.rows:
        if failures:
            name, reason = next(iter(failures.items()))
            raise UserError(f"no identity that could be encoded; {name}: {reason}", "at least one", "mend its cause")
        raise UserError(
            f"{len(short)} clips, all shorter than the window of {config.window} frames",
            "a window that some clip is long enough for",
            "lower encode's window (4k+1), and the stages' frames with it",
        )
    writer.finish()
    counts: dict[str, dict[str, int]] = {}
    for row in writer.rows:
        split = counts.setdefault(row["dataset"], {})
        split[row["split"]] = split.get(row["split"], 0) + 1
    found = {"records": counts, "short_clips": short, "failures": failures, "vae_hash": vae_name}
    if config.buckets:
        train = [row for row in writer.rows if row["split"] == "train"]
        found["buckets"] = bucket_counts(Bucket(row["height"], row["width"]) for row in train)
    return found


def encode_identity(
    unit: IdentityUnit, folder: Path, vae_folder: str, config: EncodeConfig, device: str = "cpu"
) -> dict[str, Any]:
    """Write one identity's shards into `folder`, one for each bucket that a clip of theirs is in.

    Returns:
        `rows` of the index by the bucket's name (the square's is empty), and `short_clips`, those that are too short.

    Raises:
        UserError: a video is broken or shorter than its annotations, or a latent is not finite.
    """
    import pandas as pd
    import torch

    from fportrait.tracking.points import landmark_codes

    where = [("dataset", "==", unit.dataset), ("identity", "==", unit.identity)]
    frames = pd.read_parquet(Path(unit.folder) / "frames.parquet", filters=where)
    frames = pd.concat([upright(clip) for _, clip in frames.groupby("clip", sort=True)], ignore_index=True)
    person = pd.read_parquet(Path(unit.folder) / "identities.parquet", filters=where).iloc[0]
    vae = _vae(vae_folder, device)
    readout = readout_of(vae_folder)
    body = load_body(person["body_model"])
    shape = np.asarray(person["shape"], np.float64)
    split = str(person["split"])
    stride = config.stride if split == "train" else config.test_stride

    wanted = reference_frames(frames, person, config)
    square, *further = parse_buckets(config.size, config.buckets)
    buckets = clip_buckets(frames, (square, *further) if split == "train" else (square,))
    portraits: dict[tuple[Bucket, str, int], dict[str, np.ndarray]] = {}
    records: dict[Bucket, list[Any]] = {bucket: [] for bucket, _ in buckets.values()}
    short = []
    placed: dict[str, tuple[list[np.ndarray], np.ndarray]] = {}
    for clip, table in frames.groupby("clip", sort=True):
        table = table.sort_values("frame")
        bucket, frame_size = buckets[clip]
        rows = {name: np.stack(table[name].to_list()).reshape(-1, *size) for name, size in LIST_SHAPES.items()}
        crop = whole_pixels(table["crop"].iloc[0])
        cuts = {each: bucket_crop(crop, each, frame_size) for each in records}
        cameras = {each: rectangle_intrinsics(rows["intrinsics"][0], cut, each) for each, cut in cuts.items()}
        shown = sorted({frame for name, frame in wanted if name == clip})
        file, turns = str(table["path"].iloc[0]), int(table[TURNS].iloc[0])
        video, pictures, sides = read_crops(file, cuts, bucket, len(table), shown, turns)
        codes = np.stack(table["expression_code"].to_list()).astype(np.float32)
        stand = placed_vertices(body, shape, table, rows, shown, told_actions(readout, codes))
        for each in records:
            maps = draw_normals(body, shape, table, rows, cameras[each], each, config.supersample, shown)
            for frame, drawn, vertices in zip(shown, maps, stand, strict=True):
                portraits[each, str(clip), frame] = {
                    "images": pictures[each, frame],
                    "normals": drawn,
                    "vertices": vertices,
                    "world_to_camera": rows["world_to_camera"][frame],
                    "intrinsics": cameras[each],
                }
        intrinsics, inside = cameras[bucket], inside_file(cuts[bucket], sides, bucket)
        starts = window_starts(len(table), config.window, stride)
        if not starts:
            short.append(f"{unit.dataset}/{clip}")
            continue
        normals = draw_normals(body, shape, table, rows, intrinsics, bucket, config.supersample)
        x0, y0, width, height = cuts[bucket]
        scale = np.array([bucket.width / width, bucket.height / height])
        landmarks = (np.stack(table["landmarks"].to_list()).reshape(-1, 478, 2) - np.array([x0, y0])) * scale
        middle = np.array([bucket.width - bucket.short, bucket.height - bucket.short]) / 2
        points = landmark_codes(landmarks - middle, bucket.short)  # faces of one size have points of one size
        focus = np.stack([landmarks[:, list(group)].mean(1) for group in FOCUS_LANDMARKS], 1)
        latents = encode_windows(vae, video, starts, config)
        normal_latents = encode_windows(vae, normals, starts, config)
        for number, start in enumerate(starts):
            cut = slice(start, start + config.window)
            tensors = {
                "latents": latents[number],
                "normals": normal_latents[number],
                "codes": torch.from_numpy(codes[cut]),
                "world_to_camera": torch.from_numpy(rows["world_to_camera"][cut]).float(),
                "intrinsics": torch.from_numpy(intrinsics).float(),
                "focus": torch.from_numpy(focus[cut]).float(),
                "landmark_codes": torch.from_numpy(points[cut]).half(),
            }
            if inside is not None:
                tensors["inside"] = torch.tensor(inside, dtype=torch.float32)
            if split == "test":
                tensors["video"] = torch.from_numpy(video[cut])
                tensors["landmarks"] = torch.from_numpy(landmarks[cut]).float()
            records[bucket].append((f"{value_hash(clip)[:8]}-{start:05d}", str(clip), start, tensors))
        if config.warped:
            told = told_actions(readout, codes)
            placed[str(clip)] = placed_vertices(body, shape, table, rows, range(len(table)), told), intrinsics
    written: dict[str, list[dict[str, Any]]] = {}
    for bucket, some in records.items():
        if not some:
            continue
        drawn_from = [portraits[bucket, *key] for key in wanted]
        if config.warped:
            add_warped(vae, body, some, placed, drawn_from, config)
        name = "" if bucket == (config.size, config.size) else str(bucket)
        rows_of_index = write_shard(
            folder / shard_name(name),
            dataset=unit.dataset,
            identity=unit.identity,
            split=split,
            records=some,
            references=encode_references(vae, drawn_from),
        )
        shape_of = {"height": bucket.height, "width": bucket.width} if config.buckets else {}
        written[name] = [row | shape_of for row in rows_of_index]
    return {"rows": written, "short_clips": short}


def shard_name(bucket: str) -> str:
    """A unit's file of a bucket; of the square without a name."""
    return f"shard-{bucket}.safetensors" if bucket else SHARD


def readout_of(vae_folder: str | Path) -> ActionReadout | None:
    """What reads actions from the codes of the bundle that a VAE is part of."""
    return ActionReadout.beside(Path(vae_folder).parent / "expression_encoder")


@functools.lru_cache(maxsize=1)
def _vae(folder: str, device: str) -> Any:
    from fportrait.diffusion.codec import load_vae

    return load_vae(folder).to(pick_device(device))


def reference_frames(frames: pd.DataFrame, person: pd.Series, config: EncodeConfig) -> list[tuple[str, int]]:
    """`(clip, frame)` of the portraits: the identity's own reference first, then seeded draws from any of its clips."""
    table = frames[["clip", "frame"]].sort_values(["clip", "frame"], ignore_index=True)
    chosen = [(str(person["reference_clip"]), int(person["reference_frame"]))]
    draw = 0
    while len(chosen) < min(config.references, len(table)):
        name = f"{person['dataset']}/{person['identity']}/reference"
        row = table.iloc[draw_integer(config.seed, draw, name, len(table))]
        if (row["clip"], row["frame"]) not in chosen:
            chosen.append((str(row["clip"]), int(row["frame"])))
        draw += 1
    while len(chosen) < config.references:
        chosen.append(chosen[0])
    return chosen


def draw_normals(
    body: BodyModel,
    shape: np.ndarray,
    table: pd.DataFrame,
    rows: Mapping[str, np.ndarray],
    intrinsics: np.ndarray,
    bucket: Bucket,
    supersample: int,
    frames: Sequence[int] | None = None,
) -> np.ndarray:
    """Normal maps `T H W 3` uint8 of the neutral person in the pose and camera of each frame (all of them when None);
    equal ones are drawn once."""
    drawn: dict[bytes, np.ndarray] = {}
    maps: list[np.ndarray] = []
    translations = table["body_translation"].to_list()
    for t in range(len(table)) if frames is None else frames:
        pose = Pose(rows["body_rotation"][t], np.asarray(translations[t], np.float64), rows["head_rotation"][t])
        parts = (pose.body_rotation, pose.body_translation, pose.head_rotation, rows["world_to_camera"][t])
        key = b"".join(np.asarray(part, np.float64).tobytes() for part in parts)
        if key not in drawn:
            vertices = body.vertices(shape, None, pose)
            drawn[key] = normal_map(
                vertices,
                body.faces,
                rows["world_to_camera"][t],
                intrinsics,
                *bucket,
                supersample,
                body.weld,
            )
        maps.append(drawn[key])
    return np.stack(maps) if maps else np.zeros((0, *bucket, 3), np.uint8)


def placed_vertices(
    body: BodyModel,
    shape: np.ndarray,
    table: pd.DataFrame,
    rows: Mapping[str, np.ndarray],
    frames: Sequence[int],
    actions: Sequence[np.ndarray | None],
) -> list[np.ndarray]:
    """The vertices `V 3` of some frames that portraits are painted on, in the space of the frame's camera.

    Args:
        actions: of every frame of the clip, as its code tells them; None of a face at rest.
    """
    placed, translations = [], table["body_translation"].to_list()
    for t in frames:
        pose = Pose(rows["body_rotation"][t], np.asarray(translations[t], np.float64), rows["head_rotation"][t])
        vertices = acting_vertices(body, shape, actions[t], pose)
        placed.append(in_camera(vertices, rows["world_to_camera"][t]).astype(np.float32))
    return placed


def add_warped(
    vae: Any,
    body: BodyModel,
    records: Sequence[tuple[str, str, int, dict[str, torch.Tensor]]],
    placed: Mapping[str, tuple[list[np.ndarray], np.ndarray]],
    portraits: Sequence[Mapping[str, np.ndarray]],
    config: EncodeConfig,
) -> None:
    """Give every record `warped` `R C l h w`: each portrait painted on the body in the record's poses.

    Held-out records get the first one's pictures, too: `painted` `T H W 3` uint8.
    """
    import torch

    painters = [PortraitPainter(body, one["images"], one["vertices"], one["intrinsics"]) for one in portraits]
    for clip, (frames, intrinsics) in placed.items():
        own = [(start, tensors) for _, name, start, tensors in records if name == clip]
        drawn: dict[
            int, list[np.ndarray]
        ] = {}  # of the present windows alone: a long clip never is in memory as a whole
        for first in range(0, len(own), config.encode_batch):
            batch = own[first : first + config.encode_batch]
            wanted = range(batch[0][0], batch[-1][0] + config.window)
            drawn = {t: drawn[t] if t in drawn else paint_each(painters, frames[t], intrinsics) for t in wanted}
            videos = np.stack([drawn[t] for t in wanted], 1)  # R T H W 3
            starts = [start - wanted.start for start, _ in batch]
            encoded = [encode_windows(vae, video, starts, config) for video in videos]
            for start, (_, tensors), *latents in zip(starts, batch, *encoded, strict=True):
                if "video" in tensors:  # held out: scored from the first portrait
                    tensors["painted"] = torch.from_numpy(videos[0, start : start + config.window].copy())
                tensors["warped"] = torch.stack(latents).half()


def encode_windows(vae: Any, video: np.ndarray, starts: list[int], config: EncodeConfig) -> list[torch.Tensor]:
    """Normalised latents `16 l h w` of each window."""
    from fportrait.diffusion.codec import encode_video

    latents: list[torch.Tensor] = []
    for first in range(0, len(starts), config.encode_batch):
        windows = [video[start : start + config.window] for start in starts[first : first + config.encode_batch]]
        latents += list(encode_video(vae, to_model_range(np.stack(windows)).to(device_of(vae))).float().cpu())
    return [part.clone() for part in latents]


def encode_references(vae: Any, portraits: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    import torch

    from fportrait.diffusion.codec import encode_video

    stacked = {key: np.stack([portrait[key] for portrait in portraits]) for key in portraits[0] if key != "vertices"}
    latents, normals = (
        encode_video(vae, to_model_range(stacked[key][:, None]).to(device_of(vae))).float().cpu()
        for key in ("images", "normals")
    )
    return {
        "latents": latents,
        "normals": normals,
        "images": torch.from_numpy(stacked["images"]),
        "world_to_camera": torch.from_numpy(stacked["world_to_camera"]).float(),
        "intrinsics": torch.from_numpy(stacked["intrinsics"]).float(),
    }
