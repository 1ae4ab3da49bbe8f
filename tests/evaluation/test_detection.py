"""Scores of boxes: pycocotools, and the cases of LUNA16 that were worked out beforehand."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mtnet.evaluation import detection
from mtnet.evaluation.average_precision import PrecisionRecall, match_boxes
from mtnet.evaluation.detection import Boxes, record_of
from mtnet.evaluation.froc import Froc
from mtnet.structures import Geometry
from tests.evaluation.test_detection_counts import case_1, case_2

PLANE = Geometry.from_parts((100, 100, 1), (1, 1, 1))
NONE = Boxes(np.zeros((0, 4)))


def values(records: list[Any]) -> dict[str, float]:
    return {name: m.value(np.ones(len(m.rows))) for name, m in detection.metrics(records).items()}


def images(seed: int, count: int = 6) -> list[tuple[Boxes, Boxes]]:
    """Found and known boxes: some moved a little, some twice, some false, some missed, scores with ties."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        low = rng.uniform(0, 70, (rng.integers(0, 4), 2))
        known = np.concatenate([low, low + rng.uniform(8, 28, low.shape)], axis=1)
        near = np.repeat(known, rng.integers(0, 3), axis=0) + rng.normal(0, 1.5, (1, 4))
        wrong = rng.uniform(0, 70, (rng.integers(0, 4), 2))
        found = np.concatenate([near, np.concatenate([wrong, wrong + rng.uniform(5, 25, wrong.shape)], axis=1)])
        made.append((Boxes(found, rng.integers(1, 12, len(found)) / 12), Boxes(known)))
    return made


def coco(cases: list[tuple[Boxes, Boxes]]) -> tuple[float, float]:
    """AP50 and AP50:95 by pycocotools."""

    def flat(box: np.ndarray) -> list[float]:
        return [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]

    truth, answers = [], []
    for image, (found, known) in enumerate(cases, 1):
        for box in known.box_index:
            area = float(np.prod(box[2:] - box[:2]))
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "bbox": flat(box),
                    "area": area,
                    "iscrowd": 0,
                }
            )
        for box, score in zip(found.box_index, found.score, strict=True):
            answers.append({"image_id": image, "category_id": 1, "bbox": flat(box), "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO()
        dataset.dataset = {
            "info": {},
            "images": [{"id": n} for n in range(1, len(cases) + 1)],
            "annotations": truth,
            "categories": [{"id": 1}],
        }
        dataset.createIndex()
        judge = COCOeval(dataset, dataset.loadRes(answers), "bbox")
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, 0, 0, 2]
    return float(precision[0].mean()), float(precision.mean())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 100_000))
def test_average_precision_is_that_of_pycocotools(seed: int) -> None:
    cases = images(seed)
    if not any(len(found.box_index) for found, _ in cases) or not any(len(known.box_index) for _, known in cases):
        return
    told = values([record_of(found, known, NONE, PLANE, 0.5) for found, known in cases])
    assert (told["ap50"], told["ap50_95"]) == pytest.approx(coco(cases), abs=1e-9)


def test_the_worked_case_of_average_precision() -> None:
    curve = PrecisionRecall.of([np.array([0.9, 0.8, 0.7])], [np.array([True, False, True])], [2])
    assert curve.average_precision(np.ones(1)) == pytest.approx(0.834983, abs=1e-6)


def test_a_second_box_on_one_object_is_wrong_for_average_precision_and_nothing_for_froc() -> None:
    known = Boxes(np.array([[10.0, 10, 30, 30]]))
    found = Boxes(np.array([[10.0, 10, 30, 30], [10, 10, 30, 29]]), np.array([0.9, 0.8]))
    record = record_of(found, known, NONE, PLANE, 0.5)
    assert record["matched"] == [1023, 0] and record["false_scores"] == [] and record["hit_scores"] == [0.9]


def test_boxes_take_the_free_object_that_they_overlap_most() -> None:
    iou = np.array([[0.6, 0.7], [0.55, 0.8]])
    assert match_boxes(iou, np.array([0.5, 0.75])).tolist() == [[True, True], [False, True]]


