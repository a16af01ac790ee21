"""Per-pixel shading of embedded people: one numba pass over the rasterizer's triangle ids and weights.

Materials are told apart by triangle. Eyes, garments, teeth and strands are computed from the place on the template, so
they stay sharp at any picture size; skin reads the person's texture. Light is ambient from above and below, a wrapped
key light and a fill, all in linear light; output is 2.2-gamma RGB.
"""

from __future__ import annotations

import numba
import numpy as np

SKIN, HAIR, TORSO, EYE, TEETH, TONGUE, CAVITY, WEAR = range(8)

# One row of numbers per person, read by name here and in `people.py`.
_LOOK_NAMES = (
    *("hair", "iris", "teeth", "key_direction", "key_colour", "fill_direction", "fill_colour", "sky", "ground"),
    *("cloth", "cloth_second", "collar", "background_top", "background_bottom", "background_spot"),
    *("left_eye", "right_eye", "eye_radii", "neckline", "pattern", "shine", "mouth"),
    *("sclera", "sheen", "shadow"),
)
LOOK = {name: slice(3 * i, 3 * i + 3) for i, name in enumerate(_LOOK_NAMES)}
LOOK_SIZE = 3 * len(LOOK)


@numba.njit(cache=True, fastmath=False)
def shade(
    triangle_ids: np.ndarray,
    barycentric: np.ndarray,
    faces: np.ndarray,
    materials: np.ndarray,
    normals: np.ndarray,
    places: np.ndarray,
    uv: np.ndarray,
    tangents: np.ndarray,
    first_hair: int,
    texture: np.ndarray,
    strands: np.ndarray,
    look: np.ndarray,
    rays: np.ndarray,
    factor: int,
    lamp: np.ndarray,
    tint: np.ndarray,
    cloth: np.ndarray,
    atlas: np.ndarray,
    backdrop: np.ndarray,
) -> np.ndarray:
    """Picture (H / factor, W / factor, 3) uint8.

    Args:
        triangle_ids: (H, W) int32, -1 outside; barycentric: (H, W, 3) weights.
        normals: (V, 3) world; places: (V, 3) template positions, or (strand, length, 0) for hair; uv: (V, 2).
        tangents: (V - first_hair, 3) strand directions, world; look: the numbers of `LOOK`.
        rays: (3, 3) pixel (x, y, 1) of the large picture to world direction.
        factor: side of the square of samples averaged into one pixel.
        lamp: (V,) share of the key light that reaches a vertex. tint: (H, W, 3) factors on the hair's colour. cloth:
            (H, W, 3) linear light in place of the garment's stripes. atlas: (H, W, 4) of what is worn, linear light and
            gloss. backdrop: (H, W, 3) in display space in place of the gradient. Any of them may be empty.
    """
    height, width = triangle_ids.shape[0] // factor, triangle_ids.shape[1] // factor
    out = np.empty((height, width, 3), np.uint8)
    rgb = np.empty(3)
    share = 1.0 / (factor * factor)
    for y in range(height):
        for x in range(width):
            r = g = b = 0.0
            for sy in range(y * factor, y * factor + factor):
                for sx in range(x * factor, x * factor + factor):
                    t = triangle_ids[sy, sx]
                    if t < 0 and backdrop.shape[0] > 0:
                        _clamped(backdrop, (sx + 0.5) / (width * factor), (sy + 0.5) / (height * factor), rgb)
                    elif t < 0:
                        _background(look, (x + 0.5) / width, (y + 0.5) / height, rgb)
                    else:
                        _surface(
                            t,
                            barycentric[sy, sx],
                            faces,
                            materials,
                            normals,
                            places,
                            uv,
                            tangents,
                            first_hair,
                            texture,
                            strands,
                            look,
                            rays,
                            sx + 0.5,
                            sy + 0.5,
                            rgb,
                            lamp,
                            tint,
                            cloth,
                            atlas,
                        )
                    r += rgb[0]
                    g += rgb[1]
                    b += rgb[2]
            # average in display space: in linear light thin bright strands would win over dark ones
            out[y, x, 0] = np.uint8(min(max(r * share, 0.0), 1.0) * 255 + 0.5)
            out[y, x, 1] = np.uint8(min(max(g * share, 0.0), 1.0) * 255 + 0.5)
            out[y, x, 2] = np.uint8(min(max(b * share, 0.0), 1.0) * 255 + 0.5)
    return out


