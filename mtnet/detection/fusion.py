"""Weighted box fusion: one box from several networks, folds or test-time views (Solovyev 2019, arXiv 1910.13302)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtnet.detection.overlap import box_dims, pairwise_iou


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

    clusters: list[list[int]] = []
    fused = torch.empty_like(boxes)
    fused_label = torch.empty_like(labels)
    for box in scores.argsort(descending=True, stable=True).tolist():
        n = len(clusters)
        iou = pairwise_iou(boxes[box : box + 1], fused[:n])[0] * (fused_label[:n] == labels[box])
        if n and float(iou.max()) > iou_threshold:
            place = int(iou.argmax())
            clusters[place].append(box)
            fused[place] = _weighted_mean(boxes[clusters[place]], scores[clusters[place]])
        else:
            clusters.append([box])
            fused[n], fused_label[n] = boxes[box], labels[box]

    count = torch.tensor([len(cluster) for cluster in clusters], dtype=torch.float64)
    mean = torch.tensor([float(scores[cluster].mean()) for cluster in clusters], dtype=torch.float64)
    final = mean * count.clamp_max(n_sources) / sum(weights)
    order = final.argsort(descending=True, stable=True)
    return Fused(
        fused[order].to(box_index[0]),
        final[order].to(score[0]),
        fused_label[order].to(label[0].device),
        tuple(tuple(origin[box] for box in clusters[place]) for place in order.tolist()),
    )


def _weighted_mean(boxes: Tensor, scores: Tensor) -> Tensor:
    weight = scores.clamp_min(torch.finfo(scores.dtype).tiny)
    return (boxes * (weight / weight.sum())[:, None]).sum(0)
