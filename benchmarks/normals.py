"""How many normal maps does one CPU-second draw, against OpenGL in software and against torch?

12,000 triangles of the embedded head, 512 by 512 pixels, from vertices in memory to a picture in memory. The peer is
moderngl on Mesa's llvmpipe (`pip install moderngl`, Debian: `libegl1 libgl1-mesa-dri`). Time is CPU time of the whole
process, because llvmpipe spreads over all cores. All are first compared with the same picture.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable

os.environ.setdefault("LIBGL_ALWAYS_SOFTWARE", "1")
os.environ.setdefault("GALLIUM_DRIVER", "llvmpipe")

import numpy as np
import torch
from _result import write_result

from fportrait.body.model import Pose, load_body
from fportrait.body.rasterizer import NEAR, normal_map, vertex_normals
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.camera.paths import orbit

SIZE, FACES, FRAMES, ROUNDS = 512, 12_000, 12, 5

VERTEX = """
#version 330
uniform mat4 projection;
in vec3 place;
in vec3 normal;
out vec3 n;
void main() { n = normal; gl_Position = projection * vec4(place, 1.0); }
"""
FRAGMENT = """
#version 330
in vec3 n;
out vec4 colour;
void main() { vec3 u = normalize(n); colour = vec4(vec3(u.x, -u.y, -u.z) * 0.5 + 0.5, 1.0); }
"""


def head() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, 12,000 faces and weld: the embedded head with as many triangles split in four as it takes."""
    body = load_body()
    vertices, faces, weld = body.vertices(np.zeros(body.identity_dim), None, Pose.rest()), body.faces, body.weld
    split = (FACES - len(faces)) // 3  # of the largest triangles
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    largest = np.argsort(-area)[:split]
    rest = np.delete(faces, largest, 0)
    places, new, count = [vertices], [rest], len(vertices)
    a, b, c = faces[largest].T
    for pair in ((a, b), (b, c), (c, a)):
        places.append(0.5 * (vertices[pair[0]] + vertices[pair[1]]))
    ab, bc, ca = (count + np.arange(split) + i * split for i in range(3))
    new += [np.stack(f, 1) for f in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
    places = np.concatenate(places)
    return (
        places,
        np.concatenate(new).astype(np.int32),
        np.concatenate([weld, np.arange(count, len(places))]).astype(np.int32),
    )


def gl_renderer(faces: np.ndarray, weld: np.ndarray, k: np.ndarray) -> tuple[Callable[..., np.ndarray], str]:
    """A function like `normal_map` that draws by OpenGL, and the renderer's name."""
    import moderngl

    context = moderngl.create_context(standalone=True, backend="egl")
    program = context.program(vertex_shader=VERTEX, fragment_shader=FRAGMENT)
    far = 10.0
    projection = np.zeros((4, 4), np.float32)  # OpenCV camera space to clip space, y down kept: rows come out in order
    projection[0, 0], projection[0, 2] = 2 * k[0, 0] / SIZE, 2 * k[0, 2] / SIZE - 1
    projection[1, 1], projection[1, 2] = 2 * k[1, 1] / SIZE, 2 * k[1, 2] / SIZE - 1
    projection[2, 2], projection[2, 3] = (far + NEAR) / (far - NEAR), -2 * far * NEAR / (far - NEAR)
    projection[3, 2] = 1
    program["projection"].write(projection.T.tobytes())
    count = int(faces.max()) + 1
    buffer = context.buffer(reserve=count * 24)
    index = context.buffer(faces.astype(np.int32).tobytes())
    mesh = context.vertex_array(program, [(buffer, "3f 3f", "place", "normal")], index)
    target = context.framebuffer([context.texture((SIZE, SIZE), 3)], context.depth_renderbuffer((SIZE, SIZE)))
    context.enable(moderngl.DEPTH_TEST)

    def draw(vertices: np.ndarray, w2c: np.ndarray) -> np.ndarray:
        camera = vertices @ w2c[:3, :3].T + w2c[:3, 3]
        normals = vertex_normals(camera, faces, weld)
        buffer.write(np.concatenate([camera, normals], 1).astype(np.float32).tobytes())
        target.use()
        target.clear(0.0, 0.0, 0.0, 1.0)
        mesh.render()
        return np.frombuffer(target.read(components=3, alignment=1), np.uint8).reshape(SIZE, SIZE, 3)

    return draw, context.info["GL_RENDERER"]


def cpu_ms(draw: Callable[..., np.ndarray], vertices: np.ndarray, cameras: np.ndarray) -> float:
    """CPU milliseconds per frame, all threads together."""
    started = time.process_time()
    for camera in cameras:
        draw(vertices, camera)
    return (time.process_time() - started) / len(cameras) * 1e3


def main() -> None:
    torch.set_num_threads(1)
    vertices, faces, weld = head()
    k = intrinsics_from_fov(26.0, SIZE, SIZE)
    cameras = orbit(np.linspace(-60, 60, FRAMES), np.linspace(-15, 15, FRAMES), np.full(FRAMES, 0.6))

    def by(backend: str) -> Callable[..., np.ndarray]:
        return lambda v, w2c: normal_map(v, faces, w2c, k, SIZE, SIZE, weld=weld, backend=backend)

    ways = {"numba": by("numba"), "torch": by("torch")}
    try:
        ways["moderngl"], renderer = gl_renderer(faces, weld, k)
    except Exception as error:
        renderer = None
        print(f"no moderngl with EGL here ({error}); install moderngl and libegl1 libgl1-mesa-dri to compare with it")
    reference = ways["numba"](vertices, cameras[0]).astype(int)
    differences = {}
    for name, draw in ways.items():
        picture = draw(vertices, cameras[0]).astype(int)
        both = picture.any(2) & reference.any(2)
        differences[name] = {
            "other_silhouette_pixels": int((picture.any(2) != reference.any(2)).sum()),
            "mean_levels": round(float(np.abs(picture - reference)[both].mean()), 4),
        }
        if differences[name]["other_silhouette_pixels"] > 40 or differences[name]["mean_levels"] > 0.6:
            raise SystemExit(f"{name} draws another picture: {differences[name]}")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _, (name, draw) in itertools.product(range(ROUNDS), ways.items()):  # in turns, as the machine is shared
        times[name].append(cpu_ms(draw, vertices, cameras))
    median = {name: round(float(np.median(values)), 2) for name, values in times.items()}
    print(f"{len(faces)} faces, {SIZE}², CPU ms per frame: {median}; differences from numba {differences}")
    write_result(
        name="normals",
        what=f"normal maps of {len(faces)} faces at {SIZE}², CPU time per frame",
        ours=median["numba"],
        theirs=median.get("moderngl"),
        peer=f"moderngl on {renderer}" if renderer else None,
        unit="CPU ms",
        bound=1.0 if renderer else median["torch"],
        n=FRAMES * ROUNDS,
        torch_ms=median["torch"],
        differences=differences,
        moderngl="compared" if renderer else "missing: not compared; the bound is torch's time instead",
    )


if __name__ == "__main__":
    main()
