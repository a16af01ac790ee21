"""How a verb becomes a stage: folders it reads, folders it writes, one report, and its own parameters.

A verb is a plain function. Its keyword-only arguments are the keys of its section in `parameters_<stage>.yml`, so the
signature is the schema: a key that no verb takes is refused (`fportrait.hooks`).
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedro.pipeline import Pipeline, node
from kedro.pipeline.preview_contract import MermaidPreview
from kedro.utils import KedroExperimentalWarning

from fportrait.devices import device_errors, use_device
from fportrait.scale.engines import use_engine

Verb = Callable[..., dict[str, Any]]


def stage(
    name: str,
    verb: Verb,
    reads: Mapping[str, str],
    writes: Mapping[str, str],
    uses: Mapping[str, str] | None = None,
    settings: Sequence[str] = (),
    steps: Sequence[str] = (),
) -> Pipeline:
    """One-node pipeline called `name`.

    Args:
        verb: takes the folders of `reads` and `writes` as `Path`, its parameters as keywords, and returns its report:
            counts and metrics, nothing that differs between two equal runs.
        reads: argument name to catalog name of a folder (or report) that an earlier stage made.
        writes: argument name to catalog name of a folder this stage makes; its path is `params:folders.<catalog name>`.
        uses: argument name to a parameter of another section (`folders.units`, `validate.thresholds`).
        settings: further keys of the stage's section, passed together as the argument `settings`, a dictionary.
        steps: what happens inside, in order; `kedro viz` draws it where the node is looked at.
    """
    uses = {**(uses or {}), "device": "scale.device"}
    keywords = [p.name for p in inspect.signature(verb).parameters.values() if p.kind is p.KEYWORD_ONLY]

    maps = "workers" in keywords  # a verb that maps units is also told on which engine
    if maps:
        uses |= {"engine": "scale.engine", "address": "scale.address"}

    @functools.wraps(verb)
    def run(**inputs: Any) -> tuple[Any, ...]:
        engine = {"name": inputs.pop("engine"), "address": inputs.pop("address")} if maps else {}
        device = inputs.pop("device")
        for argument, parameter in uses.items():
            if parameter.startswith("folders."):
                inputs[argument] = Path(inputs[argument])
        if settings:
            inputs["settings"] = {key: inputs.pop(key) for key in settings}
        folders = {argument: Path(inputs.pop(argument)) for argument in writes}
        with use_engine(**engine), use_device(device), device_errors():
            report = verb(**inputs, **folders)
        return (*folders.values(), report)

    run.__annotations__ = {}  # Kedro would look the verb's types up here, where they are not imported
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # Kedro checks the inputs against it
        [inspect.Parameter("inputs", inspect.Parameter.VAR_KEYWORD)]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", KedroExperimentalWarning)  # previews of nodes are new in Kedro
        one = node(
            run,
            inputs={
                **reads,
                **{argument: f"params:folders.{entry}" for argument, entry in writes.items()},
                **{argument: f"params:{parameter}" for argument, parameter in uses.items()},
                **{keyword: f"params:{name}.{keyword}" for keyword in (*keywords, *settings)},
            },
            outputs=[*writes.values(), f"{name}_report"],
            name=name,
            tags=[name],
            preview_fn=functools.partial(diagram, tuple(steps)) if steps else None,
        )
    return Pipeline([one])


def diagram(steps: Sequence[str]) -> MermaidPreview:
    """The steps inside a node, one below the other, as `kedro viz` draws them."""
    boxes = [f'  s{number}["{step}"]' for number, step in enumerate(steps)]
    arrows = [f"  s{number} --> s{number + 1}" for number in range(len(steps) - 1)]
    return MermaidPreview("\n".join(["flowchart TD", *boxes, *arrows]))
