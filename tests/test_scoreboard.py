"""The page of irregular studies says of mtnet what is so, and nowhere that it is wrong in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.scoreboard import MODES, PAGE, WRONG, mtnet_verdict, read_table, rule
from mtnet.io.values import AIR_HU
from tests.builders import ramp_hu
from tests.verdict_cases import CASES, Case

HEAD, *ROWS, COUNTS = read_table(PAGE.read_text())
VERDICTS_OF = {row[0]: dict(zip(MODES, row[1:3], strict=True)) for row in ROWS}


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def ramp(affine: np.ndarray, shape: tuple[int, int, int] = (6, 5, 4)) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.rint(ramp_hu(index @ affine[:3, :3].T + affine[:3, 3]))


def test_the_page_has_a_row_for_every_case_in_order() -> None:
    assert [row[0] for row in ROWS] == [case.name for case in CASES]


def test_mtnet_is_wrong_in_silence_nowhere_on_the_page() -> None:
    assert HEAD[1:3] == ["mtnet", "mtnet --repair"]
    assert COUNTS[1:3] == ["0", "0"]
    assert not [row[0] for row in ROWS if WRONG in row[1] or WRONG in row[2]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_page_says_of_mtnet_what_becomes_of_the_case(tmp_path: Path, case: Case) -> None:
    case.write(tmp_path)
    assert {mode: mtnet_verdict(case, tmp_path, mode) for mode in MODES} == VERDICTS_OF[case.name]


def test_a_volume_is_right_only_where_its_affine_puts_every_value() -> None:
    regular, affine = named("a regular series"), np.diag([0.8, 0.8, 2.0, 1.0])
    values = ramp(affine)
    assert rule(regular, [(values, affine)]) == "right"
    assert rule(regular, [(values, np.diag([0.8, 0.8, 2.1, 1.0]))]) == WRONG
    assert rule(regular, [(values[..., [0, 2, 1, 3]], affine)]) == WRONG
    assert rule(regular, [(values + 1024, affine)]) == WRONG
    assert rule(regular, [(values, affine), (values + 9, affine)]) == f"{WRONG} (1 of 2 right)"
    assert rule(regular, []) == "nothing"


def test_one_volume_of_two_is_said_to_be_one_of_two() -> None:
    affine = np.diag([0.8, 0.8, 2.0, 1.0])
    assert rule(named("two series"), [(ramp(affine) + 9, affine)]) == "right, 1 of 2"


def test_padding_that_is_kept_is_told_from_air() -> None:
    affine = np.diag([0.8, 0.8, 2.0, 1.0])
    kept, mended = ramp(affine), ramp(affine)
    kept[0, 0], mended[0, 0] = -2000, AIR_HU
    assert rule(named("padding"), [(kept, affine)]) == "padding kept"
    assert rule(named("padding"), [(mended, affine)]) == "right"
