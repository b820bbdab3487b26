"""The mean-shift MLP: a network predicts the shift of the mean from the perturbation's features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np

from scgim._process import one_thread, undisturbed
from scgim._rng import RngLike, as_generator, torch_generator

from .protocol import CannotPredict, Choice, Condition, Range, TrainingData, check_fitted
from .shift import FeatureScale, ShiftBaseline, check_features, trained_shifts

if TYPE_CHECKING:
    import torch


class MeanShift(ShiftBaseline):
    """An MLP predicts the mean shift from the features (MSE); prediction = control cells + shift.

    Trained on one row per perturbed training condition (its mean minus the control mean, every condition
    weighing the same), full batch, AdamW. The defaults were chosen on synthetic systems outside the reported
    seeds, for accuracy on new doses and new targets: without weight decay, or with tanh, the training shifts
    are fitted more closely and new targets are predicted clearly worse.

    Parameters
    ----------
    hidden
        Widths of the hidden layers (two of 100, as the networks of GIM).
    activation
        "relu" (`own`) or "tanh".
    learning_rate, weight_decay, steps
        Of AdamW, with decoupled weight decay (`own`: 1e-3, 1, 1,000).
    clip
        See :class:`ShiftBaseline`.

    Notes
    -----
    `search_space` (`own`): learning_rate 1e-4 to 1e-2, weight_decay 0.01 to 10, steps 300 to 3,000, all on a log
    scale, and both activations.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scgim.baselines import MeanShift, TrainingData
    >>> table = pd.DataFrame({"condition": ["control", "A"], "perturbation": ["control", "A"],
    ...                       "dose": [np.nan, np.nan], "is_control": [True, False]})
    >>> x = np.repeat([[0.0, 0.0], [1.0, -1.0]], 5, axis=0)
    >>> data = TrainingData(x, np.repeat([0, 1], 5), table, np.array([[0.0], [1.0]]))
    >>> MeanShift().fit(data).shift(data.condition(1)).round(1).tolist()
    [1.0, -1.0]
    """

    name: ClassVar[str] = "mean_shift"
    search_space: ClassVar[Mapping[str, Range | Choice]] = {
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "weight_decay": Range(1e-2, 10.0, log=True),
        "steps": Range(300, 3_000, log=True, whole=True),
        "activation": Choice(("relu", "tanh")),
    }

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (100, 100),
        activation: Literal["relu", "tanh"] = "relu",
        learning_rate: float = 1e-3,
        weight_decay: float = 1.0,
        steps: int = 1_000,
        clip: bool = False,
    ) -> None:
        super().__init__(clip=clip)
        if activation not in ("relu", "tanh"):
            raise ValueError(f'`activation` must be "relu" or "tanh", got {activation!r}.')
        if steps < 1 or any(width < 1 for width in hidden):
            raise ValueError(f"`steps` and `hidden` must be positive, got {steps} and {tuple(hidden)}.")
        if not learning_rate > 0 or not weight_decay >= 0:
            raise ValueError("`learning_rate` must be positive and `weight_decay` not negative.")
        self.hidden = tuple(hidden)
        self.activation = activation
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.steps = steps

    @undisturbed()
    def fit(self, data: TrainingData, rng: RngLike = 0) -> Self:
        """Train the network; `rng` draws its initial weights. The global torch state is not touched."""
        import torch

        features, shifts = trained_shifts(data, self.name)
        self.feature_scale_ = FeatureScale(features)
        # One number for all genes: the loss stays the plain MSE up to a factor, the step size gets a unit.
        self.shift_scale_ = float(np.sqrt(np.mean(np.square(shifts)))) or 1.0
        inputs = torch.from_numpy(self.feature_scale_(features)).float()  # (trained, p)
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
        self._keep_control(data)
        return self

    @undisturbed()
    def shift(self, condition: Condition) -> np.ndarray:
        """Predicted mean minus control mean, (genes,)."""
        import torch

        check_fitted(self, "layers_")
        features = check_features(self.name, condition, self.feature_scale_.n_features)
        with torch.no_grad():
            scaled = self._forward(torch.from_numpy(self.feature_scale_(features)).float())
        return scaled[0].double().numpy() * self.shift_scale_

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
