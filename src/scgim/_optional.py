"""Stands in until the imports of scgim._optional name scgim._errors (TODO-MERGE)."""

from scgim._errors import optional_import

__all__ = ["optional_import"]
