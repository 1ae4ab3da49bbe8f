"""Classes of whole images: how well probabilities rank them, decide, and mean what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.evaluation.bootstrap import FloatArray, Metric
from mtnet.evaluation.ranking import Ranking

Record = Mapping[str, Any]
CALIBRATION_BINS = 15
_TINY = 1e-12


def record_of(target: str, probabilities: Mapping[str, float], temperature: float = 1.0) -> dict[str, Any]:
    """One image's record: its class, the probability of each, and the temperature that these were made with, if any.

    Raises:
        ValueError: the target is none of the classes.
    """
    if target not in probabilities:
        raise ValueError(f"The class {target!r} is none of {', '.join(probabilities)}.")
    told = {"target": target, "probabilities": {name: float(p) for name, p in probabilities.items()}}
    return told if temperature == 1.0 else {**told, "temperature": temperature}


def arrays(records: Sequence[Record | None]) -> tuple[list[str], NDArray[np.intp], FloatArray, NDArray[np.intp]]:
    """Class names, rows of the images that have a class, their probabilities ``(n, classes)`` and class indices."""
    rows = np.array([row for row, record in enumerate(records) if record is not None], dtype=np.intp)
    known = [record for record in records if record is not None]
    names = list(known[0]["probabilities"]) if known else []
    probabilities = np.array([[r["probabilities"][name] for name in names] for r in known], dtype=np.float64)
    target = np.array([names.index(r["target"]) for r in known], dtype=np.intp)
    return names, rows, probabilities.reshape(len(known), len(names)), target


def metrics(records: Sequence[Record | None]) -> dict[str, Metric]:
    """The metrics of one output whose classes exclude each other; None stands for an image without a class.

    ``accuracy``, ``balanced_accuracy`` (mean sensitivity of the classes that occur), ``macro_f1`` (over the classes
    that occur or are answered), ``auroc`` and ``ap`` (of two classes those of the second; of more the mean of each
    against the rest), ``brier`` (of two classes the squared error of the second's probability; of more the sum over
    classes), ``ece`` (15 bins of equal width of the highest probability, Guo et al. 2017), where a temperature was
    applied ``ece_before``, without it, and for each class ``f1_<class>`` and, of more than two, ``auroc_<class>``.
    The answer is the most probable class.
    """
    names, rows, probability, target = arrays(records)
    if not len(rows):
        return {}
    count = len(names)
    answer = probability.argmax(axis=1)
    rankings = [Ranking.of(probability[:, k], target == k) for k in range(count)]
    squared = ((probability - np.eye(count)[target]) ** 2).sum(axis=1) / (2 if count == 2 else 1)

    def over_classes(of: str) -> Metric:
        def value(weights: FloatArray) -> float:
            told = [getattr(ranking, of)(weights) for ranking in (rankings[1:] if count == 2 else rankings)]
            defined = [one for one in told if np.isfinite(one)]
            return float(np.mean(defined)) if defined else float("nan")

        return Metric(rows, value)

    def f1_of(k: int) -> Metric:
        return Metric(rows, lambda weights: float(f1(confusion(target, answer, weights, count))[k]))

    found = {
        "accuracy": Metric(rows, lambda w: float(w @ (answer == target) / w.sum()) if w.sum() else float("nan")),
        "balanced_accuracy": Metric(rows, lambda w: balanced_accuracy(confusion(target, answer, w, count))),
        "macro_f1": Metric(rows, lambda w: _mean(f1(confusion(target, answer, w, count)))),
        "auroc": over_classes("auroc"),
        "ap": over_classes("average_precision"),
        "brier": Metric(rows, lambda w: float(w @ squared / w.sum()) if w.sum() else float("nan"), better="lower"),
        "ece": Metric(rows, lambda w: calibration_error(probability, target, w), better="lower"),
    }
    temperatures = np.array([record.get("temperature", 1.0) for record in records if record is not None])
    if (temperatures != 1.0).any():
        powers = np.maximum(probability, _TINY) ** temperatures[:, None]
        raw = powers / powers.sum(axis=1, keepdims=True)
        found["ece_before"] = Metric(rows, lambda w: calibration_error(raw, target, w), better="lower")
    if count > 2:
        found |= {f"auroc_{name}": Metric(rows, rankings[k].auroc) for k, name in enumerate(names)}
    return found | {f"f1_{name}": f1_of(k) for k, name in enumerate(names)}


def confusion(
    target: NDArray[np.intp], answer: NDArray[np.intp], weights: FloatArray, count: int
) -> NDArray[np.float64]:
    """``(class, answered class)`` weights."""
    table = np.bincount(target * count + answer, weights, count * count)
    return table.reshape(count, count).astype(np.float64)


def f1(table: FloatArray) -> FloatArray:
    """F1 of each class of a confusion table; nan for a class that neither occurs nor is answered."""
    below = table.sum(axis=0) + table.sum(axis=1)
    return _quotient(2 * np.diag(table), below)


def balanced_accuracy(table: FloatArray) -> float:
    """Mean sensitivity of the classes that occur."""
    occurs = table.sum(axis=1)
    return _mean(_quotient(np.diag(table), occurs))


def calibration_error(probability: FloatArray, target: NDArray[np.intp], weights: FloatArray) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over 15 bins, by their weight."""
    total = weights.sum()
    if not total:
        return float("nan")
    right, confidence, weight = calibration_bins(probability, target, weights)
    filled = weight > 0
    return float(np.abs(right[filled] - confidence[filled]) @ weight[filled] / total)


def calibration_bins(
    probability: FloatArray, target: NDArray[np.intp], weights: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Share of right answers, mean confidence and weight of each bin of the highest probability, ``(low, high]``; nan
    in a bin without weight."""
    confidence = probability.max(axis=1)
    right = probability.argmax(axis=1) == target
    place = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.intp) - 1, 0, CALIBRATION_BINS - 1)
    weight = np.bincount(place, weights, CALIBRATION_BINS).astype(np.float64)
    sums = [np.bincount(place, weights * values, CALIBRATION_BINS) for values in (right, confidence)]
    share, mean = (_quotient(one.astype(np.float64), weight) for one in sums)
    return share, mean, weight


def _quotient(above: FloatArray, below: FloatArray) -> FloatArray:
    """nan by zero."""
    return np.asarray(np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0), dtype=np.float64)


def _mean(values: FloatArray) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else float("nan")
