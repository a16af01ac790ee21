"""Teaches a known expression encoder people unlike those it learned on, without changing what its codes mean.

    python -m fportrait.tracking.making.wide_expression --work FOLDER --output ENCODER

The student starts as the known encoder. For a wild person's crop it learns the code that the known encoder gives plain
people who make the same face in the same place (`wide_faces`); plain people keep their codes. Errors that a person's
faces have in common, which is what a code says of the person, count extra. What was trained on the codes stays right.
Rendering and training go on where they were stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from fportrait.atomic_io import atomic_path, tensors_hash, value_hash, write_json
from fportrait.errors import UserError
from fportrait.pixels import to_model_range
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.tracking.making.expression import augment
from fportrait.tracking.making.wide_faces import MARGIN, FaceRecipe, load_faces, render_chunk

SHIPPED = Path(__file__).parents[2] / "assets" / "base" / "expression_encoder"


@dataclass(frozen=True)
class WideTraining:
    """`wild` and `plain` people of a batch, all their faces each."""

    steps: int = 1200
    wild: int = 4
    plain: int = 2
    learning_rate: float = 3e-4  # at 8e-4 smiles and all else that is faint in the codes was forgotten
    weight_decay: float = 0.01
    person_weight: float = 2.0  # of what the errors of one person's faces have in common
    keep_every: int = 50
    seed: int = 0


class WideBatches:
    """Batches of whole people out of `load_faces`, with the known encoder's codes of every plain face mirrored, too."""

    def __init__(self, faces: dict[str, np.ndarray], known: ExpressionEncoder, settings: WideTraining):
        if len(faces["wild"]) < max(settings.wild, settings.plain):
            raise UserError(
                f"{len(faces['wild'])} people to learn from", "a batch's at least", "render more: raise --people"
            )
        self.faces, self.settings, self.size = faces, settings, known.crop_size
        count, each = faces["plain"].shape[:2]
        self.whitening = whitening(faces["own"].reshape(-1, faces["own"].shape[-1]))
        middle = seen(faces["plain"].reshape(-1, *faces["plain"].shape[2:]), self.size)
        self.mirrored = known.encode(np.ascontiguousarray(middle[:, :, ::-1])).reshape(count, each, -1)

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, Tensor, int]:
        """Crops `N 3 S S` and codes `N 128`, person after person, and how many faces each has."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        pictures, codes = [], []
        for kind, target, many in (("wild", "codes", self.settings.wild), ("plain", "own", self.settings.plain)):
            for person in rng.choice(len(self.faces[kind]), many, replace=False):
                crops, wanted = self.faces[kind][person], self.faces[target][person]
                if rng.random() < 0.5:
                    crops, wanted = crops[:, :, ::-1], self.mirrored[person]
                pictures.append(crops)
                codes.append(wanted)
        images = to_model_range(np.ascontiguousarray(np.concatenate(pictures)))
        images = augment(images, generator, MARGIN, self.size)
        return images, torch.from_numpy(np.concatenate(codes).astype(np.float32)), self.faces["wild"].shape[1]


def whitening(codes: np.ndarray) -> Tensor:
    """What codes `N 128` are multiplied by, `128 128`, so that all they tell apart counts alike.

    A blink moves codes many times as far as a smile does. Directions with less than a fiftieth of the mean variance,
    which tell nothing, are not brought up.
    """
    variances, axes = np.linalg.eigh(np.cov(codes.T.astype(np.float64)))
    scale = np.sqrt(variances.clip(0) + 0.02 * variances.mean())
    return torch.from_numpy((axes / scale).astype(np.float32))


def wide_loss(codes: Tensor, wanted: Tensor, faces: int, person_weight: float) -> Tensor:
    """Error of whitened codes `N 128`, and of its mean over every person's `faces` rows.

    Squared where it is small and linear where it is large: a few people behind dark glasses would outweigh the rest.
    """

    def robust(error: Tensor) -> Tensor:
        return 2 * ((1 + error.square().mean(-1)).sqrt() - 1).mean()

    error = codes - wanted
    return robust(error) + person_weight * robust(error.unflatten(0, (-1, faces)).mean(1))


def train_wide_encoder(
    known: ExpressionEncoder,
    faces: dict[str, np.ndarray],
    settings: WideTraining | None = None,
    state: Path | None = None,
    log: Callable[[dict[str, float], int], None] = lambda values, step: None,
) -> ExpressionEncoder:
    """A student of `known` that reads the wild people of `faces`; a `state` file is kept and gone on from.

    Raises:
        UserError: too few people.
    """
    settings = settings or WideTraining()
    student = ExpressionEncoder(known.width, known.crop_size)
    student.load_state_dict(known.state_dict())
    # Statistics of batch normalisation stay as they are: a batch is six people, which is too few for others.
    student.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]  # missing in torch's stubs
    batches = WideBatches(faces, known, settings)
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(student.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, settings.steps + 1, pct_start=0.1)
    first, name = 0, value_hash([asdict(settings), tensors_hash(known.state_dict())])
    if state is not None and state.exists():
        kept = torch.load(state, weights_only=True)
        if kept["name"] == name:
            first = kept["step"]
            student.load_state_dict(kept["student"])
            optimizer.load_state_dict(kept["optimizer"])
            schedule.load_state_dict(kept["schedule"])
            generator.set_state(kept["generator"])
    for step in tqdm(range(first + 1, settings.steps + 1), "encoder", settings.steps, initial=first, disable=None):
        images, wanted, each = batches(generator)
        with torch.autocast("cpu", torch.bfloat16):
            raw = student(images.to(memory_format=torch.channels_last))
        codes = student.finish(raw.float()) @ batches.whitening
        loss = wide_loss(codes, wanted @ batches.whitening, each, settings.person_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % settings.keep_every == 0 or step == settings.steps:
            log({"loss": loss.item()}, step)
            if state is not None:
                keep(state, name, step, student, optimizer, schedule, generator)
    restore_strength(student, faces)
    return student


@torch.no_grad()
def restore_strength(student: ExpressionEncoder, faces: dict[str, np.ndarray], most: int = 200) -> float:
    """Scale a student's codes so that plain people's are as strong as they were, and return what their gain was.

    A student that learns from blurred and noisy crops holds back, and a transformer would hold back with it.
    """
    crops, wanted = (faces[name].reshape(-1, *faces[name].shape[2:]) for name in ("plain", "own"))
    some = np.linspace(0, len(crops) - 1, min(most, len(crops))).astype(int)
    codes, wanted = student.encode(seen(crops[some], student.crop_size)), wanted[some]
    gain = float((codes * wanted).sum() / (wanted * wanted).sum())
    if gain > 0.1:  # a student that has learned nothing is not blown up
        student.head.weight.div_(gain)
        student.head.bias.copy_(student.code_mean + (student.head.bias - student.code_mean) / gain)
    return gain


def keep(state: Path, name: str, step: int, student, optimizer, schedule, generator: torch.Generator) -> None:
    """Everything that a stopped training goes on from, in one file."""
    parts = {"student": student.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    with atomic_path(state) as path:
        torch.save({"name": name, "step": step, **parts, "generator": generator.get_state()}, path)


def seen(crops: np.ndarray, size: int) -> np.ndarray:
    """The part of stored crops `N S S 3` that the encoder sees, `N size size 3`."""
    images = torch.from_numpy(crops).permute(0, 3, 1, 2).float()
    theta = torch.tensor([[1 / MARGIN, 0, 0], [0, 1 / MARGIN, 0]]).expand(len(crops), 2, 3)
    grid = F.affine_grid(theta, [len(crops), 3, size, size], align_corners=False)
    middle = F.grid_sample(images, grid, align_corners=False)
    return middle.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


@torch.no_grad()
def wide_scores(
    encoder: ExpressionEncoder, readout: nn.Linear, faces: dict[str, np.ndarray], names: list[str]
) -> dict[str, float]:
    """How well an encoder reads people of `faces`, beside the codes that it should give.

    Returns:
        for `wild` and `plain` each: `action`, mean correlation of the readout with the actions that occur; `jaw`,
        `smile`, `blink` of them; `code`, correlation of all numbers of the codes with those wanted, and `gain`, their
        slope; `person`, the share of the codes' variance that is the error common to a person's faces.
    """
    actions = faces["actions"].reshape(-1, faces["actions"].shape[-1])
    moving = [index for index in range(len(names)) if actions[:, index].std() > 0.03]
    scores: dict[str, float] = {}
    for kind, target in (("wild", "codes"), ("plain", "own")):
        crops, wanted = faces[kind], faces[target]
        codes = encoder.encode(seen(crops.reshape(-1, *crops.shape[2:]), encoder.crop_size))
        told = readout(torch.from_numpy(codes)).numpy()
        found = {names[i]: float(np.corrcoef(told[:, i], actions[:, i])[0, 1]) for i in moving}
        scores[f"{kind}_action"] = float(np.mean(list(found.values())))
        for name, action in (("jaw", "jawOpen"), ("smile", "mouthSmileLeft"), ("blink", "eyeBlinkLeft")):
            if action in found:
                scores[f"{kind}_{name}"] = found[action]
        flat = wanted.reshape(len(codes), -1)
        scores[f"{kind}_code"] = float(np.corrcoef(codes.ravel(), flat.ravel())[0, 1])
        scores[f"{kind}_gain"] = float((codes * flat).sum() / (flat * flat).sum())
        common = (codes - flat).reshape(*wanted.shape).mean(1)
        scores[f"{kind}_person"] = float(common.var(0).sum() / codes.var(0).sum())
    return scores


def make(work: Path, output: Path, parent: Path, recipe: FaceRecipe, settings: WideTraining) -> dict[str, dict]:
    """Render, train, score beside the parent and write the encoder with its parent's readout to `output`."""
    from fportrait.body.model import load_body

    known = ExpressionEncoder.from_pretrained(parent)
    weights = load_file(parent / "readout.safetensors")
    actions, codes = weights["weight"].shape
    readout = nn.Linear(codes, actions)
    readout.load_state_dict({name: value.float() for name, value in weights.items()})
    folder = work / recipe.name(tensors_hash(known.state_dict()))
    chunks = range(recipe.chunks)
    files = [render_chunk(chunk, recipe, known, folder) for chunk in tqdm(chunks, "people", disable=None)]
    faces = load_faces(files)
    learned = {name: value[: -recipe.held_out] for name, value in faces.items()}
    strangers = {name: value[-recipe.held_out :] for name, value in faces.items()}
    log = open(work / "wide_expression.jsonl", "a", encoding="utf-8")  # noqa: SIM115

    def write(values: dict[str, float], step: int) -> None:
        print(json.dumps({"step": step, "time": time.strftime("%H:%M:%S"), **values}), file=log, flush=True)

    with log:
        student = train_wide_encoder(known, learned, settings, folder / "state.pt", write)
    names = list(load_body().action_names)
    scores = {
        "before": wide_scores(known, readout, strangers, names),
        "after": wide_scores(student, readout, strangers, names),
    }
    student.save_pretrained(output)
    (output / "readout.safetensors").write_bytes((parent / "readout.safetensors").read_bytes())
    write_json(work / "wide_expression.json", scores)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for rendered faces and what training keeps")
    parser.add_argument("--output", type=Path, required=True, help="folder of the encoder to write")
    parser.add_argument("--parent", type=Path, default=SHIPPED, help="folder of the known encoder; default: shipped")
    parser.add_argument("--people", type=int, default=FaceRecipe.people, help="wild people, 0.6 CPU seconds each")
    parser.add_argument("--steps", type=int, default=WideTraining.steps, help="of 48 crops, 0.15 CPU seconds each")
    arguments = parser.parse_args()
    recipe, settings = FaceRecipe(people=arguments.people), WideTraining(steps=arguments.steps)
    scores = make(arguments.work, arguments.output, arguments.parent, recipe, settings)
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    main()
