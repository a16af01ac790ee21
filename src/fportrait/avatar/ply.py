"""One posed frame of an avatar as a Gaussian PLY, the file that public viewers of Gaussian splatting open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fportrait.atomic_io import atomic_path
from fportrait.avatar.model import Expression, GaussianAvatar, PosedGuide
from fportrait.provenance import SYNTHETIC

SH_0, SH_1 = 0.28209479177387814, 0.4886025119029199  # spherical harmonics constants of degree 0 and 1


@torch.no_grad()
def export_ply(avatar: GaussianAvatar, path: str | Path, expression: Expression, guide: PosedGuide) -> Path:
    """Write the layout of Kerbl et al. 2023: float32 columns, spherical harmonics up to degree 3, log scales,
    logit opacities, (w, x, y, z) rotations.

    A view-dependent colour B turn^T d is linear in the world direction d, so degree 1 holds it exactly.
    """
    parts, light = avatar.without_view(expression, guide)
    view = light[:, :, None] * (avatar.view_colour @ guide.turn.transpose(1, 2))
    rest = torch.zeros(len(view), 3, 15)  # channel by channel; viewers expect the columns of degrees 2 and 3 too
    rest[:, :, :3] = torch.stack([-view[:, :, 1], view[:, :, 2], -view[:, :, 0]], dim=2) / SH_1
    columns = {name: parts.means[:, i] for i, name in enumerate("xyz")}
    columns |= {f"n{name}": torch.zeros(len(parts.means)) for name in "xyz"}
    columns |= {f"f_dc_{i}": (parts.colours[:, i] - 0.5) / SH_0 for i in range(3)}
    columns |= {f"f_rest_{i}": rest.reshape(-1, 45)[:, i] for i in range(45)}
    columns |= {"opacity": torch.logit(parts.opacities.clamp(1e-6, 1 - 1e-6))}
    columns |= {f"scale_{i}": torch.log(parts.scales[:, i]) for i in range(3)}
    rotations = torch.nn.functional.normalize(parts.rotations, dim=1)
    columns |= {f"rot_{i}": rotations[:, i] for i in range(4)}
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment {SYNTHETIC['comment']}",
        f"element vertex {len(parts.means)}",
    ]
    header += [f"property float {name}" for name in columns] + ["end_header", ""]
    table = torch.stack(list(columns.values()), dim=1).numpy().astype("<f4")
    with atomic_path(path) as temporary:
        temporary.write_bytes("\n".join(header).encode() + table.tobytes())
    return Path(path)


def read_ply(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of such a file by name, each (N,) float32: for tests and for a look inside."""
    header, body = Path(path).read_bytes().split(b"end_header\n", 1)
    names = [line.split()[2].decode() for line in header.splitlines() if line.startswith(b"property float")]
    table = np.frombuffer(body, dtype="<f4").reshape(-1, len(names))
    return {name: table[:, index] for index, name in enumerate(names)}
