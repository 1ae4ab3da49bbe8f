"""Head that answers for the whole image: classes or measured values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtnet.nets.blocks import make_dropout
from mtnet.structures import OutputSpec


def pooled(level: Tensor) -> Tensor:
    """Mean over space: ``(B, C, *S) -> (B, C)``; a level that is pooled already stays as it is."""
    return level if level.dim() == 2 else level.flatten(2).mean(2)


class ClassificationHead(nn.Module):
    """Global average pooling of the coarsest level (none if it is pooled already), dropout, one linear layer.

    Args:
        channels_in: of the levels that the decoder gives; the last one is read.
        output: of kind ``global``; one channel a label, or one where it has none (a value in ``units``).
        window_weight: add a last channel, the logit of the weight that this window has among the windows of one image.
            It starts at 0, so all windows count alike at first.
        dropout: probability with which a pooled feature is dropped.

    Raises:
        ValueError: ``output`` is not of kind ``global``, or has a log-variance (see ``RegressionHead``).
    """

    def __init__(
        self, channels_in: Sequence[int], output: OutputSpec, window_weight: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if output.kind != "global":
            raise ValueError(f"ClassificationHead output {output.name!r} is {output.kind}; expected kind 'global'.")
        if output.log_variance:
            raise ValueError(f"ClassificationHead output {output.name!r} has a log-variance; use a RegressionHead.")
        values = max(len(output.labels), 1)
        self.name = output.name
        self.dropout = make_dropout(dropout, 1)
        self.linear = nn.Linear(channels_in[-1], values + int(window_weight))
        with torch.no_grad():
            self.linear.weight[values:] = 0
            self.linear.bias[values:] = 0
        self.outputs: tuple[OutputSpec, ...] = (output,)

    def forward(self, levels: list[Tensor]) -> dict[str, Tensor]:
        """Answer: ``[..., (B, C, *S/stride)] -> {name: (B, values)}``, or ``(B, values + 1)`` with a window weight."""
        return {self.name: self.linear(self.dropout(pooled(levels[-1])))}
