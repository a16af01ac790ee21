"""A bundle: one folder with everything that animates a portrait.

```
BUNDLE/transformer/         diffusers folder of the transformer
BUNDLE/vae/                 the video codec (BlockCodec or AutoencoderKLWan)
BUNDLE/expression_encoder/  crops to 128-d codes
BUNDLE/bundle.json          the settings below
```
The shipped small base is one; the registry's model holds one; `assemble` makes one from a trained stage.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fportrait.atomic_io import atomic_folder, file_hash, write_json
from fportrait.errors import UserError, refuse_unknown_keys
from fportrait.pixels import Picture, two_sides

SHIPPED_BASE = Path(__file__).parent / "assets" / "base"
PARTS = ("transformer", "vae", "expression_encoder")


@dataclass(frozen=True)
class BundleSettings:
    """What sampling must know about how the model was trained: every default of it, and no place else has one."""

    size: int = 64  # pixels, square
    sizes: list[int] = field(default_factory=list)  # others that it was trained at too
    shapes: list[str] = field(default_factory=list)  # HEIGHTxWIDTH of rectangles that it was trained at too
    frames: int = 17  # longest clip trained, 4k+1
    shift: float = 5.0  # of the noise schedule
    steps: int = 12  # sampling steps that the scores were taken with
    scheduler: str = "euler"  # or unipc, dpm++: fportrait.diffusion.schedule
    crop_metres: float = 0.30  # width of the picture at the head
    camera_distance: float = 0.55  # metres, of the canonical front camera
    guidance: dict[str, float] = field(default_factory=dict)  # scale per factor, unless the user gives another
    guidance_below: float = 1.0  # highest noise level, 0 to 1, at which it acts
    trained_yaw: float = 55.0  # degrees to either side: as far as any camera stood in training
    trained_elevation: float = 18.0  # and up or down
    trained_turn: float = 2.8  # degrees a frame that cameras turned; four frames are one latent: a faster turn smears
    moving_yaw: float = 50.0  # degrees to either side that cameras went on the way: named paths go as far
    teacher: str = ""  # of a student, the hash of whom it learned from: it samples in few calls, guidance inside

    @property
    def square(self) -> Picture:
        """The picture of `size`."""
        return Picture(self.size, self.size)

    @property
    def rectangles(self) -> list[Picture]:
        """The pictures of `shapes`."""
        return [Picture(*sides) for sides in (two_sides(text, "x") for text in self.shapes) if sides]


def read_settings(bundle: str | Path) -> BundleSettings:
    """Settings of a bundle.

    Raises:
        UserError: a part is missing or a key is unknown.
    """
    bundle = Path(bundle)
    missing = [part for part in (*PARTS, "bundle.json") if not (bundle / part).exists()]
    if missing:
        raise UserError(
            f"no {', '.join(missing)} in the model folder {bundle}",
            f"a folder with {', '.join(PARTS)} and bundle.json",
            "train one, make one of a Wan 2.1 download (`fportrait weights import-wan`), or leave --model out to "
            "use the promoted or the shipped one",
        )
    return stated_settings(bundle) or BundleSettings()


def stated_settings(bundle: str | Path) -> BundleSettings | None:
    """Settings of a folder with `bundle.json`, whatever parts it has; None without that file.

    Raises:
        UserError: a key is unknown, or a shape is none.
    """
    file = Path(bundle) / "bundle.json"
    if not file.is_file():
        return None
    values = json.loads(file.read_text())
    refuse_unknown_keys(values, [field.name for field in fields(BundleSettings)], str(file))
    for text in values.get("shapes", ()):
        if two_sides(text, "x") is None:
            raise UserError(f"the shape {text!r} in {file}", "HEIGHTxWIDTH in pixels", "write e.g. 112x64")
    return BundleSettings(**values)


def assemble(transformer: str | Path, base: str | Path, target: str | Path, **changes: Any) -> Path:
    """Copy a trained transformer and the base's other parts into one folder; `changes` override the base's settings."""
    settings = asdict(read_settings(base)) | changes
    with atomic_folder(target) as folder:
        shutil.copytree(transformer, folder / "transformer")
        for part in ("vae", "expression_encoder"):
            shutil.copytree(Path(base) / part, folder / part)
        write_json(folder / "bundle.json", settings)
    return Path(target)


def bundle_hashes(bundle: str | Path) -> dict[str, str]:
    """SHA-256 by relative path of every weight and configuration file, for provenance."""
    bundle = Path(bundle)
    files = sorted(path for part in PARTS for path in (bundle / part).rglob("*") if path.is_file())
    return {path.relative_to(bundle).as_posix(): file_hash(path) for path in files}
