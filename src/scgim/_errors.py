"""What scgim raises on purpose: each message says what was found and what to do; anything else is a fault."""

from __future__ import annotations


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
