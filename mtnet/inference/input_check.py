"""Whether an image is one that the network is made for: its headers, its values and its lungs against a declaration.

Bounds on values and areas are our choices; the tests show what they tell apart. Severities are the declaration's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from mtnet.inference.lungs import NARROW, Lungs
from mtnet.structures import (
    DOMAIN_VERDICTS,
    Bounds,
    InputDomain,
    InputReport,
    Instance,
    RefusedError,
    ReportLine,
    Source,
    TrainingDistance,
    Volume,
)
from mtnet.structures.report import Severity

SAMPLES = 1_000_000
"""Voxels that the values are judged by."""
AIR_HU = (-1100.0, -500.0)
"""Air and lung; padding (-1024 is rare outside of CT, -2000 and -3024 are usual) mostly lies below."""
SOFT_HU = (-250.0, 300.0)
SMALLEST_AIR_SHARE = 0.005
SMALLEST_SOFT_SHARE = 0.02
SMALLEST_LUNG_CM2 = 10.0
"""In the slice with the most: less is no chest. A newborn's lungs have about 20 cm2."""
CUT_SHARE = 0.1
"""Of the largest axial area: with more lung than this in an outermost slice, centimetres of lung are missing."""
REACH_SHARE = 0.01
CUT_SIDE_CM2 = 5.0

PARTS = (
    "ABDOMEN", "ARM", "BRAIN", "BREAST", "CSPINE", "EXTREMITY", "FOOT", "HAND", "HEAD", "HEART", "HIP", "KNEE", "LEG",
    "LIVER", "LSPINE", "NECK", "PELVIS", "PHANTOM", "SHOULDER", "SKULL", "SPINE", "TSPINE",
)  # fmt: skip
"""What a message says of BodyPartExamined (terms of PS3.16 annex L): people type other things into it, names too."""

_POSITION = re.compile("(HF|FF|LF|RF|AF|PF)(P|S|DR|DL)")
"""Terms of Patient Position (PS3.3 C.7.3.1.1.2)."""

DOMAIN_CODES = frozenset(
    {*DOMAIN_VERDICTS, "slices_outside", "thickness_outside", "spacing_outside", "lung_volume_outside"}
)
"""Codes of what lies outside of a domain and can be answered all the same, where that is asked for."""


@dataclass(frozen=True, slots=True)
class HuEvidence:
    """What tells that values are Hounsfield units.

    Args:
        low, high: smallest and largest value.
        air_share: of the voxels that hold air or lung, if the values are HU.
        soft_share: of those that hold soft tissue.
    """

    low: float
    high: float
    air_share: float
    soft_share: float

    @property
    def looks_like_hu(self) -> bool:
        """Whether there is both air and soft tissue, as in every CT of a patient."""
        return self.air_share >= SMALLEST_AIR_SHARE and self.soft_share >= SMALLEST_SOFT_SHARE


def hu_evidence(volume: Volume) -> HuEvidence:
    """Look at the values of an evenly spaced sample of voxels."""
    step = max(1, round((volume.array.size / SAMPLES) ** (1 / 3)))
    values = volume.array[0][::step, ::step, ::step]

    def share(low: float, high: float) -> float:
        return float(np.count_nonzero((values >= low) & (values < high)) / values.size)

    return HuEvidence(float(values.min()), float(values.max()), share(*AIR_HU), share(*SOFT_HU))


def check_image(domain: InputDomain, volume: Volume, source: Source) -> tuple[ReportLine, ...]:
    """Judge headers and values, before anything is computed from them.

    Args:
        domain: what the bundle declares.
        volume: on its source grid, values as read.
        source: with ``series`` and ``stack`` where it is DICOM.

    Returns:
        A line for each thing outside, and one (``input_checked``) that says what was looked at.
    """
    first = source.stack.instances[0] if source.stack else None
    lines: list[ReportLine] = []
    facts: list[str] = []
    lines += _shape_lines(domain, volume, source, facts)
    lines += _modality_lines(domain, volume, facts)
    lines += _slice_lines(domain, volume, source, facts)
    if first is not None:
        lines += _acquisition_lines(domain, first, facts)
    if source.series is not None and domain.organ == "any":
        lines += _body_part_lines(domain, _part_tag(source), facts)
    message = f"Checked against the bundle's input domain: {', '.join(facts)}."
    return (*lines, ReportLine("input_checked", "note", message, "input domain"))


