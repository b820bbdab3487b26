"""Run the code of docs/quickstart.md and put what it prints and draws below each block: python docs/make_quickstart.py

All data are SIMULATED. Takes two or three minutes; blocks marked `not run` stay as they are.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from PIL import Image

HERE = Path(__file__).resolve().parent
PAGE = HERE / "quickstart.md"
WIDTH = 900  # pixels of a figure
BEGIN, END = "<!-- output: python docs/make_quickstart.py -->", "<!-- end of output -->"
#: A block of Python with the comment above it and the output of an earlier run below it.
BLOCK = re.compile(
    rf"(?P<note>^<!-- not run: [^\n]+ -->\n)?^```python\n(?P<code>.*?)^```\n(?:\n{BEGIN}\n.*?{END}\n)?",
    flags=re.M | re.S,
)


def main() -> None:
    plt.switch_backend("agg")
    pd.set_option("display.width", 86, "display.precision", 3, "display.max_columns", 12)
    PAGE.write_text(with_outputs(PAGE.read_text(encoding="utf-8"), HERE), encoding="utf-8")


def with_outputs(text: str, folder: Path) -> str:
    """A page with what its blocks print and draw, run from top to bottom; figures are written into `folder`."""
    space: dict[str, Any] = {}
    pictures: list[str] = []

    def renewed(block: re.Match[str]) -> str:
        code = f"```python\n{block['code']}```\n"
        if block["note"]:
            return block["note"] + code
        parts = [f"```text\n{printed}\n```"] if (printed := run(block["code"], space)) else []
        for number in plt.get_fignums():
            pictures.append(f"{PAGE.stem}_{len(pictures) + 1}.png")
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
        exec(compile(tree, PAGE.name, "exec"), space)
        value = None if last is None else eval(compile(ast.Expression(last.value), PAGE.name, "eval"), space)
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
