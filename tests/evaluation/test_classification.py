"""Scores of image classes, equal to scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as judge

from mtnet.evaluation import classification, presence
from mtnet.evaluation.ranking import Ranking

SETTINGS = settings(max_examples=60, deadline=None)


def case(seed: int, classes: int, n: int = 40, *, coarse: bool = False) -> tuple[list[dict[str, Any]], Any, Any]:
    """Records, probabilities and targets; ``coarse`` probabilities have many ties."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(1, 4, (n, classes)).astype(float) if coarse else rng.random((n, classes)) ** 3 + 1e-3
    probability = raw / raw.sum(axis=1, keepdims=True)
    target = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    names = [f"c{k}" for k in range(classes)]
    records = [
        classification.record_of(names[t], dict(zip(names, p, strict=True)))
        for t, p in zip(target, probability, strict=True)
    ]
    return records, probability, target


def value(records: list[Any], name: str) -> float:
    metric = classification.metrics(records)[name]
    return metric.value(np.ones(len(metric.rows)))


@SETTINGS
@given(st.integers(0, 10_000), st.booleans())
def test_three_classes_score_as_in_scikit_learn(seed: int, coarse: bool) -> None:
    records, probability, target = case(seed, 3, coarse=coarse)
    answer = probability.argmax(axis=1)
    assert value(records, "accuracy") == pytest.approx(judge.accuracy_score(target, answer))
    assert value(records, "balanced_accuracy") == pytest.approx(judge.balanced_accuracy_score(target, answer))
    assert value(records, "macro_f1") == pytest.approx(judge.f1_score(target, answer, average="macro"))
    assert value(records, "auroc") == pytest.approx(judge.roc_auc_score(target, probability, multi_class="ovr"))
    assert value(records, "ap") == pytest.approx(judge.average_precision_score(np.eye(3)[target], probability))
    assert value(records, "brier") == pytest.approx(judge.brier_score_loss(target, probability, scale_by_half=False))
    table = classification.confusion(target, answer, np.ones(len(target)), 3)
    assert np.array_equal(table, judge.confusion_matrix(target, answer))


@SETTINGS
@given(st.integers(0, 10_000), st.booleans())
def test_of_two_classes_the_second_is_the_one_that_is_sought(seed: int, coarse: bool) -> None:
    records, probability, target = case(seed, 2, coarse=coarse)
    assert value(records, "auroc") == pytest.approx(judge.roc_auc_score(target, probability[:, 1]))
    assert value(records, "ap") == pytest.approx(judge.average_precision_score(target, probability[:, 1]))
    assert value(records, "brier") == pytest.approx(judge.brier_score_loss(target, probability[:, 1]))


@SETTINGS
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_a_weight_of_two_is_a_sample_twice(seed: int, classes: int) -> None:
    records, _, _ = case(seed, classes, coarse=True)
    times = np.random.default_rng(seed).integers(0, 3, len(records))
    repeated = [record for record, count in zip(records, times, strict=True) for _ in range(count)]
    for name, metric in classification.metrics(records).items():
        assert metric.value(times.astype(float)) == pytest.approx(value(repeated, name), nan_ok=True), name


@SETTINGS
@given(st.integers(0, 10_000))
def test_sample_weights_of_a_ranking_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, positive = rng.integers(0, 6, 30) / 5, np.arange(30) % 3 == 0
    weights = rng.integers(1, 4, 30).astype(float)
    ranking = Ranking.of(score, positive)
    assert ranking.auroc(weights) == pytest.approx(judge.roc_auc_score(positive, score, sample_weight=weights))
    assert ranking.average_precision(weights) == pytest.approx(
        judge.average_precision_score(positive, score, sample_weight=weights)
    )


def test_the_calibration_error_is_the_share_weighted_gap_of_each_bin() -> None:
    records, probability, target = case(7, 3, n=200)
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == target
    expected = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert value(records, "ece") == pytest.approx(expected)


def test_with_one_class_alone_there_is_accuracy_and_no_ranking() -> None:
    records = [classification.record_of("a", {"a": p, "b": 1 - p}) for p in (0.9, 0.4, 0.7)]
    assert value(records, "accuracy") == pytest.approx(2 / 3)
    assert np.isnan(value(records, "auroc"))
    assert value(records, "macro_f1") == pytest.approx((0.8 + 0.0) / 2)


def test_images_without_a_class_do_not_count() -> None:
    known = [classification.record_of("a", {"a": 0.9, "b": 0.1}), classification.record_of("b", {"a": 0.6, "b": 0.4})]
    metric = classification.metrics([None, *known, None])["accuracy"]
    assert metric.rows.tolist() == [1, 2] and metric.value(np.ones(2)) == 0.5
    assert classification.metrics([None, None]) == {}


def test_a_class_that_the_network_does_not_know_is_an_error() -> None:
    with pytest.raises(ValueError, match="'c' is none of a, b"):
        classification.record_of("c", {"a": 0.9, "b": 0.1})


def test_present_classes_score_one_by_one_over_the_images_for_which_they_are_known() -> None:
    rng = np.random.default_rng(3)
    present, probability = rng.random((30, 2)) < 0.4, rng.random((30, 2))
    records = []
    for k in range(30):
        known = {"n": present[k, 0], **({"s": present[k, 1]} if k % 2 else {})}
        records.append(presence.record_of(known, {"n": probability[k, 0], "s": probability[k, 1]}, 0.5))
    found = {name: metric.value(np.ones(len(metric.rows))) for name, metric in presence.metrics(records).items()}
    told = probability >= 0.5
    odd = np.arange(30) % 2 == 1
    assert found["n.auroc"] == pytest.approx(judge.roc_auc_score(present[:, 0], probability[:, 0]))
    assert found["s.auroc"] == pytest.approx(judge.roc_auc_score(present[odd, 1], probability[odd, 1]))
    assert found["n.f1"] == pytest.approx(judge.f1_score(present[:, 0], told[:, 0]))
    assert found["n.sensitivity"] == pytest.approx(judge.recall_score(present[:, 0], told[:, 0]))
    assert found["n.specificity"] == pytest.approx(judge.recall_score(~present[:, 0], ~told[:, 0]))
    assert found["s.brier"] == pytest.approx(judge.brier_score_loss(present[odd, 1], probability[odd, 1]))


def test_operating_points_lie_where_the_curve_has_them() -> None:
    score, positive = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1, 1, 0, 1, 0, 0]
    ranking = Ranking.of(score, np.array(positive, dtype=bool))
    assert ranking.youden() == pytest.approx((0.8, 2 / 3, 1.0))
    assert ranking.at_sensitivity(0.95) == pytest.approx((0.6, 1.0, 2 / 3))
    assert Ranking.of([0.4], [True]).youden() is None
