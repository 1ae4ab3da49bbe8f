"""Losses of predicted boxes against their objects, in 2D and 3D."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from mtnet.detection import paired_overlap

BoxLossKind = Literal["iou", "iou_squared", "giou", "diou", "ciou"]
BOX_LOSS_KINDS: tuple[BoxLossKind, ...] = get_args(BoxLossKind)


def box_loss(predicted_index: Tensor, object_index: Tensor, kind: BoxLossKind = "giou") -> Tensor:
    """Loss ``(N,)`` of boxes ``(N, 2D)`` one with one: 1 - overlap, or YOLOX's 1 - IoU^2 (``iou_squared``).

    ``iou`` and ``iou_squared`` give boxes that don't touch no gradient; the others pull them together.

    Raises:
        ValueError: unknown ``kind``, or ``ciou`` in 3D.
    """
    if kind not in BOX_LOSS_KINDS:
        raise ValueError(f"Box loss is {kind!r}; expected one of {', '.join(BOX_LOSS_KINDS)}.")
    if kind == "iou_squared":
        return 1 - paired_overlap(predicted_index, object_index, "iou").square()
    return 1 - paired_overlap(predicted_index, object_index, kind)
