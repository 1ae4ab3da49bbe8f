"""Average precision of boxes by COCO's rules, with weights for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtnet.evaluation.bootstrap import FloatArray

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST_BOXES = 100
"""Of an image, the best by score, as COCO has it (and LUNA16 for a scan)."""


def match_boxes(iou: FloatArray, thresholds: FloatArray = IOU_THRESHOLDS) -> NDArray[np.bool_]:
    """Which boxes hit an object, at each IoU, as COCO matches them.

    Boxes take their turn by falling score; each takes the free object that it overlaps most, if by the threshold at
    least, the later of equals. A second box on one object is wrong.

    Args:
        iou: ``(boxes, objects)``, boxes by falling score.
        thresholds: ``(T,)``.

    Returns:
        ``(T, boxes)``.
    """
    matched = np.zeros((len(thresholds), iou.shape[0]), dtype=np.bool_)
    for place, threshold in enumerate(thresholds):
        free = np.ones(iou.shape[1], dtype=np.bool_)
        for box, row in enumerate(iou):
            candidates = np.flatnonzero(free & (row >= min(threshold, 1 - 1e-10)))
            if candidates.size:
                best = candidates[np.flatnonzero(row[candidates] == row[candidates].max())[-1]]
                free[best] = False
                matched[place, box] = True
    return matched


@dataclass(frozen=True, slots=True, eq=False)
class PrecisionRecall:
    """The boxes of all images by falling score, sorted once and then weighed as often as need be.

    Args:
        image: ``(n,)`` the image of each box.
        hit: ``(n,)`` bool, at one IoU.
        score: ``(n,)``, falling.
        objects: ``(images,)`` objects of each.
    """

    image: NDArray[np.intp]
    hit: NDArray[np.bool_]
    score: FloatArray
    objects: FloatArray

    @classmethod
    def of(
        cls, scores: Sequence[FloatArray], hits: Sequence[NDArray[np.bool_]], objects: Sequence[int]
    ) -> PrecisionRecall:
        """From the scores and hits of each image's boxes."""
        image = np.repeat(np.arange(len(scores), dtype=np.intp), [len(one) for one in scores])
        all_scores = np.concatenate([np.zeros(0), *scores])
        order = np.argsort(-all_scores, kind="mergesort")
        hit = np.concatenate([np.zeros(0, dtype=np.bool_), *hits])[order]
        return cls(image[order], hit, all_scores[order], np.asarray(objects, dtype=np.float64))

    def curve(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Recall and precision after each box, ``(n,)`` each; recall is nan where there is no object."""
        own = weights[self.image]
        true, false = np.cumsum(own * self.hit), np.cumsum(own * ~self.hit)
        total = float(weights @ self.objects)
        recall = true / total if total else np.full(len(true), np.nan)
        return recall, true / (true + false + np.spacing(1))

    def average_precision(self, weights: FloatArray) -> float:
        """COCO's: the mean over 101 recalls of the highest precision at that recall or above; nan without objects."""
        if not weights @ self.objects:
            return float("nan")
        recall, precision = self.curve(weights)
        envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        return float(envelope[np.searchsorted(recall, RECALLS, side="left")].mean())
