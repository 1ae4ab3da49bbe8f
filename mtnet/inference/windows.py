"""Where the windows lie, which of them run, and how much each voxel of a window weighs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mtnet.inference.plan import Importance, Plan
from mtnet.structures import ReportLine

Mask = NDArray[np.bool_]
Starts = NDArray[np.int64]

SIGMA_SCALE = 0.125
"""Sigma of the Gaussian importance map as a share of the window, as MONAI's inferers take it by default."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The windows that run, in the order in which they run.

    Args:
        window: voxels along each axis.
        starts: ``(W, D)`` first voxel of every window that runs, sorted along the slab axis first.
        share: ``(W,)`` share of each window's voxels that lie in the region.
        total: windows of the whole image, those that do not run among them.
        region: bool mask of the valid image, or None where all of it counts.
        region_share: share of the valid image's voxels in the region.
        valid_shape: image size before padding.
        lines: what is worth saying about the region.
    """

    window: tuple[int, ...]
    starts: Starts
    share: NDArray[np.float64]
    total: int
    region: Mask | None
    region_share: float
    valid_shape: tuple[int, ...]
    lines: tuple[ReportLine, ...] = ()

    def slices(self, number: int) -> tuple[slice, ...]:
        """The voxels of window ``number`` along each axis."""
        return tuple(slice(int(s), int(s) + w) for s, w in zip(self.starts[number], self.window, strict=True))


def pad_to_window(
    image: Tensor, window: Sequence[int], coarsest_stride: int, value: float = 0.0
) -> tuple[Tensor, tuple[int, ...]]:
    """Pad ``(1, C, *S)`` at the high end to at least ``window`` and to whole cells of the coarsest output stride.

    Returns:
        The padded image (the same tensor where nothing was missing) and the size before padding, for
        ``Plan.valid_shape``.
    """
    valid = tuple(image.shape[2:])
    wanted = [max(w, -(-n // coarsest_stride) * coarsest_stride) for n, w in zip(valid, window, strict=True)]
    missing = [w - n for n, w in zip(valid, wanted, strict=True)]
    if not any(missing):
        return image, valid
    pad = [p for m in reversed(missing) for p in (0, m)]
    return F.pad(image, pad, value=value), valid


def axis_starts(size: int, window: int, stride: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis, all multiples of ``stride``; the last window ends at ``size``."""
    step = max(int(window * (1.0 - overlap)) // stride * stride, stride)
    starts = list(range(0, size - window, step))
    return [*starts, size - window]


def importance_map(window: Sequence[int], kind: Importance, stride: int = 1) -> Tensor:
    """Weights ``(*window / stride)`` in float32 of a window's cells: MONAI's map, sampled as MONAI samples it.

    ``gaussian`` is a product of Gaussians about the window's middle, not below the larger of 1e-3 and its own
    minimum. A coarse map takes the weight of the voxel at the middle of each cell (the upper one of two).
    """
    weights = torch.ones(tuple(window))
    if kind == "gaussian":
        for axis, size in enumerate(window):
            x = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
            profile = torch.exp(-(x**2) / (2 * (SIGMA_SCALE * size) ** 2))
            weights = weights * profile.reshape([-1 if a == axis else 1 for a in range(len(window))])
        weights = weights.clamp_min(max(float(weights.min()), 1e-3))
    return weights[tuple(slice(stride // 2, None, stride) for _ in window)].contiguous()


def lay_windows(plan: Plan, shape: Sequence[int], stride: int, slab_axis: int, halo: int) -> Layout:
    """Lay windows on an image, keep those that its region needs, and order them along ``slab_axis``.

    Args:
        plan: what is wanted.
        shape: size of the image, padded.
        stride: coarsest output stride; every window starts on its grid.
        slab_axis: image axis along which dense outputs are finished.
        halo: voxels around the region whose windows run as well, because interpolation inside reads them.

    Raises:
        ValueError: image, window, list of windows, region or valid shape do not fit each other; says what would.
    """
    shape = tuple(shape)
    valid = _valid_shape(plan, shape)
    starts = _all_starts(plan, shape, stride)
    starts = starts[
        np.lexsort([*(starts[:, a] for a in reversed(range(len(shape))) if a != slab_axis), starts[:, slab_axis]])
    ]
    region, lines = _region(plan, shape, valid)
    if plan.starts is not None:
        region = _within_coverage(region, starts, plan.window, valid, halo)
    low, high = starts, starts + np.asarray(plan.window)
    inside = _voxels_inside(region, valid, low, high)
    touched = inside if halo == 0 else _voxels_inside(region, valid, low - halo, high + halo)
    runs = touched > 0
    if not inside.any():
        raise ValueError(
            f"None of the {len(starts)} windows of Plan.starts holds a voxel of the region that can be answered for."
        )
    volume = float(np.prod(valid))
    return Layout(
        window=plan.window,
        starts=starts[runs],
        share=inside[runs] / float(np.prod(plan.window)),
        total=len(starts),
        region=region,
        region_share=1.0 if region is None else float(np.count_nonzero(region)) / volume,
        valid_shape=valid,
        lines=lines,
    )


def _valid_shape(plan: Plan, shape: tuple[int, ...]) -> tuple[int, ...]:
    valid = shape if plan.valid_shape is None else tuple(plan.valid_shape)
    if len(valid) != len(shape) or any(not 0 < v <= n for v, n in zip(valid, shape, strict=True)):
        raise ValueError(f"Plan.valid_shape is {valid}; expected sizes from 1 to those of the image, {shape}.")
    return valid


def _all_starts(plan: Plan, shape: tuple[int, ...], stride: int) -> Starts:
    window = plan.window
    if len(window) != len(shape):
        raise ValueError(f"Plan.window is {window}; the image has {len(shape)} spatial axes, {shape}.")
    if any(w % stride for w in window):
        fitting = tuple(-(-w // stride) * stride for w in window)
        raise ValueError(f"Plan.window is {window}; with an output of stride {stride} take {fitting}.")
    if any(n < w or n % stride for n, w in zip(shape, window, strict=True)):
        wanted = tuple(max(w, -(-n // stride) * stride) for n, w in zip(shape, window, strict=True))
        raise ValueError(
            f"The image has size {shape}; windows of {window} and stride {stride} need {wanted}. "
            "Pad it with mtnet.inference.windows.pad_to_window."
        )
    if plan.starts is None:
        axes = [axis_starts(n, w, stride, plan.overlap) for n, w in zip(shape, window, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape)).astype(np.int64)
    starts = np.unique(np.asarray(plan.starts, dtype=np.int64).reshape(-1, len(shape)), axis=0)
    wrong = (starts % stride != 0) | (starts < 0) | (starts + np.asarray(window) > np.asarray(shape))
    if len(starts) == 0 or wrong.any():
        first = tuple(starts[wrong.any(axis=1)][0].tolist()) if len(starts) else ()
        raise ValueError(
            f"Plan.starts holds {first}; expected at least one window, each starting on a multiple of {stride} and "
            f"ending inside the image of {shape}."
        )
    return starts


def _region(plan: Plan, shape: tuple[int, ...], valid: tuple[int, ...]) -> tuple[Mask | None, tuple[ReportLine, ...]]:
    """The region on the valid image; None, with a line, where the plan's region is empty."""
    if plan.region is None:
        return None, ()
    if tuple(plan.region.shape) not in (shape, valid):
        raise ValueError(
            f"Plan.region has shape {tuple(plan.region.shape)}; expected that of the image, {shape}, or of its valid "
            f"part, {valid}."
        )
    mask: Mask = plan.region.detach().cpu().numpy().astype(bool)[tuple(slice(n) for n in valid)]
    if mask.any():
        return mask, ()
    text = "The region holds no voxel of the image, so the whole image is searched."
    return None, (ReportLine("region_empty", "note", text, "inference"),)


def _within_coverage(
    region: Mask | None, starts: Starts, window: tuple[int, ...], valid: tuple[int, ...], halo: int
) -> Mask | None:
    """The region, less what no window of a given list covers and, with interpolation, what would read from there."""
    covered = np.zeros(valid, dtype=bool)
    for start in starts:
        covered[tuple(slice(s, s + w) for s, w in zip(start.tolist(), window, strict=True))] = True
    if covered.all():
        return region
    if halo:
        from scipy import ndimage

        box = np.ones([2 * halo + 1] * len(valid), dtype=bool)
        covered = ndimage.binary_erosion(covered, box, border_value=1)
    return covered if region is None else covered & region


def _voxels_inside(region: Mask | None, valid: tuple[int, ...], low: Starts, high: Starts) -> NDArray[np.float64]:
    """How many voxels of the region each box ``low..high`` holds: sums along one axis after the other, so that memory
    stays small and each voxel is read about once."""
    size = np.asarray(valid)
    low, high = np.clip(low, 0, size), np.clip(high, 0, size)
    if region is None:
        return np.asarray(np.prod(high - low, axis=1), dtype=np.float64)
    counts: NDArray[np.generic] = region
    rows = []
    for axis in range(len(valid)):
        ranges, row = np.unique(np.stack([low[:, axis], high[:, axis]], axis=1), axis=0, return_inverse=True)
        counts = np.stack(
            [np.take(counts, np.arange(a, b), axis=axis).sum(axis=axis, dtype=np.int64) for a, b in ranges.tolist()],
            axis=axis,
        )
        rows.append(row.reshape(-1))
    return np.asarray(counts[tuple(rows)], dtype=np.float64)
