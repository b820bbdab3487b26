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
    space: dict[str, Any] = {}
    drawn: list[str] = []

    def renewed(block: re.Match[str]) -> str:
        code = f"```python\n{block['code']}```\n"
        if block["note"]:
            return block["note"] + code
        printed = run(block["code"], space)
        names = [save(plt.figure(number), len(drawn) + at) for at, number in enumerate(plt.get_fignums())]
        drawn.extend(names)
        plt.close("all")
        parts = [f"```text\n{printed}\n```"] if printed else []
        parts += [f"![What the code above draws, on simulated data]({name})" for name in names]
        return code + ("\n" + "\n".join([BEGIN, "\n\n".join(parts), END]) + "\n" if parts else "")

    PAGE.write_text(BLOCK.sub(renewed, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


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


def save(figure: plt.Figure, number: int) -> str:
    """Write a figure as a small file; returns its name."""
    name = f"quickstart_{number + 1}.png"
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, bbox_inches="tight")
    picture = Image.open(buffer).convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    picture.quantize(colors=64, dither=Image.Dither.NONE).save(HERE / name, optimize=True)
    return name


if __name__ == "__main__":
    main()