def check_lungs(domain: InputDomain, lungs: Lungs, source: Source) -> tuple[ReportLine, ...]:
    """Judge whether the image is a chest and holds all of it.

    BodyPartExamined is absent in many studies and wrong in some, so what the image shows decides; a tag that says
    something else is told.

    Args:
        domain: with the organ ``lungs``.
        lungs: as measured.
        source: with ``series`` where it is DICOM.
    """
    tag = _part_tag(source)
    named = f"BodyPartExamined (0018,0015) names {_shown(domain, tag)}" if tag else "BodyPartExamined is absent"
    if source.series is None:
        named = "The file does not say which part of the body it shows"
    if lungs.largest_area_cm2 < SMALLEST_LUNG_CM2:
        others = len(source.choices) - 1
        message = (
            f"There are no lungs in the image: {_litres(lungs)} of aerated lung, at most "
            f"{lungs.largest_area_cm2:.0f} cm2 in a slice. {named}. The network is made for chests; lungs that hold "
            "hardly any air are not seen by this check."
        )
        if others > 0:
            message += f" The study has {others} other series: one can be asked for by its UID."
        return (ReportLine("no_lungs", domain.verdict("no_lungs"), message, "image"),)
    if tag and not _names_part(domain, tag):
        message = f"{named}, but the image holds {_litres(lungs)} of lung and is taken for a chest."
        line = ReportLine("body_part_outside", domain.verdict("body_part_outside"), message, "image")
    elif tag:
        message = f"{named}; the image holds {_litres(lungs)} of lung."
        line = ReportLine("lungs_found", "note", message, "image")
    else:
        message = f"{named}; the image holds {_litres(lungs)} of lung and is taken for a chest."
        line = ReportLine("body_part_judged", "note", message, "image")
    return (line, *_coverage_lines(domain, lungs))


def dimension_line(spatial_dims: int, found: str, where: str) -> ReportLine:
    """The refusal of an input of the other dimension, which the network cannot take.

    Args:
        spatial_dims: what the network takes: 3 for volumes, 2 for images.
        found: what the input is, with its article.
        where: the file or study.
    """
    taken = "volumes (CT, MR, PET, NIfTI...)" if spatial_dims == 3 else "single images and clips"
    message = f"The input is {found}; the network takes {taken}. Choose another bundle."
    return ReportLine("dimension_outside", "refused", message, where)


def distance_lines(distances: Iterable[TrainingDistance]) -> tuple[ReportLine, ...]:
    """A line for each measure by which the image is unlike those that the network was trained for."""
    told = {"features": "what the network's encoder makes of it", "reconstruction": "how badly the network redraws it"}
    return tuple(
        ReportLine(
            "unlike_training",
            "flagged",
            f"The image is unlike those that the network was trained for, by {told[one.measure]}: {one.score:.3g}, "
            f"where {one.threshold:.3g} is the limit. Do not rely on the answers.",
            "image",
        )
        for one in distances
        if one.unlike
    )


def settle(lines: Iterable[ReportLine], *, strict: bool = False, allow_outside: bool = False) -> tuple[ReportLine, ...]:
    """The lines as they are to be reported, or a refusal.

    Args:
        lines: of ``check_image`` or ``check_lungs``.
        strict: refuse what is flagged.
        allow_outside: flag what is refused, except what the network cannot take at all.

    Raises:
        RefusedError: with the lines that are refused.
    """

    def severity(line: ReportLine) -> Severity:
        if strict and line.severity == "flagged":
            return "refused"
        if allow_outside and line.severity == "refused" and line.code in DOMAIN_CODES:
            return "flagged"
        return line.severity

    report = InputReport(tuple(replace(line, severity=severity(line)) for line in lines))
    if report.refusals:
        raise RefusedError(report.refusals)
    return report.lines


