"""Volumes to itk and SimpleITK and back, judged by where those libraries place a voxel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import itk
import numpy as np
import pytest
import SimpleITK

from mtnet.io.itk_bridge import itk_to_volume, sitk_to_volume, volume_to_itk, volume_to_sitk
from mtnet.structures import Geometry, InputReport, ReportLine, Volume

# SWIG's warning, turned into an error while itk's modules are first imported, ends the process.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")

DIRECTION = np.linalg.qr(np.array([[0.9, 0.2, -0.3], [-0.1, 0.95, 0.2], [0.35, -0.15, 0.9]]))[0]
BRIDGES = [(volume_to_itk, itk_to_volume), (volume_to_sitk, sitk_to_volume)]


def volume() -> Volume:
    values = np.arange(6 * 5 * 4, dtype=np.int16).reshape(1, 6, 5, 4)
    return Volume(values, Geometry.from_parts((6, 5, 4), (0.7, 0.8, 2.5), (-10, 20, -300), DIRECTION), "CT")


@pytest.mark.parametrize(("there", "back"), BRIDGES)
def test_there_and_back_is_the_same(there: Callable[..., Any], back: Callable[..., Volume]) -> None:
    report = InputReport((ReportLine("oblique", "note", "oblique"),))
    returned = back(there(volume()), "CT", report)
    np.testing.assert_array_equal(returned.array, volume().array)
    assert returned.array.dtype == np.int16
    assert returned.geometry.almost_equal(volume().geometry, 1e-9)
    assert (returned.modality, returned.report) == ("CT", report)


@pytest.mark.parametrize("there", [volume_to_itk, volume_to_sitk])
def test_each_library_finds_the_same_value_at_the_same_place(there: Callable[..., Any]) -> None:
    image = there(volume())
    for index in [(0, 0, 0), (5, 4, 3), (1, 3, 2)]:
        assert int(image.GetPixel(index)) == int(volume().array[(0, *index)])
        place = np.array(image.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(place, volume().geometry.index_to_lps_mm(index), atol=1e-9)


@pytest.mark.parametrize("there", [volume_to_itk, volume_to_sitk])
def test_what_itk_cannot_hold_is_refused(there: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="2 channels"):
        there(Volume(np.zeros((2, 6, 5, 4), np.int16), volume().geometry))
    sheared = np.eye(4)
    sheared[1, 2] = 0.3
    with pytest.raises(ValueError, match="sheared"):
        there(Volume(volume().array, Geometry((6, 5, 4), sheared)))


def test_images_that_are_not_scalar_3d_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 3D"):
        sitk_to_volume(SimpleITK.GetImageFromArray(np.zeros((4, 5), np.float32)))
    with pytest.raises(ValueError, match="expected 3D"):
        sitk_to_volume(SimpleITK.GetImageFromArray(np.zeros((4, 5, 6, 2), np.float32), isVector=True))
    with pytest.raises(ValueError, match="expected 3D"):
        itk_to_volume(itk.image_from_array(np.zeros((4, 5), np.float32)))
