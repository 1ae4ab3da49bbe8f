"""Single 2D DICOM images and cines of every photometric interpretation, judged by pydicom and ITK."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    RLELossless,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from mtnet.io.dicom_images import DicomFrames
from mtnet.io.image_out import write_image
from mtnet.io.limits import Limits
from mtnet.io.scan import scan
from mtnet.structures.report import RefusedError
from mtnet.structures.study import Instance
from tests.builders import write_dataset

FOLDERS = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[3] / "shared" / "data")) / "dicom_robustness"
RNG = np.random.default_rng(5)
RGB = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (24, 40), dtype=np.uint8)
DEEP = RNG.integers(0, 4096, (24, 40), dtype=np.uint16)


def write_object(path: Path, pixels: NDArray[Any], photometric: str, frames: int = 1, **tags: Any) -> Instance:
    """Write stored samples as they stand and give the object as ``scan`` lists it."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = UltrasoundMultiFrameImageStorage if frames > 1 else UltrasoundImageStorage
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.StudyInstanceUID = (generate_uid() for _ in range(3))
    dataset.Modality = "US"
    dataset.Columns, dataset.Rows = 40, 24
    dataset.SamplesPerPixel = 1 if photometric.startswith(("MONO", "PALETTE")) else 3
    dataset.PhotometricInterpretation = photometric
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.HighBit = dataset.BitsStored - 1
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
    write_dataset(dataset, path)
    return instance_of(path)


def instance_of(path: Path) -> Instance:
    (study,) = scan(path)
    return study.series[0].instances[0]


def rows_first(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return array.transpose(2, 1, 0).squeeze()


def through_itk(path: Path) -> NDArray[np.generic]:
    """(rows, columns[, 3]) of one frame, (frames, rows, columns[, 3]) of several."""
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).squeeze()


@pytest.mark.parametrize("planar", [0, 1])
def test_rgb_comes_out_alike_in_both_planar_configurations(tmp_path: Path, planar: int) -> None:
    stored = RGB if planar == 0 else RGB.transpose(2, 0, 1)
    instance = write_object(tmp_path / "a.dcm", np.ascontiguousarray(stored), "RGB", PlanarConfiguration=planar)
    image = DicomFrames(instance).image()
    assert image.array.shape == (3, 40, 24) and image.modality == "US"
    np.testing.assert_array_equal(rows_first(image.array), RGB)
    np.testing.assert_array_equal(rows_first(image.array), through_itk(tmp_path / "a.dcm"))


def test_ybr_full_and_ybr_full_422_become_the_rgb_of_pydicom(tmp_path: Path) -> None:
    convert_color_space = pytest.importorskip("pydicom.pixels").convert_color_space
    expected = convert_color_space(RGB, "YBR_FULL", "RGB").astype(int)
    full = DicomFrames(write_object(tmp_path / "a.dcm", RGB, "YBR_FULL")).frame(0)
    assert np.abs(rows_first(full).astype(int) - expected).max() <= 1
    shared = RGB.copy()
    shared[:, 1::2, 1:] = shared[:, ::2, 1:]
    pairs = np.stack([shared[:, ::2, 0], shared[:, 1::2, 0], shared[:, ::2, 1], shared[:, ::2, 2]], axis=-1)
    half = DicomFrames(write_object(tmp_path / "b.dcm", pairs, "YBR_FULL_422")).frame(0)
    expected = convert_color_space(shared, "YBR_FULL", "RGB").astype(int)
    assert np.abs(rows_first(half).astype(int) - expected).max() <= 1


def palette(entries: NDArray[np.generic], bits: int) -> dict[str, Any]:
    tags: dict[str, Any] = {}
    for number, name in enumerate(("Red", "Green", "Blue")):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [len(entries), 0, bits]
        tags[f"{name}PaletteColorLookupTableData"] = entries[:, number].astype(f"<u{bits // 8}").tobytes()
    return tags


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "8 bits in 16"])
def test_palettes_become_rgb_of_8_bits(tmp_path: Path, kind: str) -> None:
    entries = RNG.integers(0, 256, (256, 3))
    stored = entries * 256 + entries if kind == "16 bits" else entries
    tags = palette(stored, 8 if kind == "8 bits" else 16)
    frames = DicomFrames(write_object(tmp_path / "a.dcm", GREY, "PALETTE COLOR", **tags))
    np.testing.assert_array_equal(rows_first(frames.frame(0)), entries[GREY])
    assert "palette_expanded" in frames.report.codes


