"""Probes: one factor is moved alone, and every factor of the result is measured.

A probe is a short clip of an embedded person that goes from rest to one full action, head turn or camera move and stays
there. The person at rest is the zero. With Δ = picture(moved) − picture(rest), over the frames that are held:

- **gain** = ⟨Δgenerated, Δtrue⟩ / ‖Δtrue‖² in the region that the factor moves, and beside it the **correlation**, the
  cosine of both. 1 is full strength; a faint copy has a high correlation and a low gain, noise has neither.
- **leakage**: Δgenerated of every probe as a least-squares sum of all probes' Δtrue. Row i, column j says how much of
  factor j came out when only factor i was asked for; the truth itself gives the identity matrix, exactly.
- what a tracker sees, which works on real people too: change of expression code, of head angle to the camera, and of
  identity embedding, each beside the true change; and the **gain in degrees** of the factors that turn the head to the
  camera, ⟨generated, true⟩ / ‖true‖² of the rotation vectors. Pixels ask more of a turn than geometry: the side of a
  head that a portrait does not show has to be guessed, and a good guess of the wrong hair counts as a small gain.

The codec's own limit is scored by the same formulas: what the codec cannot show, no sample can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from fportrait.dataset.sampling import Sampler
from fportrait.errors import UserError, refuse_unknown_keys
from fportrait.evaluation.bootstrap import mean_over_people
from fportrait.evaluation.embedded import Scene, Shot, Studio, codec_limit, generate, ramp_and_hold
from fportrait.evaluation.faces import angles_between, head_rotations, shared_finder
from fportrait.parameters import settings_from
from fportrait.tracking.points import CHIN, GROUPS

if TYPE_CHECKING:
    from fportrait.capture.people import Person

TURNS = ("pose", "view")  # probes whose gain a tracker can tell in degrees
FIRST_SEED = 150_000_000  # of probed people; captures (below 2·10⁹ in steps) and pretraining draw theirs elsewhere
HELD = 4  # frames at the end of a probe
MARGIN = 0.04  # of the picture's side, around the points of a region


def _both(name: str, strength: float = 1.0) -> tuple[tuple[str, float], ...]:
    return ((f"{name}Left", strength), (f"{name}Right", strength))


# name: what moves, and the landmarks around which it shows (None: the whole picture)
PROBES: dict[str, tuple[Shot, tuple[int, ...] | None]] = {
    "jaw": (Shot((("jawOpen", 1.0),)), (*GROUPS["lips"], CHIN)),
    "smile": (Shot(_both("mouthSmile")), GROUPS["lips"]),
    "pucker": (Shot((("mouthPucker", 1.0),)), GROUPS["lips"]),
    "blink": (Shot(_both("eyeBlink")), GROUPS["eyes"]),
    "brows": (Shot((("browInnerUp", 1.0), *_both("browOuterUp"))), GROUPS["brows"]),
    "gaze": (Shot((("eyeLookOutLeft", 0.9), ("eyeLookInRight", 0.9))), (*GROUPS["eyes"], *GROUPS["iris"])),
    "pose": (Shot(head=(20.0, 0.0, 0.0)), None),
    "view": (Shot(camera=(20.0, 0.0)), None),
    "identity": (Shot(), None),
}
EXPRESSIONS = ("jaw", "smile", "pucker", "blink", "brows", "gaze")


@dataclass(frozen=True)
class ProbeSettings:
    """`people` 0 leaves the probes out. `frames` 4k+1, at least 5."""

    people: int = 1
    frames: int = 9
    batch: int = 5
    factors: tuple[str, ...] = tuple(PROBES)
    tracker: bool = True  # measure with landmarks, encoder and identity network as well
    guidance: dict[str, float] | None = None  # scale per factor; None as the protocol samples

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProbeSettings:
        factors = {"factors": tuple(values["factors"])} if "factors" in values else {}
        return settings_from(cls, {**values, **factors}, "evaluate.probes")

    def __post_init__(self) -> None:
        refuse_unknown_keys(self.factors, PROBES, "evaluate.probes.factors")
        if self.people and (self.frames < 5 or self.frames % 4 != 1):
            raise UserError(f"probes of {self.frames} frames", "5, 9, 13, …", "set evaluate.probes.frames to 4k+1")


@dataclass
class Probed:
    """One person's probes: scenes and videos by factor, `rest` among them; videos of `ours` and `codec_limit`."""

    scenes: dict[str, Scene]
    videos: dict[str, dict[str, np.ndarray]]


