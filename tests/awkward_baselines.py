"""Baselines that take long, fail or cannot be sent: what `fit_within` is tested on. (Its process imports them.)"""

from __future__ import annotations

import os
import signal
import time

import numpy as np

from scgim._rng import as_generator
from scgim.baselines import Baseline, CannotPredict, TrainingData


class Drawing(Baseline):
    """The reference: fits by drawing a number; `mebibytes` of memory are held for a moment."""

    name = "drawing"

    def __init__(self, mebibytes: int = 0) -> None:
        self.mebibytes = mebibytes

    def fit(self, data: TrainingData, rng=0):
        memory = np.ones((self.mebibytes, 2**17))
        self.number_ = as_generator(rng).random() + len(memory)
        self.process_ = os.getpid()
        return self

    def sample(self, condition, n, rng=0):
        return np.full((n, 1), self.number_, dtype=np.float32)


class Sleeping(Drawing):
    """Writes its process into a file, then sleeps; a polite end does not wake it where it is `stubborn`."""

    name = "sleeping"

    def __init__(self, path: str, stubborn: bool = False) -> None:
        self.path, self.stubborn = path, stubborn

    def fit(self, data, rng=0):
        if self.stubborn:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open(self.path, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
        return self


class Odd(Exception):
    """Arrives as something else when it is pickled: it keeps the text, not its arguments."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Failing(Drawing):
    """Raises, or dies."""

    name = "failing"

    def __init__(self, how: str) -> None:
        self.how = how

    def fit(self, data, rng=0):
        if self.how == "declines":
            raise CannotPredict("too few cells")
        if self.how == "key":
            raise KeyError("g7")
        if self.how == "odd":
            raise Odd("this", "that")
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "exit":
            os._exit(3)
        self.function_ = lambda: None  # "unpicklable"
        return self