def test_a_segmented_palette_is_unfolded(tmp_path: Path) -> None:
    tags = palette(np.zeros((256, 3)), 16)
    # One discrete entry of 0, then 255 linear steps up to 65535 (PS3.3 C.7.9.2).
    segments = np.array([0, 1, 0, 1, 255, 65535], dtype="<u2").tobytes()
    for name in ("Red", "Green", "Blue"):
        del tags[f"{name}PaletteColorLookupTableData"]
        tags[f"Segmented{name}PaletteColorLookupTableData"] = segments
    frame = DicomFrames(write_object(tmp_path / "a.dcm", GREY, "PALETTE COLOR", **tags)).frame(0)
    expected = np.repeat(GREY[..., None], 3, axis=2).astype(int)
    assert np.abs(rows_first(frame).astype(int) - expected).max() <= 1


def test_a_palette_that_is_not_there_is_refused(tmp_path: Path) -> None:
    frames = DicomFrames(write_object(tmp_path / "a.dcm", GREY, "PALETTE COLOR"))
    with pytest.raises(RefusedError, match="palette cannot be used"):
        frames.frame(0)


def test_monochrome1_is_inverted_over_the_range_of_its_bits(tmp_path: Path) -> None:
    frames = DicomFrames(write_object(tmp_path / "a.dcm", DEEP, "MONOCHROME1", BitsStored=12))
    np.testing.assert_array_equal(rows_first(frames.frame(0)), 4095 - DEEP)
    assert frames.frame(0).dtype == np.uint16 and "monochrome1_inverted" in frames.report.codes
    signed = DEEP.astype(np.int16) - 2048
    frames = DicomFrames(write_object(tmp_path / "b.dcm", signed, "MONOCHROME1", BitsStored=12))
    np.testing.assert_array_equal(rows_first(frames.frame(0)), -1 - signed)


def test_grey_goes_through_rescale_and_modality_lut_and_no_window(tmp_path: Path) -> None:
    window = {"WindowCenter": 100, "WindowWidth": 10}
    frames = DicomFrames(write_object(tmp_path / "a.dcm", DEEP, "MONOCHROME2", BitsStored=12, **window))
    np.testing.assert_array_equal(rows_first(frames.frame(0)), DEEP)
    assert "window_not_applied" in frames.report.codes
    rescale = {"RescaleSlope": 2, "RescaleIntercept": -1024}
    frame = DicomFrames(write_object(tmp_path / "b.dcm", DEEP, "MONOCHROME2", BitsStored=12, **rescale)).frame(0)
    np.testing.assert_array_equal(rows_first(frame), through_itk(tmp_path / "b.dcm"))
    frame = DicomFrames(write_object(tmp_path / "c.dcm", DEEP, "MONOCHROME1", BitsStored=12, **rescale)).frame(0)
    np.testing.assert_array_equal(rows_first(frame), 2 * 4095 - 2048 - (2 * DEEP.astype(int) - 1024))
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [256, 0, 16], "US"
    table.add_new("LUTData", "OW", (np.arange(256, dtype="<u2") ** 2).tobytes())
    frame = DicomFrames(write_object(tmp_path / "d.dcm", GREY, "MONOCHROME2", ModalityLUTSequence=[table])).frame(0)
    np.testing.assert_array_equal(rows_first(frame), GREY.astype(int) ** 2)


def test_padding_becomes_the_darkest_value(tmp_path: Path) -> None:
    stored = np.clip(DEEP, 10, 4000)
    stored[:, :5] = 4095
    tags = {"BitsStored": 12, "PixelPaddingValue": 4095}
    for photometric, expected in (("MONOCHROME2", 10), ("MONOCHROME1", 95)):
        frame = DicomFrames(write_object(tmp_path / "a.dcm", stored, photometric, **tags)).frame(0)
        assert (rows_first(frame)[:, :5] == expected).all() and rows_first(frame)[:, 5:].min() == expected


