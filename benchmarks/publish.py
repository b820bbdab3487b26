"""Put what `scgim benchmark` wrote among the results of the documentation: page, table and figures under one name.

    python benchmarks/publish.py FOLDER NAME

The section "Reading" of a page that is there already is written by hand and kept.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from recording import OUT, keep_reading


def publish(folder: Path, name: str, out: Path = OUT) -> Path:
    """Copy ``report.md``, ``results.csv`` and the figures that the page shows."""
    page = (folder / "report.md").read_text(encoding="utf-8").rstrip()
    out.mkdir(parents=True, exist_ok=True)
    for picture in re.findall(r"\]\(([\w-]+\.png)\)", page):
        shutil.copyfile(folder / picture, out / f"{name}_{picture}")
        page = page.replace(f"]({picture})", f"]({name}_{picture})")
    table = pd.read_csv(folder / "results.csv")
    constant = [column for column in ("task",) if column in table]
    table.drop(columns=constant).to_csv(out / f"{name}.csv", index=False, float_format="%.5g")
    path = out / f"{name}.md"
    path.write_text(keep_reading(path, page, page) + "\n", encoding="utf-8")
    return path


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the --out of scgim benchmark")
    parser.add_argument("name", help="of the page")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    print(publish(args.folder, args.name, args.out).name)


if __name__ == "__main__":
    main()
