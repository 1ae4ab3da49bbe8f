from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mtnet.bundle import Bundle
from mtnet.inference.input_check import check_image, check_lungs, hu_evidence, settle
from mtnet.inference.lungs import Lungs
from mtnet.inference.region import find_lungs
from mtnet.phantoms import draw_chest
from mtnet.structures import (
    Bounds,
    Geometry,
    InputDomain,
    Instance,
    RefusedError,
    ReportLine,
    SeriesChoice,
    Source,
    Stack,
    Volume,
)
from mtnet.structures.study import Series
from tests.bundles import SHIPPED

FILE = Source(file_name="chest.nii.gz")


@pytest.fixture(scope="module", name="domain")
def _domain() -> InputDomain:
    declared = Bundle.read(SHIPPED).input_domain()
    assert declared is not None
    return declared


@pytest.fixture(scope="module", name="chest")
def _chest() -> Volume:
    return draw_chest(3, spacing_mm=(3.0, 3.0, 3.0)).volume


def dicom(body_part: str = "", slices: int = 60, thickness_mm: float | None = 3.0, **tags: Any) -> Source:
    """The headers of a CT series."""
    first = Instance(Path("1.dcm"), None, 1, "1.2.3", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2", "CT", **tags)
    first = replace(first, slice_thickness_mm=thickness_mm)
    stack = Stack((first,) * slices, "volume", (9, 9, slices), (3.0, 3.0, 3.0))
    series = Series("1.2", "1", 1, "CT", "volume", "B30f", "", body_part, "", (stack,))
    return Source("1", "1.2", series=series, stack=stack)


def judged(domain: InputDomain, volume: Volume, source: Source = FILE) -> dict[str, str]:
    """Code to severity of everything that is said about an image."""
    lungs = find_lungs(volume.array[0], volume.geometry)
    lines = (*check_image(domain, volume, source), *check_lungs(domain, lungs, source))
    return {line.code: line.severity for line in lines}


def outside(found: dict[str, str]) -> dict[str, str]:
    return {code: severity for code, severity in found.items() if severity != "note"}


def other(volume: Volume, array: NDArray[Any], **changes: Any) -> Volume:
    return replace(volume, array=array, **changes)


def cut(volume: Volume, *shares: tuple[float, float]) -> Volume:
    """A part of the volume, from share to share of its length along each axis."""
    lows, highs = zip(
        *((round(a * n), round(b * n)) for (a, b), n in zip(shares, volume.geometry.shape, strict=True)), strict=True
    )
    array = volume.array[(slice(None), *(slice(a, b) for a, b in zip(lows, highs, strict=True)))]
    grid = volume.geometry
    origin = grid.index_to_lps_mm(lows).tolist()
    return replace(volume, array=array, geometry=Geometry.from_parts(array.shape[1:], grid.spacing_mm, origin))


WHOLE = (0.0, 1.0)


@pytest.mark.parametrize("family", ["train", "held_out"])
@pytest.mark.parametrize("spacing_mm", [(3.0, 3.0, 3.0), (2.5, 2.5, 5.0)])
def test_a_drawn_chest_is_within(domain: InputDomain, family: Any, spacing_mm: tuple[float, float, float]) -> None:
    for seed in (20, 21):
        volume = draw_chest(seed, family=family, spacing_mm=spacing_mm).volume
        assert not outside(judged(domain, volume, dicom("CHEST", thickness_mm=spacing_mm[2])))
        found = judged(domain, replace(volume, modality=""))
        assert not outside(found)
        assert {"modality_judged", "body_part_judged", "input_checked"} <= set(found)


@pytest.mark.parametrize(
    ("shares", "codes"),
    [
        ((WHOLE, WHOLE, (0.5, 1.0)), {"lungs_cut_off"}),
        ((WHOLE, WHOLE, (0.0, 0.5)), {"lungs_cut_off"}),
        ((WHOLE, WHOLE, (0.0, 0.2)), {"lungs_cut_off"}),
        ((WHOLE, WHOLE, (0.0, 0.9)), {"lungs_cut_off"}),
        (((0.0, 0.7), WHOLE, WHOLE), {"lungs_cut_off"}),
        (((0.0, 0.5), WHOLE, WHOLE), {"one_lung"}),
        (((0.5, 1.0), WHOLE, WHOLE), {"one_lung"}),
        (((0.2, 0.4), (0.4, 0.6), (0.4, 0.6)), {"lungs_cut_off"}),
    ],
)
def test_a_part_of_a_chest_is_flagged(
    domain: InputDomain, chest: Volume, shares: tuple[tuple[float, float], ...], codes: set[str]
) -> None:
    found = outside(judged(domain, cut(chest, *shares)))
    assert codes & set(found) and set(found.values()) == {"flagged"}


def test_a_tip_of_the_lungs_that_may_be_missing_is_noted(domain: InputDomain) -> None:
    lungs = Lungs(5000, 300, share_at_head=0.0, share_at_feet=0.03, width_over_depth=1.5)
    (_, line) = check_lungs(domain, lungs, FILE)
    assert (line.code, line.severity) == ("lungs_reach_end", "note") and "foot end" in line.message


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda hu: np.clip((hu + 1000.0) / 1400 * 255, 0, 255).astype(np.uint8), "0 to 255"),
        (lambda hu: np.clip((hu + 1000.0) / 1400, 0, 1).astype(np.float32), "0 to 1"),
        (lambda hu: hu + 1024, "hardly a voxel would be air"),
        (lambda hu: np.where(hu < -980, -2000, hu + 1024), "-2000 to"),
        (lambda hu: hu - 1024, "soft tissue"),
        (np.abs, "air"),
        (lambda hu: hu * 0, "0 to 0"),
        (lambda hu: np.random.default_rng(0).integers(-1024, -770, hu.shape), "soft tissue"),
    ],
)
def test_values_that_are_no_hu_are_refused_whatever_the_file_says(
    domain: InputDomain, chest: Volume, change: Any, what: str
) -> None:
    for modality in ("", "CT"):
        lines = check_image(domain, other(chest, change(chest.array), modality=modality), FILE)
        (line,) = (line for line in lines if line.severity == "refused")
        assert line.code == "values_not_hu" and what in line.message


