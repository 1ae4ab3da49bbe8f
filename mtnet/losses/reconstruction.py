"""Loss of a redrawn image."""

from __future__ import annotations

from torch import Tensor, nn


class MaskedL1Loss(nn.Module):
    """Mean absolute difference over the voxels that are valid (not padding), 0 where none is.

    Args:
        unit: the difference is counted in this, so that values of any size (HU) weigh as other terms do.
    """

    def __init__(self, unit: float = 1.0) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, predicted: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """Loss (scalar) of ``predicted`` against ``target``, both ``(B, C, *S)``; ``valid`` ``(B, 1, *S)`` or the same.

        Raises:
            ValueError: ``predicted`` and ``target`` differ in shape.
        """
        if predicted.shape != target.shape:
            raise ValueError(
                f"predicted is {tuple(predicted.shape)}, target {tuple(target.shape)}; expected one shape."
            )
        error = (predicted.float() - target.float()).abs() / self.unit
        if valid is None:
            return error.mean()
        weight = valid.to(error).expand_as(error)
        return (error * weight).sum() / weight.sum().clamp_min(1)
