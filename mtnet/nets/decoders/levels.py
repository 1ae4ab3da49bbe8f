"""Hand levels on as they are, for heads that read the encoder or the neck itself."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class PickLevels(nn.Module):
    """A decoder without weights: the levels of the asked strides.

    Args:
        channels_in: of all levels that it is called with, finest first.
        strides_in: of the same levels.
        strides: of the levels that it hands on, the deepest of each; by default the coarsest alone.

    Raises:
        ValueError: ``strides`` names a level that is not there.
    """

    def __init__(
        self, channels_in: Sequence[int], strides_in: Sequence[int], strides: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.strides: tuple[int, ...] = (strides_in[-1],) if strides is None else tuple(strides)
        if not self.strides or not set(self.strides) <= set(strides_in):
            raise ValueError(f"PickLevels strides is {self.strides}; expected some of {tuple(strides_in)}.")
        # A dilated encoder has two levels or more of its last stride; the deepest is the one that is meant.
        self.picked = [max(i for i, own in enumerate(strides_in) if own == stride) for stride in self.strides]
        self.channels: tuple[int, ...] = tuple(channels_in[i] for i in self.picked)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Pick: ``[level, ...] -> [level, ...]``."""
        return [levels[i] for i in self.picked]
