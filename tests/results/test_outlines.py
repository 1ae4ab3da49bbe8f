from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy import ndimage

from mtnet.results.outlines import outline
from tests.results.judges import filled


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans()))
def test_the_outline_holds_the_largest_part_and_what_it_encloses(mask: NDArray[np.bool_]) -> None:
    if not mask.any():
        return
    points = outline(mask)
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    part = parts == sizes.argmax()
    outside, _ = ndimage.label(np.pad(~part, 1, constant_values=True), np.ones((3, 3)))
    np.testing.assert_array_equal(filled(points, mask.shape), (outside != outside[0, 0])[1:-1, 1:-1])
    assert (points[0] == points[-1]).all()


def test_a_rectangle_has_four_corners_on_pixel_edges() -> None:
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:8] = True
    assert outline(mask).tolist() == [[2, 1], [8, 1], [8, 4], [2, 4], [2, 1]]
