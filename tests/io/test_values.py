"""Stored values become real ones exactly, and padding becomes air."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from mtnet.io.load import load
from mtnet.io.scan import scan
from mtnet.io.values import AIR_HU, padding_mask, to_values
from mtnet.structures import Instance
from tests.builders import write_ct_series


def plain_instance(**fields: object) -> Instance:
    return Instance(Path("a.dcm"), None, 0, "1", "2", "3", modality="CT", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("slope", "intercept", "stored", "expected", "dtype"),
    [
        (1.0, -1024.0, [0, 1024, 4095], [-1024, 0, 3071], np.int16),
        (2.0, -10.0, [0, 100], [-10, 190], np.int16),
        (None, None, [-5, 7], [-5, 7], np.int16),
        (1.0, -1024.0, [0, 65535], [-1024, 64511], np.float32),
        (0.5, -1000.0, [0, 3], [-1000, -998.5], np.float32),
        (-1.0, 0.0, [-32768], [32768], np.float32),
        (1.0, 0.25, [1], [1.25], np.float32),
        (1.0, -40000.0, [20000, 60000], [-20000, 20000], np.int16),
        (3.0, -70000.0, [20000, 30000], [-10000, 20000], np.int16),
    ],
)
def test_rescale_is_exact_and_int16_only_where_it_fits(
    slope: float | None, intercept: float | None, stored: list[int], expected: list[float], dtype: type
) -> None:
    array = np.array([stored], dtype=np.int16 if min(stored) < 0 else np.uint16)
    values = to_values(array, plain_instance(rescale_slope=slope, rescale_intercept=intercept))
    np.testing.assert_array_equal(values, [expected])
    assert values.dtype == dtype


@pytest.mark.parametrize(
    ("value", "limit", "padded"),
    [(-2000, None, [1, 0, 0, 0]), (-2000, -1500, [1, 1, 0, 0]), (-1500, -2000, [1, 1, 0, 0]), (7, None, [0, 0, 0, 0])],
)
def test_padding_becomes_air_before_rescale(value: int, limit: int | None, padded: list[int]) -> None:
    stored = np.array([[-2000, -1500, 0, 900]], dtype=np.int16)
    instance = plain_instance(rescale_slope=1.0, rescale_intercept=-24.0, padding_value=value, padding_limit=limit)
    expected = np.where(np.array([padded], dtype=bool), AIR_HU, stored - 24)
    np.testing.assert_array_equal(to_values(stored, instance, padding_mask(stored, instance)), expected)
    np.testing.assert_array_equal(to_values(stored, instance), stored - 24)


def test_padding_outside_int16_does_not_widen_the_rest() -> None:
    stored = np.array([[-32768, 0, 100]], dtype=np.int16)
    instance = plain_instance(rescale_slope=1.0, rescale_intercept=-1024.0, padding_value=-32768)
    values = to_values(stored, instance, padding_mask(stored, instance))
    assert values.dtype == np.int16
    np.testing.assert_array_equal(values, [[AIR_HU, -1024, -924]])


def test_a_monochrome1_mr_is_swapped_back_as_itk_does(tmp_path: Path) -> None:
    def invert(dataset: Dataset, _: int) -> None:
        stored = np.arange(30, dtype="<u2") * 141
        dataset.SOPClassUID, dataset.Modality = MRImageStorage, "MR"
        dataset.PhotometricInterpretation, dataset.PixelData = "MONOCHROME1", stored.tobytes()
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0

    (path,) = write_ct_series(tmp_path, shape=(6, 5, 1), rescale=None, edit=invert).paths
    ((series,),) = (study.series for study in scan(tmp_path))
    volume = load(series.stacks[0], series, repair=True)
    judge = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0]
    np.testing.assert_array_equal(volume.array[0, :, :, 0].T, judge)
    assert judge[0, 0] == 4095
