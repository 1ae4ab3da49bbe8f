"""``overlay.png``: the key slices of a study with boxes, contours and numbers, for a person to judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtnet.io.atomic import atomic_path
from mtnet.results.axial_view import AxialView
from mtnet.results.canvas import Panel, Sheet, wrapped
from mtnet.results.codes import without_unit
from mtnet.results.mask_boxes import mask_boxes
from mtnet.results.notice import full_notice
from mtnet.structures import Findings, Lesion, Volume

# Lung window of the radiology textbooks: level and width in HU.
LUNG_WINDOW_HU = (-600.0, 1500.0)
_MOST_SLICES = 6
_MOST_LINES = 24
_MOST_FLAGS, _FLAG_PX = 4, 15
_SLICE_PX = 480
_ZOOM_PX = 176
_ZOOM_MM = 50.0
_GAP = 14
_TEXT = (235, 235, 235)
_FAINT = (165, 170, 176)
_WARNING = (255, 196, 64)
# Bright on grey, and apart for colour-blind eyes (after Okabe and Ito, 2008).
_COLOURS = ((255, 214, 64), (92, 205, 255), (255, 150, 60), (90, 222, 150), (255, 130, 190), (150, 160, 255))


def write_overlay(findings: Findings, volume: Volume, path: Path) -> None:
    """Write the picture: a key slice for each of the first six lesions, or six even slices where there is none.

    Slices are axial with the patient's right on the left and the front up, in true proportions, whatever the order of
    the voxels. CT is shown in the lung window; other images between their 1st and 99th percentile.

    Args:
        findings: what to show.
        volume: the image on the grid of the findings; its first channel is shown.
        path: the PNG to make; its folder must exist.

    Raises:
        ValueError: ``volume`` is on another grid than the findings.
    """
    if not volume.geometry.almost_equal(findings.geometry):
        raise ValueError(
            f"The image has grid {volume.geometry.shape} at {volume.geometry.origin_lps_mm} mm; expected that of the "
            f"findings, {findings.geometry.shape} at {findings.geometry.origin_lps_mm} mm."
        )
    scene = _Scene(findings, volume)
    cells = scene.lesion_cells() if findings.lesions else scene.plain_cells()
    image = overlay_page(findings, scene.window, cells, min(len(cells), 2 if findings.lesions else 3))
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", compress_level=6)


class _Scene:
    """The arrays of one study in view order, and how to draw a slice of them."""

    def __init__(self, findings: Findings, volume: Volume) -> None:
        self.findings = findings
        self.view = AxialView.of(findings.geometry)
        self.image = self.view.array(volume.array[0])
        self.lesions = None if findings.lesion_map is None else self.view.array(findings.lesion_map.array[0])
        self.labels = None if findings.label_map is None else self.view.array(findings.label_map.array[0])
        self._masks = {} if self.lesions is None else mask_boxes(self.lesions)
        self.boxes = [self.view.box(lesion.box_index) for lesion in findings.lesions]
        if volume.modality == "CT":
            level, width = LUNG_WINDOW_HU
            self.low, self.high = level - width / 2, level + width / 2
            self.window = f"lung window {level:g} / {width:g} HU"
        else:
            some = self.image[:: max(self.view.shape[0] // 128, 1), :: max(self.view.shape[1] // 128, 1)]
            self.low, self.high = (float(v) for v in np.percentile(some, (1, 99)))
            self.window = f"grey from {self.low:.4g} to {self.high:.4g}"
        self.high = max(self.high, self.low + 1e-6)

    def key_slice(self, lesion: Lesion) -> int:
        """The slice with the largest area of the lesion's mask; without mask the middle of its box."""
        box = self.boxes[lesion.number - 1]
        depth = self.view.shape[2]
        middle = int(np.clip(round(float(box[2] + box[5]) / 2), 0, depth - 1))
        if self.lesions is None or not lesion.mask_voxels:
            return middle
        where = self._masks.get(lesion.number)
        if where is None:
            return middle
        areas = np.count_nonzero(self.lesions[where] == lesion.number, axis=(0, 1))
        return int(where[2].start + areas.argmax())

    def draw(self, z: int, panel: Panel, *, marks: bool, names: bool = True) -> None:
        """Draw slice ``z`` into ``panel``; with ``marks`` also contours and boxes, with ``names`` also numbers."""
        grey = (self.image[:, :, z].T.astype(np.float32) - self.low) / (self.high - self.low)
        panel.grey(np.clip(grey, 0, 1))
        if not marks:
            return
        if self.labels is not None:
            plane = self.labels[:, :, z].T
            for label in self.findings.labels:
                panel.contour(plane == label.value, label.colour, width=1.0, strength=0.55, finer=2)
        for lesion, box in zip(self.findings.lesions, self.boxes, strict=True):
            if not box[2] <= z <= box[5]:
                continue
            colour = colour_of(lesion.number)
            if self.lesions is not None:
                plane = self.lesions[:, :, z].T
                panel.contour(plane == lesion.number, colour, width=1.6)
            panel.box(box[[0, 1, 3, 4]], colour, str(lesion.number) if names else "")

    def lesion_cells(self) -> list[Any]:
        """For each of the first lesions: its slice, and beside it the lesion enlarged, bare and with its contour."""
        cells = []
        for lesion in self.findings.lesions[:_MOST_SLICES]:
            z = self.key_slice(lesion)
            box = self.boxes[lesion.number - 1]
            side = max(_ZOOM_MM, 1.6 * max((box[3] - box[0]) * self._dx, (box[4] - box[1]) * self._dy))
            centre = (float(box[0] + box[3]) / 2, float(box[1] + box[4]) / 2)
            sheet = Sheet(_SLICE_PX + _GAP // 2 + _ZOOM_PX, _SLICE_PX)
            sheet.paste(self._slice(z, marks=True), 0, 0)
            x = _SLICE_PX + _GAP // 2
            for n, marks in enumerate((False, True)):
                zoom = Panel(_ZOOM_PX, _ZOOM_PX, centre, (side, side), (self._dx, self._dy))
                self.draw(z, zoom, marks=marks, names=False)
                if not marks:
                    zoom.scale_bar(10.0)
                sheet.paste(zoom.image, x, n * (_ZOOM_PX + 6))
            y = 2 * (_ZOOM_PX + 6)
            sheet.text(x, y, f"Lesion {lesion.number}", 17, colour_of(lesion.number), bold=True)
            for n, line in enumerate(short_lines(lesion)):
                sheet.text(x, y + 24 + 18 * n, line, 14, _TEXT, width=_ZOOM_PX)
            cells.append(sheet.image)
        return cells

    def plain_cells(self) -> list[Any]:
        """Slices at even distances, without the outermost."""
        depth = self.view.shape[2]
        count = min(_MOST_SLICES, depth)
        places = np.linspace(0, depth - 1, count + 2)[1:-1] if depth > count else np.arange(depth)
        return [self._slice(round(float(z)), marks=True) for z in places[::-1]]

    @property
    def _dx(self) -> float:
        return self.view.spacing_mm[0]

    @property
    def _dy(self) -> float:
        return self.view.spacing_mm[1]

    def _slice(self, z: int, *, marks: bool) -> Any:
        """A whole slice with letters, scale bar and its place."""
        nx, ny, nz = self.view.shape
        side = max(nx * self._dx, ny * self._dy)
        panel = Panel(_SLICE_PX, _SLICE_PX, ((nx - 1) / 2, (ny - 1) / 2), (side, side), (self._dx, self._dy))
        self.draw(z, panel, marks=marks)
        panel.letters(self.view.letters())
        panel.scale_bar(50.0 if side > 160 else 10.0 if side > 32 else 1.0)
        height = self.view.centre_lps_mm(z)[2]
        panel.caption(f"slice {self.view.source_slice(z) + 1} of {nz}   z {height:+.1f} mm")
        return panel.image


def colour_of(number: int) -> tuple[int, int, int]:
    """Colour of a lesion by its number, from 1."""
    return _COLOURS[(number - 1) % len(_COLOURS)]


def short_lines(lesion: Lesion) -> list[str]:
    """What is said beside a lesion: class and score, size, and its likeliest class of each per-lesion output."""
    lines = ["place given" if lesion.place_given else f"{lesion.label}, score {lesion.score:.2f}"]
    lines.extend(_size(lesion))
    lines.extend(_measured(lesion))
    for channel, classes in lesion.class_probabilities.items():
        if classes:
            name = max(classes, key=lambda c: classes[c])
            # A class that names its channel already needs no second mention of it.
            told = name if name.endswith(channel) else f"{channel}: {name}"
            lines.append(f"{told.replace('_', ' ')} {classes[name]:.2f}")
    return lines


def _measured(lesion: Lesion) -> list[str]:
    """What the network measured, with the error that it expects."""
    lines = []
    for key, one in lesion.measured.items():
        name, unit = without_unit(key).replace("_", " "), f" {one.units}" if one.units.isalnum() else ""
        sd = "" if one.sd is None else f" +- {one.sd:.1f}"
        lines.append(f"{name} {one.value:.1f}{sd}{unit}")
    return lines


def _size(lesion: Lesion) -> list[str]:
    if not lesion.mask_voxels:
        return ["no mask"]
    if lesion.mask_drawn:
        return ["outline drawn, not seen"]
    if lesion.longest_axial_diameter_mm is None:
        long, short = lesion.measures["longest_diameter_px"], lesion.measures["short_diameter_px"]
        return [f"{long:.0f} x {short:.0f} pixels", f"{lesion.measures['area_px']:.0f} pixels in all"]
    size = f"{lesion.longest_axial_diameter_mm:.1f}"
    if lesion.short_axial_diameter_mm is not None:
        size += f" x {lesion.short_axial_diameter_mm:.1f}"
    lines = [f"{size} mm, axial" if lesion.frame is None else f"{size} mm"]
    if "area_mm2" in lesion.measures:
        lines.append(f"{lesion.measures['area_mm2']:.0f} mm2")
    if lesion.volume_mm3 is not None:
        lines.append(f"{lesion.volume_mm3:,.0f} mm3".replace(",", " "))
    return lines


def overlay_page(findings: Findings, shown_how: str, cells: Sequence[Any], across: int) -> Any:
    """A page of pictures of one size with head, what was flagged, legend and foot, as a Pillow image.

    Args:
        findings: what the head and the legend tell.
        shown_how: a few words on the grey values, for the head.
        cells: Pillow images.
        across: of them in a row.
    """
    cell_width, cell_height = cells[0].size
    width = max(_GAP + across * (cell_width + _GAP), 700)
    flags = _flags(findings, width - 2 * _GAP)
    head, row = 62 + 22 * len(flags), cell_height + _GAP
    rows = -(-len(cells) // across)
    legend = _legend(findings)
    sheet = Sheet(width, head + rows * row + 24 * len(legend) + 62)
    count = len(findings.lesions)
    told = "at given places" if any(lesion.place_given for lesion in findings.lesions) else "found"
    title = f"{count} lesion{'s' if count != 1 else ''} {told}" if count else "No lesion found"
    sheet.text(_GAP, 10, title, 22, _TEXT, bold=True)
    model = f"mtnet   {findings.model.name} {findings.model.version}   {shown_how}"
    sheet.text(_GAP, 38, model, 14, _FAINT, width=width - 2 * _GAP)
    sheet.text(width - _GAP, 12, "RESEARCH USE ONLY", 18, _WARNING, bold=True, right=True)
    for n, line in enumerate(flags):
        sheet.text(_GAP, 60 + 22 * n, line, _FLAG_PX, _WARNING)
    for n, cell in enumerate(cells):
        sheet.paste(cell, _GAP + (n % across) * (cell_width + _GAP), head + (n // across) * row)
    y = head + rows * row
    for colour, number, line in legend:
        sheet.swatch(_GAP, y + 2, colour, number)
        sheet.text(_GAP + 34, y + 2, line, 15, _TEXT, width=width - 2 * _GAP - 34)
        y += 24
    sheet.text(_GAP, y + 10, full_notice(findings.model), 15, _WARNING, width=width - 2 * _GAP)
    uid = findings.source.series_instance_uid
    sheet.text(_GAP, y + 34, f"series {uid}" if uid else findings.source.file_name, 12, _FAINT, width=width - 2 * _GAP)
    return sheet.image


def _flags(findings: Findings, width: int) -> list[str]:
    """What is flagged of the image, told once each, in lines of at most ``width`` pixels."""
    told = list(dict.fromkeys(line.message for line in findings.report if line.severity == "flagged"))
    lines = [line for message in told[:_MOST_FLAGS] for line in wrapped(f"Flagged: {message}", _FLAG_PX, width)]
    if len(told) > _MOST_FLAGS:
        lines.append(f"Flagged: {len(told) - _MOST_FLAGS} more, see findings.json")
    return lines


def _legend(findings: Findings) -> list[tuple[tuple[int, int, int], str, str]]:
    """A line for every lesion, and one for every class of the label map that occurs."""
    lines = []
    for lesion in findings.lesions[:_MOST_LINES]:
        shown = "" if lesion.number <= _MOST_SLICES or findings.plane else "   (no slice of its own)"
        lines.append((colour_of(lesion.number), str(lesion.number), "   ".join(short_lines(lesion)) + shown))
    if len(findings.lesions) > _MOST_LINES:
        lines.append((_FAINT, "...", f"{len(findings.lesions) - _MOST_LINES} more lesions in findings.json"))
    if findings.label_map is not None:
        values = findings.label_map.array
        lines.extend(
            (label.colour, "", f"outline: {label.name}") for label in findings.labels if (values == label.value).any()
        )
    return lines
