"""Weighted box fusion: one box from several networks, folds or test-time views (Solovyev 2019, arXiv 1910.13302)."""

from __future__ import annotations

from collections.abc import Sequence
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

    A block of boxes is held against all fused boxes in tiles. What the block itself changes is kept apart, and each
    box is held against it once more: that is a few boxes, and no tile has to be made anew.

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
        # Of the block at hand: numbers of the fused boxes that it has changed, and these, column by column.
        self._places: list[int] = []
        self._changed = np.empty((len(self._columns), TILE_ROWS))
        for start in range(0, len(boxes), TILE_ROWS):
            self._join_block(start, min(start + TILE_ROWS, len(boxes)))
        self.fused: Floats = self._fused[:-1, : len(self.members)].T

    def _join_block(self, start: int, stop: int) -> None:
        candidates = self._candidates(start, stop)
        for box in range(start, stop):
            self._join(self._best(box, candidates.get(box, [])), box)
        self._fused[:, self._places] = self._changed[:, : len(self._places)]
        self._places = []

    def _candidates(self, start: int, stop: int) -> dict[int, list[tuple[float, int]]]:
        """For boxes of a block the IoU above the threshold and number of fused boxes."""
        found: dict[int, list[tuple[float, int]]] = {}
        for first in range(0, len(self.members), TILE_COLUMNS):
            others = self._fused[:, first : min(first + TILE_COLUMNS, len(self.members))]
            inter, union = overlap_tile(self._columns[:, start:stop], others)
            above = inter > (self._threshold * _SLACK) * union
            if not above.any():
                continue
            iou = inter[above] / np.maximum(union[above], _TINY)
            for (row, column), one in zip(np.argwhere(above).tolist(), iou.tolist(), strict=True):
                if one > self._threshold:
                    found.setdefault(start + row, []).append((one, first + column))
        return found

    def _best(self, box: int, candidates: list[tuple[float, int]]) -> int:
        """Number of the fused box that ``box`` joins, the oldest of equals; -1 where it starts one."""
        best = [(-iou, place) for iou, place in candidates if place not in self._places]
        if self._places:
            own, others = self._columns[:, box, None], self._changed[:, : len(self._places)]
            dims = len(own) // 2
            side = np.minimum(own[dims:-1], others[dims:-1])
            side -= np.maximum(own[:dims], others[:dims])
            inter = np.maximum(side, 0.0, out=side).prod(axis=0)
            iou = inter / np.maximum(own[-1] + others[-1] - inter, _TINY)
            largest = float(iou.max())
            if largest > self._threshold:
                best += [(-largest, self._places[column]) for column in np.flatnonzero(iou == largest).tolist()]
        return min(best)[1] if best else -1

    def _join(self, place: int, box: int) -> None:
        if place < 0:
            place = len(self.members)
            self.members.append([])
        members = self.members[place]
        members.append(box)
        self._sums[place] += self._weights[box] * self._boxes[box]
        self._weight_sums[place] += self._weights[box]
        if place not in self._places:
            self._places.append(place)
        column = self._changed[:, self._places.index(place)]
        # One box is itself: a weight times a value over that weight need not be.
        if len(members) == 1:
            column[:] = self._columns[:, box]
        else:
            dims = len(column) // 2
            np.divide(self._sums[place], self._weight_sums[place], out=column[:-1])
            column[-1] = prod(max(high - low, 0.0) for low, high in zip(column[:dims], column[dims:-1], strict=True))
