"""Phantoms as DICOM studies, and copies of a CT series with other pixels."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtnet.phantoms.chest import Phantom
from mtnet.structures import Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE_STORAGE = "1.2.840.10008.5.1.4.1.1.7"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
RESCALE_INTERCEPT = -1024
SOFT_KERNEL = "B30f"
SHARP_KERNEL = "B70f"
DESCRIPTION = "Chest"
NOTE_NAME = "notes.txt"
NOTE = "Drawn by mtnet. No patient.\n"
"""Text file that marks a drawn study, where one is asked for."""


@dataclass(frozen=True, slots=True)
class WrittenStudy:
    """What was written where.

    Args:
        folder: the study's folder.
        study_instance_uid: of all its series.
        soft: files of the CT series with the soft kernel, slice k = 0 first; ``soft_series_uid`` its UID.
        sharp: files of the CT series with the sharp kernel and the same description, if one was asked for.
        others: localizer, secondary capture, and a file that is no DICOM.
    """

    folder: Path
    study_instance_uid: str
    soft_series_uid: str
    soft: tuple[Path, ...]
    sharp: tuple[Path, ...]
    others: tuple[Path, ...]


def write_study(
    phantom: Phantom,
    folder: Path,
    *,
    localizer: bool = True,
    secondary_capture: bool = True,
    sharp_series: bool = False,
    foreign_file: bool = True,
) -> WrittenStudy:
    """Write a phantom as a DICOM study with nested folders and file names without an extension.

    Each slice is a CT Image (PS3.3 A.3) of the soft kernel ``B30f``. The UIDs follow from the phantom's pixels, seed
    and family: the same phantom gives the same study. The folder appears whole or not at all.

    Args:
        phantom: what to write.
        folder: is made; must not exist or be empty.
        localizer: add a coronal projection, ImageType ``ORIGINAL\\PRIMARY\\LOCALIZER``.
        secondary_capture: add an RGB Secondary Capture.
        sharp_series: add the same slices sharpened, kernel ``B70f``, under the same SeriesDescription.
        foreign_file: add a text file.

    Raises:
        FileExistsError: the folder holds something.
    """
    volume = phantom.volume
    root = f"{phantom.family}/{phantom.seed}/{hashlib.sha256(volume.array.tobytes()).hexdigest()}"
    study_uid, frame_uid = uid(f"{root}/study"), uid(f"{root}/frame")
    soft_uid = uid(f"{root}/series/2")
    soft: list[Path] = []
    sharp: list[Path] = []
    others: list[Path] = []
    with _whole(folder) as part:

        def common(series: int, kernel: str) -> Dataset:
            return _ct_header(
                phantom, study_uid, uid(f"{root}/series/{series}"), frame=frame_uid, number=series, kernel=kernel
            )

        for number, kernel, files in ((2, SOFT_KERNEL, soft), (3, SHARP_KERNEL, sharp)):
            if number == 3 and not sharp_series:
                continue
            array = volume.array[0] if number == 2 else _sharpened(volume.array[0])
            for k in range(volume.geometry.shape[2]):
                dataset = common(number, kernel)
                _put_slice(dataset, volume, array[:, :, k], k, uid(f"{root}/instance/{number}/{k}"))
                files.append(Path("S1") / f"SE{number:04d}" / f"IM{volume.geometry.shape[2] - k:05d}")
                _write(dataset, part / files[-1])
        if localizer:
            dataset = common(1, "T20f")
            _put_localizer(dataset, volume, uid(f"{root}/instance/1"))
            others.append(Path("S1") / "SE0001" / "IM00001")
            _write(dataset, part / others[-1])
        if secondary_capture:
            others.append(Path("S1") / "OT" / "IM00001")
            _write(_capture(phantom, study_uid, root), part / others[-1])
        if foreign_file:
            others.append(Path(NOTE_NAME))
            (part / others[-1]).write_text(NOTE, encoding="utf-8")
    return WrittenStudy(
        folder=folder,
        study_instance_uid=study_uid,
        soft_series_uid=soft_uid,
        soft=tuple(folder / name for name in soft),
        sharp=tuple(folder / name for name in sharp),
        others=tuple(folder / name for name in others),
    )


def write_implanted_series(source_files: Sequence[Path], volume: Volume, folder: Path) -> tuple[Path, ...]:
    """Copy the files of a CT series with the pixels of ``volume`` in their place.

    Geometry and all other tags stay; the Series and SOP Instance UIDs are new and follow from the old ones and the
    pixels. Files are named ``00001`` and on, in the order of ``source_files``.

    Args:
        source_files: single-frame CT files that share the grid of ``volume``, in any order.
        volume: HU, ``(1, i, j, k)``, index axes in any order and sign.
        folder: is made; must not exist or be empty.

    Raises:
        ValueError: a file's pixels do not lie on the volume's voxels.
        FileExistsError: the folder holds something.
    """
    import pydicom
    from pydicom.uid import UID

    digest = hashlib.sha256(np.ascontiguousarray(volume.array).tobytes()).hexdigest()
    names = [f"{n:05d}" for n in range(1, len(source_files) + 1)]
    with _whole(folder) as part:
        for source, name in zip(source_files, names, strict=True):
            dataset = pydicom.dcmread(source)
            hu = _sample(dataset, volume, source.name)
            slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
            signed, bits = int(dataset.PixelRepresentation) == 1, int(dataset.BitsStored)
            low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
            stored = np.clip(np.rint((hu - intercept) / slope), low, high)
            dataset.SeriesInstanceUID = uid(f"{dataset.SeriesInstanceUID}/{digest}")
            dataset.SOPInstanceUID = uid(f"{dataset.SOPInstanceUID}/{digest}")
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            if dataset.file_meta.TransferSyntaxUID.is_compressed:
                dataset.file_meta.TransferSyntaxUID = UID(EXPLICIT_LITTLE_ENDIAN)
            dataset.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
            dataset["PixelData"].VR = "OW"
            dataset["PixelData"].is_undefined_length = False
            _write(dataset, part / name)
    return tuple(folder / name for name in names)


def uid(text: str) -> str:
    """A UID under 2.25 (PS3.5 B.2) that follows from a text: 128 bits of its SHA-256, marked as a version-8 UUID."""
    number = int.from_bytes(hashlib.sha256(f"mtnet phantom {text}".encode()).digest()[:16], "big")
    number = number & ~(0xF << 76) | (8 << 76)
    number = number & ~(0x3 << 62) | (2 << 62)
    return f"2.25.{number}"


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its name when all went well."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"The folder {folder.name} exists and holds something; give one that is new or empty.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp-", dir=folder.parent))
    try:
        part.chmod(0o755)
        yield part
        if folder.exists():
            folder.rmdir()
        part.replace(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _ct_header(phantom: Phantom, study: str, series: str, *, frame: str, number: int, kernel: str) -> Dataset:
    """All that the slices of one CT series share (PS3.3 A.3: patient, study, series, equipment, frame, CT image)."""
    dataset = _header(phantom, study, series, number)
    spacing = phantom.volume.geometry.spacing_mm
    values: dict[str, Any] = {
        "SOPClassUID": CT_IMAGE_STORAGE,
        "Modality": "CT",
        "SeriesDescription": DESCRIPTION,
        "PatientPosition": "HFS",
        "ProtocolName": "Phantom",
        "FrameOfReferenceUID": frame,
        "PositionReferenceIndicator": "",
        "ScanOptions": "HELIX",
        "KVP": "120",
        "XRayTubeCurrent": "150",
        "ExposureTime": "500",
        "ConvolutionKernel": kernel,
        "SliceThickness": _ds(phantom.slice_thickness_mm),
        "PixelSpacing": [_ds(spacing[1]), _ds(spacing[0])],
        "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "AcquisitionNumber": "1",
        "AcquisitionDate": dataset.StudyDate,
        "AcquisitionTime": dataset.StudyTime,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "RescaleIntercept": str(RESCALE_INTERCEPT),
        "RescaleSlope": "1",
        "RescaleType": "HU",
        "WindowCenter": "40" if kernel == SOFT_KERNEL else "-600",
        "WindowWidth": "400" if kernel == SOFT_KERNEL else "1500",
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def _header(phantom: Phantom, study: str, series: str, number: int) -> Dataset:
    """Patient, study, series and equipment."""
    from pydicom.dataset import Dataset

    dataset = Dataset()
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientName": "Phantom^Drawn",
        "PatientID": f"PHANTOM-{phantom.family.upper()}-{phantom.seed}",
        "PatientBirthDate": "",
        "PatientSex": "O",
        "PatientAge": "060Y",
        "StudyInstanceUID": study,
        "StudyDate": "20000101",
        "StudyTime": "120000",
        "StudyID": "1",
        "StudyDescription": "Drawn chest CT",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "SeriesInstanceUID": series,
        "SeriesNumber": str(number),
        "SeriesDate": "20000101",
        "SeriesTime": "120000",
        "ContentDate": "20000101",
        "ContentTime": "120000",
        "BodyPartExamined": "CHEST",
        "Manufacturer": "mtnet",
        "ManufacturerModelName": "phantom",
        "DeviceSerialNumber": "0",
        "SoftwareVersions": "1",
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def _put_slice(dataset: Dataset, volume: Volume, plane: NDArray[Any], k: int, instance: str) -> None:
    position = volume.geometry.index_to_lps_mm([0, 0, k])
    dataset.SOPInstanceUID = instance
    dataset.InstanceNumber = str(volume.geometry.shape[2] - k)
    dataset.ImagePositionPatient = [_ds(v) for v in position]
    dataset.SliceLocation = _ds(position[2])
    _put_pixels(dataset, plane)


def _put_localizer(dataset: Dataset, volume: Volume, instance: str) -> None:
    """The mean along the patient's front-back axis as a coronal image, head up."""
    geometry = volume.geometry
    projection = np.rint(volume.array[0].astype(np.float32).mean(axis=1))[:, ::-1]
    middle = (geometry.shape[1] - 1) / 2
    dataset.SOPInstanceUID = instance
    dataset.InstanceNumber = "1"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    dataset.SeriesDescription = "Topogram"
    del dataset.RescaleType
    dataset.PixelSpacing = [_ds(geometry.spacing_mm[2]), _ds(geometry.spacing_mm[0])]
    dataset.ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]
    position = geometry.index_to_lps_mm([0, middle, geometry.shape[2] - 1])
    dataset.ImagePositionPatient = [_ds(v) for v in position]
    _put_pixels(dataset, projection)


