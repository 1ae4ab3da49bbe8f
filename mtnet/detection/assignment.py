"""Which cells of a dense detector learn which object: SimOTA and ATSS, for one image, in 2D and 3D."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mtnet.detection.coding import Candidates
from mtnet.detection.overlap import pairwise_iou

_FAR = 1e6
"""Cost of a cell that is no candidate of an object (YOLOX adds the same): beyond every real cost."""


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """The object of every cell.

    Args:
        object_of_cell: ``(N,)`` int64, index of the object, -1 for background.
        iou: ``(N,)`` IoU of the cell's box with its object, 0 for background.
    """

    object_of_cell: Tensor
    iou: Tensor

    @property
    def positive(self) -> Tensor:
        """Indices ``(P,)`` of the cells that have an object, rising."""
        return torch.nonzero(self.object_of_cell >= 0)[:, 0]


def centre_prior(object_index: Tensor, centres: Tensor, strides: Tensor, radius: float = 1.5) -> Tensor:
    """Whether each cell ``(G, N)`` lies strictly within ``radius`` strides of each object's centre on every axis.

    Args:
        object_index: ``(G, 2D)`` objects.
        centres: ``(N, D)`` cell centres in voxels.
        strides: ``(N,)`` stride of each cell.
        radius: in strides; 1.5 in YOLOX.
    """
    dims = centres.shape[1]
    object_centre = (object_index[:, :dims] + object_index[:, dims:]) / 2
    distance = (centres[None] - object_centre[:, None]).abs().amax(-1)
    return distance < radius * strides


@torch.no_grad()
def simota(
    predicted: Candidates,
    object_index: Tensor,
    object_label: Tensor,
    centres: Tensor,
    strides: Tensor,
    *,
    radius: float = 1.5,
) -> Assignment:
    """Assign cells to objects by SimOTA (YOLOX, arXiv 2107.08430, section 2.1; OTA, arXiv 2103.14259).

    The cost of a cell for an object is BCE(sqrt(p_class * p_quality), one-hot class) + 3 * (-ln(IoU + 1e-8)), in
    float32, for the candidates that ``centre_prior`` gives; see ``match_by_cost`` for the rest. An object whose centre
    lies so far outside the image that no cell is near gets none.

    Args:
        predicted: what the network says now for the N cells of one image, all levels joined.
        object_index: ``(G, 2D)`` objects; G may be 0.
        object_label: ``(G,)`` int64 class of each object.
        centres: ``(N, D)`` cell centres.
        strides: ``(N,)`` stride of each cell.
        radius: of the centre prior, in strides.
    """
    object_of_cell = torch.full_like(strides, -1, dtype=torch.long)
    iou_of_cell = torch.zeros_like(predicted.quality_logit, dtype=torch.float32)
    objects = object_index.float()
    near = centre_prior(objects, centres, strides, radius)
    union = torch.nonzero(near.any(0))[:, 0]
    if union.numel() > 0:
        iou = pairwise_iou(objects, predicted.box_index[union].float())
        cost = simota_cost(iou, predicted.class_logits[union], predicted.quality_logit[union], object_label)
        found = match_by_cost(cost, iou, near[:, union])
        object_of_cell[union] = found.object_of_cell
        iou_of_cell[union] = found.iou
    return Assignment(object_of_cell, iou_of_cell)


@torch.no_grad()
def simota_cost(iou: Tensor, class_logits: Tensor, quality_logit: Tensor, object_label: Tensor) -> Tensor:
    """Cost ``(G, N)`` before the centre prior: class BCE of the joint probability plus 3 * (-ln(IoU + 1e-8))."""
    joint = (F.logsigmoid(class_logits.float()) + F.logsigmoid(quality_logit.float())[:, None]) / 2
    probability = joint.exp()
    # BCE against a one-hot: -ln p of the right class and -ln(1 - p) of the others, clamped as torch's BCE is.
    miss = -torch.log1p(-probability).clamp_min(-100)
    total = miss.sum(-1)
    own_hit = -joint.clamp_min(-100)[:, object_label].T
    own_miss = miss[:, object_label].T
    return total[None] - own_miss + own_hit - 3 * torch.log(iou.float() + 1e-8)


@torch.no_grad()
def match_by_cost(cost: Tensor, iou: Tensor, candidate: Tensor | None = None, top_ious: int = 10) -> Assignment:
    """SimOTA's dynamic-k matching from a cost matrix.

    An object takes its k cheapest candidates, k = max(1, floor of the sum of its ``top_ious`` largest IoUs) but no
    more than it has candidates; a cell taken twice goes to the cheaper object (the lower index on a tie). Beyond the
    paper, for lesions smaller than a cell: an object that lost every cell in this way gets its cheapest candidate
    that nobody took, so each object keeps a positive as long as it has a free candidate.

    Args:
        cost: ``(G, N)``.
        iou: ``(G, N)``.
        candidate: ``(G, N)`` bool, which cells each object may take; all if None.
        top_ious: number of IoUs in the sum.
    """
    if candidate is None:
        candidate = torch.ones_like(cost, dtype=torch.bool)
    n_objects, n_cells = cost.shape
    cost = torch.where(candidate, cost.float(), _FAR)
    k = iou.topk(min(top_ious, n_cells), dim=1).values.sum(1).int().clamp_min(1)
    k = torch.minimum(k, candidate.sum(1).int())
    cheapest_first = cost.argsort(dim=1, stable=True)
    rank = torch.empty_like(cheapest_first)
    rank.scatter_(1, cheapest_first, torch.arange(n_cells, device=cost.device).expand(n_objects, -1).contiguous())
    taken = rank < k[:, None]
    owner = torch.where(taken, cost, torch.inf).argmin(0)
    owner = torch.where(taken.any(0), owner, -1)
    kept = torch.bincount(owner[owner >= 0], minlength=n_objects)
    for lost in torch.nonzero(kept == 0)[:, 0].tolist():
        free = candidate[lost] & (owner < 0)
        if bool(free.any()):
            owner[torch.where(free, cost[lost], torch.inf).argmin()] = lost
    matched = iou.gather(0, owner.clamp_min(0)[None])[0] * (owner >= 0)
    return Assignment(owner, matched)


@torch.no_grad()
def atss(
    object_index: Tensor, centres: Tensor, strides: Tensor, anchor_scale: float = 8.0, nearest: int = 9
) -> Assignment:
    """Assign cells to objects by ATSS (Zhang 2020, arXiv 1912.02424, algorithm 1), one square anchor a cell.

    Per object and level the ``nearest`` anchors by centre distance are candidates; those whose IoU reaches mean +
    sample standard deviation of all candidates' IoUs and whose centre lies inside the object are positive; a cell of
    several objects goes to the highest IoU. An object that no centre lies in stays without a positive, as in the paper.

    Args:
        object_index: ``(G, 2D)``.
        centres: ``(N, D)`` cell centres; the cells of one stride make one level.
        strides: ``(N,)``.
        anchor_scale: side of an anchor in strides.
        nearest: candidates of an object on a level.
    """
    n_cells, dims = centres.shape
    n_objects = object_index.shape[0]
    owner = torch.full((n_cells,), -1, dtype=torch.long, device=centres.device)
    if n_objects == 0:
        return Assignment(owner, torch.zeros(n_cells, device=centres.device))
    object_index = object_index.to(centres.dtype)
    half = anchor_scale * strides[:, None].to(centres.dtype) / 2
    iou = pairwise_iou(object_index, torch.cat([centres - half, centres + half], dim=1))
    candidates = _nearest_on_each_level(object_index, centres, strides, nearest)
    candidate_iou = iou.gather(1, candidates)
    # One candidate has no sample deviation; its own IoU is then the threshold.
    spread = candidate_iou.std(1) if candidates.shape[1] > 1 else torch.zeros_like(candidate_iou[:, 0])
    threshold = candidate_iou.mean(1) + spread
    centre = centres[candidates]
    inside = ((centre > object_index[:, None, :dims]) & (centre < object_index[:, None, dims:])).all(-1)
    positive = (candidate_iou >= threshold[:, None]) & inside
    claim = torch.full_like(iou, -1.0).scatter_(1, candidates, torch.where(positive, candidate_iou, -1.0))
    best, owner_of_best = claim.max(0)
    owner = torch.where(best >= 0, owner_of_best, owner)
    return Assignment(owner, best.clamp_min(0))


def _nearest_on_each_level(object_index: Tensor, centres: Tensor, strides: Tensor, nearest: int) -> Tensor:
    """Cells ``(G, K)`` that are among the ``nearest`` to each object's centre on their own level."""
    dims = centres.shape[1]
    middle = (object_index[:, :dims] + object_index[:, dims:]) / 2
    found = []
    for stride in sorted(set(strides.tolist())):
        cells = torch.nonzero(strides == stride)[:, 0]
        squared = (centres[cells][None] - middle[:, None]).square().sum(-1)
        found.append(cells[squared.topk(min(nearest, cells.numel()), largest=False).indices])
    return torch.cat(found, dim=1)
