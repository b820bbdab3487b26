"""From latent log expression to raw counts: depth and negative-binomial noise."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from scgim._errors import InvalidValue
from scgim._rng import RngLike, as_generator


def draw_depths(n_cells: int, *, median: float, log_sd: float = 0.5, rng: RngLike = 0) -> np.ndarray:
    """Draw expected total counts (cells,), log-normal over cells.

    Parameters
    ----------
    n_cells
        Number of cells.
    median
        Median total count.
    log_sd
        Standard deviation of the log depth (own: 0.5, what combinatorial indexing typically has).
    rng
        Seed or generator.

    Examples
    --------
    >>> from scgim.simulate import draw_depths
    >>> draw_depths(3, median=1000.0).shape
    (3,)
    """
    if median <= 0:
        raise InvalidValue(f"median depth must be positive, got {median}.")
    return median * np.exp(log_sd * as_generator(rng).standard_normal(n_cells))


def count_cells(rates: np.ndarray, *, overdispersion: np.ndarray | float, rng: RngLike = 0) -> sparse.csr_matrix:
    """Draw negative-binomial counts (float32) as a gamma mixture of Poissons.

    Parameters
    ----------
    rates
        Expected counts (cells, genes).
    overdispersion
        phi in `variance = rate + phi * rate^2`, a number or (genes,); 0 is Poisson.
    rng
        Seed or generator.

    Examples
    --------
    >>> import numpy as np
    >>> from scgim.simulate import count_cells
    >>> count_cells(np.full((5, 2), 0.5), overdispersion=1.0).shape
    (5, 2)
    """
    rates = np.asarray(rates, dtype=float)
    phi = np.broadcast_to(np.asarray(overdispersion, dtype=float), rates.shape[1:])
    for name, values in (("rates", rates), ("overdispersion", phi)):
        if not np.isfinite(values).all() or (values < 0).any():
            raise InvalidValue(f"{name} must be finite and not negative.")
    generator = as_generator(rng)
    mixed = rates.copy()
    spread = phi > 0
    if spread.any():
        # A gamma variable with shape 1 / phi and scale phi has mean 1 and variance phi.
        shape = np.broadcast_to(1.0 / phi[spread], (len(rates), int(spread.sum())))
        mixed[:, spread] *= generator.standard_gamma(shape) * phi[spread]
    return sparse.csr_matrix(generator.poisson(mixed).astype(np.float32))
