"""The mean of a network's weights over its last steps, which answers better than the last step's on small data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

_SOONEST = 10.0


class AveragedWeights:
    """An exponential moving average of parameters and running statistics, to validate with and to publish.

    After step n the decay is the smaller of ``decay`` and (1 + n) / (10 + n), so that a short training is no average
    of where it began (as TensorFlow's ``ExponentialMovingAverage`` has it).

    Args:
        network: that is trained; of several processes the one inside ``DistributedDataParallel``.
        decay: of one step, 0 to 1 (excluded); 0 makes the average the network itself.
        device: where the average lies.

    Raises:
        ValueError: no such decay.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999, device: str | torch.device | None = None) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"The decay of averaged weights is {decay}; expected 0 or more and less than 1.")
        self.decay = decay
        self._trained = network
        self._average = AveragedModel(
            network, None if device is None else torch.device(device), multi_avg_fn=self._move, use_buffers=True
        )

    @property
    def network(self) -> nn.Module:
        """The network with the averaged weights."""
        return self._average.module

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer: the first step is taken as it is, every other moves the average."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine | None = None) -> None:
        """Take the network's weights of now into the average."""
        self._average.update_parameters(self._trained)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, and how many steps they are of."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self._average.load_state_dict(state)

    def _move(self, averages: Sequence[Tensor], values: Sequence[Tensor], steps: Tensor | int) -> None:
        done = float(steps)
        share = 1 - min(self.decay, (1 + done) / (_SOONEST + done))
        # The tensors of one call have one type.
        if averages[0].is_floating_point():
            torch._foreach_lerp_(list(averages), [value.to(averages[0].dtype) for value in values], share)
        else:
            torch._foreach_copy_(list(averages), list(values))
