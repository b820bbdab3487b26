"""Brings the notebooks of `tutorials/` into the site, and makes their gallery.

They live at the root of the repository, beside the package; Sphinx only sees what is below `docs`. Before a build they
are copied to `docs/generated/tutorials`, with a page of cards that `docs/tutorials.md` includes.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from sphinx.application import Sphinx

_NONE = "This copy of the documentation was built without the folder `tutorials/`, so there is nothing to show here.\n"


class Tutorial(NamedTuple):
    """What the gallery shows of a notebook."""

    name: str
    title: str
    about: str
    picture: bytes | None


def read(path: Path) -> Tutorial:
    """Title (first heading), first paragraph below it, and first picture of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join(_joined(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    heading = re.search(r"^# +(.+)$", text, flags=re.M)
    rest = text[heading.end() :] if heading else text
    paragraphs = (" ".join(block.split()) for block in re.split(r"\n\s*\n", rest))
    about = next((p for p in paragraphs if p and p[0] not in "#|`-*>!<:$"), "")
    return Tutorial(path.stem, heading[1].strip() if heading else path.stem, about, _first_picture(cells))


def _joined(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def _first_picture(cells: list[dict[str, Any]]) -> bytes | None:
    for cell in cells:
        for output in cell.get("outputs", []):
            encoded = output.get("data", {}).get("image/png")
            if encoded:
                return base64.b64decode(_joined(encoded))
    return None


def gather(source: Path, target: Path) -> list[Tutorial]:
    """Copy the notebooks of `source` to `target`, with `gallery.md` and their pictures; returns what was found."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    paths = sorted(source.glob("*.ipynb"))
    found = [read(path) for path in paths]
    for path, tutorial in zip(paths, found, strict=True):
        shutil.copyfile(path, target / path.name)
        if tutorial.picture is not None:
            (target / f"{path.stem}.png").write_bytes(tutorial.picture)
    place = f"{target.parent.name}/{target.name}"
    (target / "gallery.md").write_text(gallery(found, place), encoding="utf-8")
    return found


def gallery(tutorials: list[Tutorial], place: str) -> str:
    """The cards and the toctree, as Markdown that is included in a page of the folder above `place`."""
    if not tutorials:
        return _NONE
    cards = [
        f":::{{grid-item-card}} {tutorial.title}\n"
        f":link: {place}/{tutorial.name}\n"
        ":link-type: doc\n"
        + (f":img-top: {place}/{tutorial.name}.png\n" if tutorial.picture is not None else "")
        + f"\n{tutorial.about}\n:::"
        for tutorial in tutorials
    ]
    pages = "\n".join(f"{place}/{tutorial.name}" for tutorial in tutorials)
    grid = "\n\n".join(["::::{grid} 1 2 2 2\n:gutter: 3", *cards, "::::"])
    return f"{grid}\n\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"


def _before_reading(app: Sphinx, config: Any) -> None:
    here = Path(app.confdir)
    gather(here.parent / "tutorials", here / "generated" / "tutorials")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", _before_reading)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
