"""An image redrawn by the network against the image itself: likeness, and whether the error tells foreign images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.evaluation.bootstrap import FloatArray, Metric, mean_of
from mtnet.evaluation.ranking import Ranking

Record = Mapping[str, Any]
SSIM_WINDOW = 11
"""Pixels across the Gaussian (sigma 1.5) of SSIM, as its authors have it (Wang et al. 2004)."""


def record_of(
    image: NDArray[np.generic],
    redrawn: NDArray[np.generic],
    limits: tuple[float, float] | None,
    region: NDArray[np.bool_] | None = None,
    *,
    unit: str = "",
    foreign: bool = False,
) -> dict[str, Any] | None:
    """One image's record; None where the region holds no voxel.

    Error and PSNR are over the region. SSIM is that of axial planes, averaged over the places in the region whose
    window lies in the plane.

    Args:
        image: ``(C, i, j, k)``.
        redrawn: likewise.
        limits: range that the network saw; the image is clipped to it. None takes the image's own range.
        region: ``(i, j, k)`` where the network looked; None is everywhere.
        unit: of both images.
        foreign: the image is of a kind that the network was not trained on; it counts for ``auroc_foreign`` alone.

    Raises:
        ValueError: the images differ in shape.
    """
    if image.shape != redrawn.shape:
        raise ValueError(f"The images have shapes {image.shape} and {redrawn.shape}; expected one shape.")
    low, high = limits or (float(image.min()), float(image.max()))
    width = max(high - low, 1e-12)
    absolute = squared = likeness = 0.0
    voxels = places = 0
    for k in range(image.shape[3]):
        inside = np.ones(image.shape[1:3], dtype=np.bool_) if region is None else region[..., k]
        if not inside.any():
            continue
        before = image[..., k].astype(np.float32).clip(low, high)
        after = redrawn[..., k].astype(np.float32)
        error = np.abs(before - after)[:, inside].astype(np.float64)
        absolute, squared, voxels = absolute + error.sum(), squared + (error**2).sum(), voxels + error.size
        plane = _ssim((before - low) / width, (after - low) / width)
        margin = SSIM_WINDOW // 2
        own = inside[margin : inside.shape[0] - margin, margin : inside.shape[1] - margin]
        if plane is not None and own.any():
            likeness, places = likeness + plane[:, own].sum(), places + own.sum() * len(plane)
    if not voxels:
        return None
    return {
        "error": float(absolute / voxels),
        "psnr": float(10 * np.log10(width**2 / max(squared / voxels, 1e-12 * width**2))),
        "ssim": float(likeness / places) if places else None,
        "unit": unit,
        "foreign": foreign,
    }


def _ssim(before: NDArray[np.floating], after: NDArray[np.floating]) -> FloatArray | None:
    """SSIM ``(C, i - 10, j - 10)`` of one plane of values in 0..1; None where it is smaller than the window."""
    import torch
    from monai.metrics.regression import compute_ssim_and_cs

    if min(before.shape[1:]) < SSIM_WINDOW:
        return None
    full, _ = compute_ssim_and_cs(
        torch.from_numpy(after.astype(np.float32))[:, None],
        torch.from_numpy(before.astype(np.float32))[:, None],
        spatial_dims=2,
        kernel_size=(SSIM_WINDOW, SSIM_WINDOW),
        kernel_sigma=(1.5, 1.5),
    )
    return np.asarray(full[:, 0].numpy(), dtype=np.float64)


def metrics(records: Sequence[Record | None]) -> dict[str, Metric]:
    """``mae``, ``psnr`` (at most 120 dB) and ``ssim``, means over the images of the network's own kind;
    ``auroc_foreign``: how well the error tells foreign images from them, where there are any."""
    rows = np.array([row for row, record in enumerate(records) if record is not None], dtype=np.intp)
    known = [record for record in records if record is not None]
    own = np.array([not record["foreign"] for record in known], dtype=np.bool_)
    found: dict[str, Metric] = {}
    if own.any():
        mine = [record for record in known if not record["foreign"]]
        unit = mine[0]["unit"]
        found["mae"] = mean_of([record["error"] for record in mine], rows[own], unit=unit, better="lower")
        found["psnr"] = mean_of([record["psnr"] for record in mine], rows[own], unit="dB")
        drawn = [(row, r["ssim"]) for row, r in zip(rows[own], mine, strict=True) if r["ssim"] is not None]
        if drawn:
            found["ssim"] = mean_of([value for _, value in drawn], [row for row, _ in drawn])
    if own.any() and not own.all():
        ranking = Ranking.of([record["error"] for record in known], ~own)
        found["auroc_foreign"] = Metric(rows, ranking.auroc)
    return found
