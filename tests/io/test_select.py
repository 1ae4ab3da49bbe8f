"""The series rule: what is taken, and the reason for every series."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from mtnet.io import CHEST_CT_RULE, Selection, SeriesRule, scan, select
from mtnet.structures import RefusedError
from tests.builders import write_ct_series

DATA = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[3] / "shared" / "data"))
CORONAL = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=float)


def write(folder: Path, name: str, **options: object) -> str:
    """One series of the study; its UID."""
    values = {"shape": (6, 5, 10), "series": name, "frame": name, **options}
    return write_ct_series(folder / name, **values).series_uid  # type: ignore[arg-type]


def reasons(selection: Selection) -> dict[str, str]:
    return {choice.series_instance_uid: choice.reason for choice in selection.choices}


@pytest.mark.parametrize(
    ("better", "worse", "words"),
    [
        ({"thickness_mm": 1.0}, {"thickness_mm": 2.5}, ["slice thickness 2.5 mm (class up to 3 mm)", "1 mm (class up"]),
        ({"thickness_mm": 3.0, "kernel": "B70f"}, {"thickness_mm": 5.0, "kernel": "B30f"}, ["slice thickness 5 mm"]),
        ({"kernel": "B30f"}, {"kernel": "B70f"}, ["kernel B70f (lung)", "B30f (soft)"]),
        ({"kernel": "B60f"}, {"kernel": "U70u"}, ["kernel U70u (bone)", "B60f (lung)"]),
        ({"kernel": ""}, {"kernel": "Bl57"}, ["kernel Bl57 (lung)", "not given (unknown)"]),
        ({"thickness_mm": 1.2, "shape": (6, 5, 12)}, {"thickness_mm": 1.0}, ["number of slices 10", "12"]),
    ],
)  # fmt: skip
def test_the_first_criterion_that_differs_decides_and_is_named(
    tmp_path: Path, better: dict[str, object], worse: dict[str, object], words: list[str]
) -> None:
    # Whatever the order of UIDs and numbers, so the worse one comes first.
    lost = write(tmp_path, "a", series_number=1, **worse)
    won = write(tmp_path, "b", series_number=2, **better)
    (study,) = scan(tmp_path)
    selection = select(study)
    assert selection.series.series_instance_uid == won
    assert selection.stack is selection.series.stacks[0]
    assert [choice.taken for choice in selection.choices] == [False, True]
    said = reasons(selection)
    assert said[won].startswith("taken: ")
    assert said[lost].startswith("passed over: ")
    assert all(word in said[lost] for word in words)


def test_series_alike_in_all_else_are_told_apart_by_uid(tmp_path: Path) -> None:
    uids = sorted(write(tmp_path, name) for name in ("a", "b", "c"))
    selection = select(scan(tmp_path))
    assert selection.series.series_instance_uid == uids[0]
    assert all("UID" in reason for reason in reasons(selection).values())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "it is a localizer, not a volume"),
        ({"shape": (6, 5, 7)}, "it has 7 slice(s), fewer than 8"),
        ({"direction_lps": CORONAL}, "its slices lie 90 degrees off axial"),
        ({"image_type": ("DERIVED", "SECONDARY", "MIP")}, "ImageType says MIP"),
        ({"rescale": None}, "it cannot be read: RescaleSlope (0028,1053)"),
        ({"edit": lambda dataset, k: setattr(dataset, "Modality", "MR")}, "modality is MR, expected CT"),
        ({"edit": lambda dataset, k: setattr(dataset, "Modality", "SEG")}, "it is a label map, not a volume"),
    ],
)
def test_hard_filters_pass_a_series_over_with_the_reason(
    tmp_path: Path, options: dict[str, object], reason: str
) -> None:
    out = write(tmp_path, "a", **options)
    with pytest.raises(RefusedError) as refused:
        select(scan(tmp_path))
    assert [item.code for item in refused.value.lines] == ["no_series_suits", "series_passed_over"]
    assert refused.value.lines[1].where == out
    assert reason in refused.value.lines[1].message
    taken = write(tmp_path, "b", thickness_mm=5.0, kernel="U70u")
    selection = select(scan(tmp_path))
    assert selection.series.series_instance_uid == taken
    assert reason in reasons(selection)[out]
    assert "the only series that suits (10 slices)" in reasons(selection)[taken]


def test_what_repair_mends_suits_with_repair_and_what_strict_refuses_does_not(tmp_path: Path) -> None:
    write(tmp_path / "raw", "a", rescale=None)
    write(tmp_path / "tilted", "a", tilt_deg=10)
    raw, tilted = scan(tmp_path / "raw"), scan(tmp_path / "tilted")
    assert select(raw, mode="repair").series is raw[0].series[0]
    assert select(tilted).series is tilted[0].series[0]
    with pytest.raises(RefusedError, match="gantry_tilt"):
        select(tilted, mode="strict")


def test_a_tilted_gantry_is_still_axial(tmp_path: Path) -> None:
    angle = np.deg2rad(28)
    tilted = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    uid = write(tmp_path, "a", direction_lps=tilted)
    assert select(scan(tmp_path)).series.series_instance_uid == uid


def test_a_series_can_be_asked_for_by_uid_whatever_the_rule_says(tmp_path: Path) -> None:
    good, small = write(tmp_path, "a"), write(tmp_path, "b", shape=(6, 5, 2))
    selection = select(scan(tmp_path), series_uid=small)
    assert selection.series.series_instance_uid == small
    assert reasons(selection)[small] == "taken: asked for by its UID"
    with pytest.raises(RefusedError) as refused:
        select(scan(tmp_path), series_uid="1.2.3")
    assert refused.value.lines[0].code == "series_not_found"
    assert good in str(refused.value) and small in str(refused.value)


def test_the_rule_is_data(tmp_path: Path) -> None:
    few = write(tmp_path, "a", shape=(6, 5, 5))
    assert SeriesRule() == CHEST_CT_RULE
    assert select(scan(tmp_path), SeriesRule(minimum_slices=5)).series.series_instance_uid == few


def test_the_volume_is_taken_from_a_series_that_holds_a_localizer_too(tmp_path: Path) -> None:
    write(tmp_path, "a")
    write_ct_series(
        tmp_path / "scout", shape=(6, 5, 1), series="a", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"), seed=1
    )
    selection = select(scan(tmp_path))
    assert (selection.stack.kind, selection.stack.shape) == ("volume", (6, 5, 10))


@pytest.mark.study
def test_in_the_real_study_the_soft_kernel_is_taken_and_the_reason_is_the_kernel() -> None:
    studies = scan(DATA / "chest_ct_study" / "Lung_Dx-A0001")
    assert [s.description for study in studies for s in study.series] == ["5mm", "5mm"]
    selection = select(studies)
    assert (selection.series.kernel, selection.series.number, selection.stack.shape) == ("B", 3, (512, 512, 64))
    taken = next(choice for choice in selection.choices if choice.taken)
    passed = next(choice for choice in selection.choices if not choice.taken)
    assert taken.reason.startswith("taken: kernel B (soft) comes before L (lung)")
    assert passed.reason == "passed over: kernel L (lung), where the series taken has B (soft)"