def test_without_any_object_there_is_no_precision() -> None:
    found = Boxes(np.array([[1.0, 1, 5, 5]]), np.array([0.9]))
    told = values([record_of(found, NONE, NONE, PLANE, 0.5), record_of(NONE, NONE, NONE, PLANE, 0.5)])
    assert np.isnan(told["ap50"]) and np.isnan(told["cpm"]) and np.isnan(told["sensitivity"])
    assert told["false_an_image"] == 0.5


def test_without_any_box_all_scores_are_zero() -> None:
    told = values([record_of(NONE, Boxes(np.array([[1.0, 1, 5, 5]])), NONE, PLANE, 0.5)])
    assert told["ap50"] == told["ap50_95"] == told["cpm"] == told["sensitivity"] == told["false_an_image"] == 0.0
    assert np.isnan(told["precision"])


@pytest.mark.parametrize(("scans", "expected"), [(case_1(), 11 / 21), (case_2(), 3 / 7)])
def test_the_competition_metric_of_the_worked_cases(scans: list[Any], expected: float) -> None:
    assert Froc.of(scans).cpm(np.ones(2)) == pytest.approx(expected)


def test_volumes_are_scored_by_the_rules_of_luna16() -> None:
    """The first worked case as boxes of a volume with other voxels and axes, the excluded finding as a box."""
    grid = Geometry.from_parts((400, 400, 200), (0.7, 0.7, 1.25), (30, 20, -100), np.diag([-1.0, -1.0, 1.0]))

    def cubes(centres: list[tuple[float, float, float]], edges: list[float]) -> np.ndarray:
        half = np.array(edges)[:, None] / 2 / np.array(grid.spacing_mm)
        middle = grid.lps_mm_to_index(np.array(centres))
        return np.concatenate([middle - half, middle + half], axis=1)

    found_a = Boxes(
        cubes([(4.9, 0, 0), (1, 0, 0), (50, 3.001, 0), (90, 0, 0)], [8] * 4), np.array([0.9, 0.5, 0.8, 0.7])
    )
    found_b = Boxes(cubes([(0, 0, 3.9), (30, 0, 0), (70, 0, 0), (80, 0, 0)], [8] * 4), np.array([0.6, 0.95, 0.4, 0.3]))
    nothing = Boxes(np.zeros((0, 6)))
    records = [
        record_of(found_a, Boxes(cubes([(0, 0, 0), (50, 0, 0)], [10, 6])), nothing, grid, 0.65),
        record_of(found_b, Boxes(cubes([(0, 0, 0)], [8])), Boxes(cubes([(30, 0, 0)], [12])), grid, 0.65),
    ]
    told = values(records)
    assert told["cpm"] == pytest.approx(11 / 21)
    assert told["sensitivity_at_1_fp"] == pytest.approx(2 / 3)
    assert told["sensitivity"] == pytest.approx(1 / 3) and told["false_an_image"] == 1.0
    assert told["precision"] == pytest.approx(1 / 3)


def test_only_the_hundred_best_boxes_of_an_image_count() -> None:
    low = np.random.default_rng(0).uniform(0, 80, (150, 2))
    found = Boxes(np.concatenate([low, low + 5], axis=1), np.linspace(0, 1, 150))
    record = record_of(found, NONE, NONE, PLANE, 0.5)
    assert len(record["scores"]) == 100 and min(record["scores"]) == pytest.approx(50 / 149)


def test_the_score_at_one_false_box_an_image_lies_on_the_curve() -> None:
    froc = Froc.of(case_1())
    assert froc.score_at(1.0) == pytest.approx((0.6, 2 / 3, 1.0))
    assert Froc.of([]).score_at(1.0) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 100_000))
def test_a_weight_of_two_is_an_image_twice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Ties between images are broken by their order, so scores are made different.
    records = [
        record_of(
            Boxes(found.box_index, rng.random(len(found.score))), known, NONE, PLANE, 0.5, [0.5] * len(known.box_index)
        )
        for found, known in images(seed)
    ]
    times = rng.integers(0, 3, len(records))
    repeated = [record for record, count in zip(records, times, strict=True) for _ in range(count)]
    if not any(record["dice_of_found"] for record in repeated):
        return
    expected = values(repeated)
    for name, metric in detection.metrics(records).items():
        assert metric.value(times.astype(float)) == pytest.approx(expected[name], nan_ok=True), name
