"""The rules of LUNA16's evaluation (Setio et al. 2017), on cases that were counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mtnet.evaluation.detection_counts import ScanCounts, best_sensitivity, match_scan, sensitivity_at

RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
NOTHING = np.zeros((0, 3))


def case_1() -> list[ScanCounts]:
    """A nodule hit twice, one met exactly at its radius, an irrelevant finding that is met, false candidates."""
    first = match_scan(
        [(4.9, 0, 0), (1, 0, 0), (50, 3.0, 0), (90, 0, 0)],
        [0.9, 0.5, 0.8, 0.7],
        [(0, 0, 0), (50, 0, 0)],
        [10, 6],
        [True, True],
    )
    second = match_scan(
        [(0, 0, 3.9), (30, 0, 0), (70, 0, 0), (80, 0, 0)],
        [0.6, 0.95, 0.4, 0.3],
        [(0, 0, 0), (30, 0, 0)],
        [8, 12],
        [True, False],
    )
    return [first, second]


def case_2() -> list[ScanCounts]:
    first = match_scan([(0, 0, 0), (90, 0, 0)], [0.9, 0.95], [(0, 0, 0), (50, 0, 0)], [10, 10], [True, True])
    second = match_scan([(1, 0, 0), (90, 0, 0)], [0.6, 0.7], [(0, 0, 0)], [10], [True])
    return [first, second]


def test_a_centre_exactly_on_the_radius_misses_and_is_false():
    on, inside = (match_scan([(x, 0, 0)], [0.8], [(0, 0, 0)], [6], [True]) for x in (3.0, 2.999))
    assert on.hit_scores.tolist() == [-np.inf] and on.false_scores.tolist() == [0.8]
    assert inside.hit_scores.tolist() == [0.8] and inside.false_scores.tolist() == []


def test_of_several_on_one_lesion_the_highest_counts_and_the_others_are_dropped():
    scan = match_scan([(1, 0, 0), (0, 1, 0), (0, 0, 1)], [0.2, 0.7, 0.5], [(0, 0, 0)], [10], [True])
    assert scan.hit_scores.tolist() == [0.7] and scan.false_scores.tolist() == []


def test_what_lies_on_an_irrelevant_finding_is_neither_hit_nor_false():
    scan = match_scan([(0, 0, 0)], [0.9], [(1, 0, 0)], [10], [False])
    assert scan.hit_scores.size == 0 and scan.false_scores.size == 0


def test_the_first_case_is_counted_as_luna16_counts_it():
    scans = case_1()
    assert [scan.hit_scores.tolist() for scan in scans] == [[0.9, -np.inf], [0.6]]
    assert [sorted(scan.false_scores) for scan in scans] == [[0.7, 0.8], [0.3, 0.4]]
    sensitivity, false = sensitivity_at(scans, 0.0)
    assert sensitivity == pytest.approx(2 / 3) and false == 2.0


@pytest.mark.parametrize(
    ("scans", "sensitivities", "cpm"),
    [
        (case_1(), [1 / 3] * 3 + [2 / 3] * 4, 11 / 21),
        (case_2(), [0, 0, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3], 3 / 7),
    ],
)
def test_sensitivities_at_the_seven_rates_have_luna16s_mean(scans, sensitivities, cpm):
    found = [best_sensitivity(scans, rate)[0] for rate in RATES]
    assert found == pytest.approx(sensitivities)
    assert np.mean(found) == pytest.approx(cpm)


def test_the_threshold_that_is_told_gives_the_sensitivity_that_is_told():
    sensitivity, threshold = best_sensitivity(case_1(), 1.0)
    assert threshold == 0.6
    assert sensitivity_at(case_1(), threshold) == (sensitivity, 1.0)


def test_scans_without_lesions_count_for_the_false_boxes():
    empty = match_scan([(0, 0, 0)], [0.9], NOTHING, [], [])
    quiet = match_scan(NOTHING, [], NOTHING, [], [])
    hit = match_scan([(0, 0, 0)], [0.8], [(0, 0, 0)], [5], [True])
    assert sensitivity_at([empty, quiet, hit], 0.5) == (1.0, pytest.approx(1 / 3))


def test_no_box_at_all_misses_everything():
    missed = match_scan(NOTHING, [], [(0, 0, 0)], [5], [True])
    assert sensitivity_at([missed], 0.0) == (0.0, 0.0)
    assert best_sensitivity([missed], 1.0) == (0.0, float("inf"))


def test_a_sensitivity_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no sensitivity"):
        sensitivity_at([match_scan([(0, 0, 0)], [0.9], NOTHING, [], [])], 0.5)
