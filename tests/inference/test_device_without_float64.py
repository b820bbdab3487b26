"""A device without float64 (Apple's GPUs): its stand-in are tensors with a mark, until they are moved to the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from scgim.inference import TrainingData, fit, make_config, scores


class OnDevice(torch.Tensor):
    """Whatever is computed from it carries the mark, too; `cpu` takes it off."""

    def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


class NoFloat64(TorchFunctionMode):
    """Refuses float64 on the device, computed there or made there."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        wide = isinstance(out, torch.Tensor) and out.dtype == torch.float64
        assert not (wide and isinstance(out, OnDevice)), f"{function} computes in float64 on the device"
        assert not (wide and kwargs.get("device") is not None), f"{function} makes float64 on the device"
        return out


def marked(data: TrainingData) -> TrainingData:
    moved = {k: v.as_subclass(OnDevice) if isinstance(v, torch.Tensor) else v for k, v in vars(data).items()}
    return TrainingData(**moved)


@pytest.mark.usefixtures("quick_fits")
@pytest.mark.parametrize("settings", [{"mechanism": "ziln"}, {"mechanism": "mlp", "preset": "paper"}])
def test_a_fit_needs_no_float64_on_its_device(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    condition = torch.arange(3).repeat_interleave(40)
    x = torch.as_tensor(np.exp(rng.standard_normal((120, 4)))).float() * (torch.as_tensor(rng.random((120, 4))) > 0.2)
    data = TrainingData(
        x=x.float(),
        condition=condition,
        valid=torch.arange(120) % 10 == 0,
        features=torch.eye(2),
        membership=torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
    )
    preset = settings.get("preset", "default")
    config = make_config(
        preset,
        mechanism=settings["mechanism"],
        max_steps=4,
        check_every=2,
        n_features=20,
        effect_spread=0.5,
        network_hidden=(8,),
        batch_size=64,
        n_graphs=2,
    )
    expected = fit(data, config, progress=False).gim.state_dict()
    monkeypatch.setattr(scores, "_WITHOUT_FLOAT64", {"cpu"})
    with NoFloat64():
        found = fit(marked(data), config, progress=False).gim.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].as_subclass(torch.Tensor), value, rtol=0, atol=0)


def test_the_stand_in_notices_float64() -> None:
    x = torch.ones(3).as_subclass(OnDevice)
    with NoFloat64():
        x.cpu().double()
        with pytest.raises(AssertionError, match="on the device"):
            x.double()
        with pytest.raises(AssertionError, match="on the device"):
            torch.rand(1, dtype=torch.float64, device=x.device)
