"""Splitting the files of one series into stacks that are one grid each."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mtnet.io.files import Opener
from mtnet.io.findings import stack_lines
from mtnet.io.headers import Header
from mtnet.io.kinds import kind_of
from mtnet.io.positions import GAP_TOLERANCE_MM, SlicePositions, measure_positions
from mtnet.io.verdicts import line
from mtnet.structures.report import InputReport, ReportLine
from mtnet.structures.study import SERIES_KINDS, Instance, SeriesKind, Stack

_COSINE_TOLERANCE = 1e-4
_SPACING_TOLERANCE_SHARE = 1e-4
_MOST_TAGS = 3
"""Tags that are tried together to tell stacks apart: time, echo and component make a series of MR at most."""


@dataclass(frozen=True, slots=True)
class Split:
    """The stacks of one series, the largest volume first, and what splitting noticed about the series."""

    stacks: tuple[Stack, ...]
    lines: tuple[ReportLine, ...]


def split_stacks(headers: Sequence[Header], opener: Opener) -> Split:
    """Group the files of one series into stacks.

    Files stay together that share kind, matrix, pixel spacing, frame of reference and orientation (cosine of rows and
    of columns at least 1 - 1e-4). A frame of an enhanced object counts as a file, and only frames of one object or
    concatenation stay together, by StackID (0020,9056) where that parts them; any other multi-frame object is a stack
    of its own. Where positions repeat inside a group, byte-equal copies are dropped; if one tag (acquisition, kernel,
    phase...), or up to three together, then part the rest into stacks without repetition, it is split by them.
    ``opener`` is used only to compare the bytes of files that collide.
    """
    stacks: list[Stack] = []
    reasons: dict[str, None] = {}
    for group in _groups(headers, reasons):
        kept, lines = _without_copies(group, opener)
        for part in _parts(kept, reasons):
            stacks.append(_stack(part, lines))
    stacks.sort(key=_rank)
    return Split(tuple(stacks), tuple(_series_lines(stacks, reasons)))


def _groups(headers: Sequence[Header], reasons: dict[str, None]) -> list[list[Header]]:
    """Groups of one grid each, in order of appearance; ``reasons`` collects what told them apart."""
    by_traits: dict[Hashable, list[list[Header]]] = defaultdict(list)
    groups: list[list[Header]] = []
    for header in headers:
        rivals = by_traits[tuple(_traits(header).values())]
        for group in rivals:
            if _difference_in_space(group[0].instance, header.instance) is None:
                group.append(header)
                break
        else:
            rivals.append([header])
            groups.append(rivals[-1])
    for group in groups[1:]:
        difference = _difference(groups[0][0], group[0])
        if difference is not None:
            reasons[difference] = None
    return groups


def _traits(header: Header) -> dict[str, Hashable]:
    """What the images of one stack have exactly in common."""
    i = header.instance
    return {
        "kind": kind_of(i),
        "matrix size": (i.rows, i.columns, i.samples_per_pixel),
        "frame of reference": i.frame_of_reference_uid,
        "position tag": i.position_lps_mm is None,
        "multi-frame object": header.object_key,
    }


def _difference(one: Header, two: Header) -> str | None:
    """What keeps two headers out of one stack, or ``None``."""
    here, there = _traits(one), _traits(two)
    for name, value in here.items():
        if value != there[name]:
            return name
    return _difference_in_space(one.instance, two.instance)


def _difference_in_space(one: Instance, two: Instance) -> str | None:
    if one.images > 1 or two.images > 1:
        return "multi-frame object"
    if not _same_orientation(one.orientation_lps, two.orientation_lps):
        return "orientation"
    return None if _same_spacing(one.pixel_spacing_mm, two.pixel_spacing_mm) else "pixel spacing"


def _same_orientation(one: Sequence[float] | None, two: Sequence[float] | None) -> bool:
    if one is None or two is None:
        return one is two
    row = sum(a * b for a, b in zip(one[:3], two[:3], strict=True))
    column = sum(a * b for a, b in zip(one[3:], two[3:], strict=True))
    # Stored cosines are rounded: two equal ones may have a product a little off 1.
    return min(row, column) >= 1 - _COSINE_TOLERANCE


def _same_spacing(one: Sequence[float] | None, two: Sequence[float] | None) -> bool:
    if one is None or two is None:
        return one is two
    return all(abs(a - b) <= _SPACING_TOLERANCE_SHARE * a for a, b in zip(one, two, strict=True))


def _without_copies(group: Sequence[Header], opener: Opener) -> tuple[list[Header], list[ReportLine]]:
    """The group without files that repeat another: byte-equal files, or equal pixels at one position."""
    kept: list[Header] = []
    copies: list[Header] = []
    by_object: dict[Hashable, list[Header]] = defaultdict(list)
    by_place: dict[Hashable, list[Header]] = defaultdict(list)
    digests: dict[Hashable, str] = {}

    def digest(header: Header, part: _Part | None) -> str:
        if part is None:
            return f"unknown-{id(header)}"
        key = (header.instance.path, header.instance.member, part)
        if key not in digests:
            digests[key] = _digest(header, opener, part)
        return digests[key]

    repeated_uids = 0
    for header in group:
        same_object = by_object[header.instance.sop_instance_uid, header.instance.frame]
        same_place = by_place[_place(header.instance)] if header.instance.position_lps_mm else []
        is_copy = any(
            other.instance.file_bytes == header.instance.file_bytes and digest(other, _ALL) == digest(header, _ALL)
            for other in same_object
        ) or any(
            _pixel_traits(other) == _pixel_traits(header)
            and digest(other, _pixel_part(other)) == digest(header, _pixel_part(header))
            for other in same_place
        )
        repeated_uids += bool(same_object) and not is_copy
        if is_copy:
            copies.append(header)
            continue
        same_object.append(header)
        same_place.append(header)
        kept.append(header)
    lines = []
    if copies:
        lines.append(line("identical_duplicates", copies[0].instance.where, count=len(copies)))
    if repeated_uids:
        lines.append(line("repeated_object_uid", group[0].instance.where, count=repeated_uids + 1))
    return kept, lines


_Part = tuple[int, int | None]
"""First byte and number of bytes of a part of a file; ``None`` for all that follow."""
_ALL: _Part = (0, None)


def _place(instance: Instance) -> Hashable:
    """A position to 1e-4 mm: copies of one slice carry the same text."""
    return tuple(round(value, 4) for value in instance.position_lps_mm or ())


def _pixel_traits(header: Header) -> Hashable:
    """All that must be equal, beside the encoded bytes, for two files or frames to hold the same values."""
    i = header.instance
    part = _pixel_part(header)
    if part is None:
        return id(header)
    return (
        (i.transfer_syntax_uid, i.bits_allocated, i.bits_stored, i.pixel_representation, i.photometric),
        (i.rescale_slope, i.rescale_intercept, i.rescale_type, i.padding_value, i.padding_limit),
        i.file_bytes - part[0] if part[1] is None else part[1],
    )


def _pixel_part(header: Header) -> _Part | None:
    """Where the encoded pixels of a file or frame lie; ``None`` where that is not known without decoding."""
    i = header.instance
    if i.frame is None or i.number_of_frames == 1:
        return None if header.pixel_offset is None else (header.pixel_offset, None)
    if i.native_offset is None:
        return None
    size = (i.rows or 0) * (i.columns or 0) * (i.bits_allocated or 0) // 8
    return i.native_offset + (i.frame - 1) * size, size


def _digest(header: Header, opener: Opener, part: _Part) -> str:
    """SHA-256 of a part of a file; a value of its own where the file can no longer be read."""
    hasher = hashlib.sha256()
    first, size = part
    try:
        with opener.open(header.instance.path, header.instance.member) as stream:
            stream.seek(first)
            if size is not None:
                hasher.update(stream.read(size))
            else:
                while chunk := stream.read(1 << 20):
                    hasher.update(chunk)
    except Exception:
        # A damaged archive entry raises errors of many kinds; what cannot be read equals nothing.
        return f"unreadable-{id(header)}"
    return hasher.hexdigest()


def _parts(group: list[Header], reasons: dict[str, None]) -> Iterable[list[Header]]:
    """The group itself, or its parts by tags that tell them apart."""
    for part in _by_stack_id(group, reasons):
        yield from _by_variants(part, reasons)


def _by_stack_id(group: list[Header], reasons: dict[str, None]) -> list[list[Header]]:
    """Parts by StackID; the group itself where some frame would stand alone: an identifier for each is no stack."""
    parts = _sorted_by(group, ["StackID"])
    if len(parts) < 2 or min(map(len, parts)) < 2:
        return [group]
    reasons["StackID"] = None
    return parts


def _by_variants(group: list[Header], reasons: dict[str, None]) -> list[list[Header]]:
    """Parts by the fewest tags that leave at least two slices and no repeated position in each; else the group."""
    places = _places(group)
    if len(group) < 4 or places is None or places == len(group):
        return [group]
    names = dict.fromkeys(name for header in group for name in header.variants)
    varying = [name for name in names if len({header.variants.get(name, "") for header in group}) > 1]
    for count in range(1, _MOST_TAGS + 1):
        for chosen in combinations(varying, count):
            parts = _sorted_by(group, chosen)
            sizes = {len(part) for part in parts}
            # Several tags together may tell slices apart by chance; stacks that truly differ are equally long.
            if min(sizes) < 2 or max(sizes) > places or (count > 1 and len(sizes) > 1):
                continue
            if all(_places(part) == len(part) for part in parts):
                reasons.update(dict.fromkeys(chosen))
                return parts
    return [group]


def _sorted_by(group: Sequence[Header], names: Sequence[str]) -> list[list[Header]]:
    parts: dict[Hashable, list[Header]] = defaultdict(list)
    for header in group:
        parts[tuple(header.variants.get(name, "") for name in names)].append(header)
    return list(parts.values())


def _places(group: Sequence[Header]) -> int | None:
    """How many different positions the slices have along their normal; ``None`` where tags do not tell."""
    instances = [header.instance for header in group]
    if any(i.position_lps_mm is None or i.orientation_lps is None for i in instances):
        return None
    return 1 + int(np.count_nonzero(measure_positions(instances).gaps_mm > GAP_TOLERANCE_MM))


def _stack(group: Sequence[Header], lines: Iterable[ReportLine]) -> Stack:
    """One stack: sorted, measured, with its findings."""
    instances = [header.instance for header in group]
    kind = kind_of(instances[0])
    placed = all(
        None not in (i.position_lps_mm, i.orientation_lps, i.pixel_spacing_mm, i.rows, i.columns) for i in instances
    )
    positions = measure_positions(instances) if placed and instances[0].images == 1 else None
    if positions is not None:
        group = [group[index] for index in positions.order]
    else:
        group = sorted(group, key=lambda h: (h.instance.instance_number is None, h.instance.instance_number or 0))
    instances = [header.instance for header in group]
    found = [*lines, *stack_lines(group, kind, positions)]
    return Stack(
        instances=tuple(instances),
        kind=kind,
        shape=_shape(instances, kind, positions),
        spacing_mm=_spacing(instances[0], positions),
        report=InputReport(tuple(found)),
    )


def _shape(
    instances: Sequence[Instance], kind: SeriesKind, positions: SlicePositions | None
) -> tuple[int, int, int] | None:
    first = instances[0]
    if first.columns is None or first.rows is None or kind == "not_an_image":
        return None
    slices = len(instances) * first.images
    if positions is not None and positions.spacing == "repeated":
        slices = 1 + int(np.count_nonzero(positions.gaps_mm > GAP_TOLERANCE_MM))
    return first.columns, first.rows, slices


def _spacing(first: Instance, positions: SlicePositions | None) -> tuple[float | None, float | None, float | None]:
    across, down = (first.pixel_spacing_mm[1], first.pixel_spacing_mm[0]) if first.pixel_spacing_mm else (None, None)
    if positions is None:
        return across, down, None
    return across, down, positions.step_mm or first.slice_thickness_mm


def _rank(stack: Stack) -> tuple[int, int, str]:
    """Volumes first, then by number of images; the file name settles the rest."""
    return SERIES_KINDS.index(stack.kind), -(stack.shape or (0, 0, 0))[2], stack.instances[0].where


def _series_lines(stacks: Sequence[Stack], reasons: dict[str, None]) -> Iterable[ReportLine]:
    if len(stacks) < 2:
        return
    yield line("stacks_split", count=len(stacks), what=", ".join(reasons))
    localizers = [stack for stack in stacks if stack.kind == "localizer"]
    if localizers and len(localizers) < len(stacks):
        count = sum(len(stack.instances) for stack in localizers)
        yield line("localizer_in_series", localizers[0].instances[0].where, count=count)
