"""Enhanced multi-frame objects become the volumes that their functional groups tell, frame by frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

from mtnet.io.load import load
from mtnet.io.nifti_out import write_nifti
from mtnet.io.scan import scan
from tests.builders import ramp_hu, write_ct_series, write_dataset, write_enhanced
from tests.dcm2niix_judge import convert_with_dcm2niix, read_canonical, worst_distance_mm
from tests.io.test_load import OBLIQUE, assert_tells_its_place, load_only, refused_codes

SHUFFLED = [3, 0, 6, 1, 7, 2, 5, 4]
needs_pydicom_3 = pytest.mark.skipif(
    int(pydicom.__version__.split(".")[0]) < 3, reason="pydicom 2 has no encoders, and no highdicom of today"
)


def per_frame_rescale(k: int) -> tuple[float, float]:
    return 1.0 + k % 2, -1000.0 - k


@pytest.mark.parametrize("direction", [np.eye(3), OBLIQUE, np.eye(3)[[2, 0, 1]]], ids=["axial", "oblique", "turned"])
@pytest.mark.parametrize("order", [None, SHUFFLED, list(range(7, -1, -1))], ids=["in order", "shuffled", "reversed"])
def test_frames_lie_where_their_groups_say_with_their_own_rescale(tmp_path: Path, order: Any, direction: Any) -> None:
    slices = write_ct_series(tmp_path, direction_lps=direction, rescale=per_frame_rescale)
    write_enhanced(slices, tmp_path / "whole.dcm", order=order)
    volume = load_only(tmp_path)
    assert volume.array.shape == (1, 12, 10, 8)
    assert_tells_its_place(volume, 1.01)
    assert ("shuffled_frames" in volume.report.codes) == (order == SHUFFLED)


def test_dcm2niix_agrees_on_shuffled_frames(tmp_path: Path) -> None:
    slices = write_ct_series(tmp_path / "in", shape=(48, 32, 8), direction_lps=OBLIQUE)
    write_enhanced(
        slices,
        tmp_path / "in" / "whole.dcm",
        # dcm2niix takes the step from the first and the last stored frame: these stay in place.
        order=[0, 3, 6, 1, 2, 5, 4, 7],
        content=lambda k: {"StackID": "1", "InStackPositionNumber": k + 1, "DimensionIndexValues": [1, k + 1]},
    )
    write_nifti(load_only(tmp_path / "in"), tmp_path / "ours.nii")
    ours = read_canonical(tmp_path / "ours.nii")
    (theirs,) = convert_with_dcm2niix(tmp_path / "in", tmp_path / "judge")
    assert worst_distance_mm(ours, theirs) < 1e-3
    np.testing.assert_array_equal(ours.values, theirs.values)


@needs_pydicom_3
def test_highdicoms_legacy_conversion_reads_as_its_sources(tmp_path: Path) -> None:
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    slices = write_ct_series(tmp_path / "classic", rescale=per_frame_rescale, file_order="shuffled")
    sources = [pydicom.dcmread(path) for path in slices.paths]
    for source in sources:
        source.BurnedInAnnotation = "NO"
        source.PatientOrientation = ""
    converted = LegacyConvertedEnhancedCTImage(
        sources, series_instance_uid=uid.generate_uid(), series_number=2, sop_instance_uid=uid.generate_uid(),
        instance_number=1,
    )  # fmt: skip
    write_dataset(converted, tmp_path / "legacy" / "whole.dcm")
    volume = load_only(tmp_path / "legacy")
    assert_tells_its_place(volume, 1.01)
    np.testing.assert_array_equal(volume.array, load_only(tmp_path / "classic").array)


@pytest.mark.parametrize(
    ("sop_class", "modality"),
    [
        (uid.EnhancedMRImageStorage, "MR"),
        (uid.EnhancedPETImageStorage, "PT"),
        (uid.LegacyConvertedEnhancedCTImageStorage, "CT"),
        (uid.LegacyConvertedEnhancedMRImageStorage, "MR"),
        (uid.LegacyConvertedEnhancedPETImageStorage, "PT"),
    ],
    ids=str,
)
def test_every_enhanced_class_is_read_alike(tmp_path: Path, sop_class: str, modality: str) -> None:
    slices = write_ct_series(tmp_path, edit=lambda dataset, _: setattr(dataset, "Modality", modality))
    write_enhanced(slices, tmp_path / "whole.dcm", sop_class=sop_class, order=SHUFFLED)
    volume = load_only(tmp_path)
    assert volume.modality == modality
    assert_tells_its_place(volume)


def two_times(folder: Path, content: Callable[[int], dict[str, Any]], order: list[int] | None = None) -> None:
    """One object whose first eight frames hold the ramp and the next eight, at the same places, 100 more."""
    early = write_ct_series(folder, shape=(12, 10, 8))
    late = write_ct_series(folder, shape=(12, 10, 8), values=lambda p: ramp_hu(p) + 100, file_name="late{:04d}.dcm")
    both = type(early)(**{**vars(early), "paths": early.paths + late.paths})
    write_enhanced(both, folder / "whole.dcm", content=content, order=order)


@pytest.mark.parametrize(
    "content",
    [
        lambda k: {"TemporalPositionIndex": 1 + k // 8, "FrameAcquisitionNumber": 1},
        lambda k: {"FrameAcquisitionNumber": 1 + k // 8},
        lambda k: {"StackID": str(1 + k // 8), "InStackPositionNumber": 1 + k % 8},
    ],
    ids=["time", "acquisition", "stack"],
)
def test_frames_that_their_content_tells_apart_become_volumes_of_their_own(tmp_path: Path, content: Any) -> None:
    two_times(tmp_path, content, order=[k for pair in zip(range(8), range(8, 16), strict=True) for k in pair])
    ((series,),) = (study.series for study in scan(tmp_path))
    assert len(series.stacks) == 2 and "stacks_split" in series.report.codes
    volumes = [load(stack, series) for stack in series.stacks]
    np.testing.assert_array_equal(volumes[1].array, volumes[0].array + 100)
    assert_tells_its_place(volumes[0])


def test_frames_at_one_position_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    two_times(tmp_path, lambda _: {})
    assert refused_codes(tmp_path, repair=True) == ["different_pixels_at_one_position"]


def test_a_frame_that_repeats_another_is_left_out(tmp_path: Path) -> None:
    write_enhanced(write_ct_series(tmp_path), tmp_path / "whole.dcm", order=[0, 1, 2, 2, 3, 4, 5, 6, 7])
    volume = load_only(tmp_path)
    assert "identical_duplicates" in volume.report.codes
    assert_tells_its_place(volume)


def test_missing_frames_and_tilt_are_repaired_as_missing_slices_are(tmp_path: Path) -> None:
    write_enhanced(write_ct_series(tmp_path, drop=(3,)), tmp_path / "whole.dcm", order=[6, 5, 4, 3, 2, 1, 0])
    volume = load_only(tmp_path)
    assert volume.report.codes == ("missing_slices",)
    assert_tells_its_place(volume, 0.6)
    assert refused_codes(tmp_path, strict=True) == ["missing_slices"]


def test_two_objects_of_a_series_are_two_volumes_and_a_concatenation_is_one(tmp_path: Path) -> None:
    def part(name: str, drop: range, before: int, **tags: Any) -> None:
        def edit(dataset: Dataset) -> None:
            for keyword, value in tags.items():
                setattr(dataset, keyword, value)
            if tags:
                dataset.ConcatenationFrameOffsetNumber = before

        write_enhanced(write_ct_series(tmp_path, drop=tuple(drop)), tmp_path / name, edit=edit)

    part("a.dcm", range(4, 8), 0)
    part("b.dcm", range(4), 4)
    ((series,),) = (study.series for study in scan(tmp_path))
    assert [stack.shape for stack in series.stacks] == [(12, 10, 4)] * 2
    assert series.files == 2 and [stack.files for stack in series.stacks] == [1, 1]
    part("a.dcm", range(4, 8), 0, ConcatenationUID="1.2.3")
    part("b.dcm", range(4), 4, ConcatenationUID="1.2.3")
    volume = load_only(tmp_path)
    assert volume.geometry.shape == (12, 10, 8)
    assert_tells_its_place(volume)


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        (lambda d: setattr(d, "ImageType", ["DERIVED", "PRIMARY", "PERFUSION", "RCBF"]), ["parametric_map"]),
        (lambda d: d.__delattr__("SharedFunctionalGroupsSequence"), ["missing_geometry", "missing_geometry"]),
        (lambda d: d.__delattr__("PerFrameFunctionalGroupsSequence"), ["missing_geometry", "rescale_missing"]),
        (lambda d: setattr(d, "PixelData", d.PixelData[:-300]), ["truncated_pixels"]),
        (
            lambda d: setattr(
                d.PerFrameFunctionalGroupsSequence[3].PixelValueTransformationSequence[0], "RescaleType", "US"
            ),
            ["rescale_type_not_hu"],
        ),
    ],
    ids=["map", "no shared groups", "no groups by frame", "cut", "one frame is no HU"],
)
def test_what_cannot_be_read_right_is_refused(tmp_path: Path, change: Callable[[Dataset], None], codes: Any) -> None:
    write_enhanced(write_ct_series(tmp_path), tmp_path / "whole.dcm", edit=change)
    assert refused_codes(tmp_path) == codes


def test_groups_for_another_number_of_frames_make_the_file_unreadable(tmp_path: Path) -> None:
    def lose_one(dataset: Dataset) -> None:
        del dataset.PerFrameFunctionalGroupsSequence[2]

    write_enhanced(write_ct_series(tmp_path), tmp_path / "whole.dcm", edit=lose_one)
    with pytest.raises(ValueError, match="7 item"):
        scan(tmp_path)


def test_top_level_tags_do_not_override_what_the_groups_say(tmp_path: Path) -> None:
    def mislead(dataset: Dataset) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = 5, 77
        dataset.ImagePositionPatient = [1, 2, 3]
        dataset.PixelSpacing = [9, 9]

    write_enhanced(write_ct_series(tmp_path), tmp_path / "whole.dcm", edit=mislead)
    assert_tells_its_place(load_only(tmp_path))


@needs_pydicom_3
@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless], ids=["RLE", "JPEG 2000"])
def test_compressed_frames_are_told_apart_as_plain_ones_are(tmp_path: Path, syntax: str) -> None:
    def compress(dataset: Dataset) -> None:
        plain = Dataset()
        plain.update(dataset)
        plain.file_meta = dataset.file_meta
        plain.compress(syntax, generate_instance_uid=False)
        dataset.PixelData = plain.PixelData
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True

    slices = write_ct_series(tmp_path, shape=(40, 34, 8))
    write_enhanced(slices, tmp_path / "whole.dcm", order=SHUFFLED, edit=compress)
    assert_tells_its_place(load_only(tmp_path))
