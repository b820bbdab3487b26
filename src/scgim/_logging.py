"""Stands in until the imports of scgim._logging name scgim._process (TODO-MERGE)."""

from scgim._process import INTERVAL, Spoken, log_duration, logger

__all__ = ["INTERVAL", "Spoken", "log_duration", "logger"]
