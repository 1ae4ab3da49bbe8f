"""Masks: overlap and distance of borders, image by image and over all images together.

The rule for empty masks: where truth and answer are both empty, Dice, IoU and NSD are 1 and HD95 is 0; where only one
of them is, Dice, IoU and NSD are 0 and HD95 is the image's diagonal. How often that is stands beside the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.evaluation.bootstrap import Metric, mean_of, ratio_of

Record = Mapping[str, Any]
Mask = NDArray[np.bool_]
TOLERANCE = 2.0
"""Distance of borders that still counts as right for NSD, in mm, or in pixels where their size is unknown."""


def record_of(truth: Mask, answer: Mask, spacing_mm: Sequence[float] | None) -> dict[str, Any]:
    """Compare two masks of one image.

    HD95 is the larger of the two directed 95th percentiles, as MONAI computes it (systems differ: see
    ``docs/evaluation.md``). NSD is the share of both borders' voxels that lie within ``TOLERANCE`` of the other
    (Nikolov et al. 2018, arXiv 1809.04430), counted in voxels as MONAI does.

    Args:
        truth: ``(i, j)`` or ``(i, j, k)``.
        answer: likewise.
        spacing_mm: of the voxels; None where nothing tells it, distances are then in pixels.

    Raises:
        ValueError: the masks differ in shape.
    """
    if truth.shape != answer.shape:
        raise ValueError(f"The masks have shapes {truth.shape} and {answer.shape}; expected one shape.")
    spacing = np.ones(truth.ndim) if spacing_mm is None else np.asarray(spacing_mm, dtype=np.float64)
    inside, wanted, given = (int(np.count_nonzero(m)) for m in (truth & answer, truth, answer))
    if inside == wanted == given:
        dice = iou = nsd = 1.0
        hd95 = 0.0
    elif not wanted or not given:
        dice = iou = nsd = 0.0
        hd95 = float(np.linalg.norm(np.array(truth.shape) * spacing))
    else:
        dice, iou = 2 * inside / (wanted + given), inside / (wanted + given - inside)
        hd95, nsd = border_scores(truth, answer, spacing)
    return {
        "dice": dice,
        "iou": iou,
        "hd95": hd95,
        "nsd": nsd,
        "unit": "px" if spacing_mm is None else "mm",
        "true_positive": inside,
        "false_positive": given - inside,
        "false_negative": wanted - inside,
        "truth_share": wanted / truth.size,
        "truth_size": wanted * float(spacing.prod()),
    }


def border_scores(truth: Mask, answer: Mask, spacing: NDArray[np.float64]) -> tuple[float, float]:
    """HD95 and NSD of two masks that are not empty, in the unit of ``spacing``."""
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    drawn, wanted = get_mask_edges(answer, truth)
    step = spacing.tolist()
    there, back = get_surface_distance(drawn, wanted, spacing=step), get_surface_distance(wanted, drawn, spacing=step)
    hd95 = max(float(np.quantile(there, 0.95)), float(np.quantile(back, 0.95)))
    within = np.count_nonzero(there <= TOLERANCE) + np.count_nonzero(back <= TOLERANCE)
    return hd95, within / (there.size + back.size)


def metrics(records: Sequence[Record | None]) -> dict[str, Metric]:
    """``dice``, ``iou``, ``hd95_<unit>``, ``nsd_<unit>``: means over images; ``dice_pooled`` and ``iou_pooled``: of the
    voxels of all images together; ``dice_with_lesion``, ``iou_with_lesion``: means over the images that hold a lesion;
    ``empty_kept_empty``: share of the images without a lesion in which none is drawn; ``one_empty``: share of images of
    which one of truth and answer alone is empty. None stands for an image whose mask is unknown."""
    rows = np.array([row for row, record in enumerate(records) if record is not None], dtype=np.intp)
    known = [record for record in records if record is not None]
    if not known:
        return {}
    hit, extra, missed = (
        np.array([record[kind] for record in known], dtype=np.float64)
        for kind in ("true_positive", "false_positive", "false_negative")
    )
    lesion, drawn = hit + missed > 0, hit + extra > 0

    def mean(key: str, chosen: Mask, **about: str) -> Metric:
        return mean_of([known[place][key] for place in np.flatnonzero(chosen)], rows[chosen], **about)

    everywhere = np.ones(len(known), dtype=np.bool_)
    found = {"dice": mean("dice", everywhere), "iou": mean("iou", everywhere)}
    for unit in sorted({record["unit"] for record in known}):
        own = np.array([record["unit"] == unit for record in known])
        found[f"hd95_{unit}"] = mean("hd95", own, unit=unit, better="lower")
        found[f"nsd_{unit}"] = mean("nsd", own)
    found |= {
        "dice_pooled": ratio_of(2 * hit, 2 * hit + extra + missed, rows),
        "iou_pooled": ratio_of(hit, hit + extra + missed, rows),
    }
    if not lesion.all():
        found |= {
            "dice_with_lesion": mean("dice", lesion),
            "iou_with_lesion": mean("iou", lesion),
            "empty_kept_empty": mean_of(~drawn[~lesion], rows[~lesion]),
        }
    found["one_empty"] = mean_of(lesion != drawn, rows, better="lower")
    return found
