"""A feed-forward mesh estimator with weights of the user's own, as an ONNX file (onnxruntime; the extra `onnx`).

Networks that read a head's pose and shape off a picture come under licences of their own, so none ships. Exported with
`torch.onnx.export` behind this interface, any of them takes the place of the shipped landmark regression:

    input   one, `N 3 S S` float32 in [0, 1], RGB, S fixed: head and shoulders, upright (`crops.upper_body_crop`)
    output  `rotation` `N 3 3`: head to camera, for an OpenCV camera that looks straight at the crop's centre
    output  `shape` `N K`, optional: identity coefficients of the embedded body; their mean replaces the fitted shape

ONNX files are data: no code in them is run, custom operators are not loaded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fportrait.errors import UserError
from fportrait.tracking.crops import upper_body_square
from fportrait.tracking.head_turn import straight_axes

BATCH = 16


class MeshEstimator:
    """An estimator read from a file.

    Raises:
        UserError: onnxruntime is not installed; the file is missing, unreadable or of another interface.
    """

    def __init__(self, path: str | Path):
        try:
            import onnxruntime
        except ImportError:
            raise UserError(
                f"the mesh estimator {path} without onnxruntime", "onnxruntime", "pip install 'fportrait[onnx]'"
            ) from None
        path = Path(path)
        if not path.is_file():
            raise UserError(f"no file {path}", "a mesh estimator (.onnx)", "correct track.mesh_estimator")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions share no base class
            raise UserError(
                f"{path}, which onnxruntime cannot read ({type(error).__name__})", "an ONNX model", "export it anew"
            ) from None
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        square = len(shape) == 4 and shape[1] == 3 and isinstance(shape[2], int) and shape[2] == shape[3]
        if not square or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
            raise UserError(f"the inputs {found} of {path}", "one, float N 3 S S", "wrap the network before export")
        self.size: int = shape[2]
        self._input = inputs[0].name
        self._outputs = [one.name for one in self._session.get_outputs() if one.name in ("rotation", "shape")]
        if "rotation" not in self._outputs:
            found = ", ".join(one.name for one in self._session.get_outputs())
            raise UserError(f"the outputs {found} of {path}", "one named rotation", "name the outputs at export")

    def estimate(
        self, crops: np.ndarray, landmarks: np.ndarray, intrinsics: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Head rotations `N 3 3` in the camera's axes and shapes `N K` (None where the network gives none).

        Args:
            crops: `N S S 3` uint8, cut with `landmarks` `N 478 2` from a picture of these intrinsics.

        Raises:
            UserError: the network gives something else, or numbers that are not finite.
        """
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self._outputs}
        for start in range(0, len(crops), BATCH):
            batch = crops[start : start + BATCH].transpose(0, 3, 1, 2).astype(np.float32) / 255
            for name, value in zip(self._outputs, self._session.run(self._outputs, {self._input: batch}), strict=True):
                parts[name].append(np.asarray(value, np.float64))
        found = {name: np.concatenate(values) for name, values in parts.items()}
        rotation = found["rotation"]
        if rotation.shape != (len(crops), 3, 3) or not all(np.isfinite(value).all() for value in found.values()):
            shapes = {name: value.shape for name, value in found.items()}
            raise UserError(f"{shapes} from the mesh estimator", f"finite rotations {len(crops)} 3 3", "export it anew")
        u, _, vt = np.linalg.svd(rotation)  # the nearest rotations
        u[..., -1] *= np.linalg.det(u @ vt)[:, None]
        centres = np.stack([upper_body_square(one)[0] for one in landmarks])
        rays = np.ones((len(crops), 3))
        rays[:, :2] = (centres - intrinsics[:2, 2]) / np.diag(intrinsics)[:2]
        return straight_axes(rays).transpose(0, 2, 1) @ (u @ vt), found.get("shape")
