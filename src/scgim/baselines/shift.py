"""Simple predictors: training cells as they are, or control cells with a predicted shift of the mean."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np

from scgim._process import one_thread, undisturbed
from scgim._rng import RngLike, as_generator, torch_generator
from scgim._validation import check_choice

from .protocol import Baseline, CannotPredict, Choice, Condition, Range, TrainingData, check_positive, draw_cells

if TYPE_CHECKING:
    import torch


class Control(Baseline):
    """Control cells as the prediction of every condition: the perturbation does nothing.

    Examples
    --------
    >>> from scgim.baselines import Control
    >>> from scgim.benchmark import SyntheticTask
    >>> data = SyntheticTask(n_genes=5, n_perturbations=4, n_features=4, n_new_targets=0).load().train
    >>> Control().fit(data).sample(data.condition(0), n=3).shape
    (3, 5)
    """

    name: ClassVar[str] = "control"
    can_predict_unseen: ClassVar[bool] = True

    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Keep the control cells."""
        self.control_ = data.x[data.control]  # (control cells, genes)
        return self

    def sample(self, condition: Condition, n: int, rng: RngLike = 0) -> np.ndarray:
        """`n` control cells, without replacement where there are enough; float32 (n, genes)."""
        self._check_fitted("control_")
        return draw_cells(self.control_, n, rng)


class NextLowerDose(Baseline):
    """Training cells of the same perturbation at the largest dose below the one asked for.

    Predicts unseen doses of seen perturbations. It declines (:class:`CannotPredict`) for an unseen
    perturbation, for one without a dose, for a combination, and where no lower dose has training cells: the
    control is deliberately not used as dose 0, it is another baseline.
    """

    name: ClassVar[str] = "next_lower_dose"
    can_predict_unseen: ClassVar[bool] = True

    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Keep the training cells of every perturbation by dose."""
        self.cells_: dict[str, dict[float, np.ndarray]] = {}
        for row in data.trained:
            condition = data.condition(row)
            if len(condition.parts) == 1 and not np.isnan(condition.dose):
                by_dose = self.cells_.setdefault(condition.perturbation, {})
                by_dose[condition.dose] = data.x[data.codes == row]
        return self

    def sample(self, condition: Condition, n: int, rng: RngLike = 0) -> np.ndarray:
        """`n` training cells of the next lower dose, without replacement where there are enough."""
        dose = self.lower_dose(condition)
        return draw_cells(self.cells_[condition.perturbation][dose], n, rng)

    def lower_dose(self, condition: Condition) -> float:
        """The dose whose cells are the prediction; raises :class:`CannotPredict`, saying why, if there is none."""
        self._check_fitted("cells_")
        doses = self.cells_.get(condition.perturbation, {})
        lower = [dose for dose in doses if dose < condition.dose]
        if len(condition.parts) > 1:
            reason = "it is a combination"
        elif np.isnan(condition.dose):
            reason = "it has no dose"
        elif not doses:
            reason = f"{condition.perturbation!r} has no training cells with a dose"
        elif not lower:
            reason = (
                f"no dose of {condition.perturbation!r} below {condition.dose:g} has training cells "
                f"(there are: {', '.join(f'{dose:g}' for dose in sorted(doses))})"
            )
        else:
            return max(lower)
        raise CannotPredict(f"{self.name} cannot predict {condition.label!r}: {reason}.")


@dataclass(kw_only=True, eq=False)
class ShiftBaseline(Control):
    """Control cells, each moved by the shift predicted for the condition.

    Parameters
    ----------
    clip
        Raise negative predicted values to 0. A shift moves zeros and small values below 0, which expression
        cannot be; but where the data are real-valued, negative values are right and clipping would bias them.
        Clipping raises the mean of the clipped genes a little above control mean + shift.
    """

    clip: bool = False

    def sample(self, condition: Condition, n: int, rng: RngLike = 0) -> np.ndarray:
        """`n` control cells plus the shift; float32 (n, genes)."""
        self._check_fitted("control_")
        shift = 0.0 if condition.is_control else self.shift(condition)
        cells = (draw_cells(self.control_, n, rng) + shift).astype(np.float32)
        return np.maximum(cells, 0.0) if self.clip else cells

    @abstractmethod
    def shift(self, condition: Condition) -> np.ndarray:
        """Predicted mean minus control mean, (genes,)."""


class Additive(ShiftBaseline):
    """Shift of a combination = sum of the shifts of its parts, each measured alone in training.

    For a single part that was trained the prediction is the training shift. It declines
    (:class:`CannotPredict`) where a part was never measured alone, and knows nothing of unseen doses.
    ``clip=True`` raises negative predicted values to 0.
    """

    name: ClassVar[str] = "additive"

    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Measure the shift of every part that was applied alone. Deterministic: `rng` is not used."""
        self.shifts_: dict[str, np.ndarray] = {}  # part -> (genes,)
        for row, shift in zip(*data.shifts(), strict=True):
            parts = data.condition(row).parts
            if len(parts) == 1:
                self.shifts_[parts[0]] = shift
        return super().fit(data)

    def shift(self, condition: Condition) -> np.ndarray:
        """Sum of the shifts of the parts, (genes,)."""
        self._check_fitted("shifts_")
        unknown = [repr(part) for part in condition.parts if part not in self.shifts_]
        if unknown:
            raise CannotPredict(
                f"{self.name} cannot predict {condition.label!r}: no training cells with only "
                f"{' or only '.join(unknown)}."
            )
        return np.sum([self.shifts_[part] for part in condition.parts], axis=0)


