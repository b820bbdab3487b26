"""Optional dependencies, imported when they are first needed."""

from __future__ import annotations

import importlib
from types import ModuleType

#: Distribution names that differ from the name of their module.
_DISTRIBUTIONS = {"causallearn": "causal-learn", "ot": "POT", "sklearn": "scikit-learn"}


def optional_import(name: str, *, extra: str) -> ModuleType:
    """Import an optional package, or say how to install it.

    Parameters
    ----------
    name
        Module to import; may be dotted.
    extra
        The extra of scgim that installs it.

    Returns
    -------
    ModuleType
        The module.

    Raises
    ------
    ImportError
        If the package is not installed, naming the command that installs it. A package that is installed but
        fails to import something of its own raises its own error.

    Examples
    --------
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
        raise ImportError(
            f'{distribution} is needed here and is not installed: pip install "scgim[{extra}]"', name=name
        ) from error
