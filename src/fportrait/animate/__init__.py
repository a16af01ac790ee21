"""One portrait, one driving video and one camera path in, a video out.

The head's centre becomes the world's origin in both the portrait and the driving video, so that a camera path means the
same for everyone: the front camera stands at +z, at the distance the model was trained with. Pose comes from the
driving video, expression from it or from another one, body shape and appearance from the portrait.
"""

from fportrait.animate.animator import Animator
from fportrait.animate.request import Prepared, Request
from fportrait.animate.run import animate
from fportrait.animate.viewpoint import Viewpoint, camera_path, viewpoint

__all__ = ["Animator", "Prepared", "Request", "Viewpoint", "animate", "camera_path", "viewpoint"]
