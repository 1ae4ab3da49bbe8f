"""A network's parts and the shapes between them as a drawing: SVG for pages, PNG for what cannot show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from mtnet.io.atomic import atomic_path

if TYPE_CHECKING:
    from mtnet.nets.outline import Outline, Part, Shape, TaskOutline

_FONT = 12
_LINE = 17
_LETTER = 7.2
"""Pixels that a letter takes at most, on average."""
_GAP = 44
_PAD = 10
_WHITE, _INK, _FAINT = "#ffffff", "#1d2733", "#5b6775"
_FILLS = {
    "image": "#eef1f5",
    "encoder": "#cfe3f7",
    "neck": "#d9f0e4",
    "decoder": "#fdebc8",
    "interaction": "#eadcf5",
    "head": "#fad7d2",
    "output": "#eef1f5",
}


@dataclass(frozen=True, slots=True)
class _Box:
    kind: str
    lines: tuple[str, ...]
    x: float = 0.0
    y: float = 0.0
    height: float = 0.0

    @property
    def width(self) -> float:
        return max(len(line) for line in self.lines) * _LETTER + 2 * _PAD

    @property
    def least_height(self) -> float:
        return len(self.lines) * _LINE + 2 * _PAD


@dataclass(slots=True)
class _Drawing:
    """What is drawn, in pixels from the top left."""

    title: str
    width: float = 0.0
    height: float = 0.0
    boxes: list[_Box] = field(default_factory=list)
    arrows: list[tuple[float, float, float, float]] = field(default_factory=list)


def write_diagram(outline: Outline, title: str, path: Path) -> None:
    """Draw a network to a ``.svg`` or ``.png`` file, whole or not at all.

    Raises:
        ValueError: the file's name ends in something else.
    """
    path = Path(path)
    if path.suffix.lower() not in (".svg", ".png"):
        raise ValueError(f"{path.name}: a diagram is a .svg or .png file; give such a name.")
    drawing = _laid_out(outline, title)
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".svg":
            temporary.write_text(_svg(drawing), encoding="utf-8")
        else:
            _write_png(drawing, temporary)


def part_lines(part: Part) -> tuple[str, ...]:
    """What is told of a part: its class, the levels that it gives, its parameters and its work."""
    size = [f"{_short(part.parameters)} parameters, {_gmac(part.macs)} GMAC"] if part.parameters else []
    return (part.made_by, *(shape_text(level) for level in part.levels), *size)


def shape_text(shape: Shape) -> str:
    """``2 × 64 × 64``: channels, then sizes."""
    return " × ".join(str(n) for n in shape)


def _short(number: int) -> str:
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return str(number)


def _gmac(macs: int) -> str:
    return f"{macs / 1e9:.3f}" if macs >= 5e5 else "< 0.001"


def _laid_out(outline: Outline, title: str) -> _Drawing:
    """Columns from image to output, a row a task; tasks that share a neck or an interaction lie side by side."""
    tasks = sorted(outline.tasks.items(), key=lambda item: (item[1].reads == "neck", item[1].interacts))
    columns = [
        ("decoder", [_Box("decoder", (f"{task}: decoder", *part_lines(branch.decoder))) for task, branch in tasks]),
        ("head", [_Box("head", (f"{task}: head", *part_lines(branch.head))) for task, branch in tasks]),
        ("output", [_Box("output", _told(branch)) for _, branch in tasks]),
    ]
    everywhere = list(range(len(tasks)))
    of_neck = [n for n, (_, branch) in enumerate(tasks) if branch.reads == "neck"]
    joined = [n for n, (_, branch) in enumerate(tasks) if branch.interacts]
    tall = _Box("encoder", ("encoder", *part_lines(outline.encoder)))
    wide = [(tall, everywhere)]
    if outline.neck is not None and of_neck:
        wide.append((_Box("neck", ("neck", *part_lines(outline.neck))), of_neck))
    if outline.interaction is not None and joined:
        wide.append((_Box("interaction", ("interaction", *part_lines(outline.interaction))), joined))
    heights = [max(boxes[row].least_height for _, boxes in columns) for row in everywhere]
    for box, over in wide:
        spare = box.least_height - sum(heights[n] for n in over) - 2 * _PAD * (len(over) - 1)
        for n in over:
            heights[n] += max(spare, 0.0) / len(over)
    top = 2 * _PAD + 2 * _LINE
    rows = [(top + sum(heights[:n]) + 2 * _PAD * n, heights[n]) for n in everywhere]
    drawing = _Drawing(title)
    x = 2.0 * _PAD
    image = _Box("image", ("image", shape_text(outline.image)))
    reached = [_place(drawing, image, x, rows, everywhere)] * len(tasks)
    x = reached[0] + _GAP
    drawing.arrows.append((reached[0], _middle(rows, everywhere), x, _middle(rows, everywhere)))
    reached = [_place(drawing, tall, x, rows, everywhere)] * len(tasks)
    x = reached[0] + _GAP
    for box, over in wide[1:]:
        if box.kind == "neck":
            x = _join(drawing, box, x, rows, over, reached)
    for kind, boxes in columns:
        ends = []
        for n, box in enumerate(boxes):
            middle = _middle(rows, [n])
            drawing.arrows.append((reached[n], middle, x, middle))
            ends.append(_place(drawing, box, x, rows, [n], widest=max(b.width for b in boxes)))
        reached, x = ends, max(ends) + _GAP
        for box, over in wide[1:]:
            if kind == "decoder" and box.kind == "interaction":
                x = _join(drawing, box, x, rows, over, reached)
    drawing.width = x - _GAP + 2 * _PAD
    drawing.height = rows[-1][0] + rows[-1][1] + 2 * _PAD
    return drawing


def _told(branch: TaskOutline) -> tuple[str, ...]:
    return tuple(f"{name}  {shape_text(shape)}" for name, shape in branch.tensors.items())


def _middle(rows: Sequence[tuple[float, float]], of: Sequence[int]) -> float:
    return (rows[of[0]][0] + rows[of[-1]][0] + rows[of[-1]][1]) / 2


def _place(
    drawing: _Drawing,
    box: _Box,
    x: float,
    rows: Sequence[tuple[float, float]],
    of: Sequence[int],
    widest: float | None = None,
) -> float:
    """Put a box across rows, as wide as the widest of its column; where it ends."""
    top, bottom = rows[of[0]][0], rows[of[-1]][0] + rows[of[-1]][1]
    lines = box.lines
    if widest is not None:
        lines = (box.lines[0].ljust(int((widest - 2 * _PAD) / _LETTER + 0.5)), *box.lines[1:])
    placed = _Box(box.kind, lines, x, top, bottom - top)
    drawing.boxes.append(placed)
    return x + placed.width


def _join(
    drawing: _Drawing,
    box: _Box,
    x: float,
    rows: Sequence[tuple[float, float]],
    of: Sequence[int],
    reached: list[float],
) -> float:
    """Put a box between columns, which only the rows ``of`` go through; where the next column begins."""
    for n in of:
        middle = _middle(rows, [n])
        drawing.arrows.append((reached[n], middle, x, middle))
    end = _place(drawing, box, x, rows, of)
    for n in of:
        reached[n] = end
    return end + _GAP


def _svg(drawing: _Drawing) -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{drawing.width:.0f}" height="{drawing.height:.0f}" '
        f'viewBox="0 0 {drawing.width:.0f} {drawing.height:.0f}" role="img" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="{_FONT}">',
        f"<title>{escape(drawing.title)}</title>",
        f'<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{_FAINT}"/></marker></defs>',
        f'<rect width="100%" height="100%" fill="{_WHITE}"/>',
        f'<text x="{2 * _PAD}" y="{2 * _PAD + _FONT}" font-weight="bold" fill="{_INK}">{escape(drawing.title)}</text>',
    ]
    for x0, y0, x1, y1 in drawing.arrows:
        parts.append(
            f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{_FAINT}" marker-end="url(#tip)"/>'
        )
    for box in drawing.boxes:
        parts.append(
            f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="5" '
            f'fill="{_FILLS[box.kind]}" stroke="{_FAINT}"/>'
        )
        for n, line in enumerate(box.lines):
            weight = ' font-weight="bold"' if n == 0 and box.kind != "output" else ""
            parts.append(
                f'<text x="{box.x + _PAD:.1f}" y="{_first_line(box) + n * _LINE + _FONT:.1f}" fill="{_INK}"{weight}>'
                f"{escape(line.rstrip())}</text>"
            )
    return "\n".join([*parts, "</svg>", ""])


def _first_line(box: _Box) -> float:
    return box.y + (box.height - len(box.lines) * _LINE) / 2


def _write_png(drawing: _Drawing, path: Path, scale: int = 2) -> None:
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (int(drawing.width * scale), int(drawing.height * scale)), _WHITE)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_FONT * scale)
    pen.text((2 * _PAD * scale, 2 * _PAD * scale), drawing.title, fill=_INK, font=font, stroke_width=1)
    for x0, y0, x1, y1 in drawing.arrows:
        pen.line((x0 * scale, y0 * scale, x1 * scale, y1 * scale), fill=_FAINT, width=scale)
        tip = [(x1, y1), (x1 - 7, y1 - 4), (x1 - 7, y1 + 4)]
        pen.polygon([(x * scale, y * scale) for x, y in tip], fill=_FAINT)
    for box in drawing.boxes:
        corners = (box.x, box.y, box.x + box.width, box.y + box.height)
        edge = tuple(corner * scale for corner in corners)
        pen.rounded_rectangle(edge, 5 * scale, fill=_FILLS[box.kind], outline=_FAINT, width=scale)
        for n, line in enumerate(box.lines):
            bold = int(n == 0 and box.kind != "output")
            place = ((box.x + _PAD) * scale, (_first_line(box) + n * _LINE) * scale)
            # Pillow's own font has no multiplication sign.
            pen.text(place, line.rstrip().replace("×", "x"), fill=_INK, font=font, stroke_width=bold)
    picture.save(path, optimize=True)
