"""Write `.dvc/plots/page.html`: the page of `dvc plots` with Vega inside, so that it draws without a network.

    npm pack vega@5.33.0 vega-lite@5.23.0 vega-embed@6.29.0
    python tools/dvc_plots_page.py .

DVC's own page loads the same three libraries from jsdelivr.net. `.dvc/config` names this one (`plots.html_template`).
"""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

PACKAGES = ("vega", "vega-lite", "vega-embed")  # in the order in which they need each other
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
{{refresh_tag}}
<title>Training curves</title>
<style>body {{font-family: sans-serif; margin: 1.5em; display: flex; flex-wrap: wrap; gap: 1em}}
table {{border-spacing: 15px}}</style>
{scripts}
</head>
<body>
{{plot_divs}}
</body>
</html>
"""


def read_package(folder: Path, name: str) -> tuple[str, str]:
    """The minified library and the licence of the npm package `name` that lies in `folder`.

    Raises:
        FileNotFoundError: no such package.
    """
    (archive,) = [path for path in folder.glob(f"{name}-*.tgz") if path.stem.removeprefix(f"{name}-")[0].isdigit()]
    with tarfile.open(archive) as files:
        read = [files.extractfile(f"package/{entry}") for entry in (f"build/{name}.min.js", "LICENSE")]
        code, licence = (entry.read().decode() for entry in read if entry is not None)
    if "</script" in code or "*/" in licence:
        raise ValueError(f"{archive} cannot stand inside a page as it is")
    return code, licence


def main(folder: Path) -> None:
    scripts = []
    for name in PACKAGES:
        code, licence = read_package(folder, name)
        scripts.append(f"<script>/* {name}\n{licence.strip()}\n*/\n{code.strip()}\n</script>")
    target = Path(__file__).parents[1] / ".dvc/plots/page.html"
    target.parent.mkdir(exist_ok=True)
    target.write_text(PAGE.format(scripts="\n".join(scripts)), encoding="utf-8")
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