def _shape_lines(domain: InputDomain, volume: Volume, source: Source, facts: list[str]) -> list[ReportLine]:
    lines = []
    channels = volume.array.shape[0]
    facts.append({1: "grey", 3: "colour"}.get(channels, f"{channels} channels"))
    dims = 2 if volume.geometry.shape[2] == 1 else 3
    if domain.spatial_dims == 2 and dims == 3:
        message = f"The image is a volume of {volume.geometry.shape[2]} slices; the network takes single images."
        lines.append(ReportLine("dimension_outside", "refused", message, "image"))
    wanted = {"grey": 1, "colour": 3, "any": channels}[domain.colour]
    if channels != wanted:
        message = f"The image has {channels} channel(s); the network takes {domain.colour} images ({wanted})."
        lines.append(ReportLine("colour_outside", "refused", message, "image"))
    if domain.spatial_dims == 3:
        # A repair makes more slices, and no more knowledge.
        taken = source.stack.shape[2] if source.stack and source.stack.shape else None
        count = min(volume.geometry.shape) if taken is None else taken
        told = f"{count} voxels along the shortest axis" if taken is None else f"{count} slice(s)"
        facts.append(told)
        lines += _bounded("slices_outside", domain.slices, count, f"The image has {told}", "", "image")
    return lines


def _modality_lines(domain: InputDomain, volume: Volume, facts: list[str]) -> list[ReportLine]:
    wanted = " or ".join(domain.modalities)
    if volume.modality:
        facts.insert(0, f"modality {_word(volume.modality)}")
        if domain.modalities and volume.modality not in domain.modalities:
            message = f"Modality (0008,0060) is {_word(volume.modality)}; the network is made for {wanted}."
            return [ReportLine("modality_outside", domain.verdict("modality_outside"), message, "Modality")]
    if domain.values == "any":
        if volume.modality or not domain.modalities:
            return []
        message = f"The file does not say its modality, and nothing in it tells; the network is made for {wanted}."
        return [ReportLine("modality_unknown", domain.verdict("modality_unknown"), message, "image")]
    found = hu_evidence(volume)
    if not found.looks_like_hu:
        missing = "air" if found.air_share < SMALLEST_AIR_SHARE else "soft tissue"
        message = (
            f"The values run from {found.low:g} to {found.high:g} and do not look like HU: in Hounsfield units "
            f"hardly a voxel would be {missing}. Stored values without rescale, another modality, or noise?"
        )
        return [ReportLine("values_not_hu", domain.verdict("values_not_hu"), message, "image")]
    shares = f"{found.air_share:.0%} air and lung, {found.soft_share:.0%} soft tissue"
    facts.append(f"values like HU ({shares})")
    if volume.modality:
        return []
    message = f"The file does not say its modality; its values look like HU ({shares}), so it is taken for CT."
    return [ReportLine("modality_judged", "note", message, "image")]


def _slice_lines(domain: InputDomain, volume: Volume, source: Source, facts: list[str]) -> list[ReportLine]:
    if domain.spatial_dims == 2:
        return []
    longest = max(volume.geometry.spacing_mm)
    facts.append(f"voxels up to {longest:.4g} mm long")
    bounds = domain.slice_thickness_mm
    lines = _bounded("spacing_outside", bounds, longest, f"Voxels are up to {longest:.4g} mm long", " mm", "image")
    known = [i.slice_thickness_mm for i in source.stack.instances if i.slice_thickness_mm] if source.stack else []
    if known:
        thickness = max(known)
        facts.append(f"slices {thickness:.4g} mm thick")
        told = f"Slices are {thickness:.4g} mm thick"
        lines += _bounded("thickness_outside", bounds, thickness, told, " mm", "SliceThickness (0018,0050)")
    return lines


def _acquisition_lines(domain: InputDomain, first: Instance, facts: list[str]) -> list[ReportLine]:
    lines = []
    facts.append("contrast agent given" if first.contrast_agent else "no contrast agent named")
    if domain.contrast_agent != "any" and first.contrast_agent != (domain.contrast_agent == "with"):
        told = "names an agent" if first.contrast_agent else "names no agent"
        message = f"ContrastBolusAgent {told}; the network is made for images {domain.contrast_agent} contrast agent."
        verdict = domain.verdict("contrast_agent_outside")
        lines.append(ReportLine("contrast_agent_outside", verdict, message, "ContrastBolusAgent (0018,0010)"))
    position = first.patient_position if _POSITION.fullmatch(first.patient_position) else ""
    facts.append(f"patient position {position or 'not given'}")
    if position and domain.patient_positions and position not in domain.patient_positions:
        message = f"The patient lies {position}; the network is made for {', '.join(domain.patient_positions)}."
        verdict = domain.verdict("patient_position_outside")
        lines.append(ReportLine("patient_position_outside", verdict, message, "PatientPosition (0018,5100)"))
    return lines


