"""The verdict table against the rows of the architecture, and its messages."""

from __future__ import annotations

import string

import pytest

from mtnet.io.verdicts import VERDICTS, judge, line, mode_of
from mtnet.structures import ReportLine

# The architecture's table: codes of a row, and severity by default, with repair, with strict.
ROWS = [
    (
        "identical_duplicates shuffled_instance_numbers absent_instance_numbers flipped oblique padding_values",
        ("note", "note", "note"),
    ),
    ("variable_spacing missing_slices gantry_tilt", ("repaired", "repaired", "refused")),
    ("variable_spacing_wide_gap missing_slices_wide_gap rescale_missing", ("refused", "repaired", "refused")),
    (
        "different_pixels_at_one_position parametric_map seg_stored_as_ct eight_bit_ct rescale_type_not_hu "
        "unreadable_pixels unreadable_file truncated_pixels unknown_decoder",
        ("refused", "refused", "refused"),
    ),
    ("localizer_in_series stacks_split several_series several_studies series_in_two_studies", ("note", "note", "note")),
]


@pytest.mark.parametrize(("codes", "severities"), ROWS)
def test_the_table_is_the_architectures(codes: str, severities: tuple[str, str, str]) -> None:
    for code in codes.split():
        verdict = VERDICTS[code]
        assert (verdict.default, verdict.repair, verdict.strict) == severities, code


def test_repair_never_judges_harder_and_strict_never_softer_than_default() -> None:
    order = ("note", "repaired", "refused")
    for code, verdict in VERDICTS.items():
        assert order.index(verdict.repair) <= order.index(verdict.default) <= order.index(verdict.strict), code


def test_judging_maps_known_codes_and_keeps_strangers() -> None:
    lines = [
        line("monochrome1"),
        line("rescale_missing", "a.dcm", count=2),
        ReportLine("odd_thing", "repaired", "Odd."),
    ]
    assert [item.severity for item in lines] == ["note", "refused", "repaired"]
    assert [item.severity for item in judge(lines, "repair")] == ["note", "repaired", "repaired"]
    strict = judge([line("gantry_tilt", angle=5.0, tag="nothing")], "strict")
    assert [item.severity for item in strict] == ["refused"]
    assert judge(lines, "repair").lines[1].where == "a.dcm"


def test_every_message_is_a_sentence_for_a_person() -> None:
    for code, verdict in VERDICTS.items():
        assert verdict.message[0].isupper() or verdict.message[0] == "{", code
        assert verdict.message.endswith((".", "{reason}", "{advice}")), code
        fields = [name for _, name, _, _ in string.Formatter().parse(verdict.message) if name is not None]
        assert all(name.isidentifier() for name in fields), code


def test_strict_and_repair_contradict_each_other() -> None:
    assert [mode_of(), mode_of(strict=True), mode_of(repair=True)] == ["default", "strict", "repair"]
    with pytest.raises(ValueError, match="Set one of them"):
        mode_of(strict=True, repair=True)
