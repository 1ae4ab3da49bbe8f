"""Greedy non-maximum suppression of boxes in 2D and 3D, exact and fast for ten thousand boxes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtnet.detection.overlap import box_dims

_Floats = NDArray[np.float64]
_Indices = NDArray[np.int64]

_BLOCK = 512
"""Boxes judged together: their own pairs are then a quarter of a million."""

_KEPT_AT_ONCE = 2048
"""Kept boxes that a block is held against at once: a million pairs, some 100 MiB if every pair touches."""

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
    dims = box_dims(box_index)
    n_boxes = box_index.shape[0]
    if box_index.ndim != 2 or score.shape != (n_boxes,) or (label is not None and label.shape != (n_boxes,)):
        label_shape = None if label is None else tuple(label.shape)
        raise ValueError(
            f"suppress got box_index {tuple(box_index.shape)}, score {tuple(score.shape)}, label {label_shape}; "
            "expected (N, 2D), (N,) and (N,)."
        )
    if not 0.0 <= iou_threshold <= 1.0:
        raise ValueError(f"iou_threshold is {iou_threshold}; expected 0..1.")
    boxes: _Floats = box_index.detach().double().cpu().numpy()
    scores: _Floats = score.detach().double().cpu().numpy()
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("suppress got a box or a score that is not finite; the network's answer is not usable.")
    order: _Indices = np.argsort(-scores, kind="stable")
    classes = np.zeros(n_boxes, np.int64) if label is None else label.detach().cpu().numpy().astype(np.int64)
    limit = n_boxes if max_boxes is None else max_boxes
    kept = _greedy(boxes[order], classes[order], dims, iou_threshold, limit)
    return torch.from_numpy(order[kept]).to(box_index.device)


def _greedy(boxes: _Floats, classes: _Indices, dims: int, threshold: float, limit: int) -> _Indices:
    """Positions that are kept of boxes in falling order of score."""
    low, high = boxes[:, :dims], boxes[:, dims:]
    overlaps = _Overlap(low, high, classes, threshold * (1 + _RELATIVE_TOLERANCE))
    kept: _Indices = np.zeros(0, np.int64)
    for start in range(0, len(boxes), _BLOCK):
        if len(kept) >= limit:
            break
        block: _Indices = np.arange(start, min(start + _BLOCK, len(boxes)))
        for place in range(0, len(kept), _KEPT_AT_ONCE):
            judged, _ = overlaps.pairs(block, kept[place : place + _KEPT_AT_ONCE])
            block = np.delete(block, judged)
        first, second = overlaps.pairs(block, block)
        kept = np.concatenate([kept, block[_survivors(first, second, len(block))]])
    return kept[:limit]


def _survivors(first: _Indices, second: _Indices, n_boxes: int) -> NDArray[np.bool_]:
    """Which boxes stay, given all pairs that overlap too much, sorted by ``first``: a kept box drops later partners."""
    kept = np.ones(n_boxes, bool)
    begin = np.searchsorted(first, np.arange(n_boxes + 1))
    for box in np.unique(first):
        if kept[box]:
            partners = second[begin[box] : begin[box + 1]]
            kept[partners[partners > box]] = False
    return kept


class _Overlap:
    """Finds pairs of boxes of one class whose IoU is above a threshold, testing IoU only where boxes touch."""

    def __init__(self, low: _Floats, high: _Floats, classes: _Indices, threshold: float) -> None:
        self.low, self.high, self.classes, self.threshold = low, high, classes, threshold
        self.volume = np.prod(np.maximum(high - low, 0.0), axis=1)

    def pairs(self, a: _Indices, b: _Indices) -> tuple[_Indices, _Indices]:
        """Places in ``a`` and in ``b`` of every pair that overlaps too much, sorted by place in ``a``."""
        touch = self.classes[a, None] == self.classes[b]
        for axis in range(self.low.shape[1]):
            touch &= self.low[a, axis, None] < self.high[b, axis]
            touch &= self.low[b, axis] < self.high[a, axis, None]
        in_a, in_b = np.nonzero(touch)
        first, second = a[in_a], b[in_b]
        side = np.minimum(self.high[first], self.high[second]) - np.maximum(self.low[first], self.low[second])
        inter = np.prod(np.maximum(side, 0.0), axis=1)
        union = self.volume[first] + self.volume[second] - inter
        above = inter > self.threshold * union
        return in_a[above], in_b[above]
