"""Genes that change against control, and whose change a prediction is nearest to."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import false_discovery_control, mannwhitneyu

from scgim import metrics

GENES = 12
OF_CHANGES = [metrics.de_overlap, metrics.de_direction_match]


def expression(rng: np.random.Generator, n: int, rate: np.ndarray) -> np.ndarray:
    """log1p of Poisson counts: many ties, many zeros."""
    return np.log1p(rng.poisson(rate, size=(n, GENES))).astype(np.float32)


@pytest.fixture
def cells() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True, predicted and control cells: the first five genes change, of which three are predicted the right way."""
    rng = np.random.default_rng(0)
    rate = np.linspace(0.5, 4, GENES)
    change, predicted = np.ones(GENES), np.ones(GENES)
    change[:5] = [4, 3, 3, 0.3, 0.3]
    predicted[:5] = [4, 3, 1 / 3, 0.3, 3]
    return tuple(expression(rng, n, rate * c) for n, c in ((80, change), (70, predicted), (90, np.ones(GENES))))


def test_a_perfect_prediction_has_the_best_value(cells):
    true, _, control = cells
    assert [metric(true, true, control) for metric in OF_CHANGES] == [1.0, 1.0]
    assert metrics.mean_absolute_error(true, true) == 0.0
    assert metrics.discrimination(true, true, np.stack([control.mean(0), true.mean(0) + 1])) == 1.0


def test_overlap_is_that_of_the_genes_called_by_hand(cells):
    true, predicted, control = cells
    called = []
    for x in (true, predicted):
        p = [mannwhitneyu(x[:, j], control[:, j], method="asymptotic").pvalue for j in range(GENES)]
        change = np.abs(np.log2(np.expm1(x.mean(0)) / np.expm1(control.mean(0))))
        order = np.argsort(-change)
        called.append([j for j in order if false_discovery_control(p)[j] < 0.05])
    n = len(called[0])
    assert n >= 5
    assert metrics.de_overlap(*cells) == len(set(called[0]) & set(called[1][:n])) / n
    assert metrics.de_overlap(*cells, n=2) == len(set(called[0][:2]) & set(called[1][:2])) / 2


def test_direction_counts_the_genes_that_change(cells):
    true, predicted, control = cells
    wrong = true[: len(predicted)].copy()
    wrong[:, :5] = predicted[:, :5]
    assert metrics.de_direction_match(true, wrong, control) == pytest.approx(1 - 2 / 5)


def test_control_cells_find_nothing(cells):
    true, _, control = cells
    other = control[np.random.default_rng(1).permutation(len(control))]
    assert metrics.de_overlap(true, other, control) == 0.0


def test_nothing_changes_is_no_value(cells):
    _, predicted, control = cells
    for metric in OF_CHANGES:
        assert np.isnan(metric(control[::2], predicted, control[1::2]))


@pytest.mark.parametrize("metric", OF_CHANGES, ids=lambda m: m.__name__)
def test_order_of_cells_and_genes_and_storage_do_not_matter(metric, cells):
    value = metric(*cells)
    rng = np.random.default_rng(2)
    genes = rng.permutation(GENES)
    assert metric(*(rng.permutation(x)[:, genes] for x in cells)) == pytest.approx(value)
    assert metric(*(sparse.csr_matrix(x) for x in cells)) == pytest.approx(value)


def test_order_of_genes_and_storage_do_not_matter_to_ranks_and_errors(cells):
    true, predicted, control = cells
    others = np.stack([control.mean(0), predicted.mean(0) * 2])
    genes = np.random.default_rng(3).permutation(GENES)
    ranked = metrics.discrimination(true, predicted, others)
    assert metrics.discrimination(true[:, genes], predicted[:, genes], others[:, genes]) == ranked
    assert metrics.discrimination(*map(sparse.csr_matrix, (true, predicted)), others) == ranked
    error = metrics.mean_absolute_error(true, predicted)
    assert metrics.mean_absolute_error(true[:, genes], predicted[:, genes]) == pytest.approx(error)
    assert metrics.mean_absolute_error(*map(sparse.csr_matrix, (true, predicted))) == pytest.approx(error)


def test_a_gene_that_falls_silent_changes_most():
    rng = np.random.default_rng(4)
    control = expression(rng, 60, np.full(GENES, 2.0))
    true = expression(rng, 60, np.full(GENES, 2.0) * np.r_[0, 5, np.ones(GENES - 2)])
    silent = control.copy()
    silent[:, 0] = 0
    assert metrics.de_overlap(true, silent, control, n=1) == 1.0


def test_values_below_zero_are_compared_by_differences():
    rng = np.random.default_rng(5)
    control, shift = rng.normal(size=(60, GENES)), np.zeros(GENES)
    shift[:3] = [-3, 2, 1.5]
    true, predicted = rng.normal(size=(2, 60, GENES)) + shift
    assert metrics.de_overlap(true, predicted, control, n=3) == 1.0
    assert metrics.de_direction_match(true, predicted, control) == 1.0


def test_the_rank_is_among_all_perturbations():
    others = np.array([[2.0], [3.0], [4.0]])
    assert [metrics.discrimination([[0.0]], [[x]], others) for x in (0.5, 1.2, 1.7, 9.0)] == [1.0, 0.75, 0.5, 0.25]


def test_wrong_input_is_refused(cells):
    true, predicted, control = cells
    with pytest.raises(ValueError, match="`predicted_control` has 3 genes"):
        metrics.de_overlap(true, predicted, control, predicted_control=control[:, :3])
    with pytest.raises(ValueError, match="`alpha` must lie between 0 and 1"):
        metrics.de_direction_match(true, predicted, control, alpha=5)
    with pytest.raises(ValueError, match="`others` has 2 genes"):
        metrics.discrimination(true, predicted, [[0.0, 1.0]])
    with pytest.raises(ValueError, match="`others` has 0 cells"):
        metrics.discrimination(true, predicted, np.zeros((0, GENES)))
