"""The table of lesions in a page: a button a row that jumps to the lesion, and what is told of it, with units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from html import escape

from mtnet.results.codes import without_unit
from mtnet.results.overlay import colour_of
from mtnet.structures import Findings, Lesion, Measured

MOST_ROWS = 200
_UNITS = {
    "_mm": "mm", "_mm2": "mm²", "_mm3": "mm³", "_cm": "cm", "_ml": "ml", "_hu": "HU", "_percent": "%", "_deg": "°",
    "_s": "s", "_px": "pixels",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Column:
    """A heading and what stands under it for a lesion, as HTML; empty cells are dashes, and empty columns left out."""

    heading: str
    cell: Callable[[Lesion], str]
    kind: str = ""


def lesion_table(findings: Findings, places: Mapping[int, str]) -> str:
    """The table as HTML, or the sentence that there is none.

    Args:
        findings: of whose lesions the first 200 get a row.
        places: for each lesion, by its number, the words for where it lies.
    """
    lesions = findings.lesions[:MOST_ROWS]
    if not lesions:
        return '<p class="none">No lesion found.</p>'
    columns = [column for column in _columns(findings, places) if any(column.cell(lesion) for lesion in lesions)]
    head = "".join(f'<th scope="col"{_class(c.kind)}>{escape(c.heading)}</th>' for c in columns)
    rows = "".join(
        f"<tr><th scope='row'>{_button(lesion)}</th>"
        + "".join(f"<td{_class(c.kind)}>{c.cell(lesion) or '–'}</td>" for c in columns)
        + "</tr>"
        for lesion in lesions
    )
    return (
        f'<div class="scroll"><table><caption>{_caption(findings)}</caption>'
        f'<thead><tr><th scope="col">Show</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{_left_out(findings)}"
    )


def measure_name(key: str) -> tuple[str, str]:
    """What a key of a measurement is called, and its unit: ``mean_diameter_mm`` is ``Mean diameter`` in ``mm``."""
    name = without_unit(key)
    return name.replace("_", " ").capitalize(), _UNITS.get(key[len(name) :], "")


def measured_words(one: Measured, unit: str = "") -> str:
    """A measured value with the error that the network expects, for people."""
    sd = "" if one.sd is None else f" ± {one.sd:.1f}"
    return f"{one.value:.1f}{sd} {unit or one.units}".strip()


def swatch(colour: tuple[int, int, int], text: str = "") -> str:
    """A little field of a colour with a number in it."""
    red, green, blue = colour
    return (
        '<svg class="swatch" viewBox="0 0 26 20" aria-hidden="true" focusable="false">'
        f'<rect width="26" height="20" rx="4" fill="rgb({red},{green},{blue})"/>'
        f'<text x="13" y="15">{escape(text)}</text></svg>'
    )


def _columns(findings: Findings, places: Mapping[int, str]) -> list[_Column]:
    flat = findings.plane is not None
    lesions = findings.lesions
    channels = dict.fromkeys(channel for lesion in lesions for channel in lesion.class_probabilities)
    measured = dict.fromkeys(key for lesion in lesions for key in lesion.measured)
    measures = dict.fromkeys(key for lesion in lesions for key in lesion.measures if key not in _IN_SIZE)
    return [
        _Column("Class", lambda lesion: escape(lesion.label.replace("_", " "))),
        _Column("Score", lambda lesion: "given" if lesion.place_given else f"{lesion.score:.2f}", "number"),
        _Column("Size", _size, "whole"),
        *(_Column(_titled(c), partial(_likeliest, channel=c)) for c in channels),
        *(_Column(measure_name(k)[0], partial(_measured, key=k), "number") for k in measured),
        *(_Column(measure_name(k)[0], partial(_measure, key=k), "number") for k in measures),
        _Column("Where", lambda lesion: _where(lesion, places, flat), "whole"),
    ]


_IN_SIZE = ("area_mm2", "area_px", "longest_diameter_px", "short_diameter_px")


def _button(lesion: Lesion) -> str:
    return (
        f'<button type="button" class="jump" data-lesion="{lesion.number}" disabled>'
        f"{swatch(colour_of(lesion.number), str(lesion.number))}"
        f'<span>Show<span class="away"> lesion {lesion.number}</span></span></button>'
    )


def _size(lesion: Lesion) -> str:
    """Longest and short diameter, and below them the volume or area."""
    if lesion.mask_drawn:
        return ""
    sides, unit, places = [lesion.longest_axial_diameter_mm, lesion.short_axial_diameter_mm], "mm", 1
    if sides[0] is None:
        sides = [lesion.measures.get("longest_diameter_px"), lesion.measures.get("short_diameter_px")]
        unit, places = "pixels", 0
    told = " × ".join(f"{side:.{places}f}" for side in sides if side is not None)
    whole = ""
    if lesion.volume_mm3 is not None:
        whole = f"{lesion.volume_mm3:,.0f} mm³".replace(",", " ")
    elif "area_mm2" in lesion.measures:
        whole = f"{lesion.measures['area_mm2']:.0f} mm²"
    elif "area_px" in lesion.measures:
        whole = f"{lesion.measures['area_px']:.0f} pixels in all"
    return (f"{told} {unit}" if told else "") + (f"<small>{whole}</small>" if whole else "")


def _where(lesion: Lesion, places: Mapping[int, str], flat: bool) -> str:
    """The slice or frame, and in a volume below it the centre in LPS mm."""
    place = places.get(lesion.number, "")
    if flat:
        return escape(place)
    place = place.partition(" of ")[0]
    centre = ", ".join(str(round(v)) for v in lesion.centre_lps_mm).replace("-", "−")
    return f"{escape(place)}<small>{centre} mm</small>"


def _likeliest(lesion: Lesion, channel: str) -> str:
    classes = lesion.class_probabilities.get(channel)
    if not classes:
        return ""
    name = max(classes, key=lambda one: classes[one])
    return f"{escape(name.replace('_', ' '))} {classes[name]:.2f}"


def _measured(lesion: Lesion, key: str) -> str:
    return escape(measured_words(lesion.measured[key])) if key in lesion.measured else ""


def _measure(lesion: Lesion, key: str) -> str:
    return f"{lesion.measures[key]:.4g} {measure_name(key)[1]}".strip() if key in lesion.measures else ""


def _titled(channel: str) -> str:
    return channel.replace("_", " ").capitalize()


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _caption(findings: Findings) -> str:
    given = any(lesion.place_given for lesion in findings.lesions)
    told = "By the order of the places that were asked about." if given else "By falling score."
    if findings.plane is None:
        told += " Centres in LPS (left, back, up)."
    if any(lesion.mask_drawn for lesion in findings.lesions):
        told += " Masks are balls of the measured diameter, drawn: no outline was seen."
    return told


def _left_out(findings: Findings) -> str:
    more = len(findings.lesions) - MOST_ROWS
    return f'<p class="quiet">{more} more lesions are in findings.json.</p>' if more > 0 else ""
