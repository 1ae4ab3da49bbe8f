"""Overlap of axis-aligned boxes in 2D and 3D: IoU, GIoU, DIoU and CIoU.

Boxes are ``(..., 2 * D)``: D lows, then D highs, half-open in continuous index space, so an extent is high - low.
A box whose high lies below its low counts as empty. Overlap with an empty box is 0, never NaN.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

OverlapKind = Literal["iou", "giou", "diou", "ciou"]
OVERLAP_KINDS: tuple[OverlapKind, ...] = get_args(OverlapKind)

_PAIRS_AT_ONCE = 1 << 21
"""Pairs per block of ``pairwise_iou``: about 8 MiB for each float32 temporary."""

_TINY = 1e-12
"""Keeps a quotient of two empty boxes at 0; far below the volume of any box that a network can code."""


def volume(box_index: Tensor) -> Tensor:
    """Area or volume in voxels ``(...)`` of boxes ``(..., 2 * D)``; 0 for an empty box."""
    dims = box_dims(box_index)
    return _extent(box_index[..., :dims], box_index[..., dims:])


def box_dims(box_index: Tensor) -> int:
    """Spatial dimensions D of boxes ``(..., 2 * D)``.

    Raises:
        ValueError: the last dimension is neither 4 nor 6.
    """
    if box_index.ndim < 1 or box_index.shape[-1] not in (4, 6):
        raise ValueError(
            f"box_index has shape {tuple(box_index.shape)}; expected (..., 4) in 2D or (..., 6) in 3D: "
            "all lows, then all highs."
        )
    return box_index.shape[-1] // 2


def pairwise_iou(a_index: Tensor, b_index: Tensor) -> Tensor:
    """IoU ``(N, M)`` of every box of ``a_index`` ``(N, 2D)`` with every box of ``b_index`` ``(M, 2D)``.

    Computed in blocks of rows, so that temporaries stay small however many boxes there are.

    Raises:
        ValueError: the two differ in dimension, or are not lists of 2D or 3D boxes.
    """
    dims = _common_dims(a_index, b_index)
    if a_index.ndim != 2 or b_index.ndim != 2:
        raise ValueError(f"pairwise_iou takes (N, 2D) and (M, 2D); got {a_index.ndim} and {b_index.ndim} dimensions.")
    b_volume = volume(b_index)
    rows = max(1, _PAIRS_AT_ONCE // max(1, b_index.shape[0]))
    blocks = []
    for block in torch.split(a_index, rows):
        inter = _intersection(block[:, None], b_index[None], dims)
        union = volume(block)[:, None] + b_volume - inter
        blocks.append(inter / union.clamp_min(_TINY))
    return torch.cat(blocks)


def paired_overlap(a_index: Tensor, b_index: Tensor, kind: OverlapKind = "iou") -> Tensor:
    """Overlap ``(...)`` of boxes ``(..., 2D)`` one with one, differentiable in both.

    ``giou`` = IoU - (C - U) / C with the smallest enclosing box C (Rezatofighi 2019, arXiv 1902.09630, algorithm 1).
    ``diou`` = IoU - rho^2 / c^2, centre distance over enclosing diagonal (Zheng 2020, arXiv 1911.08287, eq. 7).
    ``ciou`` = DIoU - alpha v (same paper, eqs. 8-11), alpha without gradient; axis 0 is the width. The paper's aspect
    ratio of width to height has no 3D form, so ``ciou`` is refused there.

    Raises:
        ValueError: unknown ``kind``, ``ciou`` in 3D, or boxes of different dimensions.
    """
    dims = _common_dims(a_index, b_index)
    if kind not in OVERLAP_KINDS:
        raise ValueError(f"Overlap kind is {kind!r}; expected one of {', '.join(OVERLAP_KINDS)}.")
    if kind == "ciou" and dims != 2:
        raise ValueError(
            f"CIoU is defined for 2D boxes only (its aspect term is width to height), got {dims}D boxes; "
            "use 'diou' or 'giou'."
        )
    inter = _intersection(a_index, b_index, dims)
    union = volume(a_index) + volume(b_index) - inter
    iou = inter / union.clamp_min(_TINY)
    if kind == "iou":
        return iou
    low = torch.minimum(a_index[..., :dims], b_index[..., :dims])
    high = torch.maximum(a_index[..., dims:], b_index[..., dims:])
    if kind == "giou":
        hull = _extent(low, high)
        return iou - (hull - union) / hull.clamp_min(_TINY)
    centre_offset = (a_index[..., :dims] + a_index[..., dims:] - b_index[..., :dims] - b_index[..., dims:]) / 2
    diou = iou - centre_offset.square().sum(-1) / (high - low).square().sum(-1).clamp_min(_TINY)
    if kind == "diou":
        return diou
    v = (4 / math.pi**2) * (_aspect(a_index) - _aspect(b_index)).square()
    with torch.no_grad():
        alpha = v / (1 - iou + v).clamp_min(_TINY)
    return diou - alpha * v


def _common_dims(a_index: Tensor, b_index: Tensor) -> int:
    dims = box_dims(a_index)
    if box_dims(b_index) != dims:
        raise ValueError(f"Boxes of {dims}D and {box_dims(b_index)}D cannot overlap; give both in one dimension.")
    return dims


def _extent(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp_min(0).prod(-1)


def _intersection(a_index: Tensor, b_index: Tensor, dims: int) -> Tensor:
    low = torch.maximum(a_index[..., :dims], b_index[..., :dims])
    high = torch.minimum(a_index[..., dims:], b_index[..., dims:])
    return _extent(low, high)


def _aspect(box_index: Tensor) -> Tensor:
    """atan(width / height) of 2D boxes ``(..., 4)``, by ``atan2`` so that a flat box stays finite."""
    return torch.atan2(box_index[..., 2] - box_index[..., 0], box_index[..., 3] - box_index[..., 1])