def run_probes(sampler: Sampler, studio: Studio, settings: ProbeSettings) -> dict[str, Any]:
    """Gains, leakage and the tracker's view, means over people; `{}` without people.

    Two more come along that are not part of the numbers: the first person's pictures under `pictures`, and under `each`
    every person's own gains and largest leak, which the gate compares.
    """
    from fportrait.capture.people import sample_person

    if not settings.people:
        return {}
    everybody, seed = [], sampler.seed
    for index in range(settings.people):
        first = FIRST_SEED + 2 * (1000 * seed + index)
        person, other = sample_person(first, studio.body), sample_person(first + 1, studio.body)
        everybody.append(probe_person(sampler, studio, person, other, settings))
    result: dict[str, Any] = {"people": settings.people, "frames": settings.frames}
    measured = {method: [measure(probed, method) for probed in everybody] for method in ("ours", "codec_limit")}
    result["methods"] = {method: summarise(ones, seed) for method, ones in measured.items()}
    result["each"] = {f"probed person {index}": own_scores(one) for index, one in enumerate(measured["ours"])}
    if settings.tracker:
        result["tracker"] = tracker_view(everybody, studio)
    result["pictures"] = probe_pictures(everybody[0])
    result["settings"] = {**asdict(settings), "factors": list(settings.factors)}
    return result


def probe_person(sampler: Sampler, studio: Studio, person: Person, other: Person, settings: ProbeSettings) -> Probed:
    """Sample every probe of one person; `other` lends the portrait of the probe `identity`."""
    scenes = {"rest": studio.scene(person, [Shot()] * settings.frames)}
    for name in settings.factors:
        who = other if name == "identity" else person
        # Codes are always this person's: with `identity`, only portrait and body shape change.
        scenes[name] = studio.scene(who, ramp_and_hold(PROBES[name][0], settings.frames), driver=person)
    if settings.guidance is not None:
        sampler = replace(sampler, guidance=settings.guidance)
    names = list(scenes)
    ours: dict[str, np.ndarray] = {}
    for first in range(0, len(names), settings.batch):
        part = names[first : first + settings.batch]
        sampled = generate(sampler, [scenes[name] for name in part])
        ours |= dict(zip(part, sampled, strict=True))
    limit = {name: codec_limit(sampler.vae, scene.video) for name, scene in scenes.items()}
    return Probed(scenes, {"ours": ours, "codec_limit": limit})


