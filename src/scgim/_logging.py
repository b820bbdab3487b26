"""The package's logger (`logging.getLogger("scgim")`), silent below INFO until the user configures it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("scgim")


@contextmanager
def log_duration(message: str) -> Iterator[None]:
    """Log `message` with the seconds that the block took."""
    start = time.perf_counter()
    yield
    logger.info("%s (%.1f s)", message, time.perf_counter() - start)
