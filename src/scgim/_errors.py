"""What scgim raises on purpose: each message says what was found and what to do; anything else is a fault."""

from __future__ import annotations

import importlib
from types import ModuleType

#: Distribution names that differ from the name of their module.
_DISTRIBUTIONS = {"causallearn": "causal-learn", "ot": "POT", "sklearn": "scikit-learn"}


class ScgimError(Exception):
    """A refusal: what was asked for cannot be done, and the message is for the user."""


class InvalidValue(ScgimError, ValueError):
    """An argument, or something in the data, has a value that cannot be used."""


class InvalidType(ScgimError, TypeError):
    """An argument, or something in the data, has the wrong type."""


class NotFound(ScgimError, KeyError):
    """A column, slot, gene or condition does not exist."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # KeyError would put the message in quotes


class MissingPackage(ScgimError, ImportError):
    """An optional package is not installed."""


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
    MissingPackage
        If the package is not installed, naming the command that installs it. A package that is installed but
        fails to import something of its own raises its own error.

    Examples
    --------
    >>> from scgim._errors import optional_import
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
