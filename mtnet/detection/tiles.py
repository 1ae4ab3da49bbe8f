"""Overlap of many boxes with many others, tile by tile on one core: what suppression and fusion have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TILE_ROWS, TILE_COLUMNS = 64, 512
"""Three tiles of float64 of this size fit into the second-level cache of a core; larger ones take up to twice the
time."""


def box_columns(boxes: Floats) -> Floats:
    """``(2D + 1, N)`` of boxes ``(N, 2D)``: a row an edge, lows before highs, then their volumes. So the boxes of a
    tile lie side by side."""
    dims = boxes.shape[1] // 2
    extent = np.maximum(boxes[:, dims:] - boxes[:, :dims], 0.0)
    return np.concatenate([boxes.T, np.prod(extent, axis=1)[None]])


def overlap_tile(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Volumes ``(N, M)`` of intersection and union of every box of ``a`` with every box of ``b``, as columns."""
    dims = len(a) // 2
    rows = a[..., None]
    inter = np.empty((a.shape[1], b.shape[1]))
    side, other = np.empty_like(inter), np.empty_like(inter)
    for axis in range(dims):
        np.minimum(rows[dims + axis], b[dims + axis], out=side)
        np.maximum(rows[axis], b[axis], out=other)
        side -= other
        np.maximum(side, 0.0, out=side)
        if axis:
            inter *= side
        else:
            inter, side = side, inter
    union = np.add(rows[-1], b[-1], out=other)
    union -= inter
    return inter, union
