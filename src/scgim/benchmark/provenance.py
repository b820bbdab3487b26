"""What a number may depend on besides the data: machine, versions, commit."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def machine() -> str:
    """Kind of machine and how busy it was, without anything that names it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0
    text = f"{cores} CPU core{'s' if cores != 1 else ''}"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        text += f", {round(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30)} GiB"
    if hasattr(os, "getloadavg"):
        text += f"; load average {os.getloadavg()[0]:.1f}"
    return text


def versions() -> str:
    """Versions that a number may depend on."""
    from importlib.metadata import version

    names = ("scgim", "torch", "pyro-ppl", "scanpy", "numpy")
    return f"Python {sys.version.split()[0]}, " + ", ".join(f"{name} {version(name)}" for name in names)


def commit() -> str:
    """The short hash of the package's commit and whether it was changed since; empty where git cannot tell."""
    import subprocess

    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():  # installed from a wheel
        return ""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = ", with changes in src that are not committed" if git("status", "--short", "src") else ""
        return f"{git('rev-parse', '--short', 'HEAD')}{changed}"
    except (OSError, subprocess.CalledProcessError):
        return ""
