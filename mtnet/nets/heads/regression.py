"""Head that measures: one value an output, with the uncertainty that the network expects of it where asked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtnet.nets.blocks import make_dropout
from mtnet.nets.heads.classification import pooled
from mtnet.structures import OutputSpec


class RegressionHead(nn.Module):
    """Global average pooling of the coarsest level (none if it is pooled already), dropout, one linear layer a value.

    An output with ``log_variance`` gets a second channel, ln of the variance of its value (Kendall and Gal, arXiv
    1703.04977, section 2.2); it learns by ``GaussianRegressionLoss`` and starts at the square of ``scales``.

    Args:
        channels_in: of the levels that the decoder gives; the last one is read.
        outputs: of kind ``global``, without labels; one value each, in their units.
        scales, offsets: one an output: its value is ``offset + scale * linear`` in float32, so that the layer works on
            standardised numbers (scale and offset the standard deviation and mean of the training targets).
        dropout: probability with which a pooled feature is dropped.

    Raises:
        ValueError: no output, one that is no global value, scales or offsets of another number, or a scale that is not
            above 0.
    """

    def __init__(
        self,
        channels_in: Sequence[int],
        outputs: Sequence[OutputSpec],
        *,
        scales: Sequence[float] | None = None,
        offsets: Sequence[float] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for output in outputs:
            if output.kind != "global" or output.labels or output.activation != "none":
                raise ValueError(
                    f"RegressionHead output {output.name!r} is {output.kind} with {len(output.labels)} labels and "
                    f"activation {output.activation!r}; expected kind 'global' without labels and activation."
                )
        self.scales = [1.0] * len(outputs) if scales is None else [float(scale) for scale in scales]
        self.offsets = [0.0] * len(outputs) if offsets is None else [float(offset) for offset in offsets]
        if not outputs or len(self.scales) != len(outputs) or len(self.offsets) != len(outputs):
            raise ValueError(
                f"RegressionHead has {len(outputs)} outputs, {len(self.scales)} scales and {len(self.offsets)} "
                "offsets; expected one of each for at least one output."
            )
        if min(self.scales) <= 0:
            raise ValueError(f"RegressionHead scales is {self.scales}; expected numbers above 0.")
        self.log_scales = [2 * math.log(scale) for scale in self.scales]
        self.names = [output.name for output in outputs]
        self.dropout = make_dropout(dropout, 1)
        self.linears = nn.ModuleList(_linear(channels_in[-1], output.value_channels) for output in outputs)
        self.outputs: tuple[OutputSpec, ...] = tuple(outputs)

    def forward(self, levels: list[Tensor]) -> dict[str, Tensor]:
        """Measure: ``[..., (B, C, *S/stride)] -> {name: (B, 1)}``, or ``(B, 2)`` with a log-variance, in float32."""
        features = self.dropout(pooled(levels[-1]))
        answers: dict[str, Tensor] = {}
        for i, linear in enumerate(self.linears):
            drawn = linear(features).float()
            value = drawn[:, :1] * self.scales[i] + self.offsets[i]
            answers[self.names[i]] = torch.cat([value, drawn[:, 1:] + self.log_scales[i]], 1)
        return answers


def _linear(channels_in: int, channels: int) -> nn.Linear:
    """A linear layer whose channels after the first are 0 at first."""
    linear = nn.Linear(channels_in, channels)
    with torch.no_grad():
        linear.weight[1:] = 0
        linear.bias[1:] = 0
    return linear
