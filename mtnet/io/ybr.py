"""Luma and colour differences to RGB (DICOM PS3.3 C.7.6.3.1.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.integer[Any]]

_RED_FROM_CR, _BLUE_FROM_CB = 1.402, 1.772
_GREEN_FROM_CB, _GREEN_FROM_CR = -0.114 * 1.772 / 0.587, -0.299 * 1.402 / 0.587


def rgb_from_ybr_full(pixels: Pixels, bits: int) -> Pixels:
    """RGB from full-range Y, Cb, Cr (ITU-R BT.601 weights), rounded and cut to what ``bits`` hold.

    Args:
        pixels: ``(frames, rows, columns, 3)``, unsigned.
        bits: BitsStored; neutral colour lies at ``2 ** (bits - 1)``.

    Returns:
        same shape and type.
    """
    result = np.empty_like(pixels)
    half, top = 2 ** (bits - 1), 2**bits - 1
    for source, target in zip(pixels, result, strict=True):
        # Rounding needs more than 24 bits where samples have as many.
        exact = np.float32 if bits <= 16 else np.float64
        luma, blue, red = np.moveaxis(source.astype(exact) - np.array([0, half, half], dtype=exact), -1, 0)
        green = luma + _GREEN_FROM_CB * blue + _GREEN_FROM_CR * red
        for index, values in enumerate((luma + _RED_FROM_CR * red, green, luma + _BLUE_FROM_CB * blue)):
            target[..., index] = np.clip(np.rint(values), 0, top)
    return result


def ybr_full_from_422(pixels: Pixels) -> Pixels:
    """Y, Cb, Cr of every pixel from YBR_FULL_422, where two neighbours share Cb and Cr: Y1 Y2 Cb Cr.

    Args:
        pixels: ``(frames, rows, 2 * columns)``.

    Returns:
        ``(frames, rows, columns, 3)``.
    """
    frames, rows, width = pixels.shape
    pairs = pixels.reshape(frames, rows, width // 4, 4)
    result = np.empty((frames, rows, width // 4, 2, 3), dtype=pixels.dtype)
    result[..., 0] = pairs[..., :2]
    result[..., 1:] = pairs[..., None, 2:]
    return result.reshape(frames, rows, width // 2, 3)
