"""Images of itk and SimpleITK to volumes and back: their world frame is LPS in mm too, their arrays run k, j, i."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtnet.structures.geometry import Geometry
from mtnet.structures.report import InputReport
from mtnet.structures.volume import Volume


def itk_to_volume(image: Any, modality: str = "", report: InputReport | None = None) -> Volume:
    """A volume from a scalar 3D ``itk.Image``; the array is copied.

    Raises:
        ValueError: the image is not 3D, or has several values a voxel.
    """
    import itk

    values = itk.array_from_image(image)
    geometry = _geometry(values, image.GetSpacing(), image.GetOrigin(), itk.array_from_matrix(image.GetDirection()))
    return Volume(values.transpose(2, 1, 0)[None], geometry, modality, InputReport() if report is None else report)


def volume_to_itk(volume: Volume) -> Any:
    """An ``itk.Image`` with the volume's one channel and its geometry; the array is copied.

    Raises:
        ValueError: the volume has several channels, or its grid is sheared, which ITK cannot express.
    """
    import itk

    image = itk.image_from_array(_kji(volume))
    image.SetSpacing(volume.geometry.spacing_mm)
    image.SetOrigin(volume.geometry.origin_lps_mm)
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(volume.geometry.direction_lps)))
    return image


def sitk_to_volume(image: Any, modality: str = "", report: InputReport | None = None) -> Volume:
    """A volume from a scalar 3D ``SimpleITK.Image``; the array is copied.

    Raises:
        ValueError: the image is not 3D, or has several values a voxel.
    """
    import SimpleITK

    values = SimpleITK.GetArrayFromImage(image)
    geometry = _geometry(values, image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return Volume(values.transpose(2, 1, 0)[None], geometry, modality, InputReport() if report is None else report)


def volume_to_sitk(volume: Volume) -> Any:
    """A ``SimpleITK.Image`` with the volume's one channel and its geometry; the array is copied.

    Raises:
        ValueError: the volume has several channels, or its grid is sheared, which ITK cannot express.
    """
    import SimpleITK

    image = SimpleITK.GetImageFromArray(_kji(volume))
    image.SetSpacing(volume.geometry.spacing_mm)
    image.SetOrigin(volume.geometry.origin_lps_mm)
    image.SetDirection(volume.geometry.direction_lps.ravel().tolist())
    return image


def _geometry(values: np.ndarray[Any, Any], spacing: Any, origin: Any, direction: Any) -> Geometry:
    if values.ndim != 3 or len(spacing) != 3:
        raise ValueError(f"The image has an array of shape {values.shape}; expected 3D with one value a voxel.")
    return Geometry.from_parts(values.shape[::-1], [float(s) for s in spacing], [float(o) for o in origin], direction)


def _kji(volume: Volume) -> np.ndarray[Any, Any]:
    if volume.array.shape[0] != 1:
        raise ValueError(f"The volume has {volume.array.shape[0]} channels; expected one.")
    if not volume.geometry.is_orthogonal():
        raise ValueError("The volume's grid is sheared; ITK images have axes at right angles. Resample it first.")
    return np.ascontiguousarray(volume.array[0].transpose(2, 1, 0))
