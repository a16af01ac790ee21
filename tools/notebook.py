"""Run docs/notebook/tour.ipynb, keep its outputs in it, and write the page of the site that shows them.

    python tools/notebook.py

Jupyter is not needed: cells run one after the other in one IPython shell.
"""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path
from typing import Any

from fportrait.atomic_io import write_text

ROOT = Path(__file__).parents[1]
NOTEBOOK, PAGE, PICTURES = (
    ROOT / "docs/notebook/tour.ipynb",
    ROOT / "docs/notebook.md",
    ROOT / "docs/images/notebook",
)


def run(notebook: dict[str, Any]) -> None:
    """Run the cells; each code cell gets its outputs.

    Raises:
        RuntimeError: a cell raised; the cell is named.
    """
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    shell = InteractiveShell.instance()  # the one that `display` and the capture ask
    for number, cell in enumerate(code_cells(notebook), 1):
        with capture_output() as caught:
            result = shell.run_cell("".join(cell["source"]), silent=False)
        if not result.success:
            raise RuntimeError(f"cell {number} of the notebook: {result.error_in_exec or result.error_before_exec!r}")
        outputs: list[dict[str, Any]] = []
        if caught.stdout:
            outputs.append({"output_type": "stream", "name": "stdout", "text": caught.stdout.splitlines(keepends=True)})
        for shown in caught.outputs:
            data = {kind: _text(value) for kind, value in shown.data.items() if kind in ("image/png", "text/plain")}
            outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
        cell |= {"outputs": outputs, "execution_count": number}


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _text(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value).strip()


def page(notebook: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """The notebook as Markdown, and its pictures by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                parts.append("```text\n" + "".join(output["text"]).rstrip() + "\n```")
            elif "image/png" in output.get("data", {}):
                name = f"tour-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(output["data"]["image/png"])
                parts.append(f"![Output of the cell above](images/notebook/{name})")
    where = "*This page is `docs/notebook/tour.ipynb` with its outputs; `python tools/notebook.py` runs it again.*"
    title, *rest = parts
    return "\n\n".join([title, where, *rest]) + "\n", pictures


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    run(notebook)
    write_text(NOTEBOOK, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    text, pictures = page(notebook)
    write_text(PAGE, text)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        (PICTURES / name).write_bytes(content)
    print(f"{PAGE.relative_to(ROOT)}: {len(pictures)} pictures")


if __name__ == "__main__":
    main()
