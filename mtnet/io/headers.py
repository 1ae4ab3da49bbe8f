"""One DICOM file's header, read as far as its pixels and no further."""

from __future__ import annotations

import math
import struct
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from mtnet.io.files import FileEntry, Opener
from mtnet.io.limits import Limits
from mtnet.io.verdicts import line
from mtnet.structures.report import ReportLine
from mtnet.structures.study import Instance

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima", ".dic")
"""File names that claim to be DICOM: a reading failure is then worth a line of its own."""

_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_LOSSY_SYNTAXES = frozenset(
    {
        "1.2.840.10008.1.2.4.50",  # JPEG baseline
        "1.2.840.10008.1.2.4.51",  # JPEG extended
        "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
    }
)
_DEFLATED = "1.2.840.10008.1.2.1.99"
_EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_IMPLICIT = "1.2.840.10008.1.2"
_EXPLICIT = "1.2.840.10008.1.2.1"
_NATIVE_SYNTAXES = frozenset({_IMPLICIT, _EXPLICIT, _EXPLICIT_BIG_ENDIAN})
_UNDEFINED_LENGTH = 0xFFFFFFFF
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"UN")

_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "ImageType", "Manufacturer", "SeriesDescription", "BodyPartExamined", "SeriesNumber", "InstanceNumber",
    "AcquisitionNumber", "ConvolutionKernel", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation", "LossyImageCompression",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "GantryDetectorTilt",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "TemporalPositionIdentifier", "EchoTime", "KVP", "NominalPercentageOfCardiacPhase", "DiffusionBValue",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """An instance and what its header says beyond it.

    ``variants`` are tags that tell apart images at one position (name, value). ``pixel_offset`` is where the pixel
    data element starts in the file, ``None`` where that is not known (deflated) or there is none (``has_pixels``).
    ``problems`` are findings about this file alone.
    """

    instance: Instance
    study_instance_uid: str
    series_instance_uid: str
    series_number: int | None
    kernel: str
    description: str
    body_part: str
    manufacturer: str
    variants: tuple[tuple[str, object], ...]
    has_pixels: bool
    pixel_offset: int | None
    problems: tuple[ReportLine, ...] = ()


class _UnusableError(ValueError):
    """A header value that is there and cannot be used; the message names its tag, never its content."""


def read_header(entry: FileEntry, opener: Opener, limits: Limits) -> Header | ReportLine | None:
    """Read one file's header.

    A file without the DICOM preamble is taken for DICOM only where its first element is one of group 0002 or 0008 in a
    plausible encoding (PS3.10 7.1 asks for the preamble; old exports lack it) and its UIDs are there.

    Returns:
        the header; a report line where the file is DICOM and cannot be used; ``None`` for a foreign file.
    """
    try:
        with opener.open(entry.path, entry.member) as stream:
            start = stream.read(132)
            marked = start[128:] == b"DICM"
            if marked or _looks_like_dataset(start):
                stream.seek(0)
                too_large = _too_large(stream, entry, limits)
                return too_large or _parse(stream, entry, limits, marked=marked)
            if entry.suffixes not in DICOM_SUFFIXES:
                return None
            reason = "it does not start as DICOM does."
    except _UnusableError as error:
        reason = str(error)
    except Exception as error:
        # Fed with any bytes, the parser may raise anything: the file is then unreadable, and the scan goes on.
        opened = not isinstance(error, (OSError, zipfile.BadZipFile))
        reason = f"it cannot be {'parsed' if opened else 'opened'} ({type(error).__name__})."
    return line("unreadable_file", entry.where, reason=reason)


def _looks_like_dataset(start: bytes) -> bool:
    """Whether bytes start as a data set of group 0002 or 0008 does, in one of the three uncompressed encodings."""
    if len(start) < 16:
        return False
    group, element = struct.unpack("<HH", start[:4])
    if group in (0x0002, 0x0008) and element <= 0x0100:
        (length,) = struct.unpack("<I", start[4:8])
        return (start[4:6].isalpha() and start[4:6].isupper()) or length <= 128
    group, element = struct.unpack(">HH", start[:4])
    return group == 0x0008 and element <= 0x0100 and start[4:6].isalpha() and start[4:6].isupper()


def _parse(stream: IO[bytes], entry: FileEntry, limits: Limits, *, marked: bool) -> Header | ReportLine | None:
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
        meta = getattr(dataset, "file_meta", None) or {}
        syntax = str(meta.get("TransferSyntaxUID", "") or "") or _encoding(dataset)
        sop_class = str(dataset.get("SOPClassUID", "") or meta.get("MediaStorageSOPClassUID", "") or "")
        if sop_class == _DICOMDIR_CLASS:
            return line("dicomdir_skipped", entry.where)
        uids = [str(dataset.get(tag, "") or "") for tag in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
        if not (sop_class and all(uids)):
            if marked:
                raise _UnusableError("study, series or object UID is absent.")
            return None
        instance = _instance(dataset, entry, sop_class, uids[2], syntax)
        if instance.number_of_frames > limits.frames:
            return line("limit_exceeded", entry.where, what="The number of frames", limit=limits.frames)
        has_pixels, offset, problems = _pixels(stream, instance, syntax)
        return Header(
            instance=instance,
            study_instance_uid=uids[0],
            series_instance_uid=uids[1],
            series_number=_count(dataset, "SeriesNumber"),
            kernel=_text(dataset, "ConvolutionKernel"),
            description=_text(dataset, "SeriesDescription"),
            body_part=_text(dataset, "BodyPartExamined"),
            manufacturer=_text(dataset, "Manufacturer"),
            variants=(
                ("AcquisitionNumber", instance.acquisition_number),
                ("ConvolutionKernel", _text(dataset, "ConvolutionKernel")),
                ("ImageType", instance.image_type),
                ("TemporalPositionIdentifier", _text(dataset, "TemporalPositionIdentifier")),
                ("NominalPercentageOfCardiacPhase", _text(dataset, "NominalPercentageOfCardiacPhase")),
                ("EchoTime", _text(dataset, "EchoTime")),
                ("DiffusionBValue", _text(dataset, "DiffusionBValue")),
                ("KVP", _text(dataset, "KVP")),
                ("SliceThickness", instance.slice_thickness_mm),
            ),
            has_pixels=has_pixels,
            pixel_offset=offset,
            problems=problems,
        )


def _too_large(stream: IO[bytes], entry: FileEntry, limits: Limits) -> ReportLine | None:
    """A line where reading the header alone could take too much memory, else ``None``."""
    if entry.size > limits.file_bytes:
        return line("limit_exceeded", entry.where, what="The file's size", limit=limits.file_bytes)
    if not _inflates_within(stream, limits.header_bytes):
        return line("limit_exceeded", entry.where, what="The inflated size", limit=limits.header_bytes)
    return None


def _inflates_within(stream: IO[bytes], limit: int) -> bool:
    """Whether a data set in deflated transfer syntax unpacks to at most ``limit`` bytes; true for every other one.

    pydicom unpacks it whole to read even the first tag. The packed part starts after the file meta group, whose length
    its first element tells (PS3.10 7.1). Nothing is kept; the stream is rewound.
    """
    start = stream.read(144)
    meta = stream.read(min(int.from_bytes(start[140:144], "little"), 1 << 16)) if start[128:132] == b"DICM" else b""
    within = True
    if _DEFLATED.encode() in meta:
        engine, room = zlib.decompressobj(-zlib.MAX_WBITS), limit
        # Past its end the engine keeps handing back the same tail (a padding byte is enough): eof ends the loop.
        while within and not engine.eof and (pending := stream.read(1 << 16)):
            while within and pending and not engine.eof:
                room -= len(engine.decompress(pending, 1 << 20))
                pending = engine.unconsumed_tail
                within = room >= 0
    stream.seek(0)
    return within


def _encoding(dataset: Dataset) -> str:
    """The transfer syntax that a data set without file meta was found to be in; such files are never compressed."""
    # pydicom 3 and 2.4 name it differently.
    encoding = getattr(dataset, "original_encoding", None)
    implicit, little = encoding or (dataset.read_implicit_vr, dataset.read_little_endian)
    return _IMPLICIT if implicit else _EXPLICIT if little else _EXPLICIT_BIG_ENDIAN


def _instance(dataset: Dataset, entry: FileEntry, sop_class: str, sop_uid: str, syntax: str) -> Instance:
    signed = _integer(dataset, "PixelRepresentation")
    bits = _integer(dataset, "BitsAllocated")
    return Instance(
        path=entry.path,
        member=entry.member,
        file_bytes=entry.size,
        sop_instance_uid=sop_uid,
        sop_class_uid=sop_class,
        transfer_syntax_uid=syntax,
        modality=_text(dataset, "Modality"),
        image_type=tuple(part.strip().upper() for part in _text(dataset, "ImageType").split("\\") if part.strip()),
        instance_number=_count(dataset, "InstanceNumber"),
        acquisition_number=_count(dataset, "AcquisitionNumber"),
        frame_of_reference_uid=_text(dataset, "FrameOfReferenceUID") or None,
        rows=_integer(dataset, "Rows") or None,
        columns=_integer(dataset, "Columns") or None,
        number_of_frames=max(_integer(dataset, "NumberOfFrames") or 1, 1),
        samples_per_pixel=_integer(dataset, "SamplesPerPixel") or 1,
        photometric=_text(dataset, "PhotometricInterpretation"),
        bits_allocated=bits,
        bits_stored=_integer(dataset, "BitsStored"),
        pixel_representation=signed,
        lossy=_text(dataset, "LossyImageCompression") == "01" or syntax in _LOSSY_SYNTAXES,
        position_lps_mm=_triple(dataset, "ImagePositionPatient"),
        orientation_lps=_orientation(dataset),
        pixel_spacing_mm=_spacing(dataset),
        slice_thickness_mm=_length(dataset, "SliceThickness"),
        gantry_tilt_deg=_hint(dataset, "GantryDetectorTilt"),
        rescale_slope=_number(dataset, "RescaleSlope"),
        rescale_intercept=_number(dataset, "RescaleIntercept"),
        rescale_type=_text(dataset, "RescaleType") or None,
        padding_value=_stored(_integer(dataset, "PixelPaddingValue"), signed, bits),
        padding_limit=_stored(_integer(dataset, "PixelPaddingRangeLimit"), signed, bits),
    )


def _value(dataset: Dataset, keyword: str) -> Any:
    """The converted value, ``None`` where absent or empty.

    Raises:
        _UnusableError: the value cannot be converted.
    """
    try:
        value = dataset.get(keyword)
    except Exception as error:
        raise _UnusableError(f"{keyword} has a value that is not valid.") from error
    return None if value is None or value in ("", []) else value


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        value = _value(dataset, keyword)
    except _UnusableError:
        return ""
    if value is None:
        return ""
    if not isinstance(value, (str, bytes)) and hasattr(value, "__iter__"):
        return "\\".join(str(item).strip() for item in value)
    return str(value).strip()


def _numbers(dataset: Dataset, keyword: str) -> list[float] | None:
    value = _value(dataset, keyword)
    if value is None:
        return None
    items = list(value) if hasattr(value, "__iter__") and not isinstance(value, (str, bytes)) else [value]
    try:
        numbers = [float(item) for item in items]
    except (TypeError, ValueError) as error:
        raise _UnusableError(f"{keyword} has a value that is not a number.") from error
    if not all(math.isfinite(number) for number in numbers):
        raise _UnusableError(f"{keyword} has a value that is not finite.")
    return numbers


def _number(dataset: Dataset, keyword: str) -> float | None:
    numbers = _numbers(dataset, keyword)
    return numbers[0] if numbers else None


def _integer(dataset: Dataset, keyword: str) -> int | None:
    number = _number(dataset, keyword)
    return None if number is None else int(number)


def _hint(dataset: Dataset, keyword: str) -> float | None:
    """A number that nothing depends on: one that is not valid counts as absent."""
    try:
        return _number(dataset, keyword)
    except _UnusableError:
        return None


def _count(dataset: Dataset, keyword: str) -> int | None:
    number = _hint(dataset, keyword)
    return None if number is None else int(number)


def _length(dataset: Dataset, keyword: str) -> float | None:
    """A length; 0 and less mean that it is not known."""
    number = _hint(dataset, keyword)
    return number if number is not None and number > 0 else None


def _triple(dataset: Dataset, keyword: str) -> tuple[float, float, float] | None:
    numbers = _numbers(dataset, keyword)
    return (numbers[0], numbers[1], numbers[2]) if numbers is not None and len(numbers) == 3 else None


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    numbers = _numbers(dataset, "PixelSpacing")
    if numbers is None or len(numbers) != 2 or min(numbers) <= 0:
        return None
    return numbers[0], numbers[1]


def _orientation(dataset: Dataset) -> tuple[float, float, float, float, float, float] | None:
    """Direction cosines, ``None`` unless both are unit vectors at a right angle, to 1e-3 (PS3.3 C.7.6.2.1.1)."""
    numbers = _numbers(dataset, "ImageOrientationPatient")
    if numbers is None or len(numbers) != 6:
        return None
    row, column = numbers[:3], numbers[3:]
    products = (
        sum(a * a for a in row) - 1,
        sum(a * a for a in column) - 1,
        sum(a * b for a, b in zip(row, column, strict=True)),
    )
    if max(abs(product) for product in products) > 1e-3:
        return None
    return row[0], row[1], row[2], column[0], column[1], column[2]


def _stored(value: int | None, signed: int | None, bits: int | None) -> int | None:
    """A padding value as the stored pixels hold it: its tag may be typed US where pixels are signed, or the reverse."""
    if value is None or bits is None or not 0 < bits <= 64:
        return value
    value %= 2**bits
    return value - 2**bits if signed == 1 and value >= 2 ** (bits - 1) else value


def _pixels(stream: IO[bytes], instance: Instance, syntax: str) -> tuple[bool, int | None, tuple[ReportLine, ...]]:
    """Whether pixel data follow, where, and whether all of them are there as far as that shows without decoding."""
    if syntax == _DEFLATED:
        return True, None, ()
    offset = stream.tell()
    order = ">" if syntax == _EXPLICIT_BIG_ENDIAN else "<"
    start = stream.read(12)
    if len(start) < 8 or struct.unpack(f"{order}H", start[:2])[0] != 0x7FE0:
        return False, None, ()
    if start[4:6] in _LONG_VRS and len(start) == 12:
        length, value_offset = struct.unpack(f"{order}I", start[8:12])[0], offset + 12
    else:
        length, value_offset = struct.unpack(f"{order}I", start[4:8])[0], offset + 8
    if length == _UNDEFINED_LENGTH or syntax not in _NATIVE_SYNTAXES or not (instance.rows and instance.columns):
        return True, offset, ()
    bits = instance.rows * instance.columns * instance.number_of_frames * instance.samples_per_pixel
    expected = (bits * (instance.bits_allocated or 16) + 7) // 8
    if instance.photometric == "YBR_FULL_422":
        expected = expected * 2 // 3
    found = min(length, max(instance.file_bytes - value_offset, 0))
    problems = (line("truncated_pixels", instance.where, found=found, expected=expected),) if found < expected else ()
    return True, offset, problems
