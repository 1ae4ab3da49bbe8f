"""Calibrated regions of ultrasound images: what lies where, and how long a pixel is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from mtnet.io.ultrasound import main_region, regions, spacing_mm_at

FOLDERS = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[3] / "shared" / "data")) / "dicom_robustness"


def region(corners: tuple[int, int, int, int] = (10, 20, 59, 69), **values: Any) -> Dataset:
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0 = corners[:2]
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = corners[2:]
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX, item.PhysicalDeltaY = 0.02, 0.03
    for name, value in values.items():
        setattr(item, name, value)
    return item


def image(*items: Dataset, columns: int = 200, rows: int = 100) -> Dataset:
    dataset = Dataset()
    dataset.Columns, dataset.Rows = columns, rows
    dataset.SequenceOfUltrasoundRegions = list(items)
    return dataset


def test_a_region_is_a_half_open_box_with_millimetres() -> None:
    (found,) = regions(image(region()))
    assert found.box_index == (9.5, 19.5, 59.5, 69.5) and found.area == 2500
    assert found.spacing_mm == pytest.approx((0.2, 0.3))


def test_a_negative_delta_is_a_length_all_the_same() -> None:
    (found,) = regions(image(region(PhysicalDeltaY=-0.03)))
    assert found.spacing_mm == pytest.approx((0.2, 0.3))


@pytest.mark.parametrize(
    "values",
    [
        {"PhysicalUnitsXDirection": 4},
        {"PhysicalUnitsYDirection": 0},
        {"RegionSpatialFormat": 2},
        {"RegionSpatialFormat": 4},
        {"PhysicalDeltaX": 0.0},
        {"PhysicalDeltaY": float("nan")},
    ],
)
def test_other_units_formats_and_empty_deltas_tell_no_spacing(values: dict[str, Any]) -> None:
    (found,) = regions(image(region(**values)))
    assert found.spacing_mm is None
    assert main_region([found]) is None


def test_a_region_that_reaches_out_of_the_image_is_not_of_this_image() -> None:
    assert regions(image(region((10, 20, 300, 80)))) == ()
    assert regions(image(region((10, 20, 59, 200)))) == ()
    assert regions(image(region((60, 20, 10, 80)))) == ()
    assert regions(image(region((300, 20, 300, 80)))) == ()
    (found,) = regions(image(region((10, 20, 200, 100))))
    assert found.box_index == (9.5, 19.5, 199.5, 99.5)


def test_broken_or_absent_values_leave_a_region_out() -> None:
    item = region()
    del item.RegionLocationMaxX1
    assert regions(image(item)) == ()
    item = region()
    del item.PhysicalDeltaX
    assert regions(image(item))[0].spacing_mm is None
    assert regions(Dataset()) == ()


def test_spacing_at_a_box_is_that_of_the_one_region_around_it() -> None:
    b_mode = region((0, 0, 99, 99))
    doppler = region((100, 0, 199, 99), PhysicalDeltaX=0.1, PhysicalDeltaY=0.1, RegionDataType=2)
    inset = region((10, 10, 29, 29), PhysicalDeltaX=0.01, PhysicalDeltaY=0.01, RegionFlags=1)
    found = regions(image(b_mode, doppler, inset))
    assert spacing_mm_at(found, (40, 40, 60, 60)) == pytest.approx((0.2, 0.3))
    assert spacing_mm_at(found, (120, 40, 160, 60)) == pytest.approx((1, 1))
    assert spacing_mm_at(found, (12, 12, 20, 20)) == pytest.approx((0.1, 0.1))
    assert spacing_mm_at(found, (90, 40, 120, 60)) is None
    assert spacing_mm_at((), (0, 0, 1, 1)) is None
    wave = regions(image(region((0, 0, 99, 99), RegionSpatialFormat=4)))
    assert spacing_mm_at(wave, (40, 40, 60, 60)) is None


def test_the_main_region_is_the_largest_of_tissue() -> None:
    flow = region((0, 0, 199, 99), RegionDataType=2, PhysicalDeltaX=0.5)
    small, large = region((0, 0, 9, 9), PhysicalDeltaX=0.1), region((20, 0, 99, 99))
    found = regions(image(flow, small, large))
    assert main_region(found) is found[2]
    assert main_region(found[:1]) is found[0]


@pytest.mark.study
@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("us_palette_multiframe", 0.2622878766),
        ("us_ybr422_uncompressed", 0.0615999997),
        # Its regions are those of 640 x 480 pixels, and the image has 320 x 240.
        ("us_multiframe_ybr422", None),
    ],
)
def test_real_images_tell_their_spacing_or_nothing(folder: str, expected: float | None) -> None:
    (path,) = (FOLDERS / folder).glob("*.dcm")
    main = main_region(regions(pydicom.dcmread(path, stop_before_pixels=True)))
    if expected is None:
        assert main is None
    else:
        assert main is not None and main.spacing_mm == pytest.approx((expected, expected))
