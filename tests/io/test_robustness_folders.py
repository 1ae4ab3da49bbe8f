"""What the scan says about each real folder that trips readers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mtnet.io import scan

FOLDERS = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[3] / "shared" / "data")) / "dicom_robustness"

pytestmark = pytest.mark.study

# For each folder: its stacks as (kind, modality, slices, refused codes, other codes that matter), in any order; and
# the codes of the study reports.
EXPECTED: dict[str, tuple[list[tuple[str, str, int, set[str], set[str]]], set[str]]] = {
    "broken_files": (
        [
            ("not_an_image", "RTPLAN", 0, set(), set()),
            ("volume", "MR", 1, {"truncated_pixels"}, {"single_slice"}),
        ],
        {"unreadable_file", "several_studies"},
    ),
    "cr_chest_monochrome1_j2k": ([("image", "CR", 1, set(), set())], set()),
    "ct_chest_duplicates": ([("volume", "CT", 3, set(), {"identical_duplicates", "overlapping_slices"})], set()),
    "ct_chest_missing_slices": ([("volume", "CT", 6, set(), {"missing_slices"})], set()),
    "ct_chest_overlapping": ([("volume", "CT", 5, set(), {"overlapping_slices"})], set()),
    "ct_chest_reformats_two_vendors": (
        [("volume", "CT", 1, set(), {"single_slice"})] * 4
        + [("volume", "CT", 1, set(), {"single_slice", "oblique", "rescale_type_spelling"})] * 2,
        {"several_studies", "several_series"},
    ),
    "ct_chest_single_slice": ([("volume", "CT", 1, set(), {"single_slice"})], set()),
    "ct_chest_transfer_syntaxes": (
        [("volume", "CT", 1, {"different_pixels_at_one_position", "eight_bit_ct"}, {"lossy_compression"})],
        set(),
    ),
    "ct_enhanced_multiframe": (
        [("parametric_map", "CT", 2, {"parametric_map"}, set())],
        set(),
    ),
    "ct_gap_ge": ([("volume", "CT", 4, {"missing_slices_wide_gap"}, set())], set()),
    "ct_j2k_sign_mismatch": ([("volume", "CT", 1, set(), {"single_slice", "oblique"})], set()),
    "ct_legacy_converted_multiframe": (
        [
            ("label_map", "SEG", 3, set(), set()),
            ("volume", "CT", 3, {"rescale_type_not_hu"}, set()),
            ("volume", "CT", 3, {"rescale_type_not_hu"}, set()),
        ],
        {"several_series"},
    ),
    "ct_localizer_kernels_dose_philips": (
        [
            ("localizer", "CT", 1, set(), set()),
            ("volume", "CT", 3, set(), set()),
            ("volume", "CT", 2, set(), set()),
            ("secondary_capture", "CT", 2, set(), set()),
            ("secondary_capture", "CT", 1, set(), set()),
        ],
        {"several_series", "dicomdir_skipped"},
    ),
    "ct_reformat_sagittal_non_square": ([("volume", "CT", 5, set(), {"non_square_pixels"})], set()),
    "ct_same_position": ([("volume", "CT", 1, {"different_pixels_at_one_position"}, set())], set()),
    "ct_tilt_philips_minus18": (
        [("localizer", "CT", 1, set(), set()), ("volume", "CT", 6, set(), {"gantry_tilt", "oblique"})],
        {"several_series"},
    ),
    "ct_tilt_variable_spacing_ge": (
        [("volume", "CT", 7, {"variable_spacing_wide_gap"}, {"gantry_tilt", "oblique"})],
        set(),
    ),
    "ct_two_studies_one_folder": ([("volume", "CT", 3, set(), {"overlapping_slices"})] * 2, {"several_studies"}),
    "ct_with_dicom_seg": (
        [
            ("volume", "CT", 3, set(), set()),
            ("label_map", "SEG", 3, set(), set()),
            ("label_map", "SEG", 7, set(), set()),
        ],
        {"several_series"},
    ),
    "mr_enhanced_siemens": ([("volume", "MR", 6, set(), set())] * 4, set()),
    "mr_jpeg_lossless_fragments": ([("volume", "MR", 6, set(), set())], set()),
    "mr_two_orientations": ([("volume", "MR", 2, set(), {"oblique"})] * 2, set()),
    "seg_stored_as_ct": ([("label_map", "SEG", 6, {"seg_stored_as_ct"}, set())], set()),
    "us_multiframe_ybr422": ([("cine", "US", 30, set(), set())], set()),
    "us_palette_multiframe": ([("cine", "US", 2, set(), set())], set()),
    "us_ybr422_uncompressed": ([("image", "US", 1, set(), set())], set()),
}


def test_every_folder_has_its_expectation() -> None:
    assert {path.name for path in FOLDERS.iterdir() if path.is_dir()} == set(EXPECTED)


@pytest.mark.parametrize("folder", sorted(EXPECTED))
def test_kinds_and_findings_of_the_folder_are_right(folder: str) -> None:
    stacks, study_codes = EXPECTED[folder]
    studies = scan(FOLDERS / folder)
    found = [
        (
            stack.kind,
            series.modality,
            stack.shape[2] if stack.shape else 0,
            {item.code for item in stack.report.refusals},
            {item.code for item in stack.report if item.severity != "refused"},
        )
        for study in studies
        for series in study.series
        for stack in series.stacks
    ]
    assert {code for study in studies for code in study.report.codes} == study_codes
    for expected in stacks:
        match = next((f for f in found if f[:4] == expected[:4] and expected[4] <= f[4]), None)
        assert match is not None, f"{expected} is not among {found}"
        found.remove(match)
    assert not found


def test_spacings_of_the_folders_are_those_of_their_steps() -> None:
    def spacings(folder: str) -> list[float | None]:
        return [s.spacing_mm[2] for study in scan(FOLDERS / folder) for s in study.series if s.kind == "volume"]

    assert spacings("ct_chest_missing_slices") == pytest.approx([0.8], abs=1e-4)
    assert spacings("ct_gap_ge") == pytest.approx([5.0], abs=1e-4)
    assert spacings("ct_two_studies_one_folder") == pytest.approx([4.25, 4.25])
    assert spacings("ct_tilt_philips_minus18") == pytest.approx([2.5 * 0.948323655], abs=1e-4)
