"""Draws the pictures of how-to/look-at-data.md anew, by its own code: `python docs/build/pictures.py`.

They are kept in the repository, since the site is built without the package and what it needs.
"""

import ast
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

PAGE = Path(__file__).parents[1] / "how-to/look-at-data.md"
PICTURES = PAGE.parent / "pictures"


def draw() -> None:
    """Run the blocks of the page, and keep what a notebook would show."""
    namespace: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(code, PAGE.name, "exec"), namespace)
        last = ast.parse(code).body[-1]
        if isinstance(last, ast.Expr) and isinstance(last.value, ast.Name):
            card = namespace[last.value.id]._repr_html_().replace(f"{Path.cwd()}/", "")
            # In Markdown an empty line would end it.
            (PICTURES / f"{last.value.id}.html").write_text(re.sub(r"\s*\n\s*", " ", card) + "\n")
        for function, number in zip(re.findall(r"axes = swath\.plot\.(\w+)", code), plt.get_fignums(), strict=False):
            if number == 1:
                plt.figure(number).savefig(PICTURES / f"{function}.png", dpi=80)
        plt.close("all")


if __name__ == "__main__":
    mpl.use("agg")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        draw()
        os.chdir("/")
    print(*sorted(path.name for path in PICTURES.iterdir()), sep="\n", file=sys.stderr)
