"""Print the lowest versions that pyproject.toml claims, as pins for `pip install -c`.

Usage: python .ci/lowest.py [EXTRA ...]. Read from pyproject.toml, so that the two cannot differ.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]


def lowest(requirements: list[str]) -> list[str]:
    """`name>=1.2` as `name==1.2`; extras of scgim itself name others and are left out."""
    own = re.compile(rf"{PROJECT['name']}\[")
    pins = [re.fullmatch(r"([\w.-]+)>=([\w.]+)", entry) for entry in requirements if not own.match(entry)]
    if None in pins:
        raise SystemExit(f"Every requirement needs a lowest version, as `name>=1.2`: {requirements}")
    return [f"{pin[1]}=={pin[2]}" for pin in pins if pin]


if __name__ == "__main__":
    extras = PROJECT["optional-dependencies"]
    print("\n".join(lowest([*PROJECT["dependencies"], *(entry for name in sys.argv[1:] for entry in extras[name])])))
