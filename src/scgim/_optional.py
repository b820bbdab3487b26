"""Optional dependencies, imported when they are first needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from scgim._errors import MissingPackage

#: Distribution names that differ from the name of their module.
_DISTRIBUTIONS = {"causallearn": "causal-learn", "ot": "POT", "sklearn": "scikit-learn"}


def optional_import(name: str, *, extra: str) -> ModuleType:
    """Import a module (dotted or not), or say which extra of scgim installs it; its own errors stay its own.

    >>> from scgim._optional import optional_import
    >>> optional_import("json", extra="metrics").__name__
    'json'
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        top = name.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        distribution = _DISTRIBUTIONS.get(top, top)
        message = f'{distribution} is needed here and is not installed: pip install "scgim[{extra}]"'
        raise MissingPackage(message, name=name) from error
