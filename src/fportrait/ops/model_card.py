"""What the registry says about the model: a card for the name, its numbers and the run for every version.

The card is Markdown, which MLflow's page of the model renders; its picture lies with the run that promoted it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fportrait.ops.headline import DATASETS, WORDS, headline, named_scores

FOLDER = "card"  # of the promoting run's artifacts
PICTURE, VIDEO = "held-out-person.png", "held-out-person.mp4"
GAP = "&emsp;"  # MLflow's page leaves no room between the columns of a table
LONGEST = 5000  # characters that the registry keeps of a description
COLUMNS = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM ×100",
    "expression_gain": "expression gain",
    "lip_error": "lip error",
    "head_pose_error": "head pose, °",
    "better_than_portrait": "dB above the repeated portrait",
}
CARD = """# fportrait: controllable portrait animation

One portrait, one driving video and one camera path in; a video out in which **expression**, **head pose** and
**viewpoint** are each under separate control.
{picture}
## Use

    export MLFLOW_TRACKING_URI=$(fportrait registry uri)
    python

    >>> import mlflow
    >>> model = mlflow.pyfunc.load_model("models:/fportrait@champion")
    >>> model.predict(model.input_example)

`portrait` and `driving` are paths; `output` (where to write), `camera` (front, spin, spiral or a file), `expression`
(another video), `seed`, `steps` and `guidance` (a scale per factor) may be left out. The result is a list with the
paths of `video` and `picture`.

## Made from

{data}

## Scores of version {version}, on people it was never trained on

{scores}

Gain is the change produced over the change asked for (1 is right), probed factor by factor: {gains}. The largest change
of a factor that was not asked for: {leak}.

## Limits

{limits}
"""
LIMITS = """- {size} pixels, windows of {frames} frames, viewpoints to {yaw:g}° to the side, {elevation:g}° up or down.
- A model of rendered people draws photographs coarsely, and they drift towards the rendered look.
- Lighting, hair, hands, the body below the shoulders and the background are not controlled.
- Not real time. Its videos say in their metadata that they are synthetic; that is no watermark.
- **Not for** people who have not agreed, for passing a video off as a recording, or where a mistake about a face harms
  someone (identification, verification, medical or legal use)."""


def card(
    report: Mapping[str, Any], story: Mapping[str, Any], bundle: Path, version: str, run_id: str, picture: bool
) -> str:
    """The card of the champion: picture, use, data, scores, limits.

    Args:
        report: as in evaluate.json. story: `lineage.collect` of the chain. run_id: the run that has the picture.
    """
    from fportrait.bundle import BundleSettings, stated_settings

    named, settings = named_scores(report), stated_settings(bundle) or BundleSettings()
    gains = ", ".join(f"{k.split('/')[1]} {v:.2f}" for k, v in named.items() if k.startswith("gain/"))
    leak = named.get("control/worst_leak")
    text = CARD.format(
        picture=f"\n![A person held out of training]({picture_address(run_id)})\n" if picture else "",
        data=data_words(story),
        version=version,
        scores=score_table(named),
        gains=gains or "not measured",
        leak="not measured" if leak is None else f"{leak:.2f}",
        limits=LIMITS.format(
            size=settings.size, frames=settings.frames, yaw=settings.trained_yaw, elevation=settings.trained_elevation
        ),
    )
    return text if len(text) <= LONGEST else text[: LONGEST - 2] + " …"


def picture_address(run_id: str) -> str:
    """Where MLflow's own page serves the picture, relative to itself."""
    return "get-artifact?" + urlencode({"path": f"{FOLDER}/{PICTURE}", "run_uuid": run_id})


def data_words(story: Mapping[str, Any]) -> str:
    """People, clips and frames by data set and split, as a table."""
    sums: dict[tuple[str, str], list[int]] = {}
    for name, entry in (story.get("captures") or {}).items():
        row = sums.setdefault((name.split("/")[0], entry["split"]), [0, 0, 0])
        for index, count in enumerate((1, entry["clips"], entry["frames"])):
            row[index] += count
    if not sums:
        return "Its captures are not recorded."
    source = (story.get("stages") or {}).get("ingest", {}).get("parameters", {}).get("source", "")
    words = {"embedded": "Rendered people (the embedded world, CC0).", "folder": "The captures of this project."}
    lines = [
        *([words[source], ""] if source in words else []),
        f"| data set {GAP}| split {GAP}| people {GAP}| clips {GAP}| frames |",
        "| --- | --- | ---: | ---: | ---: |",
        *(f"| {name} {GAP}| {split} | {a} | {b} | {c} |" for (name, split), (a, b, c) in sorted(sums.items())),
        "",
        "Sweeps with free viewpoints (ViewSweep, DynamicSweep) are rendered from avatars of the studio's people.",
    ]
    return "\n".join(lines)


def score_table(named: Mapping[str, float]) -> str:
    rows = [
        f"| {name} {GAP}| "
        + " | ".join(f"{named[f'{name}/{c}']:.3g}" if f"{name}/{c}" in named else "–" for c in COLUMNS)
        + " |"
        for name in DATASETS
        if f"{name}/psnr" in named
    ]
    if not rows:
        return "Not measured."
    return "\n".join(
        [f"| data set {GAP}| " + f" {GAP}| ".join(COLUMNS.values()) + " |", "| --- |" + " ---: |" * len(COLUMNS), *rows]
    )


def sample_of(evaluation: Path) -> dict[str, Path]:
    """A picture and a video of a person held out of training, by their names in the card's folder."""
    found = {}
    for name, folder, kind in ((PICTURE, "strips", "png"), (VIDEO, "videos", "mp4")):
        files = [file for dataset in DATASETS for file in sorted((evaluation / folder / dataset).glob(f"*.{kind}"))]
        if files:
            found[name] = files[0]
    return found


def describe_version(
    server: Any,
    model: str,
    version: str,
    report: Mapping[str, Any],
    story: Mapping[str, Any],
    bundle: Path,
    run_id: str,
    picture: bool,
) -> None:
    """Write the card on the model's name; give the version its key metrics (as tags, in words and as metrics)."""
    server.update_registered_model(model, card(report, story, bundle, version, run_id, picture))
    key = headline("evaluate", report)
    lines = [f"Promoted by the run {run_id}, whose page has the gate's evidence, lineage and scores.", ""]
    lines += [f"- {WORDS.get(name, name)}: {value:.4g}" for name, value in key.items()]
    server.update_model_version(model, version, "\n".join(lines))
    for name, value in key.items():
        server.set_model_version_tag(model, version, name, f"{value:.4g}")
