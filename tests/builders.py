"""Tiny valid CT series in which every pixel's value tells the world position that it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from numpy.typing import ArrayLike, NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

RAMP_HU_PER_MM = np.array([5.0, 7.0, 11.0])


def ramp_hu(points_lps_mm: ArrayLike) -> NDArray[np.float64]:
    """The ramp: HU at world points ``(..., 3)``. A shift of 1 mm along any axis changes it by 5 HU and more."""
    return np.asarray(points_lps_mm, dtype=np.float64) @ RAMP_HU_PER_MM


@dataclass(frozen=True)
class WrittenSeries:
    """What was written: the files in slice order (as kept), their positions, and the UIDs."""

    folder: Path
    paths: tuple[Path, ...]
    positions_lps_mm: tuple[tuple[float, float, float], ...]
    study_uid: str
    series_uid: str
    frame_uid: str


def write_dataset(dataset: Dataset, path: Path) -> None:
    """Write with file meta, with pydicom 2.4 and 3 alike. The transfer syntax is the one of ``file_meta``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if int(pydicom.__version__.split(".")[0]) >= 3:
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    else:
        syntax = dataset.file_meta.TransferSyntaxUID
        dataset.is_little_endian, dataset.is_implicit_VR = syntax.is_little_endian, syntax.is_implicit_VR
        pydicom.dcmwrite(path, dataset, write_like_original=False)


def write_ct_series(
    folder: Path,
    *,
    shape: tuple[int, int, int] = (12, 10, 8),
    spacing_mm: tuple[float, float, float] = (0.8, 0.8, 2.0),
    direction_lps: ArrayLike | None = None,
    origin_lps_mm: Sequence[float] = (-5.0, -4.0, -10.0),
    slice_offsets_mm: Sequence[float] | None = None,
    drop: Sequence[int] = (),
    tilt_deg: float = 0.0,
    tilt_tag: bool = False,
    instance_numbers: Literal["ordered", "shuffled", "absent"] = "ordered",
    file_order: Literal["ordered", "reversed", "shuffled"] = "ordered",
    rescale: tuple[float, float] | Callable[[int], tuple[float, float]] | None = (1.0, -1024.0),
    values: Callable[[NDArray[np.float64]], ArrayLike] = ramp_hu,
    kernel: str = "B30f",
    manufacturer: str = "SIEMENS",
    thickness_mm: float | None = None,
    image_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "AXIAL"),
    series_number: int | None = 1,
    acquisition_number: int | None = 1,
    study: str = "study",
    series: str = "series",
    frame: str = "frame",
    omit: Sequence[str] = (),
    file_name: str = "{:04d}.dcm",
    edit: Callable[[Dataset, int], None] | None = None,
    seed: int = 0,
) -> WrittenSeries:
    """Write a CT series of ``shape`` (i, j, k) = (columns, rows, slices) into ``folder``.

    Args:
        spacing_mm: along i, j and k.
        direction_lps: 3 x 3, columns are the i, j and k axes in LPS. The third may point either way (a left-handed
            grid is one whose files run down the slice normal).
        slice_offsets_mm: place of each slice along the k axis; default ``k * spacing_mm[2]``.
        drop: slices that are not written (their number stays unused).
        tilt_deg: shear of the stack: each slice moves along the j axis by ``offset * tan(tilt)``. ``tilt_tag`` says
            whether GantryDetectorTilt tells it.
        rescale: (slope, intercept), or a function of the slice, or None to leave both tags out (stored values are then
            the HU themselves).
        values: HU at world points ``(..., 3)``; the ramp by default.
        study, series, frame: words that the UIDs are made from; the same word gives the same UID.
        omit: keywords that are deleted at the end.
        edit: called with each dataset and its slice index before it is written (after ``omit``).
    """
    direction = np.eye(3) if direction_lps is None else np.asarray(direction_lps, dtype=np.float64)
    offsets = np.arange(shape[2]) * spacing_mm[2] if slice_offsets_mm is None else np.asarray(slice_offsets_mm)
    count = len(offsets)
    rng = np.random.default_rng(seed)
    number_of = np.arange(1, count + 1)
    if instance_numbers == "shuffled":
        number_of = rng.permutation(number_of)
    file_of = np.arange(count)
    if file_order != "ordered":
        file_of = file_of[::-1] if file_order == "reversed" else rng.permutation(file_of)
    uids = {
        (kind, word): str(generate_uid(entropy_srcs=["mtnet tests", kind, word]))
        for kind, word in (("study", study), ("series", series), ("frame", frame))
    }

    paths, positions = [], []
    i, j = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="xy")
    for k in range(count):
        if k in drop:
            continue
        along = direction[:, 2] + np.tan(np.deg2rad(tilt_deg)) * direction[:, 1]
        position = np.asarray(origin_lps_mm, dtype=np.float64) + offsets[k] * along
        points = (
            position + i[..., None] * spacing_mm[0] * direction[:, 0] + j[..., None] * spacing_mm[1] * direction[:, 1]
        )
        slope, intercept = (1.0, 0.0) if rescale is None else rescale(k) if callable(rescale) else rescale
        stored = np.rint((np.asarray(values(points)) - intercept) / slope)
        if stored.min() < -32768 or stored.max() > 32767:
            raise ValueError(f"Stored values {stored.min()}..{stored.max()} do not fit 16 bits; move the origin.")

        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        fields: dict[str, Any] = {
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": generate_uid(entropy_srcs=["mtnet tests", study, series, str(seed), str(k), str(folder)]),
            "StudyInstanceUID": uids["study", study],
            "SeriesInstanceUID": uids["series", series],
            "FrameOfReferenceUID": uids["frame", frame],
            "ImageType": list(image_type),
            "Modality": "CT",
            "Manufacturer": manufacturer,
            "ConvolutionKernel": kernel,
            "PatientName": "Nobody^Test",
            "PatientID": "SECRET-ID",
            "PatientBirthDate": "19000101",
            "PatientSex": "O",
            "StudyDate": "20010203",
            "StudyTime": "040506",
            "StudyID": "1",
            "AccessionNumber": "",
            "ReferringPhysicianName": "",
            "PositionReferenceIndicator": "",
            "PatientPosition": "HFS",
            "KVP": "120",
            "SliceThickness": spacing_mm[2] if thickness_mm is None else thickness_mm,
            "SeriesNumber": series_number,
            "AcquisitionNumber": acquisition_number,
            "InstanceNumber": None if instance_numbers == "absent" else int(number_of[k]),
            "ImagePositionPatient": [_decimal(v) for v in position],
            "ImageOrientationPatient": [_decimal(v) for v in (*direction[:, 0], *direction[:, 1])],
            "PixelSpacing": [_decimal(spacing_mm[1]), _decimal(spacing_mm[0])],
            "GantryDetectorTilt": _decimal(tilt_deg) if tilt_tag else None,
            "RescaleSlope": None if rescale is None else _decimal(slope),
            "RescaleIntercept": None if rescale is None else _decimal(intercept),
            "RescaleType": None if rescale is None else "HU",
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "Rows": shape[1],
            "Columns": shape[0],
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 1,
            "PixelData": stored.astype("<i2").tobytes(),
        }
        for keyword, value in fields.items():
            if value is not None and keyword not in omit:
                setattr(dataset, keyword, value)
        if edit is not None:
            edit(dataset, k)
        path = folder / file_name.format(int(file_of[k]))
        write_dataset(dataset, path)
        paths.append(path)
        positions.append((float(position[0]), float(position[1]), float(position[2])))
    return WrittenSeries(
        folder, tuple(paths), tuple(positions), uids["study", study], uids["series", series], uids["frame", frame]
    )


