"""Stored pixel values turned into real ones: HU on CT, with padding as air."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.structures.study import Instance

AIR_HU = -1024
"""What padding becomes on CT: the lowest value of a 12-bit scanner, which is what air outside its circle reads."""

_INT16 = np.iinfo(np.int16)


def padding_mask(stored: NDArray[np.integer[Any]], instance: Instance) -> NDArray[np.bool_] | None:
    """Where stored values are padding (PS3.3 C.7.5.1.1.2), ``None`` where none is.

    That is PixelPaddingValue, or the range between it and PixelPaddingRangeLimit, both in stored values.
    """
    if instance.padding_value is None:
        return None
    limit = instance.padding_value if instance.padding_limit is None else instance.padding_limit
    low, high = sorted((instance.padding_value, limit))
    mask: NDArray[np.bool_] = stored == low if low == high else (stored >= low) & (stored <= high)
    return mask if mask.any() else None


def to_values(
    stored: NDArray[np.integer[Any]], instance: Instance, padded: NDArray[np.bool_] | None = None
) -> NDArray[np.generic]:
    """Turn stored values into real ones: ``stored * slope + intercept`` (PS3.3 C.11.1.1.2), identity where absent.

    Args:
        stored: ``(rows, columns)`` as they were decoded.
        instance: its rescale tags are used.
        padded: pixels that become ``AIR_HU``; for CT.

    Returns:
        int16 where slope and intercept are whole numbers and every value fits, float32 otherwise.
    """
    slope = 1.0 if instance.rescale_slope is None else instance.rescale_slope
    intercept = 0.0 if instance.rescale_intercept is None else instance.rescale_intercept
    kept = stored if padded is None else stored[~padded]
    values: NDArray[np.generic] | None = None
    if float(slope).is_integer() and float(intercept).is_integer():
        ends = [int(end) * int(slope) + int(intercept) for end in (kept.min(), kept.max())] if kept.size else [0]
        if _INT16.min <= min(ends) and max(ends) <= _INT16.max:
            values = _modular(stored, int(slope), int(intercept))
    if values is None:
        values = (stored * np.float64(slope) + intercept).astype(np.float32)
    if padded is not None:
        values[padded] = AIR_HU
    return values


def swapped_back(values: NDArray[np.generic], instance: Instance) -> NDArray[np.generic]:
    """Values of a MONOCHROME1 slice as if its stored values had been mirrored within the range of BitsStored.

    Raises:
        ValueError: ``instance`` has no BitsStored.
    """
    if instance.bits_stored is None:
        raise ValueError(f"{instance.where} has no BitsStored (0028,0101); its range is unknown.")
    slope = 1.0 if instance.rescale_slope is None else instance.rescale_slope
    intercept = 0.0 if instance.rescale_intercept is None else instance.rescale_intercept
    ends = -1 if instance.pixel_representation else 2**instance.bits_stored - 1
    mirrored: NDArray[np.float64] = slope * ends + 2 * intercept - values.astype(np.float64)
    fits = values.dtype == np.int16 and _INT16.min <= mirrored.min() and mirrored.max() <= _INT16.max
    return mirrored.astype(np.int16 if fits else np.float32)


def _modular(stored: NDArray[np.integer[Any]], slope: int, intercept: int) -> NDArray[np.int16]:
    """The rescale modulo 2**16, which is exact for every value that fits int16, and never needs wider numbers."""
    values = stored.astype(np.int16)
    if slope != 1:
        np.multiply(values, _int16(slope), out=values)
    if intercept:
        np.add(values, _int16(intercept), out=values)
    return values


def _int16(value: int) -> np.int16:
    return np.int16((value + 2**15) % 2**16 - 2**15)
