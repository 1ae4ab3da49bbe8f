"""Anchor-free box coding: a level tensor of a dense detection head to boxes in image voxels, and back.

Channels of a level ``(B, C, *S)`` are class logits, 2 * D offsets, one quality logit, then any per-lesion channels.
Offsets are YOLOX's (Ge 2021, arXiv 2107.08430): centre = cell centre + raw[:D] * stride, size = exp(raw[D:]) * stride.
Cell ``c`` of a stride-s map covers ``[c * s - 0.5, (c + 1) * s - 0.5)`` of the image, so its centre is
``(c + 0.5) * s - 0.5``. Cells are numbered row-major (last axis fastest).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtnet.detection.overlap import box_dims

MAX_LOG_SIZE = 10.0
"""Bound of |raw size|: sizes from 5e-5 to 22,000 strides, so that no logit makes an infinite or empty box."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Candidate boxes of one level or of several, N a batch item. Fields may lack the batch dimension B.

    Args:
        box_index: ``(B, N, 2D)`` half-open boxes in voxels of the network's input.
        class_logits: ``(B, N, classes)``.
        quality_logit: ``(B, N)``.
        lesion: ``(B, N, L)`` raw per-lesion channels, L = 0 where there are none.
    """

    box_index: Tensor
    class_logits: Tensor
    quality_logit: Tensor
    lesion: Tensor

    def __post_init__(self) -> None:
        rows = self.box_index.shape[:-1]
        for name in ("class_logits", "lesion"):
            if getattr(self, name).shape[:-1] != rows:
                raise ValueError(
                    f"Candidates.{name} has shape {tuple(getattr(self, name).shape)}; expected {rows} + 1."
                )
        if self.quality_logit.shape != rows:
            raise ValueError(f"Candidates.quality_logit has shape {tuple(self.quality_logit.shape)}; expected {rows}.")

    @property
    def scores(self) -> Tensor:
        """Score ``(B, N, classes)`` in 0..1: sqrt(sigmoid(class) * sigmoid(quality))."""
        return (self.class_logits.sigmoid() * self.quality_logit.sigmoid()[..., None]).sqrt()

    def __getitem__(self, index: int | slice | Tensor) -> Candidates:
        """The same index of the first dimension of every field: a batch item, or candidates of an item."""
        return Candidates(
            self.box_index[index], self.class_logits[index], self.quality_logit[index], self.lesion[index]
        )

    @classmethod
    def joined(cls, parts: Sequence[Candidates]) -> Candidates:
        """The candidates of ``parts`` (levels, windows) one after the other in each batch item."""
        return cls(
            torch.cat([p.box_index for p in parts], dim=-2),
            torch.cat([p.class_logits for p in parts], dim=-2),
            torch.cat([p.quality_logit for p in parts], dim=-1),
            torch.cat([p.lesion for p in parts], dim=-2),
        )


def cell_centres(
    shape: Sequence[int], stride: int, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Centres ``(prod(shape), D)`` of the cells of a map of ``shape``, in voxels of the image, row-major."""
    axes = [(torch.arange(n, device=device, dtype=dtype) + 0.5) * stride - 0.5 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def decode(level: Tensor, stride: int, n_classes: int, dims: int) -> Candidates:
    """Candidates of one level tensor ``(B, C, *S)``: B items of prod(S) cells each, in float32.

    Raises:
        ValueError: the tensor has too few channels, or not ``dims`` spatial axes.
    """
    if level.ndim != dims + 2:
        raise ValueError(f"A box level has shape {tuple(level.shape)}; expected (B, C) and {dims} spatial axes.")
    needed = n_classes + 2 * dims + 1
    if level.shape[1] < needed:
        raise ValueError(
            f"A box level has {level.shape[1]} channels; {n_classes} classes in {dims}D need at least {needed}: "
            f"{n_classes} class logits, {2 * dims} offsets, 1 quality logit."
        )
    cells = level.float().flatten(2).transpose(1, 2)
    classes, offsets, quality, lesion = torch.split(cells, [n_classes, 2 * dims, 1, level.shape[1] - needed], dim=-1)
    centres = cell_centres(level.shape[2:], stride, device=level.device)
    return Candidates(decode_offsets(offsets, centres, stride), classes, quality[..., 0], lesion)


def decode_offsets(offsets: Tensor, centres: Tensor, stride: int | Tensor) -> Tensor:
    """Boxes ``(..., N, 2D)`` from raw ``offsets`` of that shape at ``centres`` ``(N, D)``; stride may be ``(N, 1)``."""
    dims = box_dims(offsets)
    centre = centres + offsets[..., :dims] * stride
    half = offsets[..., dims:].clamp(-MAX_LOG_SIZE, MAX_LOG_SIZE).exp() * stride / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def encode_offsets(box_index: Tensor, centres: Tensor, stride: int | Tensor) -> Tensor:
    """Raw offsets ``(..., N, 2D)`` of boxes ``(..., N, 2D)`` at ``centres`` ``(N, D)``: the inverse of decoding.

    Sizes beyond ``exp(MAX_LOG_SIZE)`` strides (or below its inverse, an empty box too) code as that bound.
    """
    dims = box_dims(box_index)
    low, high = box_index[..., :dims], box_index[..., dims:]
    size = ((high - low) / stride).clamp_min(torch.finfo(box_index.dtype).tiny)
    return torch.cat([((low + high) / 2 - centres) / stride, size.log().clamp(-MAX_LOG_SIZE, MAX_LOG_SIZE)], dim=-1)
