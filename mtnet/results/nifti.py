"""NIfTI-1 files of the voxel answers, on the grid of the findings."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtnet.io.atomic import atomic_path
from mtnet.results.notice import training_notice
from mtnet.structures import Findings, Geometry, Volume

# zlib's fastest level: measured on masks it costs a third of level 6 in time and a few per cent in size.
_COMPRESSION_LEVEL = 1


def write_segmentation_nifti(findings: Findings, path: Path) -> None:
    """Write the label map as ``uint8`` ``(i, j, k)``; ``.nii.gz`` compresses.

    Raises:
        ValueError: the findings hold no label map, or a value that does not fit.
    """
    _write(_integers(_needed(findings.label_map, "label_map"), np.uint8), findings, path)


def write_lesions_nifti(findings: Findings, path: Path) -> None:
    """Write the lesion numbers as ``uint16`` ``(i, j, k)``; 0 is no lesion.

    Raises:
        ValueError: the findings hold no lesion map, or a value that does not fit.
    """
    _write(_integers(_needed(findings.lesion_map, "lesion_map"), np.uint16), findings, path)


def write_reconstruction_nifti(findings: Findings, path: Path) -> None:
    """Write the redrawn image in the input's units: CT as ``int16`` whole HU, everything else as ``float32``.

    Raises:
        ValueError: the findings hold no reconstruction.
    """
    volume = _needed(findings.reconstruction, "reconstruction")
    values: NDArray[np.generic] = volume.array[0]
    if volume.modality == "CT":
        values = np.rint(np.clip(values, -32768, 32767)).astype(np.int16)
    _write(values if values.dtype.kind == "i" else values.astype(np.float32), findings, path)


def _needed(volume: Volume | None, name: str) -> Volume:
    if volume is None:
        raise ValueError(f"Findings.{name} is None: the task did not run, so there is nothing to write.")
    return volume


def _integers(volume: Volume, dtype: type[np.uint8 | np.uint16]) -> NDArray[np.generic]:
    values = volume.array[0]
    if values.size and (values.min() < 0 or values.max() > np.iinfo(dtype).max):
        raise ValueError(
            f"A label map holds values {values.min()} to {values.max()}; expected 0 to {np.iinfo(dtype).max}."
        )
    cast: NDArray[np.generic] = values.astype(dtype)
    return cast


def _write(values: NDArray[np.generic], findings: Findings, path: Path) -> None:
    """Write with the exact affine as sform, and as qform where the axes are at right angles (it holds no shear)."""
    import nibabel

    geometry: Geometry = findings.geometry
    image = nibabel.Nifti1Image(values, geometry.affine_ras)
    image.header.set_xyzt_units("mm")
    image.set_sform(geometry.affine_ras, code=1)
    image.set_qform(geometry.affine_ras, code=1 if geometry.is_orthogonal() else 0, strip_shears=True)
    image.header["descrip"] = training_notice(findings.model).encode("ascii", "replace")[:79]
    with atomic_path(path) as temporary:
        if path.name.endswith(".gz"):
            # No name and no time in the stream: the same findings give the same bytes.
            with (
                temporary.open("wb") as raw,
                gzip.GzipFile("", "wb", _COMPRESSION_LEVEL, raw, mtime=0) as packed,
            ):
                image.to_stream(packed)
        else:
            nibabel.save(image, temporary)
