"""Print the lowest versions that pyproject.toml claims, as pins for `pip install -c`.

Read from pyproject.toml, so that the two cannot differ: of the dependencies and of all that the extra `test` brings.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]


def pins(requirements: list[str]) -> Iterator[str]:
    """`name>=1.2` as `name==1.2`, with those of the extras that are named."""
    for entry in requirements:
        if own := re.fullmatch(rf"{PROJECT['name']}\[(.+)\]", entry):
            for extra in own[1].split(","):
                yield from pins(PROJECT["optional-dependencies"][extra])
        elif claimed := re.fullmatch(r"([\w.-]+)>=([\w.]+)", entry):
            yield f"{claimed[1]}=={claimed[2]}"
        else:
            raise SystemExit(f"pyproject.toml: {entry!r} claims no lowest version; write it as `name>=1.2`.")


if __name__ == "__main__":
    print("\n".join(pins([*PROJECT["dependencies"], f"{PROJECT['name']}[test]"])))
