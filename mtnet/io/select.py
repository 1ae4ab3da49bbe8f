"""Choosing the series to read, by a rule that is data, with the reason for every series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from mtnet.io.kernels import KERNEL_ORDER, kernel_class
from mtnet.io.verdicts import Mode, judge, line
from mtnet.structures.findings import SeriesChoice
from mtnet.structures.report import RefusedError, ReportLine
from mtnet.structures.study import Series, SeriesKind, Stack, Study


@dataclass(frozen=True, slots=True)
class SeriesRule:
    """Which series suits (hard filters), and which of those that suit is best (the first criterion that differs).

    The order of criteria is fixed: thickness class, kernel class (soft, unknown, lung, bone), number of slices, UID.

    Args:
        modalities: allowed values of Modality (0008,0060).
        kind: kind of the stack.
        excluded_image_types: words of ImageType (0008,0008) that rule a stack out.
        largest_angle_deg: between the slice normal and the head-foot axis; gantry tilt stays below 30 degrees.
        minimum_slices: slices that a stack needs.
        thickness_classes_mm: upper bounds of the thickness classes; a smaller class is better.
    """

    modalities: tuple[str, ...] = ("CT",)
    kind: SeriesKind = "volume"
    excluded_image_types: tuple[str, ...] = ("LOCALIZER", "SCREEN SAVE", "DOSE_INFO", "MIP", "MINIP")
    largest_angle_deg: float = 31.0
    minimum_slices: int = 8
    thickness_classes_mm: tuple[float, ...] = (1.5, 3.0)


CHEST_CT_RULE = SeriesRule()


@dataclass(frozen=True, slots=True)
class Selection:
    """The series and stack to read, and for every series of the input why it was taken or passed over."""

    series: Series
    stack: Stack
    choices: tuple[SeriesChoice, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    series: Series
    stack: Stack


@dataclass(frozen=True, slots=True)
class _Criterion:
    """One place in the order: what is compared (smaller is better), and how it is said."""

    name: str
    key: Callable[[_Candidate, SeriesRule], float | str]
    say: Callable[[_Candidate, SeriesRule], str]


def select(
    study: Study | Sequence[Study],
    rule: SeriesRule = CHEST_CT_RULE,
    series_uid: str | None = None,
    mode: Mode = "default",
) -> Selection:
    """Choose one series, and in it the largest stack that suits.

    Args:
        study: one study, or all that a scan found.
        rule: what suits, and what is better.
        series_uid: take this series whatever the rule says; reading may still refuse it.
        mode: a series with a finding that is refused in this mode doesn't suit.

    Raises:
        RefusedError: no series suits; its lines say why for each (``series_passed_over``). Or ``series_uid`` isn't
            there (``series_not_found``, with the UIDs that are).
    """
    studies = (study,) if isinstance(study, Study) else tuple(study)
    everything = [series for one in studies for series in one.series]
    if series_uid is not None:
        return _named(everything, series_uid)
    candidates: list[_Candidate] = []
    refused: dict[int, str] = {}
    for series in everything:
        found = _suiting_stack(series, rule, mode)
        if isinstance(found, Stack):
            candidates.append(_Candidate(series, found))
        else:
            refused[id(series)] = found
    if not candidates:
        raise RefusedError([line("no_series_suits", count=len(everything)), *_passed_over(everything, refused)])
    ranked = sorted(candidates, key=lambda c: tuple(criterion.key(c, rule) for criterion in _CRITERIA))
    best = ranked[0]
    choices = []
    for series in everything:
        if series is best.series:
            reason = _why_taken(best, ranked[1:], rule)
        elif id(series) in refused:
            reason = f"passed over: {refused[id(series)]}"
        else:
            loser = next(c for c in candidates if c.series is series)
            criterion = _deciding(best, loser, rule)
            reason = (
                f"passed over: {criterion.name} {criterion.say(loser, rule)}, "
                f"where the series taken has {criterion.say(best, rule)}"
            )
        choices.append(SeriesChoice(series.series_instance_uid, series is best.series, reason))
    return Selection(best.series, best.stack, tuple(choices))


def _named(everything: Sequence[Series], series_uid: str) -> Selection:
    matching = [series for series in everything if series.series_instance_uid == series_uid]
    if not matching:
        known = ", ".join(series.series_instance_uid for series in everything) or "none"
        raise RefusedError([line("series_not_found", uid=series_uid, known=known)])
    taken = matching[0]
    choices = (
        SeriesChoice(
            series.series_instance_uid,
            series is taken,
            "taken: asked for by its UID" if series is taken else "passed over: another series was asked for by UID",
        )
        for series in everything
    )
    return Selection(taken, taken.stacks[0], tuple(choices))


def _passed_over(everything: Sequence[Series], refused: dict[int, str]) -> list[ReportLine]:
    return [line("series_passed_over", s.series_instance_uid, reason=refused[id(s)]) for s in everything]


def _suiting_stack(series: Series, rule: SeriesRule, mode: Mode) -> Stack | str:
    """The first stack that passes every hard filter, or why the largest one doesn't."""
    reasons = []
    for stack in series.stacks:
        reason = _unsuited(series, stack, rule, mode)
        if reason is None:
            return stack
        reasons.append(reason)
    return reasons[0]


