"""The parts of the report's page, as HTML without any outside reference."""

from __future__ import annotations

import html
from collections.abc import Mapping
from importlib import resources
from typing import Any

from fportrait.evaluation.comparison import TITLES
from fportrait.evaluation.tables import GROUPS, table_of

NOTES = {
    "psnr": "decibels; rewards blur, so read it beside sharpness",
    "ssim": "× 100, RGB, 11×11 Gaussian of σ 1.5",
    "sharpness": "variance of the Laplacian over the truth's; 1 is as sharp",
    "lpips": "deep features; lower is better",
    "csim": "× 100; cosine of identity embeddings",
    "aed": "mean difference of expression coefficients; lower is better",
    "iqa": "no-reference quality, 0 to 100; misleading on flat renders",
    "expression_gain": "change of the codes read back over the change asked; 1 is full strength",
    "expression_error": "root mean square difference of codes, in standard deviations",
    "head_pose_error": "degrees, of the head to the camera",
    "reprojection_error": "distance of the face's points from where camera and pose put them, % of the picture's side",
    "lip_error": "difference of the mouth's opening, in eye distances",
    "gaze_error": "difference of the irises' place, in eye widths",
    "landmark_gain": "movement of the face's points over the true movement",
    "landmark_error": "mean distance of the face's points, pixels",
    "faces_found": "share of frames in which a face is found where it should be",
}
METHOD_TITLES = {"ours": "ours", "codec_limit": "codec's limit", "repeated_portrait": "repeated portrait"}
STYLE, SCRIPT = (
    (resources.files("fportrait") / "assets" / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js")
)


def head_table(summary: Mapping[str, Any]) -> str:
    """The table in the shape of the paper's Table 3."""
    table, body, last = table_of(summary), [], None
    for row in table.rows:
        cells = "".join(f"<td>{html.escape(table.cell(row, column))}" for column in table.columns)
        name = html.escape(row.dataset) if row.dataset != last else ""
        mark = " class=ours" if row.method == TITLES["ours"] else ""
        body.append(f"<tr{mark}><td>{name}<td class=l>{html.escape(row.method)}<td>{row.clips}{cells}</tr>")
        last = row.dataset
    titles = "".join(f"<th>{html.escape(table.head(column))}" for column in table.columns)
    warned = {
        cell["warning"]
        for entry in summary.values()
        if isinstance(entry, Mapping)
        for method in (entry.get("frechet") or {}).values()
        for cell in method.values()
        if cell["warning"]
    }
    warnings = "".join(f"<p class=warn><small>{html.escape(text)}</small></p>" for text in sorted(warned))
    lacking = summary.get("not_measured", {})
    notes = "".join(f"<li>{html.escape(name)}: {html.escape(fix)}</li>" for name, fix in lacking.items())
    missing = (
        f"<details><summary>{len(lacking)} metrics not measured here</summary><ul>{notes}</ul></details>"
        if lacking
        else ""
    )
    said = "".join(f"<p><small>{html.escape(note)}</small></p>" for note in table.notes)
    return f"{_table(f'<th>dataset<th class=l>method<th>clips{titles}', body)}{said}{warnings}{missing}"


def interval_tables(summary: Mapping[str, Any]) -> str:
    """One table per metric: datasets and control modes down, methods across, with intervals."""
    groups = {name: summary[name] for name in GROUPS if name in summary}
    groups |= {f"mode: {name.replace('_', ' ')}": entry for name, entry in summary.get("modes", {}).items()}
    tables = []
    for metric, note in NOTES.items():
        methods = [m for m in METHOD_TITLES if any(metric in entry.get(m, {}) for entry in groups.values())]
        if not methods:
            continue
        head = "".join(f"<th>{METHOD_TITLES[method]}" for method in methods)
        rows = []
        for name, entry in groups.items():
            if any(metric in entry.get(method, {}) for method in methods):
                cells = "".join(f"<td>{_interval(entry.get(method, {}).get(metric))}" for method in methods)
                rows.append(f"<tr><td>{html.escape(name)}{cells}<td>{entry['clips']}</tr>")
        tables.append(
            f"<h3>{metric.replace('_', ' ')}</h3><small>{html.escape(note)}</small>"
            f"{_table(f'<th>{head}<th>clips', rows)}"
        )
    return f"<details><summary>Every metric with its interval</summary>{''.join(tables)}</details>"


def slice_tables(slices: Mapping[str, Any]) -> str:
    """Scores by view angle, skin tone and expression strength."""
    if not slices:
        return ""
    shown = ("psnr", "ssim", "lpips", "csim", "aed", "expression_gain", "reprojection_error", "faces_found")
    present = [
        m for m in shown if any(m in entry.get("ours", {}) for axis in slices.values() for entry in axis.values())
    ]
    head = "".join(f"<th>{metric.replace('_', ' ')}" for metric in present)
    rows = []
    for axis, labels in slices.items():
        for label, entry in labels.items():
            cells = "".join(f"<td>{_interval(entry.get('ours', {}).get(metric))}" for metric in present)
            rows.append(f"<tr><td>{html.escape(axis)}: {html.escape(label)}<td>{entry['clips']}{cells}</tr>")
    return f"<h2>Slices</h2>{_table(f'<th>slice<th>clips{head}', rows)}"


def people_table(people: Mapping[str, Any]) -> str:
    """Scores by person, of clips of people whom the model may know; PSNR beside the baselines'."""
    if not people:
        return ""
    shown = {
        **{"ours/psnr": "PSNR, dB", "repeated_portrait/psnr": "portrait repeated", "codec_limit/psnr": "codec's limit"},
        **{"ours/lpips": "LPIPS", "ours/csim": "CSIM", "ours/head_pose_error": "head °"},
    }
    present = {key: title for key, title in shown.items() if any(key in entry for entry in people.values())}
    covered = any("trained" in entry for entry in people.values())
    rows = []
    for person, entry in people.items():
        cells = "".join(f"<td>{entry[key]:.4g}" if key in entry else "<td>–" for key in present)
        for part in ("trained", "held_out") if covered else ():
            cells += "<td>" + (" to ".join(f"{angle:.0f}°" for angle in entry[part]["yaw"]) if part in entry else "–")
        rows.append(f"<tr><td>{html.escape(person)}<td>{entry['clips']}{cells}</tr>")
    head = "".join(f"<th>{html.escape(title)}" for title in present.values())
    head += "<th>yaw trained on<th>yaw held out" if covered else ""
    said = "windows of the clip that was held out of each; the model was trained on the person's others"
    said = f"<p><small>Clips: {said}.</small></p>" if covered else ""
    return f"<h2>By person</h2>{said}{_table(f'<th>person<th>clips{head}', rows)}"


def control_section(control: Mapping[str, Any], picture: str) -> str:
    """Gains and leakage of the probes."""
    gains, limits = (control["methods"][m]["gains"] for m in ("ours", "codec_limit"))
    rows = []
    for name, entry in gains.items():
        ours, limit = entry["gain"]["mean"], limits[name]["gain"]["mean"]
        rows.append(
            f"<tr><td>{name}<td>{_interval(entry['gain'])}<td>{entry['correlation']['mean']:.2f}"
            f"<td class=l>{_meter(ours)}"
            f"<td>{limit:.2f}<td class=l>{_meter(limit, 'limit')}</tr>"
        )
    matrices = "".join(
        f"<figure>{matrix_svg(control['methods'][method]['leakage'])}<figcaption>{title}</figcaption></figure>"
        for method, title in (("ours", "ours"), ("codec_limit", "codec's limit"))
    )
    view = control.get("tracker")
    return (
        "<h2>Control: one factor moved alone</h2><p><small>Gain 1 is full strength; correlation is its cosine. Rows of "
        "the "
        "matrix are what was asked, columns what came out; the truth is the identity.</small></p>"
        f"<div class=wide>{picture}</div><p><small>rest, then each factor; truth, codec's limit, ours</small></p>"
        f"{_table('<th>factor<th>gain<th>correlation<th><th>codec limit<th>', rows)}"
        f"<h3>Leakage</h3><div class=matrices>{matrices}</div>{_tracker_table(view) if view else ''}"
    )


def _tracker_table(view: Mapping[str, Any]) -> str:
    methods = [m for m in ("truth", "codec_limit", "ours") if m in view]
    kinds = sorted({kind for m in methods for entry in view[m].values() for kind in entry})
    names = list(dict.fromkeys(name for m in methods for name in view[m]))
    head = "".join(f"<th>{kind.replace('_', ' ')} ({m.replace('_', ' ')})" for kind in kinds for m in methods)
    rows = []
    for name in names:
        cells = [view[m].get(name, {}).get(kind) for kind in kinds for m in methods]
        rows.append(
            f"<tr><td>{name}" + "".join("<td>–" if cell is None else f"<td>{cell:.2f}" for cell in cells) + "</tr>"
        )
    found = ", ".join(f"{m.replace('_', ' ')} {share:.0%}" for m, share in view["faces_found"].items())
    turns = "; ".join(
        f"{name} {ours['gain']:.2f} (codec's limit {limit['gain']:.2f})"
        for name, ours in view["turns"]["ours"].items()
        if ours and (limit := view["turns"]["codec_limit"][name])
    )
    return (
        f"<h3>What a tracker sees change</h3>{_table(f'<th>moved{head}', rows)}"
        f"<small>gain in degrees: {turns or 'no face to tell it by'}; faces found: {found}</small>"
    )


def matrix_svg(leakage: Mapping[str, Mapping[str, float]]) -> str:
    """The matrix as a picture: blue positive, red negative, full colour at 1."""
    names, cell, left, top = list(leakage), 38, 62, 58
    width, height = left + cell * len(names) + 34, top + cell * len(names) + 4
    parts = [f"<svg role=img aria-label='leakage matrix' viewBox='0 0 {width} {height}' style='width:100%'>"]
    for j, name in enumerate(names):
        x = left + cell * (j + 0.5)
        parts.append(f"<text x='{x}' y='{top - 6}' transform='rotate(-45 {x} {top - 6})'>{name}</text>")
    for i, row in enumerate(names):
        y = top + cell * i
        parts.append(f"<text x='{left - 6}' y='{y + cell / 2 + 4}' text-anchor='end'>{row}</text>")
        for j, column in enumerate(names):
            value = leakage[row][column]
            strength = min(abs(value), 1.0)
            colour = f"rgba({'37,99,235' if value >= 0 else '220,38,38'},{strength:.2f})"
            ink = ";fill:#fff" if strength > 0.55 else ""
            parts.append(
                f"<rect x='{left + cell * j}' y='{y}' width='{cell - 2}' height='{cell - 2}' "
                f"fill='{colour}' stroke='#8886'/>"
                f"<text x='{left + cell * (j + 0.5) - 1}' y='{y + cell / 2 + 3}' text-anchor='middle' "
                f"style='font-size:10px{ink}'>{value:.2f}</text>"
            )
    return "".join([*parts, "</svg>"])


def _meter(value: float, kind: str = "") -> str:
    share = 100 * min(max(value, 0.0), 1.0)
    return f"<span class=meter><i class='{kind}' style='width:{share:.0f}%'></i></span>"


def cross_section(summary: Mapping[str, Any]) -> str:
    """Cross-reenactment without a truth, and what happened to other methods' videos."""
    parts = []
    cross = summary.get("cross", {})
    if cross:
        names = sorted({m for entry in cross.values() for m in entry.get("ours", {})})
        head = "".join(f"<th>{name.replace('_', ' ')}" for name in names)
        rows = [
            f"<tr><td>{html.escape(dataset)}<td>{entry['clips']}"
            + "".join(f"<td>{_interval(entry['ours'].get(name))}" for name in names)
            + "</tr>"
            for dataset, entry in cross.items()
        ]
        parts.append(
            "<h2>Cross-reenactment</h2><p><small>One held-out person does what another one did; there is no truth. "
            "Identity is compared with the portrait, expression and pose with what was asked.</small></p>"
            f"{_table(f'<th>dataset<th>pairs{head}', rows)}"
        )
    for name, found in summary.get("external", {}).items():
        missing = found["missing"] + [f"{clip}: {reason}" for clip, reason in found["refused"].items()]
        shown = "".join(f"<li>{html.escape(str(one))}</li>" for one in missing[:20])
        parts.append(
            f"<h3>{html.escape(name)}</h3><p><small>{html.escape(found['alignment'])}; {found['scored']} clips scored, "
            f"{len(found['missing'])} missing, {len(found['refused'])} refused</small></p><ul>{shown}</ul>"
        )
    return "".join(parts)


def backbone_table(summary: Mapping[str, Any]) -> str:
    """Which network, with which weights, every metric looked through; settings of the run."""
    rows = [
        f"<tr><td>{html.escape(name)}<td class=l>{html.escape(entry['name'])}"
        f"<td class=l>{entry['sha256'][:16] or 'formula'}</tr>"
        for name, entry in summary.get("backbones", {}).items()
    ]
    listed = ", ".join(f"{key} {value}" for key, value in summary.get("settings", {}).items() if key != "same")
    return (
        f"<h2>Measured with</h2>{_table('<th>metric<th class=l>network<th class=l>SHA-256', rows)}"
        f"<p><small>{html.escape(listed)}</small></p>"
    )


def sparkline(curve: list[float]) -> str:
    """Mean absolute difference per frame, with a cursor that the players move."""
    if len(curve) < 2:
        return ""
    top = max(max(curve), 1e-6)
    points = " ".join(f"{100 * i / (len(curve) - 1):.2f},{38 - 34 * value / top:.2f}" for i, value in enumerate(curve))
    return (
        "<svg class=curve viewBox='0 0 100 40' preserveAspectRatio='none' role=img aria-label='error per frame'>"
        f"<polyline points='{points}' fill='none' stroke='#d97706' stroke-width='1.5' "
        "vector-effect='non-scaling-stroke'/>"
        "<rect class=cursor x='0' y='0' width='.4' height='40' fill='#2563eb'/></svg>"
        f"<small>difference to the truth per frame, at most {top:.1f} of 255</small>"
    )


def _table(head: str, rows: list[str]) -> str:
    return f"<div class=wide><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _interval(entry: Mapping[str, float] | None) -> str:
    if entry is None:
        return "–"
    interval = f" <small>{entry['low']:.2f} … {entry['high']:.2f}</small>" if "low" in entry else ""
    return f"{entry['mean']:.2f}{interval}"
