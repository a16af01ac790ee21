"""From where a capture shows the head: what a camera that stands still sees of it as it turns.

A studio surrounds a person; a phone does not. Of phone clips an avatar knows the angles from which some frame shows the
head, and the prior's guess of the rest. Sweeps of such an avatar stay inside what was seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fportrait.avatar.views import CaptureFrame, View
from fportrait.camera.cameras import angles_towards, camera_centre
from fportrait.errors import UserError

if TYPE_CHECKING:
    from fportrait.avatar.sweeps import SweepConfig

LEAST_TURN = 20.0  # degrees of yaw that phone clips must cover together
LEAST_NOD = 5.0  # degrees of pitch that frames may have, however little was seen
EDGE = 0.02  # of the views, at either end, that say nothing: a single turned frame is no coverage


@dataclass(frozen=True)
class Coverage:
    """Degrees about the head between which cameras stood, lowest and highest; yaw to the person's left, pitch up."""

    yaw: tuple[float, float]
    pitch: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        return {key: [round(float(v), 1) for v in values] for key, values in asdict(self).items()}

    @classmethod
    def of(cls, frames: Sequence[CaptureFrame], views: Sequence[View], centre: Any) -> Coverage:
        """Args:
        centre: of the head in the world, `3`, from a frame.
        """
        angles = np.array([angles_about(frames[view.frame], view, centre(frames[view.frame])) for view in views])
        low, high = np.quantile(angles, EDGE, axis=0), np.quantile(angles, 1 - EDGE, axis=0)
        return cls((float(low[0]), float(high[0])), (float(low[1]), float(high[1])))

    @classmethod
    def told(cls, scores: dict[str, Any]) -> Coverage | None:
        """What a monocular avatar's scores say it covers; None of a studio's."""
        found = scores.get("coverage")
        return None if found is None else cls(tuple(found["yaw"]), tuple(found["pitch"]))

    @property
    def words(self) -> str:
        sides = [f"{abs(yaw):.0f}° on its {'left' if yaw >= 0 else 'right'}" for yaw in self.yaw]
        heights = [f"{abs(pitch):.0f}° {'above' if pitch >= 0 else 'below'}" for pitch in self.pitch]
        return f"seen from {sides[0]} to {sides[1]}, and from {heights[0]} to {heights[1]}"

    @property
    def reach(self) -> float:
        """Degrees of yaw to either side of the front from which the head was seen."""
        return max(0.0, min(-self.yaw[0], self.yaw[1]))

    @property
    def sweepable(self) -> bool:
        """Whether that leaves a camera room to move on both sides."""
        return self.reach >= LEAST_TURN / 2

    def refuse_still(self, name: str) -> None:
        """Raise `UserError` for clips in which the head hardly turns: they show one view, whatever their number."""
        turned = self.yaw[1] - self.yaw[0]
        if turned < LEAST_TURN:
            raise UserError(
                f"clips of {name} in which the head turns by {turned:.0f}° in all",
                f"{LEAST_TURN:.0f}° at least, to either side of the front",
                "film a clip in which the head turns slowly from one side to the other (`fportrait check`)",
            )


def inside(
    seen: Coverage, config: SweepConfig, frames: Sequence[CaptureFrame], identity: str
) -> tuple[SweepConfig, list[CaptureFrame]]:
    """The sweeps of an avatar of phone clips: cameras and frames that keep to the angles from which the head was seen.

    A camera's yaw counts from the front of the world, so a head that is turned in a frame takes its share of it: frames
    that use up more than half are left out, and the cameras swing by what the others leave. So do nods and elevations,
    but that nods of some degrees are kept where little more was seen: people nod as they talk.

    Raises:
        UserError: too little was seen on one side to leave a camera room.
    """
    reach, rise = seen.reach, max(0.0, min(-seen.pitch[0], seen.pitch[1]))
    forward = np.array([(frame.pose.body_rotation @ frame.pose.head_rotation)[:, 2] for frame in frames])
    turned = np.abs(np.degrees(np.arctan2(forward[:, 0], forward[:, 2])))
    nodded = np.abs(np.degrees(np.arcsin(np.clip(forward[:, 1], -1, 1))))
    keep = (turned <= reach / 2) & (nodded <= max(rise / 2, LEAST_NOD))
    if not seen.sweepable or not keep.any():
        raise UserError(
            f"sweeps of {identity}, who was {seen.words}",
            f"{LEAST_TURN / 2:.0f}° to either side at least",
            "film a clip in which the head turns slowly to the side that is missing",
        )
    swing, climb = reach - float(turned[keep].max()), max(0.0, rise - float(nodded[keep].max()))  # 0 first: never -0
    limits = {
        "spin_yaw_degrees": swing,
        "spiral_yaw_degrees": swing,
        "spin_elevation_degrees": climb,
        "spiral_elevation_degrees": climb,
    }
    kept = [frame for frame, wanted in zip(frames, keep, strict=True) if wanted]
    return replace(config, **{key: min(getattr(config, key), value) for key, value in limits.items()}), kept


def without_gaps(segments: Mapping[str, Sequence[CaptureFrame]]) -> dict[str, list[CaptureFrame]]:
    """Segments cut where frames are missing, so that no clip jumps."""
    found: dict[str, list[CaptureFrame]] = {}
    for name, frames in segments.items():
        last = None
        for frame in frames:
            if last is None or frame.number != last + 1:
                run = found.setdefault(f"{name}/{frame.number:06d}", [])
            run.append(frame)
            last = frame.number
    return found


def angles_about(frame: CaptureFrame, view: View, centre: np.ndarray) -> tuple[float, float]:
    """Yaw and pitch, degrees, of a view's camera about the head, in the head's own axes."""
    rotation = frame.pose.body_rotation @ frame.pose.head_rotation
    return angles_towards(rotation, camera_centre(view.world_to_camera) - centre)
