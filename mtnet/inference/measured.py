"""Global values without labels: what a network measures rather than tells apart."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from mtnet.structures import Measured, OutputSpec


def decode_measured(values: ArrayLike, spec: OutputSpec) -> dict[str, Measured]:
    """Turn the merged values ``(1,)``, or ``(2,)`` with a log-variance, of a global output into one measured value.

    The key is what results call the output, and its unit where that is one word: ``diameter_mm``, ``reader_rating``.

    Raises:
        ValueError: the output has labels, or not as many values as it says.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if spec.labels or numbers.shape != (spec.value_channels,):
        raise ValueError(
            f"Output {spec.name!r} gave values of shape {numbers.shape} for {len(spec.labels)} labels; expected "
            f"({spec.value_channels},) and no labels."
        )
    sd = math.exp(numbers[1] / 2) if spec.log_variance else None
    key = f"{spec.called}_{spec.units.lower()}" if spec.units.isalnum() else spec.called
    return {key: Measured(float(numbers[0]), spec.units, sd)}