def held_change(videos: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Δ of a probe over the held frames, `HELD S S 3` float64."""
    return videos[name][-HELD:].astype(np.float64) - videos["rest"][-HELD:]


def region(name: str, scenes: Mapping[str, Scene]) -> np.ndarray:
    """Mask `S S` of where a factor shows: the box around its landmarks at rest and moved."""
    side = scenes["rest"].video.shape[1]
    points = PROBES[name][1]
    if points is None:
        return np.ones((side, side), bool)
    places = np.concatenate([scenes[key].landmarks[-1][list(points)] for key in ("rest", name)])
    low = np.clip(np.floor(places.min(0) - MARGIN * side).astype(int), 0, side - 1)
    high = np.clip(np.ceil(places.max(0) + MARGIN * side).astype(int), 1, side)
    mask = np.zeros((side, side), bool)
    mask[low[1] : high[1], low[0] : high[0]] = True
    return mask


def measure(probed: Probed, method: str) -> dict[str, Any]:
    """Gain and correlation by factor, and the leakage matrix over the factors, of one person and one method."""
    names = [name for name in probed.scenes if name != "rest"]
    truth = {name: scene.video for name, scene in probed.scenes.items()}
    videos = probed.videos[method]
    gains: dict[str, dict[str, float]] = {}
    for name in names:
        mask = region(name, probed.scenes)
        asked, produced = held_change(truth, name)[:, mask], held_change(videos, name)[:, mask]
        power, energy = float((asked**2).sum()), float((produced**2).sum())
        if not power:
            raise UserError(f"the probe '{name}', which changes no pixel", "a factor that shows", "enlarge the picture")
        inner = float((asked * produced).sum())
        gains[name] = {"gain": inner / power, "correlation": inner / np.sqrt(power * energy) if energy else 0.0}
    basis = np.stack([held_change(truth, name).ravel() for name in names], 1)
    results = np.stack([held_change(videos, name).ravel() for name in names], 1)
    return {"gains": gains, "leakage": leakage(basis, results), "factors": names}


def leakage(basis: np.ndarray, results: np.ndarray) -> np.ndarray:
    """`F F`: row i holds the least-squares weights of the true changes `basis` `P F` in result i of `results` `P F`.

    Raises:
        UserError: two factors change the picture alike, so that nothing could tell them apart.
    """
    scale = np.linalg.norm(basis, axis=0)
    gram = (basis / scale).T @ (basis / scale)
    if np.linalg.cond(gram) > 1e8:
        raise UserError(
            "probes that cannot be told apart", "factors with pictures of their own", "leave one of them out"
        )
    weights = np.linalg.solve(gram, (basis / scale).T @ results) / scale[:, None]
    return np.asarray(weights.T)


def own_scores(measured: Mapping[str, Any]) -> dict[str, float]:
    """One person's `gain_FACTOR` of every factor and `worst_leak`."""
    gains = {f"gain_{name}": round(float(entry["gain"]), 6) for name, entry in measured["gains"].items()}
    return {**gains, "worst_leak": round(worst_leak(measured["leakage"]), 6)}


def worst_leak(matrix: np.ndarray) -> float:
    """The largest weight, without its sign, that one factor has in the picture of another."""
    off = np.abs(matrix[~np.eye(len(matrix), dtype=bool)])
    return float(off.max()) if len(off) else 0.0


def summarise(measured: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Means over people, with intervals where there are two or more."""
    names = measured[0]["factors"]
    gains: dict[str, Any] = {}
    for name in names:
        gains[name] = {}
        for kind in ("gain", "correlation"):
            each = {f"{person:06d}": [one["gains"][name][kind]] for person, one in enumerate(measured)}
            gains[name][kind] = mean_over_people(each, seed).cell()
    matrix = np.mean([one["leakage"] for one in measured], 0)
    rows = {
        row: {column: round(float(matrix[i, j]), 4) for j, column in enumerate(names)} for i, row in enumerate(names)
    }
    return {"gains": gains, "leakage": rows, "worst_leak": round(worst_leak(matrix), 4)}


def tracker_view(everybody: Sequence[Probed], studio: Studio) -> dict[str, Any]:
    """What trackers see change when one factor moves: in ours, the codec's limit and the truth, means over people.

    `expression`: root mean square change of the code, standard deviations; `head_degrees`: of the head to the camera
    (a moved camera turns it too); `identity`: cosine distance of identity embeddings, when an identity network is
    there. A measure without a face in either picture is left out, and `faces_found` says how often that was. `turns`:
    gain in degrees and its correlation for each of `TURNS`, of ours and of the codec's limit, against the turn that the
    same tracker sees in the truth.
    """
    from fportrait.evaluation.metrics.csim import default_identity
    from fportrait.tracking.crops import face_crop

    identity, finder = default_identity(), shared_finder()
    rows: dict[str, dict[str, dict[str, list[float]]]] = {}
    found: dict[str, list[float]] = {}
    turned: dict[str, dict[str, list[np.ndarray]]] = {}

    def describe(picture: np.ndarray, scene: Scene) -> dict[str, np.ndarray] | None:
        face = finder(picture, near=scene.landmarks[-1])
        if face is None:
            return None
        crop = face_crop(picture, face.landmarks, studio.encoder.crop_size)
        seen = {
            "expression": studio.encoder.encode(crop[None])[0].astype(np.float64),
            "head_degrees": head_rotations(face.landmarks[None], scene.intrinsics)[0],
        }
        if identity is not None:
            seen["identity"] = identity.embed(picture, face.landmarks)
        return seen

    for probed in everybody:
        truth = {name: scene.video for name, scene in probed.scenes.items()}
        for method, videos in {"truth": truth, **probed.videos}.items():
            seen = {name: describe(video[-1], probed.scenes[name]) for name, video in videos.items()}
            for name in TURNS:
                turned.setdefault(method, {}).setdefault(name, []).append(turn(seen.get(name), seen["rest"]))
            found.setdefault(method, []).extend(float(one is not None) for one in seen.values())
            rest = seen.pop("rest")
            for name, one in seen.items():
                if one is None or rest is None:
                    continue
                values = {
                    "expression": float(np.sqrt(np.mean((one["expression"] - rest["expression"]) ** 2))),
                    "head_degrees": float(angles_between(one["head_degrees"], rest["head_degrees"])),
                }
                if "identity" in one:
                    values["identity"] = 1 - float(one["identity"] @ rest["identity"])
                for key, value in values.items():
                    rows.setdefault(method, {}).setdefault(name, {}).setdefault(key, []).append(value)
    view: dict[str, Any] = {
        method: {
            name: {key: round(float(np.mean(values)), 4) for key, values in entry.items()}
            for name, entry in entries.items()
        }
        for method, entries in rows.items()
    }
    view["turns"] = {
        method: {name: agreement(of[name], turned["truth"][name]) for name in TURNS}
        for method, of in turned.items()
        if method != "truth"
    }
    view["faces_found"] = {method: round(float(np.mean(flags)), 4) for method, flags in found.items()}
    view["identity_network"] = identity.backbone.name if identity is not None else None
    return view


def turn(moved: Mapping[str, np.ndarray] | None, rest: Mapping[str, np.ndarray] | None) -> np.ndarray:
    """Rotation vector `3`, degrees, of the head to the camera from rest; not a number without a face in both."""
    if moved is None or rest is None:
        return np.full(3, np.nan)
    return Rotation.from_matrix(moved["head_degrees"] @ rest["head_degrees"].T).as_rotvec(degrees=True)


def agreement(produced: Sequence[np.ndarray], asked: Sequence[np.ndarray]) -> dict[str, float]:
    """Gain and correlation of rotation vectors, means over the people who have both."""
    both = [(p, a) for p, a in zip(produced, asked, strict=True) if np.isfinite([p, a]).all() and a.any()]
    if not both:
        return {}
    gain = [float(p @ a / (a @ a)) for p, a in both]
    correlation = [float(p @ a / np.linalg.norm(p) / np.linalg.norm(a)) if p.any() else 0.0 for p, a in both]
    return {"gain": round(float(np.mean(gain)), 4), "correlation": round(float(np.mean(correlation)), 4)}


def probe_pictures(probed: Probed) -> dict[str, dict[str, np.ndarray]]:
    """The last frame of every probe, by factor: `truth`, `ours`, `codec_limit`."""
    return {
        name: {"truth": scene.video[-1], **{method: videos[name][-1] for method, videos in probed.videos.items()}}
        for name, scene in probed.scenes.items()
    }