def _unsuited(series: Series, stack: Stack, rule: SeriesRule, mode: Mode) -> str | None:
    """Why a stack fails the hard filters, or ``None``."""
    if stack.kind != rule.kind:
        return f"it is {_KIND_NAMES[stack.kind]}, not {_KIND_NAMES[rule.kind]}"
    if series.modality not in rule.modalities:
        return f"modality is {series.modality or 'not given'}, expected {' or '.join(rule.modalities)}"
    words = [word for word in stack.instances[0].image_type if word in rule.excluded_image_types]
    if words:
        return f"ImageType says {words[0]}"
    refusals = judge((*stack.report, *series.report), mode).refusals
    if refusals:
        return f"it cannot be read: {refusals[0].message} ({refusals[0].code})"
    angle = _angle_deg(stack)
    if angle is None or angle > rule.largest_angle_deg:
        return "its slices have no orientation" if angle is None else f"its slices lie {angle:.0f} degrees off axial"
    slices = _slices(stack)
    return None if slices >= rule.minimum_slices else f"it has {slices} slice(s), fewer than {rule.minimum_slices}"


_KIND_NAMES = {
    "volume": "a volume",
    "image": "a single image",
    "cine": "a cine loop",
    "localizer": "a localizer",
    "secondary_capture": "a secondary capture",
    "label_map": "a label map",
    "parametric_map": "a parametric map",
    "not_an_image": "not an image",
}


def _angle_deg(stack: Stack) -> float | None:
    """Angle between slice normal and head-foot axis, 0 to 90 degrees."""
    orientation = stack.instances[0].orientation_lps
    if orientation is None:
        return None
    normal = np.cross(orientation[:3], orientation[3:])
    return float(np.degrees(np.arccos(min(1.0, abs(normal[2]) / float(np.linalg.norm(normal))))))


def _slices(stack: Stack) -> int:
    return stack.shape[2] if stack.shape else 0


def _thickness_mm(candidate: _Candidate) -> float:
    """Median SliceThickness, the step between slices where it is absent."""
    known = [i.slice_thickness_mm for i in candidate.stack.instances if i.slice_thickness_mm is not None]
    return median(known) if known else candidate.stack.spacing_mm[2] or float("inf")


def _thickness_class(candidate: _Candidate, rule: SeriesRule) -> float:
    thickness = _thickness_mm(candidate)
    return float(sum(thickness > bound for bound in rule.thickness_classes_mm))


def _say_thickness(candidate: _Candidate, rule: SeriesRule) -> str:
    bounds = rule.thickness_classes_mm
    place = int(_thickness_class(candidate, rule))
    named = f"up to {bounds[place]:g} mm" if place < len(bounds) else f"over {bounds[-1]:g} mm"
    return f"{_thickness_mm(candidate):.4g} mm (class {named})"


def _kernel_rank(candidate: _Candidate, _: SeriesRule) -> float:
    return float(KERNEL_ORDER.index(kernel_class(candidate.series.kernel, candidate.series.manufacturer)))


def _say_kernel(candidate: _Candidate, _: SeriesRule) -> str:
    series = candidate.series
    return f"{series.kernel or 'not given'} ({kernel_class(series.kernel, series.manufacturer)})"


_CRITERIA = (
    _Criterion("slice thickness", _thickness_class, _say_thickness),
    _Criterion("kernel", _kernel_rank, _say_kernel),
    _Criterion("number of slices", lambda c, _: -_slices(c.stack), lambda c, _: str(_slices(c.stack))),
    _Criterion(
        "equal in all else, UID",
        lambda c, _: c.series.series_instance_uid,
        lambda c, _: c.series.series_instance_uid,
    ),
)


def _deciding(best: _Candidate, other: _Candidate, rule: SeriesRule) -> _Criterion:
    """The first criterion in which two candidates differ; the last one (UID) where none does."""
    return next((c for c in _CRITERIA if c.key(best, rule) != c.key(other, rule)), _CRITERIA[-1])


def _why_taken(best: _Candidate, others: Sequence[_Candidate], rule: SeriesRule) -> str:
    if not others:
        return f"taken: the only series that suits ({_slices(best.stack)} slices)"
    criterion = _deciding(best, others[0], rule)
    return (
        f"taken: {criterion.name} {criterion.say(best, rule)} comes before {criterion.say(others[0], rule)} "
        f"of the next best series{_equal_before(criterion, best, rule)}"
    )


def _equal_before(criterion: _Criterion, best: _Candidate, rule: SeriesRule) -> str:
    before = _CRITERIA[: _CRITERIA.index(criterion)]
    return "".join(f"; {c.name} {c.say(best, rule)} is of one class in both" for c in before[:1])