def _body_part_lines(domain: InputDomain, tag: str, facts: list[str]) -> list[ReportLine]:
    """What the tag says, where the image is not judged by what it shows."""
    facts.append(f"body part {_shown(domain, tag) if tag else 'not given'}")
    if not tag or _names_part(domain, tag):
        return []
    message = f"BodyPartExamined names {_shown(domain, tag)}; the network is made for {', '.join(domain.body_parts)}."
    verdict = domain.verdict("body_part_outside")
    return [ReportLine("body_part_outside", verdict, message, "BodyPartExamined (0018,0015)")]


def _names_part(domain: InputDomain, tag: str) -> bool:
    """Whether the tag holds a declared word (CHESTABDPELVIS holds CHEST), or any will do."""
    return not domain.body_parts or any(word in tag for word in domain.body_parts)


def _part_tag(source: Source) -> str:
    """Letters of BodyPartExamined; empty where it is absent."""
    return re.sub("[^A-Z]", "", source.series.body_part.upper()) if source.series else ""


def _shown(domain: InputDomain, tag: str) -> str:
    """A known word of the tag."""
    return next((word for word in (*domain.body_parts, *PARTS) if word in tag), "something else")


def _coverage_lines(domain: InputDomain, lungs: Lungs) -> list[ReportLine]:
    ends = (("at the head end", lungs.share_at_head), ("at the foot end", lungs.share_at_feet))
    cut = [place for place, share in ends if share > CUT_SHARE]
    if lungs.area_at_sides_cm2 > CUT_SIDE_CM2:
        cut.append("at the sides")
    lines = []
    # The bases alone may well be narrow: a high diaphragm leaves one of them.
    if lungs.width_over_depth < NARROW and max(lungs.share_at_head, lungs.share_at_feet) <= CUT_SHARE:
        message = "Only one lung is seen: the other holds no air, was removed, or is not in the image."
        lines.append(ReportLine("one_lung", domain.verdict("one_lung"), message, "image"))
    if cut:
        message = f"The image does not hold all of the lungs: they are cut off {' and '.join(cut)}."
        return [*lines, ReportLine("lungs_cut_off", domain.verdict("lungs_cut_off"), message, "image")]
    lines += [
        ReportLine("lungs_reach_end", "note", f"A tip of the lungs may be missing {place}.", "image")
        for place, share in ends
        if share > REACH_SHARE
    ]
    told = f"The image holds {_litres(lungs)} of aerated lung"
    lines += _bounded("lung_volume_outside", domain.lung_volume_ml, lungs.volume_ml, told, " ml", "image")
    return lines


def _bounded(code: str, bounds: Bounds, value: float, told: str, unit: str, where: str) -> list[ReportLine]:
    """A line where a value is beyond its bounds, with the bound that it is beyond."""
    severity = bounds.judge(value)
    if severity == "note":
        return []
    low, high = (
        (bounds.refuse_below, bounds.refuse_above) if severity == "refused" else (bounds.flag_below, bounds.flag_above)
    )
    limit = f"at least {low:g}" if low is not None and value < low else f"at most {high:g}"
    return [ReportLine(code, severity, f"{told}; the network is made for {limit}{unit}.", where)]


def _litres(lungs: Lungs) -> str:
    return f"{lungs.volume_ml / 1000:.1f} l" if lungs.volume_ml >= 100 else f"{lungs.volume_ml:.0f} ml"


def _word(text: str) -> str:
    """A DICOM code string as it may be shown: upper case, and what is none of its characters left out."""
    return re.sub(r"[^A-Z0-9_ ]", "", text.upper()).strip()[:16]
