"""Boxes against known lesions: average precision, FROC, and what the bundle's own threshold gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.evaluation.average_precision import IOU_THRESHOLDS, MOST_BOXES, PrecisionRecall, match_boxes
from mtnet.evaluation.bootstrap import FloatArray, Metric, ratio_of
from mtnet.evaluation.detection_counts import ScanCounts, count_hits, match_scan
from mtnet.evaluation.froc import Froc
from mtnet.structures import Geometry

Record = Mapping[str, Any]
HIT_IOU = 0.5
"""From which a box hits a lesion of a 2D image, for FROC and at the threshold."""


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes of one image on the grid of its file.

    Args:
        box_index: ``(N, 4 or 6)`` half-open lows, then highs.
        score: ``(N,)``; ones where the boxes are what is known.
    """

    box_index: FloatArray
    score: FloatArray = field(default_factory=lambda: np.zeros(0))

    def best(self, most: int = MOST_BOXES) -> Boxes:
        """At most so many, by falling score."""
        order = np.argsort(-self.score, kind="stable")[:most]
        return Boxes(self.box_index[order], self.score[order])


def record_of(
    found: Boxes,
    known: Boxes,
    excluded: Boxes,
    geometry: Geometry,
    threshold: float,
    dice_of_found: Sequence[float] = (),
) -> dict[str, Any]:
    """One image's record.

    Average precision counts a box as a hit by IoU, as COCO does; what is excluded is unknown to it. For FROC a box hits
    a lesion of a 2D image at an IoU of 0.5, and one of a volume where its centre lies less than half the lesion's
    diameter (the mean edge of the known box) from the lesion's centre, as LUNA16 has it; boxes on excluded findings are
    neither hits nor false.

    Args:
        found: all that the network proposes, whatever its threshold.
        known: the lesions.
        excluded: findings that are not asked for.
        geometry: of the image.
        threshold: from which the bundle counts a box.
        dice_of_found: of each lesion that was found at the threshold.
    """
    best = found.best()
    counts = _counts(best, known, excluded, geometry)
    matched = match_boxes(_iou(best, known))
    return {
        "scores": best.score.tolist(),
        "matched": (matched.T @ (1 << np.arange(len(IOU_THRESHOLDS)))).tolist(),
        "objects": len(known.box_index),
        "hit_scores": [float(score) if np.isfinite(score) else None for score in counts.hit_scores],
        "false_scores": counts.false_scores.tolist(),
        "threshold": threshold,
        "dice_of_found": [float(dice) for dice in dice_of_found],
    }


def hits_of(found: Boxes, known: Boxes, geometry: Geometry) -> NDArray[np.bool_]:
    """``(found, known)``: which box hits which lesion by the rule of FROC (see ``record_of``)."""
    if known.box_index.shape[1] == 4:
        return _iou(found, known) >= HIT_IOU
    centre, _ = _spheres(found, geometry)
    wanted, diameter = _spheres(known, geometry)
    return np.asarray(np.linalg.norm(centre[:, None] - wanted[None], axis=2) < diameter / 2)


def froc_of(records: Sequence[Record]) -> Froc:
    """The FROC of images."""
    return Froc.of(
        [
            ScanCounts(
                np.array([-np.inf if score is None else score for score in record["hit_scores"]], dtype=np.float64),
                np.array(record["false_scores"], dtype=np.float64),
            )
            for record in records
        ]
    )


def precision_recall_of(records: Sequence[Record], place: int) -> PrecisionRecall:
    """The curve at one of ``IOU_THRESHOLDS``."""
    return PrecisionRecall.of(
        [np.array(record["scores"], dtype=np.float64) for record in records],
        [np.array(record["matched"], dtype=np.int64) >> place & 1 > 0 for record in records],
        [record["objects"] for record in records],
    )


def metrics(records: Sequence[Record | None]) -> dict[str, Metric]:
    """``ap50`` and ``ap50_95`` (COCO's 101-point average precision, all boxes of one class); ``sensitivity_at_1_fp``
    and ``cpm`` (FROC); ``sensitivity``, ``precision`` and ``false_an_image`` at the bundle's threshold; and
    ``dice_of_found``, the mean Dice of the lesions that were found there. None stands for an image whose lesions are
    unknown."""
    rows = np.array([row for row, record in enumerate(records) if record is not None], dtype=np.intp)
    known = [record for record in records if record is not None]
    if not known:
        return {}
    curves = [precision_recall_of(known, place) for place in range(len(IOU_THRESHOLDS))]
    froc = froc_of(known)
    objects = np.array([record["objects"] for record in known], dtype=np.float64)
    hits = np.array([_reached(record["hit_scores"], record["threshold"]) for record in known], dtype=np.float64)
    false = np.array([_reached(record["false_scores"], record["threshold"]) for record in known], dtype=np.float64)
    found = {
        "ap50": Metric(rows, curves[0].average_precision),
        "ap50_95": Metric(rows, lambda w: float(np.mean([curve.average_precision(w) for curve in curves]))),
        "sensitivity_at_1_fp": Metric(rows, lambda w: froc.sensitivity(w, 1.0)),
        "cpm": Metric(rows, froc.cpm),
        "sensitivity": ratio_of(hits, objects, rows),
        "precision": ratio_of(hits, hits + false, rows),
        "false_an_image": ratio_of(false, np.ones(len(known)), rows, better="lower"),
    }
    dice = [record["dice_of_found"] for record in known]
    if any(dice):
        found["dice_of_found"] = ratio_of([sum(one) for one in dice], [len(one) for one in dice], rows)
    return found


def _reached(scores: Sequence[float | None], threshold: float) -> int:
    return sum(score is not None and score >= threshold for score in scores)


def _counts(found: Boxes, known: Boxes, excluded: Boxes, geometry: Geometry) -> ScanCounts:
    dims = found.box_index.shape[1] // 2
    targets = Boxes(np.concatenate([known.box_index, excluded.box_index.reshape(-1, 2 * dims)]))
    wanted = np.arange(len(targets.box_index)) < len(known.box_index)
    if dims == 2:
        return count_hits(_iou(found, targets) >= HIT_IOU, found.score, wanted)
    centre, _ = _spheres(found, geometry)
    lesions, diameter = _spheres(targets, geometry)
    return match_scan(centre, found.score, lesions, diameter, wanted)


def _spheres(boxes: Boxes, geometry: Geometry) -> tuple[FloatArray, FloatArray]:
    """Centres in LPS mm ``(N, 3)`` and diameters in mm ``(N,)`` of boxes of a volume."""
    low, high = boxes.box_index[:, :3], boxes.box_index[:, 3:]
    edges_mm = (high - low) * np.asarray(geometry.spacing_mm)
    return geometry.index_to_lps_mm((low + high) / 2), edges_mm.mean(axis=1)


def _iou(a: Boxes, b: Boxes) -> FloatArray:
    import torch

    from mtnet.detection.overlap import pairwise_iou

    first, second = (torch.from_numpy(np.ascontiguousarray(one.box_index, dtype=np.float64)) for one in (a, b))
    return np.asarray(pairwise_iou(first, second).numpy(), dtype=np.float64)
