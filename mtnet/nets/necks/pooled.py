"""From the coarsest level to one vector that all tasks share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SharedVector(nn.Module):
    """Mean of the coarsest level over space, a linear layer, ReLU: ``levels -> [(B, channels)]``, one pooled level.

    Args:
        channels_in: of all levels that it is called with, finest first; the last one is read.
        channels: of the vector.
    """

    def __init__(self, channels_in: Sequence[int], *, channels: int = 256) -> None:
        super().__init__()
        self.linear = nn.Linear(channels_in[-1], channels)
        self.act = nn.ReLU()
        self.channels: tuple[int, ...] = (channels,)
        self.strides: tuple[None, ...] = (None,)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Pool: ``[..., (B, C, *S)] -> [(B, channels)]``."""
        return [self.act(self.linear(levels[-1].flatten(2).mean(2)))]