def test_frames_come_one_by_one_in_order_with_their_times(tmp_path: Path) -> None:
    for pixels, name in ((RNG.integers(0, 256, (5, 24, 40), dtype=np.uint8), "MONOCHROME2"), (None, "RGB")):
        stored = RNG.integers(0, 256, (5, 24, 40, 3), dtype=np.uint8) if pixels is None else pixels
        instance = write_object(tmp_path / "a.dcm", stored, name, frames=5, FrameTime=40)
        frames = DicomFrames(instance)
        assert len(frames) == 5 and frames.frame_times_ms == (0, 40, 80, 120, 160)
        outside = through_itk(tmp_path / "a.dcm")
        for frame in frames:
            np.testing.assert_array_equal(rows_first(frame.array), stored[frame.index])
            np.testing.assert_array_equal(rows_first(frame.array), outside[frame.index])
            assert frame.time_ms == 40 * frame.index
        with pytest.raises(IndexError):
            frames.frame(5)


def test_compressed_frames_are_the_same(tmp_path: Path) -> None:
    stored = RNG.integers(0, 256, (3, 24, 40, 3), dtype=np.uint8)
    write_object(tmp_path / "a.dcm", stored, "RGB", frames=3)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.compress(RLELossless, stored)
    write_dataset(dataset, tmp_path / "b.dcm")
    frames = DicomFrames(instance_of(tmp_path / "b.dcm"))
    for index in (2, 0, 1):
        np.testing.assert_array_equal(rows_first(frames.frame(index)), stored[index])


@pytest.mark.parametrize(
    ("tags", "expected", "code"),
    [
        ({"FrameTimeVector": [0, 10, 30]}, (0, 10, 40), None),
        ({"FrameTimeVector": [0, 10], "FrameTime": 20}, (0, 20, 40), None),
        ({"CineRate": 25}, (0, 40, 80), "frame_times_from_rate"),
        ({"RecommendedDisplayFrameRate": 50}, (0, 20, 40), "frame_times_from_rate"),
        ({"FrameTime": 0}, None, "frame_times_unknown"),
    ],
)
def test_frame_times_come_from_the_best_tag(
    tmp_path: Path, tags: dict[str, Any], expected: tuple[float, ...] | None, code: str | None
) -> None:
    frames = DicomFrames(write_object(tmp_path / "a.dcm", np.stack([GREY] * 3), "MONOCHROME2", frames=3, **tags))
    assert frames.frame_times_ms == expected
    assert code is None or code in frames.report.codes


def region(corners: tuple[int, int, int, int], delta: tuple[float, float], kind: int = 1) -> Dataset:
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, kind, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0 = corners[:2]
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = corners[2:]
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX, item.PhysicalDeltaY = delta
    return item


@pytest.mark.parametrize(
    ("tags", "expected", "codes"),
    [
        ({}, None, {"pixel_spacing_unknown"}),
        ({"PixelSpacing": [0.3, 0.2]}, (0.2, 0.3), {"pixel_spacing_source"}),
        ({"PixelSpacing": [0, 0]}, None, {"pixel_spacing_unknown"}),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.15, 0.15]}, (0.15, 0.15), {"pixel_spacing_source"}),
        ({"NominalScannedPixelSpacing": [0.1, 0.1]}, (0.1, 0.1), {"pixel_spacing_source"}),
        ({"PixelAspectRatio": ["2", "1"]}, None, {"pixel_spacing_unknown", "pixel_aspect_ratio"}),
        (
            {
                "SequenceOfUltrasoundRegions": [
                    region((0, 0, 19, 23), (0.02, -0.03)),
                    region((20, 0, 39, 23), (0.1, 0.1), 2),
                ],
                "PixelSpacing": [1, 1],
            },
            (0.2, 0.3),
            {"pixel_spacing_source", "ultrasound_regions_differ", "pixel_spacing_differs"},
        ),
        (
            {"SequenceOfUltrasoundRegions": [region((0, 0, 79, 47), (0.02, 0.02))]},
            None,
            {"pixel_spacing_unknown", "ultrasound_regions_unusable"},
        ),
    ],
)
def test_spacing_is_what_the_best_tag_tells_and_the_report_says_which(
    tmp_path: Path, tags: dict[str, Any], expected: tuple[float, float] | None, codes: set[str]
) -> None:
    frames = DicomFrames(write_object(tmp_path / "a.dcm", GREY, "MONOCHROME2", **tags))
    if expected is None:
        assert frames.spacing_mm is None
    else:
        assert frames.spacing_mm == pytest.approx(expected)
    assert set(frames.report.codes) == codes


