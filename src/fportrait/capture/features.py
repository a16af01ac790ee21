"""Per-frame features that came with a clip: expression codes, head rotation and translation, beside the video.

`CLIP.features.safetensors` lies beside `CLIP.mp4` and holds, for its `T` frames: `expression_code` `T 128` float32,
`head_rotation` `T 3` float32 (as the data set gives it), `head_translation` `T 2 3` or `T 3` float32 (as given), and
`valid` `T` bool. What another encoder made is kept as it is: no unit or axis is invented for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fportrait.atomic_io import atomic_path
from fportrait.errors import UserError

SUFFIX = ".features.safetensors"
CODE_LENGTH = 128


@dataclass(frozen=True)
class ClipFeatures:
    """`expression_code` `T 128`, `head_rotation` `T 3`, `head_translation` `T 3` or `T 2 3`, `valid` `T`."""

    expression_code: np.ndarray
    head_rotation: np.ndarray
    head_translation: np.ndarray
    valid: np.ndarray

    def __len__(self) -> int:
        return len(self.valid)


def features_path(video: str | Path) -> Path:
    """Where the features of a video lie."""
    return Path(video).with_suffix(SUFFIX)


def check_features(features: ClipFeatures, frames: int, where: str) -> ClipFeatures:
    """The features, if they fit a clip of `frames` frames.

    Raises:
        UserError: another length or shape, or a number that is not finite on a valid frame.
    """
    shapes: dict[str, set[tuple[int, ...]]] = {
        "expression_code": {(frames, CODE_LENGTH)},
        "head_rotation": {(frames, 3)},
        "head_translation": {(frames, 3), (frames, 2, 3)},
        "valid": {(frames,)},
    }
    for name, allowed in shapes.items():
        shape = getattr(features, name).shape
        if shape not in allowed:
            expected = " or ".join("x".join(map(str, one)) for one in sorted(allowed))
            found = "x".join(map(str, shape)) or "one number"
            raise UserError(f"{name} of shape {found} in {where}", f"{expected}, one row per frame", "export it again")
    rows = features.valid.astype(bool)
    for name in ("expression_code", "head_rotation", "head_translation"):
        if not np.isfinite(getattr(features, name)[rows]).all():
            raise UserError(f"NaN or infinity in {name} of {where}", "finite numbers", "mark those frames as not valid")
    return features


def write_features(video: str | Path, features: ClipFeatures) -> Path:
    """Write features beside their video."""
    from safetensors.numpy import save_file

    target = features_path(video)
    floats = {
        name: getattr(features, name).astype(np.float32)
        for name in ("expression_code", "head_rotation", "head_translation")
    }
    with atomic_path(target) as path:
        tensors = {**floats, "valid": features.valid.astype(np.bool_)}
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, str(path))
    return target


def read_features(video: str | Path, frames: int) -> ClipFeatures | None:
    """The features beside a video of `frames` frames, checked; None when there are none.

    Raises:
        UserError: not safetensors, tensors missing, or not those of this clip (see `check_features`).
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = features_path(video)
    if not path.exists() and not path.is_symlink():
        return None
    try:
        tensors = load_file(str(path))
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path.name}, which is not safetensors ({type(error).__name__})", "features of the clip", "import it again"
        ) from None
    missing = [name for name in ClipFeatures.__dataclass_fields__ if name not in tensors]
    if missing:
        raise UserError(f"no {missing[0]} in {path.name}", "codes, rotation, translation, valid", "import it again")
    return check_features(
        ClipFeatures(**{name: tensors[name] for name in ClipFeatures.__dataclass_fields__}), frames, path.name
    )
