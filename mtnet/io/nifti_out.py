"""A volume to a NIfTI-1 file."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from mtnet.io.atomic import atomic_path
from mtnet.structures.volume import Volume

_TYPES = ("uint8", "int16", "uint16", "int32", "float32")


def write_nifti(volume: Volume, path: Path) -> None:
    """Write a volume of one channel as ``.nii`` or ``.nii.gz``, whole or not at all.

    sform and qform hold the same RAS+ map with code 1 (scanner), units are mm, values are stored as they are, without
    scaling. A sheared grid keeps its shear in the sform; its qform, which cannot hold one, has code 0. The same volume
    gives the same bytes: the compressed stream holds no name and no time.

    Args:
        volume: array ``(1, i, j, k)`` of uint8, int16, uint16, int32 or float32.
        path: where to; its folder must exist.

    Raises:
        ValueError: the path's suffix, the number of channels or the type of the values is another one.
    """
    import nibabel

    path = Path(path)
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path.name} does not end in .nii or .nii.gz.")
    if volume.array.shape[0] != 1 or volume.array.dtype.name not in _TYPES:
        raise ValueError(
            f"Volume.array is {volume.array.shape} {volume.array.dtype}; expected one channel of {', '.join(_TYPES)}."
        )
    affine = volume.geometry.affine_ras
    image = nibabel.Nifti1Image(volume.array[0], affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(1, 0)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=int(volume.geometry.is_orthogonal()), strip_shears=True)
    _check_affine(image.get_sform(), affine, volume.geometry.shape)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        if name.endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=stream, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(stream)


def _check_affine(
    stored: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    affine: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    shape: tuple[int, int, int],
) -> None:
    """NIfTI-1 holds the map as float32: see that no voxel moves by more than 1e-3 mm for that."""
    reach = np.array([*shape, 1.0])
    worst = float((np.abs(stored - affine) @ reach).max())
    if worst > 1e-3:
        raise ValueError(f"The geometry does not fit NIfTI's 32-bit numbers: voxels would move by {worst:g} mm.")