class FeatureScale:
    """Divides all features by one number, their root mean square over the trained conditions.

    One number for all columns keeps their relative sizes: standardising every column would blow up features
    that vary little in training (late principal components), and extrapolation suffers.
    """

    def __init__(self, data: TrainingData) -> None:
        self.trained = data.features[data.trained].astype(np.float64)  # (trained, p)
        self.scale = float(np.sqrt(np.mean(np.square(self.trained)))) or 1.0

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(features, dtype=np.float64) / self.scale

    def of(self, condition: Condition, baseline: Baseline) -> np.ndarray:
        """(1, p) of a condition; declines where they do not fit."""
        return self(baseline._check_features(condition, self.trained.shape[1]))


@dataclass(kw_only=True, eq=False)
class Ridge(ShiftBaseline):
    """Ridge regression of the mean shift on the features; prediction = control cells + shift.

    The strength is chosen once for all genes by efficient leave-one-condition-out cross-validation
    (scikit-learn's `RidgeCV`); every condition weighs the same. Features are divided by their overall root
    mean square first.

    Parameters
    ----------
    clip
        Raise negative predicted values to 0.
    alphas
        Strengths to choose from (`own`: 13 from 1e-3 to 1e3).
    """

    name: ClassVar[str] = "ridge"

    alphas: Sequence[float] = tuple(np.logspace(-3, 3, 13))

    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Fit the regression. Deterministic: `rng` is not used."""
        from sklearn.linear_model import LinearRegression, RidgeCV

        self._check_data(data, features=True)
        self.scale_ = FeatureScale(data)
        # With one condition nothing can be left out, and any strength gives the same constant shift.
        model = RidgeCV(alphas=self.alphas) if len(data.trained) > 1 else LinearRegression()
        self.model_ = model.fit(self.scale_(self.scale_.trained), data.shifts()[1])
        return super().fit(data)

    def shift(self, condition: Condition) -> np.ndarray:
        """Predicted mean minus control mean, (genes,)."""
        self._check_fitted("model_")
        return np.asarray(self.model_.predict(self.scale_.of(condition, self))).reshape(-1)


@dataclass(kw_only=True, eq=False)
class MeanShift(ShiftBaseline):
    """An MLP predicts the mean shift from the features (MSE); prediction = control cells + shift.

    Trained on one row per perturbed training condition (its mean minus the control mean, every condition
    weighing the same), full batch, AdamW. The defaults were chosen on synthetic systems outside the reported
    seeds, for accuracy on new doses and new targets: without weight decay, or with tanh, the training shifts
    are fitted more closely and new targets are predicted clearly worse.

    Parameters
    ----------
    clip
        Raise negative predicted values to 0.
    hidden
        Widths of the hidden layers (two of 100, as the networks of GIM).
    activation
        "relu" (`own`) or "tanh".
    learning_rate, weight_decay, steps
        Of AdamW, with decoupled weight decay (`own`: 1e-3, 1, 1,000; searched: both activations and, on a log scale,
        1e-4 to 1e-2, 0.01 to 10 and 300 to 3,000).

    Examples
    --------
    >>> from scgim.baselines import MeanShift
    >>> from scgim.benchmark import SyntheticTask
    >>> data = SyntheticTask(n_genes=5, n_perturbations=4, n_features=4, n_new_targets=0).load().train
    >>> MeanShift(steps=100).fit(data).shift(data.condition(1)).shape
    (5,)
    """

    name: ClassVar[str] = "mean_shift"
    search_space: ClassVar[Mapping[str, Range | Choice]] = {
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "weight_decay": Range(1e-2, 10.0, log=True),
        "steps": Range(300, 3_000, log=True, whole=True),
        "activation": Choice(("relu", "tanh")),
    }

    hidden: Sequence[int] = (100, 100)
    activation: Literal["relu", "tanh"] = "relu"
    learning_rate: float = 1e-3
    weight_decay: float = 1.0
    steps: int = 1_000

    def __post_init__(self) -> None:
        check_choice(self.activation, "activation", ("relu", "tanh"))
        check_positive(hidden=self.hidden, steps=self.steps, learning_rate=self.learning_rate)
        check_positive(weight_decay=self.weight_decay, zero=True)

    @undisturbed()
    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Train the network; `rng` draws its initial weights. The global torch state is not touched."""
        import torch

        self._check_data(data, features=True)
        shifts = data.shifts()[1]
        self.scale_ = FeatureScale(data)
        # One number for all genes: the loss stays the plain MSE up to a factor, the step size gets a unit.
        self.shift_scale_ = float(np.sqrt(np.mean(np.square(shifts)))) or 1.0
        inputs = torch.from_numpy(self.scale_(self.scale_.trained)).float()  # (trained, p)
        goal = torch.from_numpy(shifts / self.shift_scale_).float()  # (trained, genes)
        widths = [inputs.shape[1], *self.hidden, goal.shape[1]]
        self.layers_ = _draw_layers(widths, torch_generator(as_generator(rng)))
        parameters = [tensor for layer in self.layers_ for tensor in layer]
        optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        with torch.enable_grad(), one_thread():
            for _ in range(self.steps):
                optimizer.zero_grad()
                loss = (self._forward(inputs) - goal).square().mean()
                loss.backward()
                optimizer.step()
        if not math.isfinite(loss.item()):
            raise CannotPredict(f"{self.name} diverged: the loss is {loss.item()}; lower learning_rate.")
        return super().fit(data)

    @undisturbed()
    def shift(self, condition: Condition) -> np.ndarray:
        """Predicted mean minus control mean, (genes,)."""
        import torch

        self._check_fitted("layers_")
        features = torch.from_numpy(self.scale_.of(condition, self)).float()
        with torch.no_grad():
            return self._forward(features)[0].double().numpy() * self.shift_scale_

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        activate = torch.relu if self.activation == "relu" else torch.tanh
        *inner, (weight, bias) = self.layers_
        for inner_weight, inner_bias in inner:
            x = activate(x @ inner_weight + inner_bias)
        return x @ weight + bias


def _draw_layers(widths: Sequence[int], generator: torch.Generator) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Glorot-uniform weights and zero biases. (torch.nn.Linear would draw from the global generator.)"""
    import torch

    layers = []
    for n_in, n_out in pairwise(widths):
        bound = math.sqrt(6 / (n_in + n_out))
        weight = torch.rand(n_in, n_out, generator=generator) * (2 * bound) - bound
        layers.append((weight.requires_grad_(), torch.zeros(n_out, requires_grad=True)))
    return layers
