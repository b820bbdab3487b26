"""What belongs to the process, which a call must leave as it was."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import warnings
from typing import Any

import matplotlib as mpl
import numba
import numpy as np
import pandas as pd
import pyro
import scanpy as sc
import torch
from pyro.poutine.runtime import _PYRO_STACK
from threadpoolctl import threadpool_info


def state() -> dict[str, Any]:
    """What belongs to the process and not to a call."""
    numpy_state = np.random.get_state()  # noqa: NPY002
    loggers = [logging.getLogger(name) for name in (None, "scgim", "scanpy", "anndata", "matplotlib", "py.warnings")]
    return {
        "numba threads": numba.get_num_threads(),  # first: where numba has not run yet, this sets OpenMP's number
        "torch threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "thread pools": {i["filepath"]: i["num_threads"] for i in threadpool_info()},
        "random": random.getstate(),
        "numpy": (numpy_state[1].tolist(), numpy_state[2:]),
        "torch random": torch.get_rng_state().tolist(),
        "torch defaults": (
            torch.get_default_dtype(),
            torch.empty(0).device,
            torch.are_deterministic_algorithms_enabled(),
        ),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "pyro": (pyro.settings.get(), list(pyro.get_param_store().keys()), list(_PYRO_STACK)),
        "checks of distributions": torch.distributions.Distribution._validate_args,
        "warnings": list(warnings.filters),
        "rcParams": dict(mpl.rcParams),
        "logging": [(own.level, own.propagate, own.disabled, list(own.handlers)) for own in loggers],
        "logging off": logging.root.manager.disable,
        "NumPy": (np.geterr(), np.get_printoptions()),
        "pandas": [pd.get_option(name) for name in ("mode.chained_assignment", "display.max_rows")],
        "scanpy": (sc.settings.verbosity, sc.settings.n_jobs, sc.settings.autosave),
        "environment": (dict(os.environ), os.getcwd(), list(sys.path)),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }
