"""NIfTI, NRRD and MetaImage files as volumes, with the geometry that their headers tell."""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtnet.io.limits import Limits
from mtnet.io.verdicts import line, mode_of
from mtnet.structures.geometry import Geometry
from mtnet.structures.report import InputReport, RefusedError, ReportLine
from mtnet.structures.volume import Volume

if TYPE_CHECKING:
    import nibabel

_DEFAULT_LIMITS = Limits()
_NIFTI = (".nii", ".nii.gz")
_ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
_MM_PER_UNIT = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 0.001}
_INT16 = np.iinfo(np.int16)


def load_image_file(
    path: Path,
    *,
    modality: str = "",
    strict: bool = False,
    repair: bool = False,
    limits: Limits = _DEFAULT_LIMITS,
) -> Volume:
    """Read a 3D image file. Its index order and orientation stay as they are in the file.

    NIfTI through nibabel: the sform where its code is set, else the qform (NIfTI-1 standard, "method 3" before
    "method 2"); spatial units other than mm are converted. NRRD and MetaImage through SimpleITK, whose world frame is
    LPS in mm.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd``.
        modality: what the caller knows; these formats do not say it.
        strict: refuse what would be mended.
        repair: take a NIfTI without orientation as its voxel sizes alone tell, and replace values that are not finite
            by the lowest one that is.
        limits: checked against the header before memory is taken.

    Returns:
        array ``(1, i, j, k)``, int16 where every value is a whole number that fits, else float32.

    Raises:
        FileNotFoundError: there is no file.
        RefusedError: ``unsupported_format``, ``not_three_dimensional``, ``no_orientation``, ``unusable_geometry``,
            ``values_not_finite`` or ``limit_exceeded``.
        ValueError: ``strict`` and ``repair`` are both set.
    """
    path = Path(path)
    repair = mode_of(strict=strict, repair=repair) == "repair"
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    name = path.name.lower()
    if name.endswith(_NIFTI):
        values, geometry, lines = _read_nifti(path, limits, repair=repair)
    elif name.endswith(_ITK):
        values, geometry, lines = _read_itk(path, limits)
    else:
        raise RefusedError([line("unsupported_format", path.name, reason=f"expected {', '.join(_NIFTI + _ITK)}.")])
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        values, mended = _finite(values, path, repair=repair)
        lines.append(mended)
    return Volume(values[None], geometry, modality, InputReport(tuple(lines)))


def _read_nifti(path: Path, limits: Limits, *, repair: bool) -> tuple[NDArray[np.generic], Geometry, list[ReportLine]]:
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image: Any = nibabel.load(path)
            shape = tuple(int(n) for n in image.shape)
            # Trailing axes of one sample (time, channels) hold nothing.
            spatial = shape[:3] if all(n == 1 for n in shape[3:]) else shape
            _check_header(path, spatial, image.get_data_dtype(), limits)
            geometry, lines = _nifti_geometry(image, spatial, path, repair=repair)
            raw = np.asanyarray(image.dataobj.get_unscaled()).reshape(spatial, order="F")
            values = _values(raw, float(image.dataobj.slope), float(image.dataobj.inter))
    except RefusedError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        reason = f"the NIfTI file is broken or cut short ({type(error).__name__})."
        raise RefusedError([line("unsupported_format", path.name, reason=reason)]) from error
    return values, geometry, lines


def _nifti_geometry(
    image: nibabel.Nifti1Image, spatial: tuple[int, ...], path: Path, *, repair: bool
) -> tuple[Geometry, list[ReportLine]]:
    lines = []
    if not hasattr(image.header, "get_sform"):
        raise RefusedError(
            [line("unsupported_format", path.name, reason="the file holds an ANALYZE image, not NIfTI.")]
        )
    sform, sform_code = image.header.get_sform(coded=True)
    qform, qform_code = image.header.get_qform(coded=True)
    affine = sform if sform_code else qform if qform_code else image.header.get_base_affine()
    if not sform_code and not qform_code:
        what = (
            "The NIfTI header has neither sform nor qform: left and right, and the place in the patient, are unknown."
        )
        if not repair:
            message = f"{what} Ask for repair to take the voxel sizes with axes to the right, front and head."
            raise RefusedError([ReportLine("no_orientation", "refused", message, path.name)])
        lines.append(ReportLine("no_orientation", "repaired", f"{what} Axes are assumed.", path.name))
    scale = _MM_PER_UNIT.get(image.header.get_xyzt_units()[0], 1.0)
    geometry = _geometry(path, spatial, np.diag([scale, scale, scale, 1.0]) @ affine)
    if sform_code and qform_code:
        other = _geometry(path, spatial, np.diag([scale, scale, scale, 1.0]) @ qform)
        if not geometry.almost_equal(other, 0.01):
            message = "sform and qform place the image differently; the sform is taken."
            lines.append(ReportLine("sform_qform_differ", "note", message, path.name))
    return geometry, lines


