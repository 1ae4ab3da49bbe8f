"""What the headers of one stack tell about it, as report lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from mtnet.io.headers import Header
from mtnet.io.kinds import CT_CLASSES, ENHANCED_CLASSES, SLICE_CLASSES, is_label_map_as_ct, map_word
from mtnet.io.positions import GAP_TOLERANCE_MM, SlicePositions, tolerance_mm
from mtnet.io.verdicts import LARGEST_REPAIRED_GAP_MM, line, monochrome1_code
from mtnet.structures.report import ReportLine
from mtnet.structures.study import Instance, SeriesKind

_HU_SPELLINGS = frozenset({"HOUNSFIELD", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS", "HOUNDSFIELD UNIT"})
_OBLIQUE_COSINE = 1 - 1e-6
_LETTERS = (("L", "R"), ("P", "A"), ("H", "F"))
# Where rows and columns of a plane run in a picture as radiologists look at it.
_STANDARD = {"sagittal": ("P", "F"), "coronal": ("L", "F"), "axial": ("L", "P")}


def stack_lines(group: Sequence[Header], kind: SeriesKind, positions: SlicePositions | None) -> list[ReportLine]:
    """Every finding about one stack that its headers show, in default severity.

    Args:
        group: its files in order.
        kind: its kind.
        positions: where its slices lie, or ``None`` where the tags are absent or the object has several frames.
    """
    instances = [header.instance for header in group]
    # The frames of one file share what is wrong with it.
    lines = list(dict.fromkeys(problem for header in group for problem in header.problems))
    if kind != "not_an_image":
        files = {(h.instance.path, h.instance.member): h for h in group if not h.has_pixels}
        lines += [line("no_pixel_data", h.instance.where) for h in files.values()]
    if kind in ("volume", "label_map", "parametric_map"):
        lines += _kind_lines(instances)
        lines += _grid_lines(instances, positions)
    if kind == "volume":
        lines += _value_lines(instances)
    return lines


def _kind_lines(instances: Sequence[Instance]) -> Iterable[ReportLine]:
    first = instances[0]
    word = map_word(first)
    if is_label_map_as_ct(first):
        yield line("seg_stored_as_ct", first.where)
    elif word is not None:
        yield line("parametric_map", first.where, value=word)


def _grid_lines(instances: Sequence[Instance], positions: SlicePositions | None) -> Iterable[ReportLine]:
    if instances[0].sop_class_uid not in SLICE_CLASSES | ENHANCED_CLASSES or instances[0].images > 1:
        return
    if positions is None:
        yield from _missing_geometry(instances)
        return
    if positions.spacing != "repeated":
        yield from _order_lines(instances)
    yield from _plane_lines(instances[0], positions)
    if positions.spacing == "single":
        thickness = instances[0].slice_thickness_mm
        if thickness is None:
            yield line("no_slice_spacing", instances[0].where)
        else:
            yield line("single_slice", instances[0].where, thickness=f"{thickness:g} mm")
        return
    yield from _gap_lines(instances, positions)
    yield from _shear_lines(instances[0], positions)


def _missing_geometry(instances: Sequence[Instance]) -> Iterable[ReportLine]:
    tags: tuple[tuple[str, Callable[[Instance], object]], ...] = (
        ("ImagePositionPatient (0020,0032)", lambda i: i.position_lps_mm),
        ("ImageOrientationPatient (0020,0037)", lambda i: i.orientation_lps),
        ("PixelSpacing (0028,0030)", lambda i: i.pixel_spacing_mm),
        ("Rows (0028,0010)", lambda i: i.rows),
        ("Columns (0028,0011)", lambda i: i.columns),
    )
    for tag, value in tags:
        lacking = [instance for instance in instances if value(instance) is None]
        if lacking:
            yield line("missing_geometry", lacking[0].where, tag=tag, count=len(lacking))


def _order_lines(instances: Sequence[Instance]) -> Iterable[ReportLine]:
    numbers = [instance.instance_number for instance in instances]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        absent = len(numbers) - len(known)
        yield line("absent_instance_numbers", count=absent, total=len(numbers))
    steps = np.diff(known)
    if not ((steps > 0).all() or (steps < 0).all()):
        of_frames = instances[0].number_of_frames > 1
        yield line("shuffled_frames" if of_frames else "shuffled_instance_numbers")


def _plane_lines(first: Instance, positions: SlicePositions) -> Iterable[ReportLine]:
    row, column = positions.row_lps, positions.column_lps
    if min(np.abs(row).max(), np.abs(column).max()) < _OBLIQUE_COSINE:
        yield line("oblique", row=_vector(row), column=_vector(column))
    plane = ("sagittal", "coronal", "axial")[int(np.abs(positions.normal_lps).argmax())]
    found = (_letter(row), _letter(column))
    if found != _STANDARD[plane]:
        yield line("flipped", row=found[0], column=found[1], plane=plane)
    down, across = first.pixel_spacing_mm or (1.0, 1.0)
    if abs(down - across) > 1e-4 * across:
        yield line("non_square_pixels", across=across, down=down)


def _letter(direction: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    axis = int(np.abs(direction).argmax())
    return _LETTERS[axis][int(direction[axis] < 0)]


def _vector(direction: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in direction) + ")"


def _gap_lines(instances: Sequence[Instance], positions: SlicePositions) -> Iterable[ReportLine]:
    gaps = positions.gaps_mm
    at = int(gaps.argmax())
    wide = gaps[at] > LARGEST_REPAIRED_GAP_MM + GAP_TOLERANCE_MM
    if positions.spacing == "repeated":
        same = int(gaps.argmin())
        shared = gaps <= GAP_TOLERANCE_MM
        # Files in a run of n equal positions make n - 1 gaps of nothing; each run is one place.
        places = int(np.count_nonzero(np.diff(np.concatenate([[0], shared.astype(int)])) == 1))
        count = int(np.count_nonzero(shared)) + places
        yield line("different_pixels_at_one_position", instances[same + 1].where, count=count, places=places)
    elif positions.spacing == "missing":
        code = "missing_slices_wide_gap" if wide else "missing_slices"
        values = {"missing": positions.missing, "step": positions.step_mm, "gap": float(gaps[at])}
        yield line(code, f"after {instances[at].where}", **values)
    elif positions.spacing == "variable":
        code = "variable_spacing_wide_gap" if wide else "variable_spacing"
        yield line(code, f"after {instances[at].where}", low=float(gaps.min()), high=float(gaps[at]))
    thickness = instances[0].slice_thickness_mm
    # Thickness is counted along the table, as the way from slice to slice must be where the gantry is tilted.
    step = positions.step_mm / np.cos(np.deg2rad(positions.shear_deg))
    if thickness and step and thickness > step + tolerance_mm(step):
        yield line("overlapping_slices", thickness=thickness, step=step)


def _shear_lines(first: Instance, positions: SlicePositions) -> Iterable[ReportLine]:
    pixel = min(first.pixel_spacing_mm or (1.0, 1.0))
    if positions.off_line_mm > 0.1 * pixel:
        yield line("positions_off_line", drift=positions.off_line_mm)
    elif positions.is_sheared(pixel):
        tag = "nothing" if first.gantry_tilt_deg is None else f"{first.gantry_tilt_deg:g} degrees"
        yield line("gantry_tilt", "ImagePositionPatient (0020,0032)", angle=positions.shear_deg, tag=tag)


def _value_lines(instances: Sequence[Instance]) -> Iterable[ReportLine]:
    first = instances[0]
    if first.sop_class_uid in CT_CLASSES:
        yield from _ct_value_lines(instances)
    rescales = {(i.rescale_slope, i.rescale_intercept) for i in instances}
    if len(rescales) > 1 and not any(None in pair for pair in rescales):
        yield line("rescale_varies")
    lossy = [i for i in instances if i.lossy]
    if lossy:
        yield line("lossy_compression", lossy[0].where, count=len(lossy))
    inverted = next((i for i in instances if i.photometric == "MONOCHROME1"), None)
    if inverted is not None:
        yield line(monochrome1_code(first.modality), inverted.where)


def _ct_value_lines(instances: Sequence[Instance]) -> Iterable[ReportLine]:
    lacking = [i for i in instances if i.rescale_slope is None or i.rescale_intercept is None]
    if lacking:
        yield line("rescale_missing", lacking[0].where, count=len(lacking))
    invalid = [i for i in instances if i.rescale_slope == 0]
    if invalid:
        yield line("rescale_invalid", invalid[0].where, count=len(invalid))
    for name in sorted({i.rescale_type for i in instances if i.rescale_type}):
        where = next(i.where for i in instances if i.rescale_type == name)
        if name.upper() in _HU_SPELLINGS:
            yield line("rescale_type_spelling", where, value=name)
        elif name.upper() != "HU":
            yield line("rescale_type_not_hu", where, value=name)
    small = [i for i in instances if i.bits_allocated is not None and i.bits_allocated <= 8]
    if small:
        yield line("eight_bit_ct", small[0].where, count=len(small))
