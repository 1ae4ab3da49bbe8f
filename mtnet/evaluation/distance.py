"""How far images are from the training data by what is stored of it, and whether that tells images of another kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtnet.evaluation.bootstrap import Metric, mean_of
from mtnet.evaluation.ranking import Ranking
from mtnet.structures import TrainingDistance

Record = Mapping[str, Any]
PATH = "training_distance"


def record_of(distances: Sequence[TrainingDistance], *, foreign: bool = False) -> dict[str, Any] | None:
    """One image's record; None where nothing was measured.

    Args:
        distances: of the findings.
        foreign: the image is of a kind that the network was not trained on.
    """
    if not distances:
        return None
    told = {one.measure: {"score": one.score, "threshold": one.threshold} for one in distances}
    return {"measures": told, "foreign": foreign}


def metrics(records: Sequence[Record | None]) -> dict[str, Metric]:
    """For each measure ``<measure>.flagged``, the share of images of the network's own kind above the threshold, and
    where there are foreign images ``<measure>.flagged_foreign`` and ``<measure>.auroc_foreign``, how well it tells them
    from the others."""
    names = sorted({name for record in records if record is not None for name in record["measures"]})
    found: dict[str, Metric] = {}
    for name in names:
        held = [(n, r) for n, r in enumerate(records) if r is not None and name in r["measures"]]
        rows = np.array([n for n, _ in held], dtype=np.intp)
        foreign = np.array([record["foreign"] for _, record in held], dtype=np.bool_)
        told = [record["measures"][name] for _, record in held]
        score = np.array([one["score"] for one in told], dtype=np.float64)
        above = score > np.array([one["threshold"] for one in told])
        if not foreign.all():
            found[f"{name}.flagged"] = mean_of(above[~foreign], rows[~foreign], better="lower")
        if foreign.any():
            found[f"{name}.flagged_foreign"] = mean_of(above[foreign], rows[foreign])
        if foreign.any() and not foreign.all():
            found[f"{name}.auroc_foreign"] = Metric(rows, Ranking.of(score, foreign).auroc)
    return found