def _geometry(path: Path, spatial: tuple[int, ...], affine_ras: NDArray[np.float64]) -> Geometry:
    try:
        return Geometry.from_ras(spatial, affine_ras)
    except ValueError as error:
        message = f"The header's geometry cannot be used: {error}"
        raise RefusedError([ReportLine("unusable_geometry", "refused", message, path.name)]) from error


def _read_itk(path: Path, limits: Limits) -> tuple[NDArray[np.generic], Geometry, list[ReportLine]]:
    import SimpleITK

    from mtnet.io.itk_bridge import sitk_to_volume

    _check_data_file(path)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        if reader.GetNumberOfComponents() != 1:
            raise RefusedError([_not_3d(path, f"{reader.GetNumberOfComponents()} values a voxel")])
        kind = SimpleITK.GetPixelIDValueAsString(reader.GetPixelID())
        item_bytes = 8 if "64" in kind else 4 if "32" in kind else 2
        if "complex" in kind:
            raise RefusedError([line("unsupported_format", path.name, reason="its values are complex numbers.")])
        _check_header(path, tuple(reader.GetSize()), np.dtype(f"V{item_bytes}"), limits)
        volume = sitk_to_volume(reader.Execute())
    except (RuntimeError, ValueError) as error:
        if isinstance(error, RefusedError):
            raise
        reason = "the file is broken, cut short, or its geometry cannot be used."
        raise RefusedError([line("unsupported_format", path.name, reason=reason)]) from error
    return _values(volume.array[0], float("nan"), float("nan")), volume.geometry, []


def _check_data_file(path: Path) -> None:
    """See that a header with its pixels in another file names one beside it, and not one anywhere on disk."""
    if path.suffix.lower() not in (".mhd", ".nhdr"):
        return
    with path.open("rb") as stream:
        for raw in stream.read(1 << 16).splitlines():
            key, _, value = raw.decode("latin-1").replace("=", ":", 1).partition(":")
            if key.strip().lower() not in ("elementdatafile", "data file", "datafile"):
                continue
            name = value.strip()
            if name.upper() == "LOCAL" or (Path(name).name == name and (path.parent / name).is_file()):
                return
            break
    reason = "expected one data file in the same folder, named in the header (ElementDataFile, data file)."
    raise RefusedError([line("unsupported_format", path.name, reason=reason)])


def _check_header(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], limits: Limits) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise RefusedError([_not_3d(path, " x ".join(map(str, shape)) + " voxels")])
    if dtype.kind not in "iufV" or dtype.names:
        raise RefusedError([line("unsupported_format", path.name, reason=f"its values are of type {dtype}.")])
    size = shape[0] * shape[1] * shape[2] * max(dtype.itemsize, 4)
    if size > limits.decoded_bytes:
        what = f"The image of {' x '.join(map(str, shape))} voxels ({size} bytes)"
        raise RefusedError([line("limit_exceeded", path.name, what=what, limit=limits.decoded_bytes)])


def _not_3d(path: Path, found: str) -> ReportLine:
    message = f"The file holds {found}; expected one 3D image with one value a voxel. Split it first."
    return ReportLine("not_three_dimensional", "refused", message, path.name)


def _values(raw: NDArray[np.generic], slope: float, intercept: float) -> NDArray[np.generic]:
    """``raw * slope + intercept`` (no scaling where slope is 0 or NaN), int16 where exact, else float32.

    Goes plane by plane, so that wider intermediate values never exist for the whole volume.
    """
    if not np.isfinite(slope) or slope == 0:
        slope, intercept = 1.0, 0.0
    if not np.isfinite(intercept):
        intercept = 0.0
    whole = raw.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer()
    ends = [int(end) * int(slope) + int(intercept) for end in (raw.min(), raw.max())] if whole else [2**31]
    exact = _INT16.min <= min(ends) and max(ends) <= _INT16.max
    values: NDArray[np.generic] = np.empty(raw.shape, dtype=np.int16 if exact else np.float32, order="F")
    wide = np.int64 if exact else np.float64
    for k in range(raw.shape[2]):
        values[..., k] = raw[..., k].astype(wide) * wide(slope) + wide(intercept)
    return values


def _finite(values: NDArray[np.generic], path: Path, *, repair: bool) -> tuple[NDArray[np.generic], ReportLine]:
    good = np.isfinite(values)
    count = int(values.size - np.count_nonzero(good))
    if not repair or not good.any():
        message = f"{count} voxel(s) hold no finite number. Ask for repair to replace them by the lowest value."
        raise RefusedError([ReportLine("values_not_finite", "refused", message, path.name)])
    lowest = values[good].min()
    message = f"{count} voxel(s) that held no finite number became {float(lowest):g}, the lowest value."
    return np.where(good, values, lowest), ReportLine("values_not_finite", "repaired", message, path.name)
