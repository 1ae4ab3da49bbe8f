"""One stack of a DICOM series, assembled into a volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtnet.io.files import Opener
from mtnet.io.limits import Limits
from mtnet.io.native import read_native
from mtnet.io.pixels import read_stored
from mtnet.io.positions import SlicePositions, measure_positions
from mtnet.io.repair import needs_repair, repaired_grid, resample
from mtnet.io.values import AIR_HU, padding_mask, swapped_back, to_values
from mtnet.io.verdicts import judge, line, mode_of
from mtnet.structures.geometry import Geometry
from mtnet.structures.report import RefusedError
from mtnet.structures.study import Instance, Series, Stack
from mtnet.structures.volume import Volume

_DEFAULT_LIMITS = Limits()
_PADDING = "PixelPaddingValue (0028,0120)"


def load(
    stack: Stack, series: Series, *, strict: bool = False, repair: bool = False, limits: Limits = _DEFAULT_LIMITS
) -> Volume:
    """Read the pixels of a stack and put them on their grid.

    Slices run along the normal (row x column) of their plane, whatever their files and numbers say, so that the index
    axes (i = column, j = row, k = slice) are right-handed in LPS. The step along k comes from the first and the last
    position. Where the verdicts of the mode allow it, an uneven or sheared stack is resampled onto an even grid at true
    positions (``mtnet.io.repair``); the report says so.

    Args:
        stack: as ``scan`` found it; files are read now.
        series: the series that it belongs to.
        strict: refuse what would be repaired.
        repair: mend what is refused by default and can be mended.
        limits: ``decoded_bytes`` is checked before memory is taken.

    Returns:
        array ``(1, i, j, k)``: on CT in HU, padding as ``AIR_HU``. int16 where every rescaled value is a whole number
        that fits, else float32; a resampled stack is float32. In memory k runs slowest, as NIfTI has it.

    Raises:
        RefusedError: whatever cannot be read right; its lines say why.
        ValueError: ``strict`` and ``repair`` are both set.
    """
    mode = mode_of(strict=strict, repair=repair)
    report = judge((*series.report, *stack.report), mode)
    if report.refusals:
        raise RefusedError(report.refusals)
    if stack.kind != "volume":
        raise RefusedError([line("not_a_volume", series.series_instance_uid, kind=stack.kind.replace("_", " "))])
    _check_placed(stack)
    positions = measure_positions(stack.instances)
    instances = [stack.instances[index] for index in positions.order]
    pixel_mm, plane = _pixels_of(instances[0])
    mending = needs_repair(positions, pixel_mm)
    grid = repaired_grid(positions, plane, pixel_mm) if mending else _grid(instances, positions, plane, pixel_mm)
    _check_size((*plane, len(instances)), 2, limits)
    if mending:
        _check_size(grid.shape, 4, limits)
    air = instances[0].modality == "CT"
    swap = "monochrome1_values" in report.codes
    slices, padding = _read_slices(instances, plane, limits, air=air, swap=swap)
    if padding:
        report = report.plus([line("padding_values", _PADDING, count=padding, air=AIR_HU)])
    if mending:
        slices = resample(slices, positions, pixel_mm, grid, AIR_HU if air else float(np.min(slices)))
    return Volume(slices.transpose(2, 1, 0)[None], grid, instances[0].modality, report)


def _check_placed(stack: Stack) -> None:
    for item in stack.instances:
        if item.position_lps_mm is None or item.orientation_lps is None:
            raise RefusedError([line("missing_geometry", item.where, tag="ImagePositionPatient (0020,0032)", count=1)])


def _pixels_of(first: Instance) -> tuple[tuple[float, float], tuple[int, int]]:
    """Pixel size in mm and number of pixels, along i and j."""
    if first.pixel_spacing_mm is None:
        raise RefusedError([line("missing_geometry", first.where, tag="PixelSpacing (0028,0030)", count=1)])
    if not (first.rows and first.columns):
        raise RefusedError([line("missing_geometry", first.where, tag="Rows (0028,0010)", count=1)])
    between_rows, between_columns = first.pixel_spacing_mm
    return (between_columns, between_rows), (first.columns, first.rows)


def _grid(
    instances: Sequence[Instance],
    positions: SlicePositions,
    plane: tuple[int, int],
    pixel_mm: tuple[float, float],
) -> Geometry:
    """The grid of an even stack, from its tags (PS3.3 C.7.6.2.1.1)."""
    count = len(instances)
    if count > 1:
        step = (positions.positions_lps_mm[-1] - positions.positions_lps_mm[0]) / (count - 1)
    else:
        if instances[0].slice_thickness_mm is None:
            raise RefusedError([line("no_slice_spacing", instances[0].where)])
        step = positions.normal_lps * instances[0].slice_thickness_mm
    affine = np.eye(4)
    affine[:3, 0] = positions.row_lps * pixel_mm[0]
    affine[:3, 1] = positions.column_lps * pixel_mm[1]
    affine[:3, 2] = step
    affine[:3, 3] = positions.positions_lps_mm[0]
    return Geometry((*plane, count), affine)


def _read_slices(
    instances: Sequence[Instance], plane: tuple[int, int], limits: Limits, *, air: bool, swap: bool
) -> tuple[NDArray[np.generic], int]:
    """Values ``(k, j, i)`` of all slices, in one array that is widened once where int16 proves too narrow.

    Padding becomes air here, before anything is resampled; the second result is how many pixels did.
    """
    shape = (len(instances), plane[1], plane[0])
    slices: NDArray[np.generic] = np.empty(shape, dtype=np.int16)
    padding = 0
    with Opener() as opener:
        for index, instance in enumerate(instances):
            stored = read_native(instance, opener)
            if stored is None:
                stored = read_stored(instance, opener, limits)
            padded = padding_mask(stored, instance) if air else None
            padding += 0 if padded is None else int(np.count_nonzero(padded))
            values = to_values(stored, instance, padded)
            if swap:
                values = swapped_back(values, instance)
            if values.dtype != slices.dtype and slices.dtype == np.int16:
                _check_size(shape, 4, limits)
                slices = slices.astype(np.float32)
            slices[index] = values
    return slices, padding


def _check_size(shape: tuple[int, int, int], item_bytes: int, limits: Limits) -> None:
    size = int(np.prod([int(n) for n in shape], dtype=object)) * item_bytes
    if size > limits.decoded_bytes:
        what = f"The volume of {' x '.join(map(str, shape))} voxels ({size} bytes)"
        raise RefusedError([line("limit_exceeded", what=what, limit=limits.decoded_bytes)])
