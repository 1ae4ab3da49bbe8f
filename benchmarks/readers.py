"""Other readers of DICOM folders, each asked for everything that it makes of one."""

from __future__ import annotations

import subprocess
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import dcm2niix
import itk
import nibabel
import numpy as np
import SimpleITK as sitk
from monai.data import ImageReader, ITKReader, PydicomReader
from monai.transforms import LoadImage
from numpy.typing import NDArray

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Told:
    """What a reader gives back: values ``(i, j, k)``, colour or time last, and the index-to-LPS affine in mm."""

    values: NDArray[np.generic]
    affine_lps: NDArray[np.float64]


def monai_loader(reader: ImageReader) -> Callable[[Path], Told]:
    """MONAI's ``LoadImage`` with this reader alone: by itself it asks its other readers where the one asked fails."""
    with warnings.catch_warnings():
        # It makes all its readers, and some of them warn of what they could use and is not there.
        warnings.simplefilter("ignore")
        loader = LoadImage(reader=reader)
    loader.readers = [reader]

    def load(folder: Path) -> Told:
        image = loader(str(folder))
        return Told(np.asarray(image), _RAS_TO_LPS @ np.asarray(image.affine))

    return load


def series_of_simpleitk(folder: Path) -> list[tuple[str, ...]]:
    """The files of each series of a folder, as SimpleITK's scan finds and orders them."""
    reader = sitk.ImageSeriesReader
    return [reader.GetGDCMSeriesFileNames(str(folder), uid) for uid in reader.GetGDCMSeriesIDs(str(folder))]


def load_with_simpleitk(files: Sequence[str]) -> Told:
    """These files, in this order, as one volume."""
    image = sitk.ReadImage(files if len(files) > 1 else files[0])
    values = sitk.GetArrayFromImage(image)
    spatial = range(image.GetDimension())
    affine = np.eye(4)
    n = min(3, image.GetDimension())
    direction = np.reshape(image.GetDirection(), (image.GetDimension(),) * 2)[:n, :n]
    affine[:n, :n], affine[:n, 3] = direction * image.GetSpacing()[:n], image.GetOrigin()[:n]
    return Told(np.transpose(values, (*reversed(spatial), *range(len(spatial), values.ndim))), affine)


def convert_with_dcm2niix(folder: Path, out: Path) -> None:
    """Run dcm2niix over a folder, to uncompressed files in ``out``."""
    command = [dcm2niix.bin, "-z", "n", "-b", "n", "-f", "%j_%s", "-o", str(out), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def _alone(load: Callable[[Path], Told]) -> Callable[[Path], list[Told]]:
    return lambda folder: [load(folder)]


def _simpleitk(folder: Path) -> list[Told]:
    return [load_with_simpleitk(files) for files in series_of_simpleitk(folder)]


def _dcm2niix(folder: Path) -> list[Told]:
    with tempfile.TemporaryDirectory() as out:
        convert_with_dcm2niix(folder, Path(out))
        return [told for path in sorted(Path(out).glob("*.nii")) for told in _volumes_of_nifti(path)]


def _volumes_of_nifti(path: Path) -> list[Told]:
    image = nibabel.load(path)
    values, affine = np.asarray(image.dataobj), _RAS_TO_LPS @ image.affine
    return [Told(one, affine) for one in (np.moveaxis(values, 3, 0) if values.ndim == 4 else [values])]


READERS: Mapping[str, Callable[[Path], list[Told]]] = {
    "MONAI ITKReader": _alone(monai_loader(ITKReader())),
    "MONAI PydicomReader": _alone(monai_loader(PydicomReader())),
    "SimpleITK": _simpleitk,
    "dcm2niix": _dcm2niix,
}
"""By name: all volumes that a reader makes of a folder. A reader raises what it raises."""


def reader_versions() -> dict[str, str]:
    """Versions of the readers and of what they read with."""
    names = ("mtnet", "monai", "itk", "SimpleITK", "dcm2niix", "pydicom", "nibabel", "numpy")
    return {name: version(name) for name in names}


def be_quiet() -> None:
    """Keep ITK's warnings off the screen."""
    itk.ProcessObject.SetGlobalWarningDisplay(False)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
