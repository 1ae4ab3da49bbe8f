"""Splitting series into stacks, and every finding that headers can show."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage, generate_uid

from mtnet.io.positions import measure_positions
from mtnet.io.scan import scan
from mtnet.structures import Series, Stack
from tests.builders import write_ct_series

SAGITTAL = np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]], dtype=float)


def only_series(folder: Path) -> Series:
    (study,) = scan(folder)
    (series,) = study.series
    return series


def only_stack(folder: Path) -> Stack:
    (stack,) = only_series(folder).stacks
    return stack


def severities(stack: Stack) -> dict[str, str]:
    return {item.code: item.severity for item in stack.report}


def test_a_regular_series_is_one_volume_without_findings(tmp_path: Path) -> None:
    write_ct_series(tmp_path, shape=(12, 10, 8), spacing_mm=(0.8, 0.8, 2.0))
    series = only_series(tmp_path)
    assert (series.kind, series.shape, len(series.stacks)) == ("volume", (12, 10, 8), 1)
    assert series.spacing_mm == pytest.approx((0.8, 0.8, 2.0))
    assert not series.report.lines and not series.stacks[0].report.lines


def signed_permutations() -> list[np.ndarray]:
    return [
        np.eye(3)[list(order)] * np.array(signs)
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1, -1), repeat=3)
    ]


@pytest.mark.parametrize("index", range(48))
def test_order_and_spacing_equal_simpleitks_in_every_orientation(tmp_path: Path, index: int) -> None:
    direction = signed_permutations()[index]
    write_ct_series(
        tmp_path,
        shape=(4, 3, 5),
        spacing_mm=(0.7, 0.9, 2.5),
        direction_lps=direction,
        file_order="shuffled",
        seed=index,
    )
    stack = only_stack(tmp_path)
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    image = SimpleITK.ReadImage(names)
    assert [str(instance.path) for instance in stack.instances] == list(names)
    assert stack.shape == image.GetSize()
    assert stack.spacing_mm == pytest.approx(image.GetSpacing())


@pytest.mark.parametrize(
    ("offsets", "code", "severity"),
    [
        ([0, 2, 4, 8, 10], "missing_slices", "repaired"),
        ([0, 2, 4, 10, 12], "missing_slices_wide_gap", "refused"),
        ([0, 5, 10, 20], "missing_slices_wide_gap", "refused"),
        ([0, 2, 4, 6, 11], "variable_spacing", "repaired"),
        ([0, 2, 4, 6, 11.1], "variable_spacing_wide_gap", "refused"),
        ([0, 4.2, 8.4, 9.5, 16.9], "variable_spacing_wide_gap", "refused"),
        ([0, 2, 4.03, 6], "variable_spacing", "repaired"),
        ([0, 0.1, 5, 10, 15], "variable_spacing", "repaired"),
    ],
)
def test_uneven_slices_are_named_and_judged_by_their_largest_gap(
    tmp_path: Path, offsets: list[float], code: str, severity: str
) -> None:
    write_ct_series(tmp_path, slice_offsets_mm=offsets, thickness_mm=0.05)
    assert severities(only_stack(tmp_path)) == {code: severity}


@pytest.mark.parametrize("step", [0.625, 2.0, 8.0])
def test_an_even_series_is_regular_whatever_its_step(tmp_path: Path, step: float) -> None:
    rng = np.random.default_rng(0)
    jitter = rng.uniform(-0.002, 0.002, 8)
    write_ct_series(tmp_path, slice_offsets_mm=np.arange(8) * step + jitter, thickness_mm=0.5)
    stack = only_stack(tmp_path)
    assert severities(stack) == {}
    assert stack.spacing_mm[2] == pytest.approx(step, abs=2e-3)


def test_a_small_error_that_adds_up_over_many_slices_is_not_called_even(tmp_path: Path) -> None:
    gaps = np.repeat([0.995, 1.004], 40)
    write_ct_series(
        tmp_path, shape=(3, 3, 81), slice_offsets_mm=np.concatenate([[0], np.cumsum(gaps)]), thickness_mm=0.5
    )
    assert severities(only_stack(tmp_path)) == {"variable_spacing": "repaired"}


def test_the_largest_gap_is_found_after_the_named_file(tmp_path: Path) -> None:
    write_ct_series(tmp_path, drop=(3,))
    (found,) = only_stack(tmp_path).report
    assert found.code == "missing_slices"
    assert found.where == "after 0002.dcm"
    assert "1 slice(s) are missing" in found.message


@pytest.mark.parametrize("tag", [True, False])
@pytest.mark.parametrize("angle", [15.0, -22.0, 1.0])
def test_tilt_is_measured_from_positions_with_and_without_its_tag(tmp_path: Path, tag: bool, angle: float) -> None:
    write_ct_series(tmp_path, tilt_deg=angle, tilt_tag=tag)
    stack = only_stack(tmp_path)
    assert severities(stack) == {"gantry_tilt": "repaired"}
    assert measure_positions(stack.instances).shear_deg == pytest.approx(abs(angle), abs=1e-6)
    assert f"sheared by {abs(angle):.2f} degrees" in stack.report.lines[0].message


def test_an_oblique_stack_along_its_normal_is_not_tilted(tmp_path: Path) -> None:
    angle = np.deg2rad(20)
    direction = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    write_ct_series(tmp_path, direction_lps=direction)
    assert severities(only_stack(tmp_path)) == {"oblique": "note"}


def test_positions_off_a_straight_line_are_refused(tmp_path: Path) -> None:
    def shift(dataset: Dataset, k: int) -> None:
        if k == 4:
            x, y, z = dataset.ImagePositionPatient
            dataset.ImagePositionPatient = [x + 3, y, z]

    write_ct_series(tmp_path, edit=shift)
    assert severities(only_stack(tmp_path)) == {"positions_off_line": "refused"}


def test_identical_files_are_dropped_with_a_note(tmp_path: Path) -> None:
    written = write_ct_series(tmp_path)
    (tmp_path / "again").mkdir()
    for path in written.paths[2:4]:
        shutil.copy(path, tmp_path / "again" / f"copy_{path.name}")
    stack = only_stack(tmp_path)
    assert stack.shape == (12, 10, 8)
    assert len(stack.instances) == 8
    assert severities(stack) == {"identical_duplicates": "note"}


def test_equal_pixels_sent_again_under_another_uid_are_dropped(tmp_path: Path) -> None:
    def rename(dataset: Dataset, k: int) -> None:
        dataset.SOPInstanceUID = generate_uid()
        dataset.StudyID = "longer text"

    write_ct_series(tmp_path)
    write_ct_series(tmp_path / "again", drop=(0, 1, 2, 3, 5, 6, 7), edit=rename)
    stack = only_stack(tmp_path)
    assert len(stack.instances) == 8
    assert severities(stack) == {"identical_duplicates": "note"}


def test_equal_stored_pixels_with_another_rescale_are_no_copies(tmp_path: Path) -> None:
    def other_units(dataset: Dataset, k: int) -> None:
        dataset.SOPInstanceUID = generate_uid()
        dataset.RescaleIntercept = "-1000"

    write_ct_series(tmp_path)
    write_ct_series(tmp_path / "again", drop=(0, 1, 2, 3, 5, 6, 7), edit=other_units)
    assert severities(only_stack(tmp_path))["different_pixels_at_one_position"] == "refused"


def test_different_pixels_at_one_position_are_refused_and_counted(tmp_path: Path) -> None:
    write_ct_series(tmp_path)
    write_ct_series(
        tmp_path / "more", drop=(0, 1, 2, 3, 4, 7), values=lambda points: np.zeros(points.shape[:-1]), seed=1
    )
    (found,) = only_stack(tmp_path).report
    assert (found.code, found.severity) == ("different_pixels_at_one_position", "refused")
    assert found.message.startswith("4 files share 2 position(s)")


def test_many_slices_at_one_position_are_no_volume_even_with_an_acquisition_each(tmp_path: Path) -> None:
    for number in range(4):
        write_ct_series(
            tmp_path / str(number),
            shape=(6, 5, 1),
            acquisition_number=number,
            values=lambda points, n=number: np.full(points.shape[:-1], n),
            seed=number,
        )
    assert "different_pixels_at_one_position" in severities(only_stack(tmp_path))


def test_two_acquisitions_at_the_same_positions_become_two_stacks(tmp_path: Path) -> None:
    for number in (1, 2):
        write_ct_series(
            tmp_path / str(number),
            acquisition_number=number,
            values=lambda points, n=number: np.full(points.shape[:-1], n),
            seed=number,
        )
    series = only_series(tmp_path)
    assert [stack.shape for stack in series.stacks] == [(12, 10, 8), (12, 10, 8)]
    assert [{i.acquisition_number for i in stack.instances} for stack in series.stacks] == [{1}, {2}]
    assert series.report.codes == ("stacks_split",)
    assert "AcquisitionNumber" in series.report.lines[0].message


@pytest.mark.parametrize("same_size", [True, False])
def test_a_localizer_in_the_series_is_kept_apart(tmp_path: Path, same_size: bool) -> None:
    write_ct_series(tmp_path)
    write_ct_series(
        tmp_path / "scout",
        shape=(12, 10, 1) if same_size else (20, 30, 1),
        direction_lps=SAGITTAL,
        image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"),
        seed=1,
    )
    series = only_series(tmp_path)
    assert [(stack.kind, len(stack.instances)) for stack in series.stacks] == [("volume", 8), ("localizer", 1)]
    assert series.report.codes == ("stacks_split", "localizer_in_series")
    assert severities(series.stacks[0]) == {}


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("orientation", {"direction_lps": SAGITTAL}),
        ("matrix size", {"shape": (10, 12, 5)}),
        ("pixel spacing", {"spacing_mm": (0.7, 0.8, 2.0), "shape": (12, 10, 5)}),
        ("frame of reference", {"frame": "other", "origin_lps_mm": (-5, -4, -9)}),
    ],
)
def test_grids_that_differ_become_stacks_of_their_own(tmp_path: Path, what: str, other: dict[str, object]) -> None:
    write_ct_series(tmp_path)
    write_ct_series(tmp_path / "other", **{"shape": (12, 10, 5), "seed": 1, **other})  # type: ignore[arg-type]
    series = only_series(tmp_path)
    assert [len(stack.instances) for stack in series.stacks] == [8, 5]
    assert [stack.kind for stack in series.stacks] == ["volume", "volume"]
    assert series.report.codes == ("stacks_split",)
    assert what in series.report.lines[0].message
    assert all("refused" not in severities(stack).values() for stack in series.stacks)


@pytest.mark.parametrize(
    ("numbers", "code"), [("shuffled", "shuffled_instance_numbers"), ("absent", "absent_instance_numbers")]
)
def test_slices_are_ordered_by_position_where_their_numbers_do_not_help(
    tmp_path: Path, numbers: str, code: str
) -> None:
    written = write_ct_series(tmp_path, instance_numbers=numbers, file_order="shuffled")  # type: ignore[arg-type]
    stack = only_stack(tmp_path)
    assert [instance.position_lps_mm for instance in stack.instances] == list(written.positions_lps_mm)
    assert severities(stack) == {code: "note"}


def test_numbers_that_fall_along_the_normal_are_in_order(tmp_path: Path) -> None:
    write_ct_series(tmp_path, direction_lps=np.diag([1.0, 1.0, -1.0]))
    stack = only_stack(tmp_path)
    assert stack.instances[0].instance_number == 8
    assert severities(stack) == {}


def test_flipped_planes_and_uneven_pixels_are_noted(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "flipped", direction_lps=np.diag([-1.0, 1.0, 1.0]), series="one")
    write_ct_series(tmp_path / "wide", spacing_mm=(0.8, 0.5, 2.0), series="two")
    flipped, wide = (only_stack(tmp_path / name) for name in ("flipped", "wide"))
    assert severities(flipped) == {"flipped": "note"}
    assert severities(wide) == {"non_square_pixels": "note"}
    assert wide.spacing_mm == pytest.approx((0.8, 0.5, 2.0))


def set_tag(keyword: str, value: object, slices: tuple[int, ...] | None = None) -> Callable[[Dataset, int], None]:
    def edit(dataset: Dataset, k: int) -> None:
        if slices is None or k in slices:
            setattr(dataset, keyword, value)

    return edit


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rescale": None}, {"rescale_missing": "refused"}),
        ({"omit": ("RescaleIntercept",)}, {"rescale_missing": "refused"}),
        ({"rescale": lambda k: (1.0, -1024.0 - k)}, {"rescale_varies": "note"}),
        ({"edit": set_tag("RescaleSlope", "0", (3,))}, {"rescale_invalid": "refused", "rescale_varies": "note"}),
        ({"edit": set_tag("RescaleType", "US")}, {"rescale_type_not_hu": "refused"}),
        ({"edit": set_tag("RescaleType", "Houndsfield Unit")}, {"rescale_type_spelling": "note"}),
        ({"omit": ("RescaleType",)}, {}),
        ({"edit": set_tag("Modality", "SEG")}, {"seg_stored_as_ct": "refused"}),
        ({"image_type": ("DERIVED", "PRIMARY", "PERFUSION", "RCBF")}, {"parametric_map": "refused"}),
        ({"edit": set_tag("PixelPaddingValue", -2000)}, {}),
        ({"edit": set_tag("PhotometricInterpretation", "MONOCHROME1")}, {"monochrome1": "note"}),
        ({"edit": set_tag("LossyImageCompression", "01")}, {"lossy_compression": "note"}),
        ({"edit": set_tag("ImageOrientationPatient", [1, 0, 0, 1, 0, 0])}, {"missing_geometry": "refused"}),
        ({"omit": ("PixelSpacing",)}, {"missing_geometry": "refused"}),
        ({"omit": ("ImagePositionPatient",)}, {"missing_geometry": "refused"}),
        ({"omit": ("PixelData",)}, {"no_pixel_data": "refused"}),
        ({"omit": ("Rows",)}, {"missing_geometry": "refused"}),
        ({"thickness_mm": 5.0}, {"overlapping_slices": "note"}),
    ],
)
def test_tags_that_change_what_pixels_mean_are_found(
    tmp_path: Path, options: dict[str, object], expected: dict[str, str]
) -> None:
    write_ct_series(tmp_path, **options)  # type: ignore[arg-type]
    assert severities(only_stack(tmp_path)) == expected


def test_one_slice_that_lost_its_position_leaves_the_volume_and_is_refused(tmp_path: Path) -> None:
    def lose(dataset: Dataset, k: int) -> None:
        if k == 3:
            del dataset.ImagePositionPatient

    write_ct_series(tmp_path, edit=lose)
    series = only_series(tmp_path)
    assert [severities(stack) for stack in series.stacks] == [
        {"missing_slices": "repaired"},
        {"missing_geometry": "refused"},
    ]


def test_a_single_slice_takes_its_thickness_or_is_refused(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "known", shape=(6, 5, 1), thickness_mm=5.0)
    write_ct_series(tmp_path / "unknown", shape=(6, 5, 1), omit=("SliceThickness",))
    known, unknown = only_stack(tmp_path / "known"), only_stack(tmp_path / "unknown")
    assert (known.shape, known.spacing_mm) == ((6, 5, 1), (0.8, 0.8, 5.0))
    assert severities(known) == {"single_slice": "note"}
    assert unknown.spacing_mm == (0.8, 0.8, None)
    assert severities(unknown) == {"no_slice_spacing": "refused"}


def test_pixel_data_cut_short_are_found_without_reading_them(tmp_path: Path) -> None:
    written = write_ct_series(tmp_path)
    written.paths[2].write_bytes(written.paths[2].read_bytes()[:-30])
    (found,) = only_stack(tmp_path).report
    assert (found.code, found.where) == ("truncated_pixels", "0002.dcm")
    assert "210 of 240 bytes" in found.message


def test_two_different_files_under_one_object_uid_are_noted(tmp_path: Path) -> None:
    write_ct_series(tmp_path, edit=set_tag("SOPInstanceUID", "1.2.3.4", (1, 2)))
    assert severities(only_stack(tmp_path)) == {"repeated_object_uid": "note"}


def test_a_segmentation_of_one_frame_has_no_findings_about_its_grid(tmp_path: Path) -> None:
    def segment(dataset: Dataset, k: int) -> None:
        dataset.SOPClassUID, dataset.Modality, dataset.NumberOfFrames = SegmentationStorage, "SEG", 1

    write_ct_series(tmp_path, shape=(6, 5, 1), omit=("ImagePositionPatient", "PixelSpacing"), edit=segment)
    stack = only_stack(tmp_path)
    assert (stack.kind, severities(stack)) == ("label_map", {})
