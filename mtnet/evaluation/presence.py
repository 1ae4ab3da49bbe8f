"""Classes that do not exclude each other: each is present in an image or not, and decided by a threshold of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtnet.evaluation.bootstrap import Metric, mean_of, ratio_of
from mtnet.evaluation.ranking import Ranking

Record = Mapping[str, Any]


def record_of(present: Mapping[str, bool], probabilities: Mapping[str, float], threshold: float) -> dict[str, Any]:
    """One image's record: which classes are known to be present or absent, and the probability of each of these."""
    return {
        "present": {name: bool(value) for name, value in present.items()},
        "probabilities": {name: float(probabilities[name]) for name in present},
        "threshold": threshold,
    }


def metrics(records: Sequence[Record | None]) -> dict[str, Metric]:
    """For each class ``<class>.auroc``, ``ap``, ``brier``, and ``accuracy``, ``sensitivity``, ``specificity``, ``f1``
    at the threshold of the output; an image counts for the classes that are known of it."""
    names = sorted({name for record in records if record is not None for name in record["present"]})
    found: dict[str, Metric] = {}
    for name in names:
        rows = np.array([n for n, r in enumerate(records) if r is not None and name in r["present"]], dtype=np.intp)
        own = [record for record in records if record is not None and name in record["present"]]
        present = np.array([record["present"][name] for record in own], dtype=np.bool_)
        probability = np.array([record["probabilities"][name] for record in own])
        told = probability >= np.array([record["threshold"] for record in own])
        ranking = Ranking.of(probability, present)
        found |= {
            f"{name}.auroc": Metric(rows, ranking.auroc),
            f"{name}.ap": Metric(rows, ranking.average_precision),
            f"{name}.brier": mean_of((probability - present) ** 2, rows, better="lower"),
            f"{name}.accuracy": mean_of(told == present, rows),
            f"{name}.sensitivity": ratio_of(told & present, present, rows),
            f"{name}.specificity": ratio_of(~told & ~present, ~present, rows),
            f"{name}.f1": ratio_of(2.0 * (told & present), told.astype(float) + present, rows),
        }
    return found