def test_spacing_at_the_detector_is_called_that(tmp_path: Path) -> None:
    def message(**tags: Any) -> str:
        report = DicomFrames(write_object(tmp_path / "a.dcm", GREY, "MONOCHROME2", **tags)).report
        return next(item.message for item in report if item.code == "pixel_spacing_source")

    assert "at the detector" in message(ImagerPixelSpacing=[0.2, 0.2])
    assert "at the detector" in message(ImagerPixelSpacing=[0.2, 0.2], PixelSpacing=[0.2, 0.2])
    calibrated = message(ImagerPixelSpacing=[0.2, 0.2], PixelSpacing=[0.2, 0.2], PixelSpacingCalibrationType="FIDUCIAL")
    assert "calibrated by fiducial" in calibrated


def test_tiles_and_ultrasound_volumes_are_no_cine(tmp_path: Path) -> None:
    three = np.stack([GREY] * 3)
    instance = write_object(tmp_path / "a.dcm", three, "MONOCHROME2", 3, DimensionOrganizationType="TILED_FULL")
    with pytest.raises(RefusedError, match="tiled_image"):
        DicomFrames(instance)
    volume = "1.2.840.10008.5.1.4.1.1.6.2"
    with pytest.raises(RefusedError, match="frames_are_a_volume"):
        DicomFrames(write_object(tmp_path / "b.dcm", three, "MONOCHROME2", 3, SOPClassUID=volume))


def test_limits_and_broken_objects_are_refusals(tmp_path: Path) -> None:
    instance = write_object(tmp_path / "a.dcm", np.stack([RGB] * 3), "RGB", frames=3)
    with pytest.raises(RefusedError, match="limit_exceeded"):
        DicomFrames(instance, Limits(image_bytes=1000))
    with pytest.raises(RefusedError, match="limit_exceeded"):
        DicomFrames(instance, Limits(frames=2))
    whole = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(whole[:-3000])
    frames = DicomFrames(instance)
    np.testing.assert_array_equal(rows_first(frames.frame(0)), RGB)
    with pytest.raises(RefusedError):
        frames.frame(2)


@pytest.mark.study
@pytest.mark.parametrize(
    ("folder", "shape", "frames"),
    [
        ("us_multiframe_ybr422", (3, 320, 240), 30),
        ("us_palette_multiframe", (3, 800, 600), 2),
        ("us_ybr422_uncompressed", (3, 800, 555), 1),
        ("cr_chest_monochrome1_j2k", (1, 1841, 1955), 1),
    ],
)
def test_real_objects_are_what_itk_sees(tmp_path: Path, folder: str, shape: tuple[int, ...], frames: int) -> None:
    (path,) = (FOLDERS / folder).glob("*.dcm")
    found = DicomFrames(instance_of(path))
    assert len(found) == frames
    image = found.image(frames - 1)
    assert image.array.shape == shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outside = through_itk(path)
    expected = (outside if frames == 1 else outside[-1]).astype(int)
    if folder == "us_palette_multiframe" and expected.max() > 255:
        expected >>= 8
    difference = np.abs(rows_first(image.array).astype(int) - expected)
    # ITK inverts MONOCHROME1 over the values that occur; JPEG decoders smooth colours in their own ways.
    difference = np.abs(difference - np.median(difference)) if shape[0] == 1 else difference
    assert difference.mean() < 1.5
    np.testing.assert_array_equal(
        rows_first(np.asarray(image.array)), _read_back(write_image(image.array, tmp_path, "image-0"))
    )


def _read_back(path: Path) -> NDArray[np.generic]:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