@numba.njit(cache=True, inline="always")
def _step(low, high, value):
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@numba.njit(cache=True)
def _background(look, x, y, rgb):
    # spot holds centre x, centre y, strength
    dx, dy = x - look[42 + 0], y - look[42 + 1]
    glow = look[42 + 2] * np.exp(-3.0 * (dx * dx + dy * dy))
    for k in range(3):
        value = look[36 + k] + (look[39 + k] - look[36 + k]) * y + glow
        rgb[k] = min(max(value, 0.0), 1.0) ** 0.4545454545


@numba.njit(cache=True)
def _bilinear(image, x, y, rgb):
    rows, columns = image.shape[0], image.shape[1]
    x = x * columns - 0.5
    y = min(max(y * rows - 0.5, 0.0), rows - 1.001)
    fx, iy = np.floor(x), int(y)
    ax, ay = x - fx, y - iy
    x0 = int(fx) % columns
    x1 = (x0 + 1) % columns
    for k in range(3):
        top = image[iy, x0, k] * (1 - ax) + image[iy, x1, k] * ax
        low = image[iy + 1, x0, k] * (1 - ax) + image[iy + 1, x1, k] * ax
        rgb[k] = top * (1 - ay) + low * ay


@numba.njit(cache=True)
def _clamped(image, x, y, rgb):
    """`rgb` of a picture at (x, y) in [0, 1], its border repeated outside; returns the last channel."""
    rows, columns = image.shape[0], image.shape[1]
    x = min(max(x * columns - 0.5, 0.0), columns - 1.001)
    y = min(max(y * rows - 0.5, 0.0), rows - 1.001)
    ix, iy = int(x), int(y)
    ax, ay = x - ix, y - iy
    value = 0.0
    for k in range(image.shape[2]):
        top = image[iy, ix, k] * (1 - ax) + image[iy, ix + 1, k] * ax
        low = image[iy + 1, ix, k] * (1 - ax) + image[iy + 1, ix + 1, k] * ax
        value = top * (1 - ay) + low * ay
        if k < 3:
            rgb[k] = value
    return value


@numba.njit(cache=True)
def _strand(image, x, y):
    rows, columns = image.shape
    x = x * columns - 0.5
    y = min(max(y, 0.0), 1.0) * (rows - 1.001)
    fx, iy = np.floor(x), int(y)
    ax, ay = x - fx, y - iy
    x0 = int(fx) % columns
    x1 = (x0 + 1) % columns
    top = image[iy, x0] * (1 - ax) + image[iy, x1] * ax
    return top * (1 - ay) + (image[iy + 1, x0] * (1 - ax) + image[iy + 1, x1] * ax) * ay


