"""Trains `tracking.covered`: rendered people, random things before them, and where those are.

    python -m fportrait.tracking.making.covered --faces FOLDER --output FILE

FOLDER holds chunks of faces as `python -m fportrait.tracking.making.wide_expression` renders them (`*.npz` with
`wild`: `P F S S 3`). Things are random shapes (blobs, bars, fingers, masks, glasses, strands, scarfs) filled with
random matter (plain and shaded colour, noise, stripes, pieces of other pictures, and the person's own skin, which
teaches that a hand is no mouth).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from fportrait.tracking.covered import CROP, SHIPPED, CoverNet

FINE = 2  # shapes are drawn so many times as large
EYES_AT, EYE_APART, NOSE_AT, MOUTH_AT, CHIN_AT = 0.308, 0.16, 0.46, 0.60, 0.74  # of a crop's side, for a face in front
PLAIN_SHARE = 0.4  # of crops that nothing is put before


def matter(rng: np.random.Generator, crop: np.ndarray, others: np.ndarray) -> np.ndarray:
    """What a thing is made of, `S S 3` float32 in 0..255."""
    size, kind = len(crop), rng.integers(8)
    skin = crop[int(0.36 * size) : int(0.5 * size), int(0.3 * size) : int(0.7 * size)].reshape(-1, 3).astype(float)
    if kind < 2:  # a hand: the person's skin, a little darker or lighter
        colour = np.median(skin, 0) * rng.uniform(0.75, 1.2) + rng.normal(0, 6, 3)
    elif kind == 2:  # another's picture, moved and enlarged
        piece = others[rng.integers(len(others))]
        side = int(rng.uniform(0.25, 0.9) * size)
        y, x = rng.integers(0, size - side, 2)
        return cv2.resize(piece[y : y + side, x : x + side], (size, size)).astype(np.float32)
    elif kind == 3:  # hair: noise smeared along its fall
        colour = np.array([110, 75, 45]) * rng.uniform(0.2, 1.8) * rng.normal(1, 0.15, 3)
        turn = cv2.getRotationMatrix2D((size / 2, size / 2), rng.normal(0, 25), 1.5)
        smeared = cv2.blur(rng.normal(0, 1, (size, size)), (1, int(rng.integers(9, 31))))
        fall = cv2.warpAffine(smeared / smeared.std(), turn, (size, size), borderMode=cv2.BORDER_REFLECT)
        return np.clip(colour * (1 + rng.uniform(0.2, 0.6) * fall[..., None]), 0, 255).astype(np.float32)
    elif kind == 4:
        colour = np.full(3, rng.choice([rng.uniform(0, 60), rng.uniform(190, 255)]))
    else:
        colour = rng.uniform(0, 255, 3)
    y, x = np.mgrid[:size, :size] / size - 0.5
    angle, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.35)
    along = np.cos(angle) * x + np.sin(angle) * y
    light = 1 + bend * along - rng.uniform(0, 1.2) * (x**2 + y**2)
    if rng.random() < 0.4:  # folds, stripes, weave
        light = light + rng.uniform(0.03, 0.25) * np.sin(rng.uniform(8, 60) * along + 3 * x * y * rng.normal())
    if rng.random() < 0.5:
        rough = cv2.resize(rng.normal(0, 1, (rng.integers(4, 32),) * 2), (size, size), interpolation=cv2.INTER_CUBIC)
        light = light + rng.uniform(0.02, 0.15) * rough
    return np.clip(colour * light[..., None], 0, 255).astype(np.float32)


def blob(rng: np.random.Generator, size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 12)))
    reach = radius * rng.uniform(0.5, 1.3, len(angles))
    points = centre + np.stack([np.cos(angles), np.sin(angles) * rng.uniform(0.5, 1.5)], 1) * reach[:, None]
    return _filled(size, points)


def bars(rng: np.random.Generator, size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    """A stick, a microphone, or fingers side by side."""
    mask, count = np.zeros((size, size), np.uint8), int(rng.choice([1, 1, 3, 4]))
    angle = rng.uniform(0, 2 * np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    across, width = np.array([-along[1], along[0]]), max(int(size * rng.uniform(0.05, 0.12)), 2)
    spread = rng.uniform(1.0, 1.25)
    for n in range(count):
        begin = centre + across * (n - (count - 1) / 2) * width * spread + along * rng.normal(0, 0.03) * size
        end = begin + along * size
        cv2.line(mask, tuple(map(int, begin)), tuple(map(int, end)), (1,), width)
        cv2.circle(mask, tuple(map(int, begin)), width // 2, (1,), -1)
    if count == 1 and rng.random() < 0.7:  # the head of a microphone
        cv2.circle(mask, tuple(map(int, centre)), int(width * rng.uniform(0.8, 1.6)), (1,), -1)
    elif count > 1:  # the back of the hand
        palm = centre + along * size * rng.uniform(0.15, 0.3)
        cv2.circle(mask, tuple(map(int, palm)), int(width * count * 0.55), (1,), -1)
    return mask


def mask_or_scarf(rng: np.random.Generator, size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    top, side = rng.uniform(0.38, 0.55), rng.uniform(0.2, 0.36)
    middle, tilt = 0.5 + rng.normal(0, 0.03), rng.normal(0, 0.03)
    if rng.random() < 0.5:
        down = rng.uniform(CHIN_AT - 0.04, CHIN_AT + 0.1)
        points = [
            *((middle - side, top + 0.06 - tilt), (middle - 0.06, top), (middle + 0.06, top)),
            *((middle + side, top + 0.06 + tilt), (middle + 0.8 * side, down - 0.07), (middle, down)),
            (middle - 0.8 * side, down - 0.07),
        ]
    else:
        points = [(0, top + tilt), (middle, top + rng.normal(0, 0.05)), (1, top - tilt), (1, 1), (0, 1)]
    mask = _filled(size, np.array(points) * size)
    if rng.random() < 0.4:
        for x, to in ((middle - side, 0.0), (middle + side, 1.0)):
            begin, end = (int(x * size), int((top + 0.07) * size)), (int(to * size), int(rng.uniform(0.3, 0.5) * size))
            cv2.line(mask, begin, end, (1,), max(1, size // 60))
    return mask


def glasses(rng: np.random.Generator, size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    mask, y = np.zeros((size, size), np.uint8), (EYES_AT + rng.normal(0.01, 0.015)) * size
    wide, high = rng.uniform(0.08, 0.15) * size, rng.uniform(0.06, 0.12) * size
    middle, apart = (0.5 + rng.normal(0, 0.02)) * size, max(EYE_APART * size * rng.uniform(0.9, 1.1), 0.8 * wide)
    round_, one = rng.random() < 0.5, rng.random() < 0.1
    for way in (-1, 1)[: 1 if one else 2]:
        at = (int(middle + way * apart), int(y))
        if round_:
            cv2.ellipse(mask, at, (int(wide), int(high)), 0, 0, 360, (1,), -1)
        else:
            low = (int(at[0] - wide), int(at[1] - high * 0.8))
            cv2.rectangle(mask, low, (int(at[0] + wide), int(at[1] + high)), (1,), -1)
    cv2.line(mask, (int(middle - apart), int(y)), (int(middle + apart), int(y)), (1,), max(1, size // 50))
    return mask


def strands(rng: np.random.Generator, size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    """Hair that hangs from above over a part of the face."""
    mask, x0, drift = np.zeros((size, size), np.uint8), rng.uniform(0.15, 0.85), rng.normal(0, 0.25)
    down, wide = rng.uniform(0.35, 0.9), rng.uniform(0.05, 0.15)
    for _ in range(rng.integers(12, 40)):
        x = x0 + rng.uniform(-wide, wide)
        t = np.linspace(0, 1, 8)
        line = np.stack([x + drift * t**2 + rng.normal(0, 0.01, 8).cumsum(), t * down * rng.uniform(0.8, 1.1)], 1)
        cv2.polylines(mask, [(line * size).astype(np.int32)], False, (1,), max(1, size // 40))
    return cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))


Shape = Callable[[np.random.Generator, int, np.ndarray, float], np.ndarray]
SHAPES: tuple[Shape, ...] = (blob, blob, bars, bars, mask_or_scarf, mask_or_scarf, glasses, strands)


def _filled(size: int, points: np.ndarray) -> np.ndarray:
    """A polygon with rounded corners."""
    mask = cv2.fillPoly(np.zeros((size, size), np.uint8), [np.round(points).astype(np.int32)], (1,))
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), size / 40)
    return np.asarray((soft > 0.5).astype(np.uint8))


def covered(rng: np.random.Generator, crop: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A crop `S S 3` uint8 with something before it, and where that is, `S S` float32 in 0..1."""
    size = len(crop)
    at = np.array([0.5, rng.choice([EYES_AT, NOSE_AT, MOUTH_AT, CHIN_AT])]) + rng.normal(0, (0.13, 0.07))
    shape = SHAPES[rng.integers(len(SHAPES))]
    drawn = shape(rng, FINE * size, FINE * size * at, FINE * size * rng.uniform(0.1, 0.35))
    mask = cv2.resize(drawn.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    thing = matter(rng, crop, others)
    if rng.random() < 0.6:  # round, and darker towards its edges
        deep = cv2.distanceTransform((drawn > 0).astype(np.uint8), cv2.DIST_L2, 3)
        deep = np.sqrt(np.minimum(deep / max(float(np.quantile(deep[drawn > 0], 0.9)) if drawn.any() else 1, 1e-6), 1))
        deep = cv2.resize(deep, (size, size), interpolation=cv2.INTER_AREA)
        thing = thing * (1 - rng.uniform(0.1, 0.6) * (1 - deep))[..., None]
    if shape is glasses:
        thing = thing * rng.uniform(0.1, 0.7)
    opacity = mask * (rng.uniform(0.85, 1) if shape is glasses else 1.0)
    under = crop.astype(np.float32)
    if rng.random() < 0.5:  # its shadow
        right, down = rng.normal(0, 0.02) * size, abs(rng.normal(0, 0.03)) * size
        shift = np.array([[1, 0, right], [0, 1, down]], np.float32)
        shadow = cv2.GaussianBlur(cv2.warpAffine(mask, shift, (size, size)), (0, 0), 0.02 * size)
        under = under * (1 - rng.uniform(0.1, 0.5) * shadow[..., None])
    picture = under * (1 - opacity[..., None]) + thing * opacity[..., None]
    return np.clip(picture, 0, 255).astype(np.uint8), mask


def in_hard_light(rng: np.random.Generator, crop: np.ndarray) -> np.ndarray:
    """A crop whose eyes, or half, lie in a soft shadow: that covers nothing."""
    size = len(crop)
    shadow: np.ndarray = np.zeros((size, size), np.float32)
    if rng.random() < 0.6:
        for way in (-1, 1):
            at = (np.array([0.5 + way * EYE_APART, EYES_AT]) + rng.normal(0, 0.015, 2)) * size
            reach = (int(rng.uniform(0.05, 0.12) * size), int(rng.uniform(0.03, 0.09) * size))
            cv2.ellipse(shadow, tuple(map(int, at)), reach, 0, 0, 360, (1,), -1)
    else:
        angle, middle = rng.uniform(0, 2 * np.pi), rng.uniform(-0.2, 0.2)
        y, x = np.mgrid[:size, :size] / size - 0.5
        shadow = (np.cos(angle) * x + np.sin(angle) * y > middle).astype(np.float32)
    shadow = cv2.GaussianBlur(shadow, (0, 0), rng.uniform(0.02, 0.07) * size)
    return np.asarray(np.clip(crop * (1 - rng.uniform(0.3, 0.9) * shadow[..., None]), 0, 255).astype(np.uint8))


def seen_by_camera(rng: np.random.Generator, crop: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A crop and its mask as the landmarks of a covered face cut them, `CROP CROP`, and as a camera takes them."""
    size = len(crop)
    if rng.random() < 0.5:
        crop = in_hard_light(rng, crop)
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), rng.normal(0, 5), rng.uniform(0.85, 1.2))
    turn[:, 2] = turn[:, 2] + rng.normal(0, 0.03 * size, 2)
    crop, mask = (cv2.warpAffine(one, turn, (size, size)) for one in (crop, mask))
    if rng.random() < 0.5:
        crop, mask = crop[:, ::-1], mask[:, ::-1]
    coarse = int(rng.choice([CROP, CROP, CROP // 2])) if rng.random() < 0.3 else CROP
    small = cv2.resize(np.ascontiguousarray(crop), (coarse, coarse), interpolation=cv2.INTER_AREA).astype(np.float32)
    picture = cv2.resize(small, (CROP, CROP)).astype(np.float64) * rng.uniform(0.6, 1.3) * rng.normal(
        1, 0.07, 3
    ) + rng.normal(0, 8)
    if rng.random() < 0.25:
        picture = picture * 0.3 + 0.7 * picture.mean(-1, keepdims=True)
    picture = picture + rng.normal(0, rng.uniform(0, 8), picture.shape)
    kept = np.clip(picture, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        packed = cv2.imencode(".jpg", kept, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 90))])[1]
        kept = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
    return kept, cv2.resize(np.ascontiguousarray(mask), (CROP, CROP), interpolation=cv2.INTER_AREA)


def batch_of(rng: np.random.Generator, crops: np.ndarray, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures `N 3 S S` in [−1, 1] and masks `N S S`."""
    pictures, masks = [], []
    for index in rng.integers(0, len(crops), count):
        crop, mask = crops[index], np.zeros(crops.shape[1:3], np.float32)
        if rng.random() > PLAIN_SHARE:
            crop, mask = covered(rng, crop, crops)
        picture, mask = seen_by_camera(rng, crop, mask)
        pictures.append(picture)
        masks.append(mask)
    tensor = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return tensor, torch.from_numpy(np.stack(masks)).float()


@torch.no_grad()
def without_covered(network: CoverNet, crops: np.ndarray, share: float) -> np.ndarray:
    """The crops without those in which most of the eyes is found covered: some rendered people wear dark glasses."""
    network.eval()
    rows = slice(int((EYES_AT - 0.05) * CROP), int((EYES_AT + 0.06) * CROP))
    found = []
    for start in range(0, len(crops), 64):
        small = [cv2.resize(crop, (CROP, CROP), interpolation=cv2.INTER_AREA) for crop in crops[start : start + 64]]
        pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1
        found.append(torch.sigmoid(network(pixels))[:, rows, CROP // 4 : -CROP // 4].mean((1, 2)))
    network.train()
    values = torch.cat(found).numpy()
    return np.asarray(crops[values <= np.quantile(values, 1 - share)])


def train(faces: Path, output: Path, steps: int, batch: int, seed: int, start: Path | None) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    chunks = sorted(faces.glob("*.npz"))
    stored = [np.load(path, allow_pickle=False)["wild"] for path in chunks]
    crops = np.concatenate([some.reshape(-1, *some.shape[-3:]) for some in stored])
    held, crops = crops[: len(crops) // 20], crops[len(crops) // 20 :]
    network = (CoverNet.load(start) if start else CoverNet()).float().train()
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    total = 0.0
    for step in range(steps):
        if step in (steps // 3, 2 * steps // 3):
            crops = without_covered(network, crops, 0.03)
        pictures, masks = batch_of(rng, crops, batch)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(pictures), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total = 0.98 * total + 0.02 * float(loss.detach())
        if step % 100 == 99:
            print(f"step {step + 1}: loss {total / (1 - 0.98 ** (step + 1)):.4f}", flush=True)
    network.eval()
    with torch.no_grad():
        pictures, masks = batch_of(np.random.default_rng(seed + 1), held, 512)
        found, true = torch.sigmoid(network(pictures)) > 0.5, masks > 0.5
        print(f"held out: intersection over union {float((found & true).sum() / (found | true).sum()):.3f}")
    network.save(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=SHIPPED)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="a network to go on from")
    arguments = parser.parse_args()
    train(arguments.faces, arguments.output, arguments.steps, arguments.batch, arguments.seed, arguments.start)


if __name__ == "__main__":
    main()
