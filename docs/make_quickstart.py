"""Run the code of a page and put what it prints and draws below each block: python docs/make_quickstart.py [recipes]

The page is docs/quickstart.md, or docs/recipes.md. All data are SIMULATED. Takes two or three minutes; blocks marked
`not run` stay as they are, as do those that need a package that is not installed.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from PIL import Image

HERE = Path(__file__).resolve().parent
WIDTH = 900  # pixels of a figure
BEGIN, END = "<!-- output: python docs/make_quickstart.py -->", "<!-- end of output -->"
#: A block of Python with the comment above it and the output of an earlier run below it.
BLOCK = re.compile(
    r"(?P<note>^<!-- (?:not run|needs): (?P<why>[^\n]+) -->\n)?"
    rf"^```python\n(?P<code>.*?)^```\n(?:\n{BEGIN}\n.*?{END}\n)?",
    flags=re.M | re.S,
)


def main() -> None:
    plt.switch_backend("agg")
    pd.set_option("display.width", 86, "display.precision", 3, "display.max_columns", 12)
    name = sys.argv[1] if len(sys.argv) > 1 else "quickstart"
    page = HERE / f"{name}.md"
    page.write_text(with_outputs(page.read_text(encoding="utf-8"), HERE, name), encoding="utf-8")


def with_outputs(text: str, folder: Path, name: str = "quickstart") -> str:
    """A page with what its blocks print and draw, run from top to bottom; figures `name_1.png` go into `folder`."""
    space: dict[str, Any] = {}
    pictures: list[str] = []

    def renewed(block: re.Match[str]) -> str:
        code = f"```python\n{block['code']}```\n"
        note = block["note"] or ""
        if "not run" in note:
            return note + code
        if note and importlib.util.find_spec(block["why"]) is None:
            return block[0]
        code = note + code
        parts = [f"```text\n{printed}\n```"] if (printed := run(block["code"], space)) else []
        for number in plt.get_fignums():
            pictures.append(f"{name}_{len(pictures) + 1}.png")
            save(plt.figure(number), folder / pictures[-1])
            parts.append(f"![What the code above draws, on simulated data]({pictures[-1]})")
        plt.close("all")
        return code + ("\n" + "\n".join([BEGIN, "\n\n".join(parts), END]) + "\n" if parts else "")

    return BLOCK.sub(renewed, text)


def run(code: str, space: dict[str, Any]) -> str:
    """What the code prints, and the value of its last line unless that draws."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        exec(compile(tree, "page", "exec"), space)
        value = None if last is None else eval(compile(ast.Expression(last.value), "page", "eval"), space)
        if value is not None and not plt.get_fignums():
            print(value)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())


def save(figure: plt.Figure, path: Path) -> None:
    """Write a figure as a small file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, bbox_inches="tight")
    picture = Image.open(buffer).convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    picture.quantize(colors=64, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