def test_hu_are_told_by_air_and_soft_tissue_also_with_padding(chest: Volume) -> None:
    assert hu_evidence(chest).looks_like_hu
    padded = np.where(chest.array < -950, -3024, chest.array)
    assert hu_evidence(other(chest, padded)).looks_like_hu


def test_another_modality_is_refused_and_an_absent_one_is_flagged_where_nothing_tells(chest: Volume) -> None:
    domain = InputDomain(modalities=("CT",))
    assert judged_image(domain, replace(chest, modality="MR")) == {"modality_outside": "refused"}
    assert judged_image(domain, replace(chest, modality="PT")) == {"modality_outside": "refused"}
    assert judged_image(domain, replace(chest, modality="")) == {"modality_unknown": "flagged"}
    assert judged_image(InputDomain(), replace(chest, modality="MR")) == {}


def judged_image(domain: InputDomain, volume: Volume, source: Source = FILE) -> dict[str, str]:
    return outside({line.code: line.severity for line in check_image(domain, volume, source)})


@pytest.mark.parametrize(
    ("thickness_mm", "step_mm", "wanted"),
    [
        (5.0, 5.0, {}),
        (7.0, 5.0, {"thickness_outside": "flagged"}),
        (10.0, 10.0, {"thickness_outside": "refused", "spacing_outside": "refused"}),
        # Thin slices a centimetre apart, as in high-resolution CT of old.
        (1.0, 10.0, {"spacing_outside": "refused"}),
        (None, 10.0, {"spacing_outside": "refused"}),
        (None, 1.0, {}),
    ],
)
def test_thick_slices_and_wide_steps_are_outside(
    domain: InputDomain, chest: Volume, thickness_mm: float | None, step_mm: float, wanted: dict[str, str]
) -> None:
    grid = Geometry.from_parts(chest.geometry.shape, (0.8, 0.8, step_mm))
    assert judged_image(domain, replace(chest, geometry=grid), dicom(thickness_mm=thickness_mm)) == wanted


def test_few_slices_are_refused_also_where_a_repair_made_more_of_them(domain: InputDomain, chest: Volume) -> None:
    assert judged_image(domain, chest, dicom(slices=8)) == {}
    assert judged_image(domain, chest, dicom(slices=7)) == {"slices_outside": "refused"}
    assert judged_image(domain, cut(chest, WHOLE, WHOLE, (0.5, 0.55)))["slices_outside"] == "refused"


@pytest.mark.parametrize("tag", ["CHEST", "Chest^1", "CHESTABDPELVIS", "NECK_CHEST", "Lung", "WHOLE BODY", "THORAX"])
def test_a_tag_that_names_the_chest_is_taken(domain: InputDomain, chest: Volume, tag: str) -> None:
    found = judged(domain, chest, dicom(tag))
    assert not outside(found) and "lungs_found" in found


def test_the_image_has_the_last_word_on_the_body_part(domain: InputDomain, chest: Volume) -> None:
    assert outside(judged(domain, chest, dicom("ABDOMEN"))) == {"body_part_outside": "flagged"}
    assert judged(domain, chest, dicom(""))["body_part_judged"] == "note"
    # Soft tissue in air: no lungs, whatever the tag says.
    block = np.full(chest.array.shape, -1000, np.int16)
    block[:, 30:70, 20:50] = 40
    for tag in ("CHEST", "HEAD", ""):
        assert outside(judged(domain, other(chest, block), dicom(tag))) == {"no_lungs": "refused"}


