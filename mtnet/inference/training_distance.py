"""How far an image is from those that a network was trained for, by what the network's encoder makes of it.

The features are the channels of every encoder level, averaged over an image or its windows. Those of images of the
network's own kind are described by a Gaussian with a few principal components and one variance for all that is left
(probabilistic PCA: Tipping and Bishop 1999); the score is the Mahalanobis distance in it (Lee et al. 2018, arXiv
1807.03888, use it on classes), per root of the number of features, so that it is about 1 for an image like the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

MOST_COMPONENTS = 16
SAMPLES_A_COMPONENT = 4
FEWEST_SAMPLES = 8
_DIGITS = 6
_TINY = 1e-6

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureModel:
    """What features of images of the network's own kind are like.

    Args:
        mean: ``(D,)``.
        scale: ``(D,)``, standard deviations, above 0.
        components: ``(K, D)``, orthonormal directions of scaled features.
        variances: ``(K,)`` along them.
        rest_variance: along each of the other directions.

    Raises:
        ValueError: shapes do not fit each other, or a value is not finite or not above 0 where it must be.
    """

    mean: FloatArray
    scale: FloatArray
    components: FloatArray
    variances: FloatArray
    rest_variance: float

    def __post_init__(self) -> None:
        count = len(self.mean)
        shapes = self.scale.shape, self.components.shape, self.variances.shape
        if count == 0 or shapes != ((count,), (len(self.variances), count), (len(self.variances),)):
            raise ValueError(f"FeatureModel of {count} features has scale, components and variances of {shapes}.")
        held = (self.mean, self.components, self.scale, self.variances, np.array([self.rest_variance]))
        if not all(np.isfinite(values).all() for values in held) or not all((v > 0).all() for v in held[2:]):
            raise ValueError("FeatureModel holds values that are not finite, or scales or variances of 0 or less.")

    @classmethod
    def of(cls, features: FloatArray) -> FeatureModel:
        """Describe features ``(N, D)`` of N images.

        Raises:
            ValueError: there are fewer than ``FEWEST_SAMPLES`` images.
        """
        count, width = features.shape
        if count < FEWEST_SAMPLES:
            raise ValueError(f"{count} images are too few to tell what others are like; expected {FEWEST_SAMPLES}.")
        mean, spread = features.mean(axis=0), features.std(axis=0)
        # A feature that never moved in so few images may move a little in the next.
        scale = np.maximum(spread, max(0.1 * float(np.median(spread)), _TINY))
        _, singular, directions = np.linalg.svd((features - mean) / scale, full_matrices=False)
        variances = singular**2 / (count - 1)
        kept = min(MOST_COMPONENTS, count // SAMPLES_A_COMPONENT, width - 1)
        rest = float(variances[kept:].sum() / max(width - kept, 1))
        return cls(mean, scale, directions[:kept], np.maximum(variances[:kept], _TINY), max(rest, _TINY))

    def score(self, features: FloatArray) -> FloatArray:
        """Distances ``(N,)`` of features ``(N, D)``.

        Raises:
            ValueError: they are of another number.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"Features have shape {features.shape}; expected (N, {len(self.mean)}).")
        scaled = (features - self.mean) / self.scale
        along = scaled @ self.components.T
        rest = np.maximum((scaled**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        squared = (along**2 / self.variances).sum(axis=1) + rest / self.rest_variance
        return np.asarray(np.sqrt(squared / len(self.mean)))

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it, six digits a number."""
        return {
            "mean": _short(self.mean),
            "scale": _short(self.scale),
            "components": [_short(row) for row in self.components],
            "variances": _short(self.variances),
            "rest_variance": float(f"{self.rest_variance:.{_DIGITS}g}"),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> FeatureModel:
        """What ``to_dict`` gave.

        Raises:
            ValueError, KeyError, TypeError: it is something else.
        """
        mean, scale, variances = (np.asarray(document[k], dtype=np.float64) for k in ("mean", "scale", "variances"))
        components = np.asarray(document["components"], dtype=np.float64).reshape(len(variances), len(mean))
        return cls(mean, scale, components, variances, float(document["rest_variance"]))


class FeatureTap:
    """Notes features while a network's encoder runs, in a ``with`` block; of a network without an encoder, and of
    None, nothing."""

    def __init__(self, network: nn.Module | None) -> None:
        self._encoder = getattr(network, "encoder", None)
        self._handle: Any = None
        self._rows: list[FloatArray] = []

    def __enter__(self) -> FeatureTap:
        if self._encoder is not None:
            self._handle = self._encoder.register_forward_hook(self._see)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.remove()

    @property
    def rows(self) -> FloatArray | None:
        """``(N, D)``: a row for each window or image that went through; None where none did."""
        return np.concatenate(self._rows) if self._rows else None

    @property
    def mean(self) -> FloatArray | None:
        """``(1, D)`` over all windows; None where none went through."""
        rows = self.rows
        return None if rows is None else rows.mean(axis=0, keepdims=True)

    def _see(self, _module: nn.Module, _inputs: Any, levels: list[Tensor]) -> None:
        import torch

        pooled = [level.detach().float().flatten(2).mean(2) for level in levels]
        self._rows.append(torch.cat(pooled, dim=1).double().cpu().numpy())


def _short(values: FloatArray) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values.tolist()]