def write_enhanced(
    slices: WrittenSeries,
    path: Path,
    *,
    sop_class: str = EnhancedCTImageStorage,
    order: Sequence[int] | None = None,
    content: Callable[[int], dict[str, Any]] = lambda _: {},
    edit: Callable[[Dataset], None] | None = None,
) -> Path:
    """Put the slices of a written series into one enhanced multi-frame object (PS3.3 C.7.6.16), and remove their files.

    Orientation, pixel measures and frame type stand in the shared group; position, rescale and content in each frame's.

    Args:
        slices: classic files, all uncompressed and of one size and orientation.
        path: the file to make.
        sop_class: Enhanced or Legacy Converted Enhanced CT, MR or PET Image Storage.
        order: which slice each frame shows; the files' order by default.
        content: what FrameContentSequence says, by slice.
        edit: called with the object before it is written.
    """
    files = [pydicom.dcmread(each) for each in slices.paths]
    chosen = list(range(len(files))) if order is None else list(order)
    whole = Dataset()
    whole.file_meta = FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    first = files[0]
    for element in first:
        if element.keyword not in _BY_FRAME:
            whole[element.tag] = element
    whole.SOPClassUID = sop_class
    whole.SOPInstanceUID = generate_uid(entropy_srcs=["mtnet tests", str(path)])
    whole.NumberOfFrames = len(chosen)
    whole.InstanceNumber = 1
    shared = _group(first, "PlaneOrientationSequence", "PixelMeasuresSequence")
    frame_type = Dataset()
    frame_type.FrameType = list(first.ImageType)
    shared.CTImageFrameTypeSequence = [frame_type]
    whole.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for k in chosen:
        group = _group(files[k], "PlanePositionSequence", "PixelValueTransformationSequence")
        said = Dataset()
        for keyword, value in content(k).items():
            setattr(said, keyword, value)
        group.FrameContentSequence = [said]
        groups.append(group)
    whole.PerFrameFunctionalGroupsSequence = groups
    whole.PixelData = b"".join(files[k].PixelData for k in chosen)
    if edit is not None:
        edit(whole)
    for each in slices.paths:
        each.unlink()
    write_dataset(whole, path)
    return path


_MACROS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
}
_BY_FRAME = {keyword for keywords in _MACROS.values() for keyword in keywords} | {"PixelData", "AcquisitionNumber"}


def _group(single: Dataset, *macros: str) -> Dataset:
    """A functional group with what a single slice says."""
    group = Dataset()
    for macro in macros:
        item = Dataset()
        for keyword in _MACROS[macro]:
            if keyword in single:
                item[keyword] = single[keyword]
        if len(item):
            setattr(group, macro, [item])
    return group


def _decimal(value: float) -> str:
    """A DICOM decimal string: at most 16 characters (PS3.5 6.2)."""
    for digits in range(14, 0, -1):
        text = f"{float(value):.{digits}g}"
        if len(text) <= 16:
            return text
    raise ValueError(f"{value} does not fit a decimal string.")
