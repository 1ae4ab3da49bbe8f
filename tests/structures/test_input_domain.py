from __future__ import annotations

import re
from typing import Any

import pytest

from mtnet.structures import DOMAIN_VERDICTS, Bounds, InputDomain


@pytest.mark.parametrize(
    ("value", "severity"),
    [(1, "refused"), (2, "flagged"), (4, "note"), (5, "note"), (5.004, "note"), (5.01, "flagged"), (8.1, "refused")],
)
def test_a_bound_is_within_and_what_lies_beyond_is_flagged_and_then_refused(value: float, severity: str) -> None:
    assert Bounds(refuse_below=2, flag_below=4, flag_above=5, refuse_above=8).judge(value) == severity


def test_without_bounds_every_value_will_do() -> None:
    assert {Bounds().judge(value) for value in (-1e9, 0, 1e9)} == {"note"}


@pytest.mark.parametrize(
    "fields",
    [
        {"refuse_below": 5, "flag_below": 4},
        {"flag_above": 8, "refuse_above": 5},
        {"flag_below": 6, "refuse_above": 5},
        {"flag_above": "5"},
        {"flag_above": True},
        {"flag_above": float("nan")},
    ],
)
def test_bounds_that_make_no_sense_are_errors_that_name_them(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Bounds(**fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spatial_dims", 4),
        ("spatial_dims", True),
        ("colour", "red"),
        ("values", "SUV"),
        ("organ", "liver"),
        ("contrast_agent", True),
        ("modalities", "CT"),
        ("modalities", ("ct",)),
        ("body_parts", (1,)),
        ("patient_positions", ("",)),
        ("slices", 8),
        ("verdicts", ("no_lungs",)),
        ("verdicts", {"no_lung": "refused"}),
        ("verdicts", {"no_lungs": "repaired"}),
    ],
)
def test_a_field_that_is_not_what_it_should_be_is_an_error_that_names_it(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=re.escape(name)):
        InputDomain(**{name: value})  # type: ignore[arg-type]


def test_a_bundle_changes_verdicts_and_the_others_stay() -> None:
    domain = InputDomain(verdicts={"no_lungs": "flagged"})
    assert domain.verdict("no_lungs") == "flagged"
    assert all(domain.verdict(code) == DOMAIN_VERDICTS[code] for code in DOMAIN_VERDICTS if code != "no_lungs")
