"""Weighted box fusion: one box from several networks, folds or test-time views (Solovyev 2019, arXiv 1910.13302)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtnet.detection.overlap import box_dims
from mtnet.detection.tiles import TILE_COLUMNS, TILE_ROWS, Floats, box_columns, overlap_tile

_TINY = 1e-12
"""Keeps the IoU of two empty boxes at 0."""

_SLACK = 1 - 1e-9
"""A tile lets through what may be above the threshold; the IoU that decides is then taken by division."""


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """Fused boxes by falling score.

    Args:
        box_index: ``(K, 2D)``.
        score: ``(K,)``.
        label: ``(K,)`` int64.
        members: for each fused box, the boxes it is made of as ``(source, row)``, best first.
    """

    box_index: Tensor
    score: Tensor
    label: Tensor
    members: tuple[tuple[tuple[int, int], ...], ...]


def fuse(
    box_index: Sequence[Tensor],
    score: Sequence[Tensor],
    label: Sequence[Tensor],
    iou_threshold: float = 0.55,
    weights: Sequence[float] | None = None,
) -> Fused:
    """Fuse the boxes of several sources.

    All boxes go by falling score (times the weight of their source). Each joins the fused box of its class with which
    it has the largest IoU above ``iou_threshold``, or starts a new one; a fused box is the mean of its members weighted
    by score, its score their mean. At the end a score is multiplied by min(T, N) / N, T members from N sources, so a
    box that few sources saw counts less (paper, eqs. 1-4; with weights, ours: N below the line is their sum).

    Args:
        box_index: for each source ``(N_s, 2D)``.
        score: for each source ``(N_s,)`` in 0..1.
        label: for each source ``(N_s,)``.
        iou_threshold: 0.55 in the paper.
        weights: trust in each source, 1 by default.

    Raises:
        ValueError: no source, lists of different length, or a weight that is not positive.
    """
    n_sources = len(box_index)
    weights = [1.0] * n_sources if weights is None else list(weights)
    if n_sources == 0 or not len(score) == len(label) == len(weights) == n_sources:
        raise ValueError(
            f"fuse got {n_sources} sources of boxes, {len(score)} of scores, {len(label)} of labels and "
            f"{len(weights)} weights; expected one of each for every source, and at least one source."
        )
    if min(weights) <= 0:
        raise ValueError(f"fuse got weights {weights}; every weight must be more than 0.")
    origin = [(source, row) for source, boxes in enumerate(box_index) for row in range(len(boxes))]
    boxes = torch.cat([b.detach() for b in box_index]).double().cpu()
    box_dims(boxes)
    scores = torch.cat([s.detach().double().cpu() * w for s, w in zip(score, weights, strict=True)])
    labels = torch.cat([one.detach().cpu() for one in label]).long()
    if not scores.shape == labels.shape == boxes.shape[:1]:
        raise ValueError(f"fuse got {len(boxes)} boxes, {len(scores)} scores and {len(labels)} labels.")

    order = scores.argsort(descending=True, stable=True)
    clusters: list[NDArray[np.int64]] = []
    fused_by_label = [boxes.numpy()[:0]]
    for one_label in np.unique(labels.numpy()).tolist():
        rows = order[labels[order] == one_label].numpy()
        own = _Clusters(boxes.numpy()[rows], scores.numpy()[rows], iou_threshold)
        clusters += [rows[members] for members in own.members]
        fused_by_label.append(own.fused)
    sizes = np.array([len(rows) for rows in clusters], dtype=np.int64)
    of_row = np.repeat(np.arange(len(clusters)), sizes)
    by_cluster = np.concatenate([np.zeros(0, np.int64), *clusters])
    mean = np.bincount(of_row, weights=scores.numpy()[by_cluster], minlength=len(clusters)) / sizes
    final = torch.from_numpy(mean * np.minimum(sizes, n_sources) / sum(weights))
    # Of equals the one that was begun first.
    first = by_cluster[np.cumsum(sizes) - sizes]
    begun = order.argsort()[first].argsort()
    best = begun[final[begun].argsort(descending=True, stable=True)]
    return Fused(
        torch.from_numpy(np.concatenate(fused_by_label))[best].to(box_index[0]),
        final[best].to(score[0]),
        labels[first][best].to(label[0].device),
        tuple(tuple(origin[row] for row in clusters[place].tolist()) for place in best.tolist()),
    )


class _Clusters:
    """Boxes of one class in falling order of score, each joined to the fused box that it overlaps most as that stands
    by then.

    A block of boxes is held against all fused boxes, and against itself, in tiles. A fused box that the block moves is
    kept apart, and each box is held against it once more: that is a few boxes, and no tile has to be made anew.

    Args:
        boxes: ``(N, 2D)``.
        scores: ``(N,)``.
        threshold: IoU above which a box joins.

    ``members`` are the rows of each fused box, best first, and ``fused`` is ``(K, 2D)``.
    """

    def __init__(self, boxes: Floats, scores: Floats, threshold: float) -> None:
        self.members: list[list[int]] = []
        self._boxes, self._threshold = boxes, threshold
        self._weights = np.maximum(scores, np.finfo(np.float64).tiny)
        self._sums = np.zeros_like(boxes)
        self._weight_sums = np.zeros(len(boxes))
        self._columns = box_columns(boxes)
        self._fused = np.empty_like(self._columns)
        # Of the block at hand: numbers of the fused boxes that it has moved, and these, column by column.
        self._moved: list[int] = []
        self._moved_columns = np.empty((len(self._columns), TILE_ROWS))
        for start in range(0, len(boxes), TILE_ROWS):
            self._join_block(start, min(start + TILE_ROWS, len(boxes)))
        self.fused: Floats = self._fused[:-1, : len(self.members)].T

    def _join_block(self, start: int, stop: int) -> None:
        block = self._columns[:, start:stop]
        candidates: dict[int, list[tuple[float, int]]] = {}
        for first in range(0, len(self.members), TILE_COLUMNS):
            others = self._fused[:, first : min(first + TILE_COLUMNS, len(self.members))]
            for row, column, iou in self._above(block, others):
                candidates.setdefault(start + row, []).append((-iou, first + column))
        own: dict[int, list[tuple[float, int]]] = {}
        for row, column, iou in self._above(block, block):
            if column < row:
                own.setdefault(start + row, []).append((-iou, start + column))
        self._moved = []
        begun: dict[int, int] = {}
        for box in range(start, stop):
            # The least is the largest IoU, and of equals the oldest.
            joined = [one for one in candidates.get(box, ()) if one[1] not in self._moved]
            alone = [(iou, begun[other]) for iou, other in own.get(box, ()) if other in begun]
            joined += [one for one in alone if one[1] not in self._moved]
            joined += self._moved_above(box)
            if joined:
                self._join(min(joined)[1], box)
            else:
                begun[box] = self._begin(box)

    def _above(self, a: Floats, b: Floats) -> Iterator[tuple[int, int, float]]:
        """Row, column and IoU of all pairs whose IoU is above the threshold."""
        inter, union = overlap_tile(a, b)
        above = inter > (self._threshold * _SLACK) * union
        if above.any():
            iou = inter[above] / np.maximum(union[above], _TINY)
            for (row, column), one in zip(np.argwhere(above).tolist(), iou.tolist(), strict=True):
                if one > self._threshold:
                    yield row, column, one

    def _moved_above(self, box: int) -> list[tuple[float, int]]:
        """Minus the IoU, and number, of the fused boxes moved in this block that overlap ``box`` most and enough."""
        if not self._moved:
            return []
        own, others = self._columns[:, box, None], self._moved_columns[:, : len(self._moved)]
        dims = len(own) // 2
        side = np.minimum(own[dims:-1], others[dims:-1])
        side -= np.maximum(own[:dims], others[:dims])
        inter = np.maximum(side, 0.0, out=side).prod(axis=0)
        iou = inter / np.maximum(own[-1] + others[-1] - inter, _TINY)
        largest = float(iou.max())
        if largest <= self._threshold:
            return []
        return [(-largest, self._moved[column]) for column in np.flatnonzero(iou == largest).tolist()]

    def _begin(self, box: int) -> int:
        place = len(self.members)
        self.members.append([box])
        self._sums[place] = self._weights[box] * self._boxes[box]
        self._weight_sums[place] = self._weights[box]
        # A box alone is itself: a weight times a value over that weight need not be.
        self._fused[:, place] = self._columns[:, box]
        return place

    def _join(self, place: int, box: int) -> None:
        self.members[place].append(box)
        self._sums[place] += self._weights[box] * self._boxes[box]
        self._weight_sums[place] += self._weights[box]
        if place not in self._moved:
            self._moved.append(place)
        column = self._fused[:, place]
        dims = len(column) // 2
        np.divide(self._sums[place], self._weight_sums[place], out=column[:-1])
        column[-1] = prod(max(high - low, 0.0) for low, high in zip(column[:dims], column[dims:-1], strict=True))
        self._moved_columns[:, self._moved.index(place)] = column
