"""Studies with one irregularity each, whose every voxel tells its world position, and what becomes of them.

The tests prove it of mtnet; ``benchmarks.scoreboard`` shows other readers beside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import ArrayLike, NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from mtnet.io.read import load_from_study
from mtnet.io.scan import scan
from mtnet.io.values import AIR_HU
from mtnet.structures import RefusedError, ReportLine, Volume
from tests.builders import RAMP_HU_PER_MM, WrittenSeries, ramp_hu, write_ct_series, write_dataset, write_enhanced

MODES: Mapping[str, Mapping[str, bool]] = {"default": {}, "repair": {"repair": True}, "strict": {"strict": True}}
OBLIQUE = np.linalg.qr(np.array([[0.9, 0.2, -0.3], [-0.1, 0.95, 0.2], [0.35, -0.15, 0.9]]))[0]
SHAPE = (40, 34, 8)
"""Large enough for a JPEG 2000 encoder, which refuses tiny images."""

Right = tuple[float, ...]
"""By how much each volume that comes out exceeds the ramp, in rising order."""


@dataclass(frozen=True)
class Case:
    """One irregularity, and what becomes of it by mode: the volumes that are right, or ``None`` where it is refused.

    ``codes`` have to be reported in every mode. ``air`` is how many voxels are air (``None``: as many as repair needs).
    ``judge`` is off where dcm2niix is wrong itself, joins volumes into one of four axes, or leaves padding as it is.
    """

    name: str
    write: Callable[[Path], Any]
    codes: frozenset[str]
    default: Right | None = (0.0,)
    repair: Right | None = (0.0,)
    strict: Right | None = (0.0,)
    air: int | None = 0
    judge: bool = True
    tolerance: float = field(default=0.51)


def series(folder: Path, **options: Any) -> WrittenSeries:
    return write_ct_series(folder, **{"shape": SHAPE, **options})


def tag(keyword: str, value: Any, only: int | None = None) -> Callable[[Dataset, int], None]:
    def edit(dataset: Dataset, k: int) -> None:
        if only in (None, k):
            setattr(dataset, keyword, value)

    return edit


def series_with(**options: Any) -> Callable[[Path], WrittenSeries]:
    return lambda folder: series(folder, **options)


def more(hu: float) -> Callable[[Any], Any]:
    return lambda points: ramp_hu(points) + hu


def again(hu: float, file_name: str = "again{:04d}.dcm", **options: Any) -> Callable[[Path], None]:
    """The series twice in one, at the same positions, the second time ``hu`` higher and as ``options`` say."""

    def write(folder: Path) -> None:
        series(folder)
        series(folder, values=more(hu), seed=1, file_name=file_name, **options)

    return write


def copies(folder: Path) -> None:
    written = series(folder)
    for path in written.paths[2:4]:
        shutil.copy(path, folder / f"copy of {path.name}")


def one_uid(folder: Path) -> None:
    written = series(folder)
    for path in written.paths[:2]:
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = "1.2.3.4"
        write_dataset(dataset, path)


def two_frames_of_reference(folder: Path) -> None:
    series(folder)
    place = {"origin_lps_mm": (-5, -4, -9), "values": more(100)}
    series(folder, frame="other", seed=1, file_name="other{:04d}.dcm", **place)


def two_orientations(folder: Path) -> None:
    series(folder)
    turned = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=float)
    series(folder, direction_lps=turned, seed=1, file_name="turned{:04d}.dcm")


def two_sizes(folder: Path) -> None:
    series(folder)
    series(folder, shape=(36, 38, 5), seed=1, file_name="other{:04d}.dcm")


def with_localizer(columns: int, rows: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        series(folder)
        sagittal = np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]], dtype=float)
        words = ("ORIGINAL", "PRIMARY", "LOCALIZER")
        shape = (columns, rows, 1)
        series(folder, shape=shape, direction_lps=sagittal, image_type=words, seed=1, file_name="scout{}.dcm")

    return write


def enhanced(order: Any = None, **options: Any) -> Callable[[Path], Path]:
    return lambda folder: write_enhanced(series(folder, **options), folder / "whole.dcm", order=order)


def padded(limit: int | None) -> Callable[[Path], WrittenSeries]:
    """Four corner pixels of every slice hold padding: -2000, and two of them -1990 within the range limit."""

    def edit(dataset: Dataset, _: int) -> None:
        stored = np.frombuffer(dataset.PixelData, "<i2").reshape(dataset.Rows, dataset.Columns).copy()
        stored[0, [0, -1]], stored[-1, [0, -1]] = -2000, -2000 if limit is None else -1990
        dataset.PixelData = stored.tobytes()
        dataset.PixelPaddingValue = -2000
        if limit is not None:
            dataset.PixelPaddingRangeLimit = limit

    return series_with(edit=edit)


def off_line(dataset: Dataset, k: int) -> None:
    """One slice lies 2 mm further along the rows, and holds what is there."""
    if k == 3:
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x + 2, y, z]
        stored = np.frombuffer(dataset.PixelData, "<i2") + round(2 * RAMP_HU_PER_MM[0])
        dataset.PixelData = stored.astype("<i2").tobytes()


def inverted_mr(dataset: Dataset, _: int) -> None:
    """An MR whose writer mirrored the stored values and said so."""
    stored = -1 - np.frombuffer(dataset.PixelData, "<i2")
    dataset.SOPClassUID, dataset.Modality = uid.MRImageStorage, "MR"
    dataset.PhotometricInterpretation, dataset.PixelData = "MONOCHROME1", stored.astype("<i2").tobytes()


def cut_file(folder: Path) -> None:
    path = series(folder).paths[3]
    path.write_bytes(path.read_bytes()[:-500])


def no_longer_dicom(folder: Path) -> None:
    series(folder).paths[3].write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 900)


def compressed(syntax: str, spoil: Callable[[Dataset], Any] | None = None) -> Callable[[Path], None]:
    """The series compressed; or one file of it, which is then spoilt."""

    def write(folder: Path) -> None:
        if int(pydicom.__version__.split(".")[0]) < 3:
            pytest.skip("pydicom 2 has no encoder for it")
        paths = series(folder).paths
        for path in paths if spoil is None else paths[3:4]:
            dataset = pydicom.dcmread(path)
            dataset.compress(syntax, generate_instance_uid=False)
            if spoil is not None:
                spoil(dataset)
            write_dataset(dataset, path)

    return write


def cut_stream(dataset: Dataset) -> None:
    (stream,) = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = pydicom.encaps.encapsulate([stream[: len(stream) // 2]])


def unknown_syntax(folder: Path) -> None:
    path = series(folder).paths[3]
    dataset = pydicom.dcmread(path)
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x0a" + bytes(50)])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    write_dataset(dataset, path)


def two_taken_places(folder: Path) -> None:
    """Two slices more, with other pixels, where two slices are."""
    series(folder)
    series(folder, values=more(100), drop=(0, 1, 3, 4, 6, 7), seed=1, file_name="again{:04d}.dcm")


def two_of(**options: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        series(folder)
        series(folder, values=more(9), seed=1, file_name="other{:04d}.dcm", **options)

    return write


def case(name: str, write: Callable[[Path], Any], *codes: str, **how: Any) -> Case:
    return Case(name, write, frozenset(codes), **how)


REFUSED: dict[str, Any] = {"default": None, "repair": None, "strict": None}
REPAIRED: dict[str, Any] = {"strict": None, "air": None, "tolerance": 0.6}
REPAIRABLE: dict[str, Any] = {"default": None, "strict": None, "air": None, "tolerance": 0.6}
APART: dict[str, Any] = {**dict.fromkeys(MODES, (0.0, 100.0)), "judge": False}
TILT = {"shape": (40, 36, 8), "tilt_deg": 12.0}

CASES = [
    case("a regular series", series_with()),
    # Notes
    case("identical copies", copies, "identical_duplicates"),
    case("two files of one object UID", one_uid, "repeated_object_uid", judge=False),
    case("numbers shuffled", series_with(instance_numbers="shuffled", file_order="shuffled"),
         "shuffled_instance_numbers", judge=False),
    case("numbers absent", series_with(instance_numbers="absent", file_order="shuffled"), "absent_instance_numbers",
         judge=False),
    case("oblique", series_with(direction_lps=OBLIQUE), "oblique"),
    case("flipped in the plane", series_with(direction_lps=np.diag([-1.0, -1.0, 1.0])), "flipped"),
    case("files run down the normal", series_with(direction_lps=np.diag([1.0, 1.0, -1.0]))),
    case("pixels that are not square", series_with(spacing_mm=(0.8, 0.5, 2.0)), "non_square_pixels"),
    case("slices that overlap", series_with(thickness_mm=5.0), "overlapping_slices"),
    case("an even series of 8 mm", series_with(spacing_mm=(0.8, 0.8, 8.0))),
    case("padding", padded(None), "padding_values", air=4 * 8, judge=False),
    case("a range of padding", padded(-1980), "padding_values", air=4 * 8, judge=False),
    case("padding that no pixel holds", series_with(edit=tag("PixelPaddingValue", -2000))),
    case("rescale by slice", series_with(rescale=lambda k: (1.0, -1000.0 - k)), "rescale_varies"),
    case("another word for HU", series_with(edit=tag("RescaleType", "Hounsfield")), "rescale_type_spelling"),
    case("a CT that is shown inverted", series_with(edit=tag("PhotometricInterpretation", "MONOCHROME1")),
         "monochrome1"),
    case("compressed with loss", series_with(edit=tag("LossyImageCompression", "01")), "lossy_compression"),
    case("JPEG 2000 without loss", compressed(uid.JPEG2000Lossless)),
    case("JPEG-LS without loss", compressed(uid.JPEGLSLossless)),
    case("a single slice", series_with(shape=(40, 34, 1)), "single_slice", strict=None),
    # Repaired
    case("a missing slice", series_with(drop=(3,)), "missing_slices", **REPAIRED),
    case("variable spacing", series_with(slice_offsets_mm=(0, 2, 4, 6, 9, 12.5)), "variable_spacing", **REPAIRED),
    case("gantry tilt", series_with(**TILT, tilt_tag=True), "gantry_tilt", **REPAIRED),
    case("gantry tilt that no tag tells", series_with(**TILT), "gantry_tilt", **REPAIRED),
    # Repaired on request
    case("a wide gap", series_with(spacing_mm=(0.8, 0.8, 3.0), drop=(3,)), "missing_slices_wide_gap", **REPAIRABLE),
    case("variable spacing with a wide gap", series_with(slice_offsets_mm=(0, 2, 4, 6, 13)),
         "variable_spacing_wide_gap", **REPAIRABLE),
    case("no rescale", series_with(rescale=None), "rescale_missing", **REPAIRABLE),
    case("an MR that is shown inverted", series_with(rescale=None, edit=inverted_mr), "monochrome1_values",
         **REPAIRABLE),
    # Split
    case("two acquisitions", again(100, acquisition_number=2), "stacks_split", **APART),
    case("two kernels", again(100, kernel="B70f"), "stacks_split", **APART),
    case("two times", again(100, edit=tag("TemporalPositionIdentifier", 2)), "stacks_split", **APART),
    case("two echoes", again(100, edit=tag("EchoTime", 30)), "stacks_split", **APART),
    case("two phases", again(100, edit=tag("NominalPercentageOfCardiacPhase", 40)), "stacks_split", **APART),
    case("two b-values", again(100, edit=tag("DiffusionBValue", 800.0)), "stacks_split", **APART),
    case("two frames of reference", two_frames_of_reference, "stacks_split", **APART),
    case("two orientations", two_orientations, "stacks_split", default=(0.0, 0.0), repair=(0.0, 0.0),
         strict=(0.0, 0.0)),
    case("two sizes", two_sizes, "stacks_split", default=(0.0, 0.0), repair=(0.0, 0.0), strict=(0.0, 0.0)),
    case("a localizer of the same size", with_localizer(40, 34), "localizer_in_series", "stacks_split"),
    case("a localizer of another size", with_localizer(44, 36), "localizer_in_series", "stacks_split"),
    case("two series", two_of(series="other"), "several_series", default=(0.0, 9.0), repair=(0.0, 9.0),
         strict=(0.0, 9.0)),
    case("two studies", two_of(series="other", study="other"), "several_studies", default=(0.0, 9.0),
         repair=(0.0, 9.0), strict=(0.0, 9.0)),
    case("one series UID in two studies", two_of(study="other"), "series_in_two_studies", "several_studies",
         default=(0.0, 9.0), repair=(0.0, 9.0), strict=(0.0, 9.0), judge=False),
    # Enhanced
    case("an enhanced object", enhanced()),
    case("its frames reversed", enhanced(range(7, -1, -1))),
    case("its frames shuffled", enhanced([3, 0, 6, 1, 7, 2, 5, 4]), "shuffled_frames", judge=False),
    case("rescale by frame", enhanced(rescale=lambda k: (1.0 + k, -1000.0 - k)), "rescale_varies", judge=False,
         tolerance=4.01),
    case("a frame missing", enhanced(drop=(3,)), "missing_slices", **REPAIRED),
    case("an enhanced map", enhanced(image_type=("DERIVED", "PRIMARY", "PERFUSION", "RCBF")), "parametric_map",
         **REFUSED),
    # Refused
    case("two slices more at places that are taken", two_taken_places, "different_pixels_at_one_position", **REFUSED),
    case("different pixels at one position", again(100), "different_pixels_at_one_position", **REFUSED),
    case("positions off a line", series_with(edit=off_line), "positions_off_line", **REFUSED),
    case("no orientation", series_with(omit=("ImageOrientationPatient",)), "missing_geometry", **REFUSED),
    case("a single slice of unknown thickness", series_with(shape=(40, 34, 1), omit=("SliceThickness",)),
         "no_slice_spacing", **REFUSED),
    case("a slope of nothing", series_with(edit=tag("RescaleSlope", 0)), "rescale_invalid", **REFUSED),
    case("values that are no HU", series_with(edit=tag("RescaleType", "US")), "rescale_type_not_hu", **REFUSED),
    case("8-bit CT", series_with(rescale=None, edit=lambda d, _: (
        setattr(d, "PixelData", d.PixelData[::2]), setattr(d, "BitsAllocated", 8), setattr(d, "BitsStored", 8),
        setattr(d, "HighBit", 7), setattr(d, "PixelRepresentation", 0))), "eight_bit_ct", **REFUSED),
    case("a label map as CT", series_with(edit=tag("Modality", "SEG")), "seg_stored_as_ct", **REFUSED),
    case("a parametric map as CT", series_with(image_type=("DERIVED", "PRIMARY", "PERFUSION", "RCBF")),
         "parametric_map", **REFUSED),
    case("a series of localizers", series_with(image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")), "not_a_volume",
         **REFUSED),
    case("a file cut short", cut_file, "truncated_pixels", **REFUSED),
    case("a file of no pixels", series_with(edit=lambda d, k: delattr(d, "PixelData") if k == 3 else None),
         "no_pixel_data", **REFUSED),
    case("a header that cannot be parsed", no_longer_dicom, "unreadable_file", **REFUSED),
    case("a broken stream", compressed(uid.JPEG2000Lossless, cut_stream), "unreadable_pixels", **REFUSED),
    case("a stream that no decoder reads", unknown_syntax, "unknown_decoder", **REFUSED),
    case("a stream of the other sign", compressed(uid.JPEG2000Lossless, lambda d: setattr(d, "PixelRepresentation", 0)),
         "signedness_mismatch", **REFUSED),
]  # fmt: skip


def outcome(folder: Path, mode: str) -> tuple[list[Volume], list[ReportLine]]:
    """Every stack that loads, and every line that anything reported or refused with."""
    try:
        studies = scan(folder)
    except RefusedError as error:
        return [], list(error.lines)
    volumes, lines = [], [item for study in studies for item in study.report]
    for study in studies:
        for found in study.series:
            for stack in found.stacks:
                if stack.kind == "localizer" and len(found.stacks) > 1:
                    continue
                try:
                    volumes.append(load_from_study(study, found, stack, **MODES[mode]))
                    lines += volumes[-1].report
                except RefusedError as error:
                    lines += error.lines
    return volumes, lines


def excess(volume: Volume, tolerance: float) -> tuple[float, int]:
    """By how much the volume exceeds the ramp, the same at every voxel that is not air; and how many are."""
    inside = volume.array[0] != AIR_HU
    off = over_ramp(volume.array[0], volume.geometry.affine_lps)[inside]
    shift = float(np.round(np.median(off)))
    assert np.abs(off - shift).max() <= tolerance
    return shift, int((~inside).sum())


def over_ramp(values: ArrayLike, affine_lps: ArrayLike) -> NDArray[np.float64]:
    """By how much values ``(i, j, k)`` exceed the ramp at the places where the affine puts them."""
    values, affine = np.asarray(values, dtype=np.float64), np.asarray(affine_lps, dtype=np.float64)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in values.shape), indexing="ij"), axis=-1)
    return values - ramp_hu(index @ affine[:3, :3].T + affine[:3, 3])
