"""The outline of a mask as a polygon along pixel edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Steps (row, column) east, south, west, north; turning right is the next one.
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
# For each direction, where the pixels before a corner lie: the one ahead on the right, the one ahead on the left.
_AHEAD_RIGHT = ((0, 0), (0, -1), (-1, -1), (-1, 0))
_AHEAD_LEFT = ((-1, 0), (0, 0), (0, -1), (-1, -1))


def outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Follow the outer border of the largest part of a mask.

    Parts touch by pixel sides. The polygon runs clockwise along pixel edges, so it holds exactly the part's pixels (and
    its holes).

    Args:
        mask: ``(rows, columns)`` with at least one pixel.

    Returns:
        ``(n, 2)`` corners as (column, row), closed (the last is the first), where 0, 0 is the top left corner of the
        top left pixel (PS3.3 C.18.6.1.2).
    """
    from scipy import ndimage

    parts, count = ndimage.label(mask)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    part = parts == sizes.argmax()
    inside = np.pad(part, 1)
    first = np.argwhere(part)[0]
    row, column = int(first[0]), int(first[1])
    start, direction = (row, column), 0
    corners = [start]
    while True:
        row, column = row + _STEPS[direction][0], column + _STEPS[direction][1]
        if (row, column) == start:
            break
        right, left = _AHEAD_RIGHT[direction], _AHEAD_LEFT[direction]
        if not inside[row + right[0] + 1, column + right[1] + 1]:
            direction = (direction + 1) % 4
        elif inside[row + left[0] + 1, column + left[1] + 1]:
            direction = (direction - 1) % 4
        else:
            continue
        corners.append((row, column))
    return np.array([(c, r) for r, c in (*corners, start)], dtype=np.float64)