@numba.njit(cache=True)
def _surface(
    t,
    w,
    faces,
    materials,
    normals,
    places,
    uv,
    tangents,
    first_hair,
    texture,
    strands,
    look,
    rays,
    px,
    py,
    rgb,
    lamp,
    tint,
    cloth,
    atlas,
):
    i, j, k = faces[t, 0], faces[t, 1], faces[t, 2]
    w0, w1, w2 = w[0], w[1], w[2]
    nx = w0 * normals[i, 0] + w1 * normals[j, 0] + w2 * normals[k, 0]
    ny = w0 * normals[i, 1] + w1 * normals[j, 1] + w2 * normals[k, 1]
    nz = w0 * normals[i, 2] + w1 * normals[j, 2] + w2 * normals[k, 2]
    vx = rays[0, 0] * px + rays[0, 1] * py + rays[0, 2]
    vy = rays[1, 0] * px + rays[1, 1] * py + rays[1, 2]
    vz = rays[2, 0] * px + rays[2, 1] * py + rays[2, 2]
    length = 1.0 / np.sqrt(vx * vx + vy * vy + vz * vz)
    vx, vy, vz = -vx * length, -vy * length, -vz * length  # towards the eye
    size = 1.0 / max(np.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
    if nx * vx + ny * vy + nz * vz < 0:
        size = -size  # both sides of hair are seen
    nx, ny, nz = nx * size, ny * size, nz * size
    x = w0 * places[i, 0] + w1 * places[j, 0] + w2 * places[k, 0]
    y = w0 * places[i, 1] + w1 * places[j, 1] + w2 * places[k, 1]
    z = w0 * places[i, 2] + w1 * places[j, 2] + w2 * places[k, 2]
    material = materials[t]
    occlusion, gloss, sharp, wrap = 1.0, 0.035, 18.0, 0.25

    if material == TORSO:
        # neckline holds height at the front, rise towards the shoulders, opening half-width of a V (0: round)
        front = _step(-0.07, 0.01, z)
        edge = look[54] + look[55] * abs(x) - look[56] * max(0.045 - abs(x), 0.0)
        edge = front * edge + (1.0 - front) * max(look[54] + look[55] * abs(x), look[54] + 0.02)
        depth = edge - y
        if depth > 0.0:
            wave = 0.0
            if look[57] > 0.5:  # stripes: kind (1 across, 2 upright), period, share
                along = y if look[57] < 1.5 else x
                wave = 1.0 if (along / look[58]) % 1.0 < look[59] else 0.0
            if cloth.shape[0] > 0:
                _clamped(cloth, 0.5 + x / 0.44, (0.02 - y) / 0.31, rgb)
            for c in range(3):
                if cloth.shape[0] == 0:
                    rgb[c] = look[27 + c] + (look[30 + c] - look[27 + c]) * wave
                if depth < 0.012:
                    rgb[c] = look[33 + c]
            occlusion = 0.75 + 0.25 * _step(0.0, 0.004, depth)
            gloss = 0.01
        else:
            material = SKIN
    if material == SKIN:
        u0, u1, u2 = uv[i, 0], uv[j, 0], uv[k, 0]
        if max(u0, max(u1, u2)) - min(u0, min(u1, u2)) > 0.5:  # across the seam behind the head
            u0 += 1.0 if u0 < 0.5 else 0.0
            u1 += 1.0 if u1 < 0.5 else 0.0
            u2 += 1.0 if u2 < 0.5 else 0.0
        _bilinear(texture, w0 * u0 + w1 * u1 + w2 * u2, w0 * uv[i, 1] + w1 * uv[j, 1] + w2 * uv[k, 1], rgb)
        gloss, sharp = look[60], look[69]
    elif material == WEAR:
        gloss = _clamped(
            atlas,
            w0 * uv[i, 0] + w1 * uv[j, 0] + w2 * uv[k, 0],
            w0 * uv[i, 1] + w1 * uv[j, 1] + w2 * uv[k, 1],
            rgb,
        )
        sharp = 40.0
    elif material == EYE:
        base = 45 if x > 0 else 48
        dx, dy, dz = x - look[base], y - look[base + 1], z - look[base + 2]
        around = np.sqrt(dx * dx + dy * dy)
        iris, pupil = look[51], look[52]
        white = 0.92 - 0.1 * _step(0.5 * iris, 2.2 * iris, abs(dx))
        ring = _step(0.72 * iris, iris, around)
        fibre = 0.85 + 0.3 * np.sin(np.arctan2(dy, dx) * 23.0) * np.sin(around * 1800.0 + 2.0)
        blend_iris = 1 - _step(0.94 * iris, 1.08 * iris, around)
        blend_pupil = 1 - _step(0.9 * pupil, 1.1 * pupil, around)
        if dz < 0:
            blend_iris = blend_pupil = 0.0
        for c in range(3):
            value = white * look[66 + c]
            colour = look[3 + c] * fibre * (1 - 0.75 * ring)
            value += (colour - value) * blend_iris
            rgb[c] = value * (1 - blend_pupil) + 0.004 * blend_pupil
        occlusion = 0.7 + 0.3 * (1 - _step(0.3 * iris, 1.2 * iris, dy))  # the upper lid's shadow
        gloss, sharp, wrap = 0.5, 160.0, 0.45
    elif material == TEETH:
        for c in range(3):
            rgb[c] = look[6 + c]
        # dim towards the back of the mouth and towards the gums; shine holds gloss of skin, hair, teeth's front z
        occlusion = 0.25 + 0.75 * _step(look[62] - 0.028, look[62] - 0.010, z)
        gloss, sharp = 0.12, 60.0
    elif material == TONGUE:
        rgb[0], rgb[1], rgb[2] = 0.55, 0.15, 0.17
        # dark inside the mouth; what is stretched out between the lips (mouth holds how far) stands in the light
        edge = look[62] - 0.05 * look[63]
        occlusion = 0.12 + 0.88 * _step(edge - 0.02, edge + 0.02 * (1 - look[63]) + 0.005, z)
        gloss, sharp = 0.08, 30.0
    elif material == CAVITY:
        rgb[0], rgb[1], rgb[2] = 0.05, 0.012, 0.012
        occlusion, gloss = 0.5, 0.0

    arrives = 1.0  # share of the key light
    if lamp.shape[0] > 0:
        arrives = w0 * lamp[i] + w1 * lamp[j] + w2 * lamp[k]
    kx, ky, kz = look[9], look[10], look[11]
    fx, fy, fz = look[15], look[16], look[17]
    if material == HAIR:
        u0, u1, u2 = places[i, 0], places[j, 0], places[k, 0]
        if max(u0, max(u1, u2)) - min(u0, min(u1, u2)) > 0.5:
            u0 += 1.0 if u0 < 0.5 else 0.0
            u1 += 1.0 if u1 < 0.5 else 0.0
            u2 += 1.0 if u2 < 0.5 else 0.0
        u0 = w0 * u0 + w1 * u1 + w2 * u2
        bright = _strand(strands, u0, y)
        rgb[0], rgb[1], rgb[2] = look[0], look[1], look[2]
        if tint.shape[0] > 0:
            _clamped(tint, u0 % 1.0, y, rgb)
            for c in range(3):
                rgb[c] *= look[c]
        i, j, k = i - first_hair, j - first_hair, k - first_hair
        tx = w0 * tangents[i, 0] + w1 * tangents[j, 0] + w2 * tangents[k, 0]
        ty = w0 * tangents[i, 1] + w1 * tangents[j, 1] + w2 * tangents[k, 1]
        tz = w0 * tangents[i, 2] + w1 * tangents[j, 2] + w2 * tangents[k, 2]
        norm = 1.0 / max(np.sqrt(tx * tx + ty * ty + tz * tz), 1e-9)
        hx, hy, hz = kx + vx, ky + vy, kz + vz
        half = 1.0 / max(np.sqrt(hx * hx + hy * hy + hz * hz), 1e-9)
        along = (tx * hx + ty * hy + tz * hz) * norm * half + 0.12 * (bright - 1.0)
        # Kajiya and Kay 1989: the highlight lies where the half vector is square to the strand
        shine = max(1.0 - along * along, 0.0) ** 28.0 * look[61]
        facing = max(nx * kx + ny * ky + nz * kz, 0.0)
        facing *= arrives
        lit = (0.35 + 0.65 * max((nx * kx + ny * ky + nz * kz + 0.4) / 1.4, 0.0)) * arrives
        lit2 = max((nx * fx + ny * fy + nz * fz + 0.4) / 1.4, 0.0)
        up = 0.5 + 0.5 * ny
        depth = 0.55 + 0.45 * _step(0.0, 0.12, y)  # the crown's whorl is a little darker
        for c in range(3):
            light = look[12 + c] * lit + look[18 + c] * lit2 + look[24 + c] + (look[21 + c] - look[24 + c]) * up
            value = (
                rgb[c] * bright * bright * depth * light
                + shine * facing * bright * (0.4 * rgb[c] + 0.05) * look[12 + c]
            )
            rgb[c] = min(max(value, 0.0), 1.0) ** 0.4545454545
        return

    facing = nx * kx + ny * ky + nz * kz
    lit = max((facing + wrap) / (1 + wrap), 0.0) * arrives
    lit2 = max((nx * fx + ny * fy + nz * fz + wrap) / (1 + wrap), 0.0)
    up = 0.5 + 0.5 * ny
    hx, hy, hz = kx + vx, ky + vy, kz + vz
    half = 1.0 / max(np.sqrt(hx * hx + hy * hy + hz * hz), 1e-9)
    shine = gloss * max((nx * hx + ny * hy + nz * hz) * half, 0.0) ** sharp if facing > 0 else 0.0
    shine *= arrives
    # skin seen at a grazing angle scatters a little red light
    rim = (1 - abs(nx * vx + ny * vy + nz * vz)) ** 3 * 0.10 if material == SKIN else 0.0
    for c in range(3):
        light = look[12 + c] * lit + look[18 + c] * lit2 + look[24 + c] + (look[21 + c] - look[24 + c]) * up
        value = rgb[c] * light * occlusion + shine * look[12 + c] + (rim * rgb[0] if c == 0 else 0.0)
        rgb[c] = min(max(value, 0.0), 1.0) ** 0.4545454545
