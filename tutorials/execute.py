"""Execute the tutorials in place: python tutorials/execute.py [NAME ...]

Without names, all notebooks of this folder, in order; a name is the beginning of a file's name ("03"). Stops at the
first cell that fails and is not tagged `raises-exception`, and then leaves the file as it was. What differs from run
to run without meaning anything (times, ids, versions) is taken out, so that a difference in git is a difference.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def strip(notebook: nbformat.NotebookNode) -> None:
    """Take out what is volatile, in place."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
            # Frames of a traceback hold paths of the machine; the last line is what the reader needs.
            if output.output_type == "error":
                output.traceback = [f"{output.ename}: {output.evalue}"]
            elif "image/png" in output.get("data", {}):
                output.data.pop("text/plain", None)


def execute(path: Path, *, timeout: int) -> float:
    """Run one notebook and write it back; returns seconds."""
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute()
    seconds = time.perf_counter() - start
    strip(notebook)
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    return seconds


def chosen(names: list[str]) -> list[Path]:
    """The notebooks whose names begin so."""
    paths = sorted(FOLDER.glob("*.ipynb"))
    for name in names:
        if not any(path.name.startswith(name) for path in paths):
            raise SystemExit(f"No tutorial is called {name}*: there are {', '.join(path.stem for path in paths)}.")
    return [path for path in paths if not names or path.name.startswith(tuple(names))]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Execute the tutorials in place.")
    parser.add_argument("names", nargs="*", help='beginnings of file names, such as "03"; none: all')
    parser.add_argument("--timeout", type=int, default=600, help="maximum seconds for one cell (default: 600)")
    options = parser.parse_args(arguments)
    for path in chosen(options.names):
        before = os.times()
        seconds = execute(path, timeout=options.timeout)
        after = os.times()
        # what the kernel computed: on a busy machine less than what passed
        busy = after.children_user + after.children_system - before.children_user - before.children_system
        print(f"{path.name}: {seconds:.0f} s ({busy:.0f} s of CPU), {path.stat().st_size / 1000:.0f} kB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