def test_a_study_with_other_series_says_so_where_there_are_no_lungs(domain: InputDomain) -> None:
    choices = (SeriesChoice("1.2", True, "taken"), SeriesChoice("1.3", False, "passed over"))
    (line,) = check_lungs(domain, Lungs(), replace(dicom("HEAD"), choices=choices))
    assert "1 other series" in line.message
    (line,) = check_lungs(domain, Lungs(), dicom("HEAD"))
    assert "other series" not in line.message


def test_without_an_organ_the_tag_decides(chest: Volume) -> None:
    domain = InputDomain(body_parts=("BREAST",))
    assert judged_image(domain, chest, dicom("BREAST")) == {}
    assert judged_image(domain, chest, dicom("")) == {}
    assert judged_image(domain, chest, dicom("HEAD")) == {"body_part_outside": "flagged"}


def test_a_small_and_a_huge_lung_are_flagged(domain: InputDomain) -> None:
    for volume_ml, wanted in ((900, "at least 1500"), (3000, None), (9500, "at most 9000")):
        lines = check_lungs(domain, Lungs(volume_ml, 200, width_over_depth=1.4), FILE)
        found = [line for line in lines if line.code == "lung_volume_outside"]
        assert [line.severity for line in found] == (["flagged"] if wanted else [])
        assert wanted is None or wanted in found[0].message


def test_contrast_agent_and_position_are_judged_as_declared(domain: InputDomain, chest: Volume) -> None:
    assert judged_image(domain, chest, dicom(contrast_agent=True)) == {}
    native = replace(domain, contrast_agent="without")
    assert judged_image(native, chest, dicom(contrast_agent=True)) == {"contrast_agent_outside": "flagged"}
    enhanced = replace(domain, contrast_agent="with", verdicts={"contrast_agent_outside": "refused"})
    assert judged_image(enhanced, chest, dicom()) == {"contrast_agent_outside": "refused"}
    for position, wanted in (("FFS", {}), ("HFP", {"patient_position_outside": "flagged"}), ("", {})):
        assert judged_image(domain, chest, dicom(patient_position=position)) == wanted


def test_colour_and_volumes_are_refused_where_the_network_cannot_take_them(chest: Volume) -> None:
    colour = other(chest, np.repeat(chest.array, 3, axis=0))
    assert judged_image(InputDomain(), colour) == {"colour_outside": "refused"}
    assert judged_image(InputDomain(colour="colour"), chest) == {"colour_outside": "refused"}
    assert judged_image(InputDomain(colour="any"), colour) == {}
    assert judged_image(InputDomain(spatial_dims=2), chest) == {"dimension_outside": "refused"}


def test_strict_refuses_flags_and_allowing_flags_refusals_except_what_cannot_be_run() -> None:
    note, flag = ReportLine("input_checked", "note", "a"), ReportLine("lungs_cut_off", "flagged", "b")
    refusal, never = ReportLine("no_lungs", "refused", "c"), ReportLine("colour_outside", "refused", "d")
    assert settle([note, flag]) == (note, flag)
    with pytest.raises(RefusedError) as caught:
        settle([note, flag, refusal])
    assert caught.value.lines == (refusal,)
    with pytest.raises(RefusedError) as caught:
        settle([note, flag, refusal], strict=True)
    assert [line.code for line in caught.value.lines] == ["lungs_cut_off", "no_lungs"]
    assert [line.severity for line in settle([note, flag, refusal], allow_outside=True)] == [
        "note",
        "flagged",
        "flagged",
    ]
    with pytest.raises(RefusedError, match="colour_outside"):
        settle([refusal, never], allow_outside=True)


def test_no_free_text_of_a_header_reaches_a_message(domain: InputDomain, chest: Volume) -> None:
    odd = dicom("Doe^John\n19700101", patient_position="DOE")
    anywhere = replace(domain, organ="any")
    for lungs in (Lungs(5000, 300, width_over_depth=1.5), Lungs()):
        lines = (*check_image(anywhere, chest, odd), *check_lungs(domain, lungs, odd))
        assert not any(word in line.message for line in lines for word in ("DOE", "JOHN", "1970", "\n"))


def test_bounds_say_which_one_was_passed(chest: Volume) -> None:
    domain = InputDomain(slices=Bounds(flag_above=50, refuse_above=1000))
    (line, _) = check_image(domain, chest, dicom())
    assert "60 slice(s)" in line.message and "at most 50" in line.message
