"""The package's logger (`logging.getLogger("scgim")`), silent below INFO until the user configures it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("scgim")
#: Seconds between two lines of something that goes on for long.
INTERVAL = 20.0


class Spoken:
    """When something under way was last reported: a log must neither fall silent for minutes nor fill up."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()

    def due(self) -> bool:
        """Whether the next line is due; if so, it counts as said."""
        now = time.perf_counter()
        if now - self.last < INTERVAL:
            return False
        self.last = now
        return True

    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.start


@contextmanager
def log_duration(message: str) -> Iterator[None]:
    """Log `message` with the seconds that the block took."""
    start = time.perf_counter()
    yield
    logger.info("%s (%.1f s)", message, time.perf_counter() - start)
