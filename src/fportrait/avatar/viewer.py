"""An avatar in the browser: sliders for expression, head pose and camera, drawn as splats while they move.

The page is served on the loopback interface by viser and loads nothing from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fportrait.avatar.model import Expression, GaussianAvatar
from fportrait.avatar.splat_oracle import rotation_matrices
from fportrait.body.model import Pose, rotation_matrix
from fportrait.camera.cameras import look_at
from fportrait.errors import UserError

if TYPE_CHECKING:
    from fportrait.avatar.views import CaptureFrame

# The actions with a slider of their own, by what they move; a pair of sides shares one slider.
SLIDERS = {
    "Mouth": ("jawOpen", "mouthSmile", "mouthPucker", "mouthFunnel", "mouthFrown", "mouthStretch", "tongueOut"),
    "Eyes": ("eyeBlink", "eyeWide", "eyeSquint", "eyeLookUp", "eyeLookDown"),
    "Brows": ("browInnerUp", "browOuterUp", "browDown"),
}
HEAD_LIMIT, YAW_LIMIT, ELEVATION_LIMIT = 40.0, 180.0, 60.0  # degrees
TARGET = np.array([0.0, -0.02, 0.0])  # of the camera: the centre of head and neck


class AvatarViewer:
    """Serves one avatar until `close`.

    Args:
        frames: tracked frames of the person's capture, to play back as expressions; may be empty.
        port: 0 takes any free port; `url` says which.

    Raises:
        UserError: viser is not installed.
    """

    def __init__(self, avatar: GaussianAvatar, frames: list[CaptureFrame] | None = None, port: int = 8080):
        try:
            import viser
        except ImportError as error:
            raise UserError(
                f"no viser ({error})", "viser for the 3D viewer", "pip install 'fportrait[viewer]'"
            ) from error
        self.avatar, self.frames = avatar, frames or []
        self.server = viser.ViserServer(host="127.0.0.1", port=port or _free_port(), label="fportrait", verbose=False)
        self.url = f"http://127.0.0.1:{self.server.get_port()}"
        self.server.scene.set_up_direction("+y")
        background = (avatar.background.detach().numpy() * 255).astype(np.uint8)
        self.server.scene.set_background_image(np.broadcast_to(background, (8, 8, 3)).copy())
        self._splats: Any = None
        self._build_controls()
        self.server.on_client_connect(lambda client: self.move_cameras())
        self.update()

    def _build_controls(self) -> None:
        gui = self.server.gui
        self.sliders: dict[str, Any] = {}
        self._recorded: Any = None
        if self.frames:
            self._recorded = gui.add_slider(
                "recorded frame", -1, len(self.frames) - 1, 1, -1, hint="-1: use the sliders below"
            )
            self._recorded.on_update(lambda _: self.update())
        names = list(self.avatar.body.action_names)
        for title, actions in SLIDERS.items():
            with gui.add_folder(title, expand_by_default=title == "Mouth"):
                for action in actions:
                    if any(name.startswith(action) for name in names):
                        self.sliders[action] = gui.add_slider(action, 0.0, 1.0, 0.02, 0.0)
        with gui.add_folder("Head pose"):
            for name in ("head yaw", "head pitch", "head roll"):
                self.sliders[name] = gui.add_slider(name, -HEAD_LIMIT, HEAD_LIMIT, 1.0, 0.0)
        for slider in self.sliders.values():
            slider.on_update(lambda _: self.update())
        with gui.add_folder("Camera"):
            self.sliders["yaw"] = gui.add_slider("yaw", -YAW_LIMIT, YAW_LIMIT, 1.0, 0.0)
            self.sliders["elevation"] = gui.add_slider("elevation", -ELEVATION_LIMIT, ELEVATION_LIMIT, 1.0, 0.0)
            self.sliders["distance"] = gui.add_slider("distance", 0.3, 1.5, 0.01, 0.6)
        for name in ("yaw", "elevation", "distance"):
            self.sliders[name].on_update(lambda _: self._move_and_update())

    def state(self) -> tuple[Expression, Pose]:
        """What the controls ask for now."""
        values = {name: float(slider.value) for name, slider in self.sliders.items()}
        turn = np.radians([-values["head pitch"], values["head yaw"], values["head roll"]])
        if self._recorded is not None and self._recorded.value >= 0:
            frame = self.frames[int(self._recorded.value)]
            return self.avatar.expression(self.avatar.check_code(frame.code)), frame.pose
        expression = self.avatar.expression_of_actions(strengths_of(self.avatar, values))
        return expression, Pose(np.eye(3), np.zeros(3), rotation_matrix(turn))

    def camera(self) -> np.ndarray:
        """`world_to_camera` (4, 4) that the camera sliders ask for."""
        yaw, up = np.radians([self.sliders["yaw"].value, self.sliders["elevation"].value])
        direction = np.array([np.sin(yaw) * np.cos(up), np.sin(up), np.cos(yaw) * np.cos(up)])
        return look_at(TARGET + self.sliders["distance"].value * direction, TARGET)

    @torch.no_grad()
    def update(self) -> None:
        """Draw what the controls ask for."""
        expression, pose = self.state()
        guide = self.avatar.guide(pose)
        parts = self.avatar.gaussians(expression, guide, self.camera())
        spread = rotation_matrices(parts.rotations) * parts.scales[:, None, :]
        arrays: dict[str, Any] = {
            "centers": parts.means.numpy(),
            "covariances": (spread @ spread.transpose(1, 2)).numpy(),
            "rgbs": (parts.colours.clamp(0, 1) * 255).round().to(torch.uint8).numpy(),
            "opacities": parts.opacities[:, None].numpy(),
        }
        if self._splats is None:
            self._splats = self.server.scene.add_gaussian_splats("/avatar", **arrays)
        else:
            self._splats.set_gaussians(**arrays)

    def _move_and_update(self) -> None:
        self.move_cameras()
        self.update()  # colours depend on the view

    def move_cameras(self) -> None:
        """Put every open page's camera where the camera sliders say."""
        view = self.camera()
        for client in self.server.get_clients().values():
            client.camera.up_direction = (0.0, 1.0, 0.0)
            client.camera.position = -view[:3, :3].T @ view[:3, 3]
            client.camera.look_at = TARGET
            client.camera.fov = np.radians(35.0)

    def close(self) -> None:
        self.server.stop()


def strengths_of(avatar: GaussianAvatar, values: Mapping[str, float]) -> torch.Tensor:
    """(A,) strengths of the body's actions; a name without its side stands for both sides."""
    names = list(avatar.body.action_names)
    strengths = torch.zeros(len(names))
    for asked, value in values.items():
        for side in ("", "Left", "Right"):
            if asked + side in names:
                strengths[names.index(asked + side)] = value
    return strengths


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
