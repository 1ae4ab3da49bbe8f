"""Greedy non-maximum suppression of boxes in 2D and 3D, exact and fast for ten thousand boxes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtnet.detection.overlap import box_dims
from mtnet.detection.tiles import TILE_COLUMNS, TILE_ROWS, Floats, box_columns, overlap_tile

_Indices = NDArray[np.int64]

_BLOCK = 256
"""Boxes judged together."""

_RELATIVE_TOLERANCE = 1e-9
"""An IoU within this of the threshold equals it, and does not suppress: far above float64 rounding, far below the
smallest difference that float32 boxes can mean."""


def suppress(
    box_index: Tensor,
    score: Tensor,
    iou_threshold: float,
    label: Tensor | None = None,
    max_boxes: int | None = None,
) -> Tensor:
    """Indices ``(K,)`` of the boxes that greedy non-maximum suppression keeps, by falling score.

    The best box is kept, and every box whose IoU with it is above ``iou_threshold`` is dropped; then the best of the
    rest, and so on. Equal scores count as falling by index. IoU is taken in float64 on the CPU, without a division, so
    an IoU equal to the threshold never suppresses; the indices come back on the device of ``box_index``.

    Args:
        box_index: ``(N, 2D)``.
        score: ``(N,)``.
        iou_threshold: in 0..1.
        label: ``(N,)`` class of each box; boxes of two classes then never suppress each other.
        max_boxes: stop after so many.

    Raises:
        ValueError: shapes do not fit, a value is not finite, or the threshold is outside 0..1.
    """
    box_dims(box_index)
    n_boxes = box_index.shape[0]
    if box_index.ndim != 2 or score.shape != (n_boxes,) or (label is not None and label.shape != (n_boxes,)):
        label_shape = None if label is None else tuple(label.shape)
        raise ValueError(
            f"suppress got box_index {tuple(box_index.shape)}, score {tuple(score.shape)}, label {label_shape}; "
            "expected (N, 2D), (N,) and (N,)."
        )
    if not 0.0 <= iou_threshold <= 1.0:
        raise ValueError(f"iou_threshold is {iou_threshold}; expected 0..1.")
    boxes: Floats = box_index.detach().double().cpu().numpy()
    scores: Floats = score.detach().double().cpu().numpy()
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("suppress got a box or a score that is not finite; the network's answer is not usable.")
    order: _Indices = np.argsort(-scores, kind="stable")
    classes = np.zeros(n_boxes, np.int64) if label is None else label.detach().cpu().numpy().astype(np.int64)
    limit = n_boxes if max_boxes is None else max_boxes
    kept = _greedy(boxes[order], classes[order], iou_threshold, limit)
    return torch.from_numpy(order[kept]).to(box_index.device)


def _greedy(boxes: Floats, classes: _Indices, threshold: float, limit: int) -> _Indices:
    """Positions that are kept of boxes in falling order of score."""
    overlaps = _Overlap(boxes, classes, threshold * (1 + _RELATIVE_TOLERANCE))
    kept: _Indices = np.zeros(0, np.int64)
    for start in range(0, len(boxes), _BLOCK):
        if len(kept) >= limit:
            break
        block: _Indices = np.arange(start, min(start + _BLOCK, len(boxes)))
        # The best of the kept ones drop the most, so later ones are held against fewer.
        for place in range(0, len(kept), TILE_COLUMNS):
            block = block[~overlaps.any_above(block, kept[place : place + TILE_COLUMNS])]
        kept = np.concatenate([kept, block[_survivors(overlaps.above(block, block))]])
    return kept[:limit]


def _survivors(above: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which boxes stay, given for all pairs whether they overlap too much: a kept box drops its later partners."""
    kept = np.ones(len(above), bool)
    later = np.triu(above, 1)
    for box in np.flatnonzero(later.any(axis=1)):
        if kept[box]:
            kept &= ~later[box]
    return kept


class _Overlap:
    """Tells pairs of boxes of one class whose IoU is above a threshold."""

    def __init__(self, boxes: Floats, classes: _Indices, threshold: float) -> None:
        self._columns = box_columns(boxes)
        self._classes = classes if (classes != classes[:1]).any() else None
        self._threshold = threshold

    def any_above(self, a: _Indices, b: _Indices) -> NDArray[np.bool_]:
        """Whether each box of ``a`` overlaps any of ``b`` too much."""
        found = np.zeros(len(a), bool)
        for at in range(0, len(a), TILE_ROWS):
            found[at : at + TILE_ROWS] = self.above(a[at : at + TILE_ROWS], b).any(axis=1)
        return found

    def above(self, a: _Indices, b: _Indices) -> NDArray[np.bool_]:
        """Whether each pair ``(len(a), len(b))`` overlaps too much."""
        inter, union = overlap_tile(self._columns[:, a], self._columns[:, b])
        union *= self._threshold
        found: NDArray[np.bool_] = inter > union
        if self._classes is not None:
            found &= self._classes[a, None] == self._classes[b]
        return found
