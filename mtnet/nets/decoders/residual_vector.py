"""A task's own residual block on a pooled level."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class ResidualVector(nn.Module):
    """Pre-activation residual block (He et al., arXiv 1603.05027) on a vector: norm, ReLU, linear, twice, added to it.

    Layer norm, since a vector has no space over which batch norm could gather, and batches of one must train.

    Args:
        channels_in: of the pooled levels that it is called with; the last one is changed and given alone.
        dropout: probability with which a value is dropped before the second linear layer.
    """

    def __init__(self, channels_in: Sequence[int], *, dropout: float = 0.0) -> None:
        super().__init__()
        width = channels_in[-1]
        self.block = nn.Sequential(
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
        )
        self.channels: tuple[int, ...] = (width,)
        self.strides: tuple[None, ...] = (None,)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Change: ``[..., (B, C)] -> [(B, C)]``."""
        return [levels[-1] + self.block(levels[-1])]
