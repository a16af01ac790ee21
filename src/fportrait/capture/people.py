"""Embedded people: a body identity plus painted skin, eyes, hair, clothes, light and background, all from one seed.

    person = sample_person(7, body)
    picture = render(person, actions, pose, world_to_camera, intrinsics, size=256)

Everybody wears clothes. Lights stand still in the world; the background stands still in the picture.

`variety` is how wide the world is, from 0 (plain: people as the demo's captures show them, drawn as ever) to 1 (wild:
any skin, hair, hat, proportion, light and background; see `fportrait.capture.variety`). A model that learns from plain
people remembers them; from wild ones it can only learn to look at the portrait.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from fportrait.body.model import BodyModel, Pose, load_body
from fportrait.body.rasterizer import rasterize, vertex_normals
from fportrait.capture import hair as hair_module
from fportrait.capture import shading
from fportrait.capture.hair import Hair, Skull, make_skull, sample_hair
from fportrait.capture.paint import Chart, Palette, linear, make_chart, paint_head, sample_palette
from fportrait.capture.variety import NOTHING, Extras, flatten_under, sample_extras
from fportrait.capture.variety.lights import key_light, vary_look
from fportrait.capture.variety.outlines import sample_outline
from fportrait.capture.variety.surface import vary_palette, vary_surface
from fportrait.capture.variety.wear import headgear_uv
from fportrait.errors import UserError

IDENTITY_SPREAD = 0.8  # standard deviations; wider than this, random faces leave the plausible
GARMENT_THICKNESS = 0.006
NO_ATLAS = np.zeros((0, 0, 4), np.float32)


@dataclass(frozen=True)
class Person:
    """One person; equal seeds give equal bits. `identity` (K,), `texture` (512, 1024, 3) linear light."""

    seed: int
    identity: np.ndarray
    palette: Palette
    texture: np.ndarray
    hair: Hair
    look: np.ndarray
    puff: np.ndarray  # (V,) garment thickness, metres
    extras: Extras = field(default_factory=Extras)  # what only the wide world has


@dataclass(frozen=True)
class _Stage:
    """What all people of one body share."""

    chart: Chart
    skull: Skull
    faces: np.ndarray
    materials: np.ndarray
    places: np.ndarray
    uv: np.ndarray
    first_hair: int


def sample_person(seed: int, body: BodyModel | None = None, variety: float = 0.0) -> Person:
    """Draw the person of a seed (0 or more) from a world of `variety` 0 (plain) to 1 (wild).

    Raises:
        UserError: a negative seed, or a variety out of range.
    """
    if not 0 <= variety <= 1:
        raise UserError(f"variety {variety:g}", "0 (plain) to 1 (wild)", "choose one between")
    if seed < 0:
        raise UserError(f"the person seed {seed}", "0 or more", "use a seed that is not negative")
    body = body or load_body()
    stage = _stage(body)
    rng = np.random.default_rng([20_240_611, int(seed)])
    identity = np.clip(rng.standard_normal(body.identity_dim) * IDENTITY_SPREAD, -2.0, 2.0)
    palette = sample_palette(rng)
    hair = sample_hair(stage.skull, stage.chart, rng, palette.beard > 0)
    wild, amount, tint = np.random.default_rng([20_261_129, int(seed)]), 0.0, NOTHING
    if variety:
        amount = variety * wild.uniform(0.35, 1.0)
        identity = np.clip(identity * (1 + 0.4 * amount), -2.6, 2.6)
        palette = vary_palette(palette, wild, amount)
        if wild.random() < min(1.0, 1.2 * amount):
            hair, tint = sample_outline(stage.skull, wild, amount)
    texture = paint_head(stage.chart, palette, hair.scalp, rng)
    look = _sample_look(rng, palette, hair, stage, body)
    extras = Extras()
    if variety:
        texture = vary_surface(texture, stage.chart, palette, wild, amount)
        look = vary_look(look, wild, amount)
        extras = sample_extras(body, stage.skull, stage.chart, identity, tint, wild, amount)
        if extras.wear is not None and extras.wear.headgear is not None and extras.wear.headgear.style != "band":
            hair = flatten_under(hair, extras.wear.headgear)
    neck = look[shading.LOOK["neckline"]][0]
    inside = np.isin(np.asarray(body.part), _parts(body, "torso", "neck"))
    depth = np.clip((neck + 0.01 - np.asarray(body.template)[:, 1]) / 0.03, 0, 1)
    puff = np.where(inside, GARMENT_THICKNESS * depth, 0.0)
    return Person(int(seed), identity, palette, texture, hair, look, puff, extras)


def render(
    person: Person,
    actions: np.ndarray | None,
    pose: Pose,
    world_to_camera: np.ndarray,
    intrinsics: np.ndarray,
    size: int | tuple[int, int],
    supersample: int = 2,
    body: BodyModel | None = None,
) -> np.ndarray:
    """A picture (H, W, 3) RGB uint8 of a person.

    Args:
        actions: (52,) in [0, 1], or None for a neutral face.
        size: side of a square picture, or (height, width); `intrinsics` are in its pixels.
        supersample: samples per pixel and side.
    """
    body = body or load_body()
    stage = _stage(body)
    height, width = (size, size) if isinstance(size, int) else size
    vertices = person_vertices(person, actions, pose, body)
    skin_normals = vertex_normals(vertices, body.faces, body.weld)
    head = pose.body_rotation @ pose.head_rotation
    shell = person.hair.vertices(stage.skull, vertices, stage.faces, head)
    shell_normals = vertex_normals(shell, stage.skull.faces)
    strands = shell.reshape(hair_module.AZIMUTHS, -1, 3)
    tangents = np.gradient(strands, axis=1).reshape(-1, 3)
    worn = _worn(person, stage, vertices, head)
    vertices = np.concatenate([vertices + skin_normals * person.puff[:, None], shell, worn.vertices])
    normals = np.concatenate([skin_normals, shell_normals, worn.normals])
    camera = vertices @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    large = np.diag([supersample, supersample, 1.0]) @ np.asarray(intrinsics, dtype=np.float64)
    faces = np.concatenate([stage.faces, worn.faces])
    if person.hair.style == "bald":
        faces[len(body.faces) : len(stage.faces)] = 0  # triangles without a surface
    ids, weights, _ = rasterize(camera, faces, large, height * supersample, width * supersample)
    rays = np.ascontiguousarray(world_to_camera[:3, :3].T @ np.linalg.inv(large))
    look = person.look.copy()
    if actions is not None:
        look[shading.LOOK["mouth"]] = [actions[body.action_names.index("tongueOut")], 0.0, 0.0]
    shadow = look[shading.LOOK["shadow"]][0]
    lamp = np.zeros(0)
    if shadow:
        lamp = key_light(vertices, faces, look[shading.LOOK["key_direction"]], shadow)
    return shading.shade(
        ids,
        weights,
        faces,
        np.concatenate([stage.materials, np.full(len(worn.faces), shading.WEAR, np.uint8)]),
        normals,
        np.concatenate([stage.places, np.zeros((len(worn.vertices), 3))]),
        np.concatenate([stage.uv, worn.uv]),
        tangents,
        stage.first_hair,
        person.texture,
        person.hair.strands,
        look,
        rays,
        supersample,
        lamp,
        person.extras.tint,
        person.extras.cloth,
        NO_ATLAS if person.extras.wear is None else person.extras.wear.atlas,
        person.extras.backdrop,
    )


def person_vertices(
    person: Person, actions: np.ndarray | None, pose: Pose, body: BodyModel | None = None
) -> np.ndarray:
    """The person's true body (V, 3), posed: the model's, and for people of the wide world their own proportions."""
    vertices = (body or load_body()).vertices(person.identity, actions, pose)
    if person.extras.warp is None:
        return vertices
    return np.asarray(vertices + person.extras.warp @ (pose.body_rotation @ pose.head_rotation).T)


@dataclass(frozen=True)
class _Worn:
    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    uv: np.ndarray


def _worn(person: Person, stage: _Stage, vertices: np.ndarray, head: np.ndarray) -> _Worn:
    """What is worn on the head as one mesh; its faces count on from body and hair."""
    wear, first = person.extras.wear, stage.first_hair + hair_module.SHELL_VERTICES
    points, faces, uv = [np.zeros((0, 3))], [np.zeros((0, 3), np.int32)], [np.zeros((0, 2))]
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    if wear is not None and wear.headgear is not None:
        shell = wear.headgear.vertices(stage.skull, vertices, stage.faces, head)
        parts.append((shell, stage.skull.faces, headgear_uv()))
    for piece in wear.pieces if wear is not None else ():
        parts.append((piece.vertices(vertices, head), piece.faces, piece.uv))
    for place, triangles, coordinates in parts:
        points.append(place)
        faces.append((triangles + first).astype(np.int32))
        uv.append(coordinates)
        first += len(place)
    normals = [np.zeros((0, 3), np.float32)] + [vertex_normals(place, triangles) for place, triangles, _ in parts]
    return _Worn(np.concatenate(points), np.concatenate(normals), np.concatenate(faces), np.concatenate(uv))


def _parts(body: BodyModel, *wanted: str) -> list[int]:
    return [index for index, name in enumerate(body.part_names) if str(name) in wanted]


@lru_cache(maxsize=2)
def _stage(body: BodyModel) -> _Stage:
    faces = np.ascontiguousarray(body.faces, dtype=np.int32)
    # a triangle between two parts belongs to the one most of its corners belong to
    corners = np.sort(np.asarray(body.part)[faces], axis=1)
    part = corners[:, 1]
    material = np.full(len(faces), shading.SKIN, np.uint8)
    for code, words in {
        shading.TORSO: ("torso", "neck"),
        shading.EYE: ("eyes",),
        shading.TEETH: ("teeth",),
        shading.TONGUE: ("tongue",),
        shading.CAVITY: ("mouth_cavity", "eye_cavity"),
    }.items():
        material[np.isin(part, _parts(body, *words))] = code
    chart = make_chart(body)
    outer = np.isin(part, _parts(body, "face", "scalp", "neck"))
    skull = make_skull(body, chart, np.flatnonzero(outer))
    rows = hair_module.SHELL_ROWS + hair_module.TAIL_ROWS
    strand = np.repeat((np.arange(hair_module.AZIMUTHS) + 0.5) / hair_module.AZIMUTHS, rows)
    length = np.tile(np.arange(rows) / (rows - 1), hair_module.AZIMUTHS)
    template = np.asarray(body.template, dtype=np.float64)
    places = np.concatenate([template, np.stack([strand, length, 0 * strand], axis=-1)])
    all_faces = np.concatenate([faces, skull.faces + len(template)]).astype(np.int32)
    materials = np.concatenate([material, np.full(len(skull.faces), shading.HAIR, np.uint8)])
    uv = np.concatenate([chart.uv, np.zeros((len(strand), 2))])
    return _Stage(chart, skull, all_faces, materials, places, uv, len(template))


def _sample_look(rng: np.random.Generator, palette: Palette, hair: Hair, stage: _Stage, body: BodyModel) -> np.ndarray:
    look = np.zeros(shading.LOOK_SIZE)

    def put(name: str, values: np.ndarray | list[float] | float) -> None:
        look[shading.LOOK[name]] = values

    def direction(azimuth: float, elevation: float) -> np.ndarray:
        return hair_module.directions(np.array(np.radians(azimuth)), np.array(elevation))

    put("hair", palette.hair)
    put("iris", palette.iris)
    put("teeth", palette.teeth)
    warm = rng.uniform(-1, 1) * np.array([0.07, 0.0, -0.08])
    key_side = rng.uniform(-70, 70)
    ambient = rng.uniform(0.42, 0.62)
    put("key_direction", direction(key_side, rng.uniform(5, 55)))
    put("key_colour", rng.uniform(0.40, 0.65) * (1 + warm))
    put("fill_direction", direction(-key_side + rng.uniform(-30, 30), rng.uniform(-10, 30)))
    put("fill_colour", rng.uniform(0.05, 0.2) * (1 - warm))
    put("sky", ambient * (1 + 0.5 * rng.uniform(-1, 1) * np.array([-0.05, 0.0, 0.06])))
    put("ground", ambient * rng.uniform(0.55, 0.8) * np.array([1.02, 0.98, 0.94]))
    cloth, second = _cloth_colours(rng)
    put("cloth", cloth)
    put("cloth_second", second)
    put("collar", cloth * rng.uniform(0.5, 0.9) if rng.random() < 0.6 else second)
    hue, tone = rng.uniform(0, 1), rng.uniform(0.12, 0.85)
    top = linear(_hsv(hue, rng.uniform(0, 0.35), tone))
    bottom = linear(_hsv((hue + rng.uniform(-0.08, 0.08)) % 1, rng.uniform(0, 0.35), tone * rng.uniform(0.7, 1.1)))
    put("background_top", top)
    put("background_bottom", bottom)
    put("background_spot", [rng.uniform(0.1, 0.9), rng.uniform(0, 0.8), rng.uniform(0, 0.12)])
    template, part = np.asarray(body.template), np.asarray(body.part)
    eyes = template[np.isin(part, _parts(body, "eyes"))]
    for name, chosen in (("left_eye", eyes[eyes[:, 0] > 0]), ("right_eye", eyes[eyes[:, 0] < 0])):
        put(name, 0.5 * (chosen.min(0) + chosen.max(0)))
    iris = rng.uniform(0.0056, 0.0062)
    put("eye_radii", [iris, iris * rng.uniform(0.36, 0.5), 0.0])
    chin = stage.chart.points[152, 1]
    opening = 0.0 if rng.random() < 0.6 else rng.uniform(0.4, 1.2)
    put("neckline", [chin - rng.uniform(0.045, 0.070), rng.uniform(0.0, 0.25), opening])
    kind = rng.choice(3, p=[0.65, 0.22, 0.13])
    put("pattern", [kind, rng.uniform(0.012, 0.045), rng.uniform(0.25, 0.6)])
    teeth = template[np.isin(part, _parts(body, "teeth"))]
    front = float(teeth[:, 2].max()) if len(teeth) else 0.0
    put("shine", [rng.uniform(0.02, 0.07), rng.uniform(0.5, 1.3), front])
    put("sclera", [1.0, 0.93, 0.93])
    put("sheen", [18.0, 0.0, 0.0])
    return look


def _cloth_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A garment's colour and one that goes with it; saturated, pale and dark ones."""
    hue = rng.uniform()
    first = _hsv(hue, rng.uniform(0.0, 0.8), rng.uniform(0.12, 0.95))
    if rng.random() < 0.5:
        second = _hsv((hue + 0.5 + rng.uniform(-0.1, 0.1)) % 1, rng.uniform(0.1, 0.7), rng.uniform(0.2, 0.95))
    else:
        second = np.full(3, 0.93 if first.mean() < 0.5 else 0.1)
    return linear(first), linear(second)


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    wheel = np.clip(np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return value * (1 - saturation + saturation * wheel)
