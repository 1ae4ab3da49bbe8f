"""One segmentation loss over the answers of several levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DeepSupervisionLoss(nn.Module):
    """Weighted mean of one loss over an output and its auxiliary answers; what the network did not give is left out.

    Coarser logits are interpolated linearly to the size of the output, so that all are judged on the whole truth (U-Net
    v2 on polyps); a truth that is shrunk to theirs loses small lesions.

    Args:
        loss: of ``(logits, target)``; a scalar or named scalars.
        names: tensors that it reads, the output first.
        weights: one a name; by default 1 / 2^i (nnU-Net). They are normalised over the answers at hand: four give
            0.5333, 0.2667, 0.1333 and 0.0667, and without auxiliary answers, as in validation, the output counts alone.

    Raises:
        ValueError: no name, weights of another number, or a first weight that is not above 0.
    """

    def __init__(self, loss: nn.Module, names: Sequence[str], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        given = [0.5**i for i in range(len(names))] if weights is None else [float(weight) for weight in weights]
        if not names or len(given) != len(names) or given[0] <= 0 or min(given) < 0:
            raise ValueError(
                f"DeepSupervisionLoss has names {list(names)} and weights {given}; expected a weight of 0 or more a "
                "name, the first above 0."
            )
        self.loss = loss
        self.tensor_names = tuple(names)
        self.weights = tuple(given)

    def forward(self, tensors: Mapping[str, Tensor], target: Tensor) -> Tensor | dict[str, Tensor]:
        """Loss, in the form of the inner one, of ``tensors`` by name, each ``(B, C, *S / stride)``."""
        present = [(tensors[n], w) for n, w in zip(self.tensor_names, self.weights, strict=True) if n in tensors]
        size = tensors[self.tensor_names[0]].shape[2:]
        share = sum(weight for _, weight in present)
        said = [self.loss(_resized(logits, size), target) for logits, _ in present]
        shares = [weight / share for _, weight in present]
        if isinstance(said[0], dict):
            return {name: _weighed([one[name] for one in said], shares) for name in said[0]}
        return _weighed(said, shares)


def _weighed(values: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    return torch.stack([value * share for value, share in zip(values, shares, strict=True)]).sum()


def _resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(logits.shape[2:]) == tuple(size):
        return logits
    mode = "bilinear" if logits.dim() == 4 else "trilinear"
    return F.interpolate(logits.float(), size=list(size), mode=mode, align_corners=False)
