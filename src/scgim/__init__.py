"""scgim: generative intervention models for single-cell perturbation data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._errors import ScgimError

#: The one place of the version; `CITATION.cff` and `CHANGELOG.md` are held to it by a test.
__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from . import baselines, benchmark, data, datasets, get, inference, metrics, model, pl, pp, simulate, tl  # noqa: F401

_SUBMODULES = (
    "baselines",
    "benchmark",
    "data",
    "datasets",
    "get",
    "inference",
    "metrics",
    "model",
    "pl",
    "pp",
    "simulate",
    "tl",
)

__all__ = ["ScgimError", "__version__", *_SUBMODULES]


def __getattr__(name: str) -> Any:
    # torch and scanpy take seconds to import: load a submodule when it is first touched.
    if name in _SUBMODULES:
        return importlib.import_module(f"scgim.{name}")
    raise AttributeError(f"module 'scgim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
