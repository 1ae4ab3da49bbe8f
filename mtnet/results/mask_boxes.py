"""Where the regions of a label map lie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Region = tuple[slice, slice, slice]


def mask_boxes(labels: NDArray[np.integer[Any]]) -> dict[int, Region]:
    """For each value from 1 that occurs in a 3D label map, the smallest box of slices that holds it."""
    from scipy import ndimage

    # In the order of memory it takes a tenth of the time.
    order = np.argsort([-abs(stride) for stride in labels.strides], kind="stable")
    found: dict[int, Region] = {}
    for value, box in enumerate(ndimage.find_objects(labels.transpose(order)), start=1):
        if box is not None:
            sides = dict(zip(order.tolist(), box, strict=True))
            found[value] = (sides[0], sides[1], sides[2])
    return found
