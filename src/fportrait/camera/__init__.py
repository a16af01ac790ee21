"""Cameras, their paths and their rays. OpenCV axes, metres; `world_to_camera` 4x4, intrinsics in pixels."""
