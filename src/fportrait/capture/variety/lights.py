"""Light and garments of the wide world: hard, coloured, low, from behind or flat, with cast shadows; any cloth."""

from __future__ import annotations

import numpy as np

from fportrait.body.rasterizer import rasterize
from fportrait.camera.cameras import look_at
from fportrait.capture import hair as hair_module
from fportrait.capture import shading
from fportrait.capture.variety.fields import any_colour

SHADOW_PIXELS, SHADOW_METRES, LAMP_METRES = 112, 0.62, 3.0


def vary_look(look: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """The person's numbers (`shading.LOOK`) with other lights, sheen, eyes and garment."""
    varied = look.copy()

    def put(name: str, values: np.ndarray | list[float]) -> None:
        varied[shading.LOOK[name]] = values

    def tinted(level: float, spread: float) -> np.ndarray:
        return np.asarray(level * np.exp(rng.normal(0, spread * amount, 3)))

    if rng.random() < 0.8:
        hard = rng.uniform(0.2, 1.25)  # of the light that comes from the lamp alone
        ambient = rng.uniform(0.08, 0.75) if hard > 0.5 else rng.uniform(0.4, 0.95)
        azimuth, elevation = rng.uniform(-110, 110), rng.uniform(-30, 75)
        put("key_direction", hair_module.directions(np.array(np.radians(azimuth)), np.array(elevation)))
        colourful = 0.35 if rng.random() < 0.25 else 0.08
        put("key_colour", tinted(hard, colourful))
        put("fill_colour", tinted(rng.uniform(0, 0.35), 2 * colourful))
        put("sky", tinted(ambient, colourful))
        put("ground", tinted(ambient * rng.uniform(0.35, 1.1), colourful))
        put("shadow", [rng.uniform(0.3, 1.0) if rng.random() < 0.7 * amount else 0.0, 0, 0])
    if rng.random() < 0.6 * amount:
        varied[shading.LOOK["shine"].start] = rng.uniform(0.0, 0.35)
        varied[shading.LOOK["shine"].start + 1] = rng.uniform(0.1, 2.0)
        put("sheen", [rng.uniform(6, 60), 0, 0])
    iris = varied[shading.LOOK["eye_radii"]][0] * np.exp(rng.normal(0.03, 0.12) * amount)
    put("eye_radii", [iris, iris * rng.uniform(0.25, 0.6), 0.0])
    if rng.random() < 0.5 * amount:
        put("sclera", np.clip(rng.uniform(0.35, 1.05) * np.exp(rng.normal(0, 0.08, 3)), 0, 1.1))
    if rng.random() < 0.05 * amount:  # painted or carved eyes
        pale = any_colour(rng, 0.2, 0.9)
        put("sclera", pale)
        put("iris", pale * rng.uniform(0.3, 1.0))
    if rng.random() < 0.5:
        put("cloth", any_colour(rng))
        put("cloth_second", any_colour(rng))
        put("collar", any_colour(rng))
    chin = varied[shading.LOOK["neckline"]]
    put("neckline", [chin[0] + rng.normal(0.005, 0.025) * amount, chin[1] * rng.uniform(0, 2), chin[2]])
    return varied


def key_light(vertices: np.ndarray, faces: np.ndarray, direction: np.ndarray, strength: float) -> np.ndarray:
    """How much of the key light reaches each vertex, `V` float64: a shadow map, looked up softly.

    Args:
        direction: (3,) towards the lamp, world. strength: 1 lets nothing through.
    """
    centre = vertices[:, :].mean(0) * [1, 0, 1]
    lamp = centre + LAMP_METRES * np.asarray(direction)
    camera = look_at(lamp, centre)
    seen = vertices @ camera[:3, :3].T + camera[:3, 3]
    focal = SHADOW_PIXELS * LAMP_METRES / SHADOW_METRES
    half = SHADOW_PIXELS / 2
    matrix = np.array([[focal, 0, half], [0, focal, half], [0, 0, 1.0]])
    _, _, depth = rasterize(seen, faces, matrix, SHADOW_PIXELS, SHADOW_PIXELS)
    x = focal * seen[:, 0] / seen[:, 2] + half - 0.5
    y = focal * seen[:, 1] / seen[:, 2] + half - 0.5
    lit = np.zeros(len(vertices))
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            column = np.clip(np.round(x + dx).astype(int), 0, SHADOW_PIXELS - 1)
            row = np.clip(np.round(y + dy).astype(int), 0, SHADOW_PIXELS - 1)
            lit += seen[:, 2] <= depth[row, column] + 0.009
    return np.asarray(1 - strength * (1 - lit / 9))