def _put_pixels(dataset: Dataset, plane: NDArray[Any]) -> None:
    """Pixels of a plane ``(i, j)`` in HU: rows run along j."""
    stored = np.clip(plane.T.astype(np.int32) - RESCALE_INTERCEPT, 0, 4095).astype("<u2")
    dataset.Rows, dataset.Columns = stored.shape
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"


def _capture(phantom: Phantom, study: str, root: str) -> Dataset:
    """An RGB picture of the middle slice (PS3.3 A.8.1)."""
    dataset = _header(phantom, study, uid(f"{root}/series/9"), 9)
    array = phantom.volume.array[0][:, :, phantom.volume.geometry.shape[2] // 2].T
    grey = np.clip((array.astype(np.float32) + 1000) / 1400 * 255, 0, 255).astype(np.uint8)
    picture = np.stack([grey, grey, np.maximum(grey, 40)], axis=-1)
    dataset.SOPClassUID = SECONDARY_CAPTURE_STORAGE
    dataset.SOPInstanceUID = uid(f"{root}/instance/9")
    dataset.Modality = "OT"
    dataset.ConversionType = "WSD"
    dataset.SeriesDescription = "Screen"
    dataset.InstanceNumber = "1"
    dataset.PatientOrientation = ""
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = grey.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    data = picture.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB"
    return dataset


def _sharpened(array: NDArray[Any]) -> NDArray[Any]:
    """The slices with their edges raised, as a sharp kernel shows them."""
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(array.astype(np.float32), (1.0, 1.0, 0.0))
    return np.asarray(np.clip(np.rint(array + 1.2 * (array - smooth)), -1024, 3071), dtype=np.int16)


def _sample(dataset: FileDataset, volume: Volume, name: str) -> NDArray[np.float32]:
    """HU of the volume at the pixels ``(rows, columns)`` of one file."""
    orientation = np.asarray(dataset.ImageOrientationPatient, dtype=np.float64)
    between_rows, between_columns = (float(v) for v in dataset.PixelSpacing)
    corner = np.asarray(dataset.ImagePositionPatient, dtype=np.float64)
    along_columns = orientation[:3] * between_columns
    along_rows = orientation[3:] * between_rows
    rows, columns = np.arange(int(dataset.Rows)), np.arange(int(dataset.Columns))
    points = corner + rows[:, None, None] * along_rows + columns[None, :, None] * along_columns
    index = volume.geometry.lps_mm_to_index(points)
    nearest = np.rint(index).astype(int)
    outside = ((nearest < 0) | (nearest >= np.asarray(volume.geometry.shape))).any()
    if outside or np.abs(index - nearest).max() > 0.02:
        raise ValueError(
            f"write_implanted_series: the pixels of {name} do not lie on the volume's voxels; give the files that the "
            "volume was loaded from."
        )
    values = volume.array[0][nearest[..., 0], nearest[..., 1], nearest[..., 2]]
    return np.asarray(values, dtype=np.float32)


def _ds(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 6.2)."""
    return f"{value:.10g}"[:16]


def _write(dataset: Dataset, path: Path) -> None:
    """Write one file as PS3.10 wants it, with pydicom 2.4 or 3."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    path.parent.mkdir(parents=True, exist_ok=True)
    meta = getattr(dataset, "file_meta", None)
    if meta is None:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        meta.TransferSyntaxUID = UID(EXPLICIT_LITTLE_ENDIAN)
        dataset.file_meta = meta
    options: dict[str, Any] = {"enforce_file_format": True}
    if int(pydicom.__version__.split(".", maxsplit=1)[0]) < 3:
        dataset.is_little_endian = True
        dataset.is_implicit_VR = UID(meta.TransferSyntaxUID).is_implicit_VR
        options = {"write_like_original": False}
    pydicom.dcmwrite(path, dataset, **options)
