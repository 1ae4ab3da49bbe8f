"""Drawing for the overlay: a sheet with text, and a panel that maps voxels of a slice to its pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BACKGROUND = (16, 18, 20)
_LIGHT = (240, 240, 240)
Colour = tuple[int, int, int]


class Sheet:
    """A dark page of ``width`` x ``height`` pixels (``image``, a Pillow RGB image)."""

    def __init__(self, width: int, height: int) -> None:
        from PIL import Image, ImageDraw

        self.image = Image.new("RGB", (width, height), _BACKGROUND)
        self._pen = ImageDraw.Draw(self.image)

    def paste(self, image: Any, x: int, y: int) -> None:
        """Put another image with its top left corner at (x, y)."""
        self.image.paste(image, (x, y))

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: int,
        colour: Colour,
        *,
        bold: bool = False,
        right: bool = False,
        width: int | None = None,
    ) -> None:
        """Write one line with its top left (``right``: top right) at (x, y); cut to ``width`` with an ellipsis."""
        font, text = _font(size), _drawable(text)
        if width is not None and font.getlength(text) > width:
            while text and font.getlength(text + "…") > width:
                text = text[:-1]
            text += "…"
        self._pen.text((x, y), text, font=font, fill=colour, anchor="ra" if right else "la", **_weight(bold, colour))

    def swatch(self, x: int, y: int, colour: Colour, text: str) -> None:
        """A filled key of the legend with a number in it."""
        self._pen.rounded_rectangle((x, y, x + 26, y + 17), 3, fill=colour)
        self._pen.text((x + 13, y + 9), text, font=_font(14), fill=(0, 0, 0), anchor="mm", **_weight(True, (0, 0, 0)))


def wrapped(text: str, size: int, width: int) -> list[str]:
    """The text in lines of at most ``width`` pixels, broken between words; a longer word has a line of its own."""
    font, lines = _font(size), [""]
    for word in _drawable(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


class Panel:
    """A picture of part of a slice.

    Args:
        width, height: in pixels.
        centre_index: (x, y) of the slice, in voxel indices, at the middle of the panel.
        size_mm: millimetres across and down that the panel shows; the same scale holds along both.
        spacing_mm: of the slice along x and y.
    """

    def __init__(
        self,
        width: int,
        height: int,
        centre_index: tuple[float, float],
        size_mm: tuple[float, float],
        spacing_mm: tuple[float, float],
    ) -> None:
        from PIL import Image, ImageDraw

        self.image = Image.new("RGB", (width, height), _BACKGROUND)
        self._pen = ImageDraw.Draw(self.image)
        self._width, self._height = width, height
        self._pixels_per_mm = min(width / size_mm[0], height / size_mm[1])
        self._spacing, self._centre = spacing_mm, centre_index

    def _to_pixel(self, x: float, y: float) -> tuple[float, float]:
        """Pixel coordinates (0 is the panel's left edge) of a continuous voxel index."""
        return (
            (x - self._centre[0]) * self._spacing[0] * self._pixels_per_mm + self._width / 2,
            (y - self._centre[1]) * self._spacing[1] * self._pixels_per_mm + self._height / 2,
        )

    def _resampled(self, values: NDArray[Any], finer: int = 1) -> Any:
        """``(y, x)`` values on the panel's pixels, cubic, 0 outside the slice; a Pillow image of mode F."""
        from PIL import Image

        rows, columns = values.shape
        left, top = self._to_pixel(-0.5, -0.5)
        right, bottom = self._to_pixel(columns - 0.5, rows - 0.5)
        # What part of the panel the slice covers, and what part of the slice that is.
        first = np.array([max(left, 0.0), max(top, 0.0)])
        last = np.array([min(right, self._width), min(bottom, self._height)])
        target = Image.new("F", (self._width * finer, self._height * finer), 0.0)
        start, stop = np.rint(first * finer).astype(int), np.rint(last * finer).astype(int)
        if (stop <= start).any():
            return target
        scale = np.array([columns / (right - left), rows / (bottom - top)])
        box = np.concatenate([(start / finer - [left, top]) * scale, (stop / finer - [left, top]) * scale])
        box = np.clip(box, 0, [columns, rows, columns, rows])
        source = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
        resized = source.resize(
            (int(stop[0] - start[0]), int(stop[1] - start[1])),
            Image.Resampling.BICUBIC if finer == 1 else Image.Resampling.BILINEAR,
            box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        )
        target.paste(resized, (int(start[0]), int(start[1])))
        return target

    def grey(self, values: NDArray[np.floating[Any]]) -> None:
        """Draw ``(y, x)`` values in 0..1 as grey."""
        from PIL import Image

        grey = np.clip(np.asarray(self._resampled(values)) * 255, 0, 255).astype(np.uint8)
        self.image.paste(Image.fromarray(grey).convert("RGB"))

    def colour(self, values: NDArray[np.uint8]) -> None:
        """Draw ``(y, x, 3)`` values as they are."""
        from PIL import Image

        bands = [np.asarray(self._resampled(values[..., n].astype(np.float32))) for n in range(3)]
        self.image.paste(Image.fromarray(np.clip(np.rint(np.stack(bands, -1)), 0, 255).astype(np.uint8)))

    def contour(
        self, mask: NDArray[np.bool_], colour: Colour, *, width: float, strength: float = 1.0, finer: int = 4
    ) -> None:
        """Draw the outline of a ``(y, x)`` mask, ``width`` pixels wide, just outside its border.

        It is worked out ``finer`` times finer than the panel and averaged down.
        """
        from PIL import Image
        from scipy import ndimage

        if not mask.any():
            return
        inside = np.asarray(self._resampled(mask.astype(np.float32), finer)) >= 0.5
        # Only the part around the mask is worked on: a distance map of the whole panel would cost ten times as much.
        where = ndimage.find_objects(inside.astype(np.uint8))
        if not where:
            return
        reach = int(np.ceil(width * finer)) + 2 * finer
        rows, columns = (
            slice(max(s.start - reach, 0) // finer * finer, min(-(-(s.stop + reach) // finer) * finer, n))
            for s, n in zip(where[0], inside.shape, strict=True)
        )
        part = inside[rows, columns]
        distance = ndimage.distance_transform_edt(~part)
        line = ((distance > 0) & (distance <= width * finer)).astype(np.float32)
        fine = line.reshape(part.shape[0] // finer, finer, part.shape[1] // finer, finer).mean(axis=(1, 3))
        alpha = Image.fromarray((fine * (255 * strength)).astype(np.uint8))
        self.image.paste(colour, (columns.start // finer, rows.start // finer), alpha)

    def box(self, box_index: NDArray[np.floating[Any]], colour: Colour, name: str) -> None:
        """Draw a box (low x, low y, high x, high y; half-open, in voxel indices) by its corners, and its name."""
        left, top = self._to_pixel(float(box_index[0]), float(box_index[1]))
        right, bottom = self._to_pixel(float(box_index[2]), float(box_index[3]))
        # A little air, so that the lines don't lie on what they point at.
        x0, y0, x1, y1 = round(left) - 4, round(top) - 4, round(right) + 4, round(bottom) + 4
        arm = max(5, min(x1 - x0, y1 - y0) // 4)
        for shade, halo in (((0, 0, 0), 1), (colour, 0)):
            for x, end_x in ((x0, x0 + arm), (x1, x1 - arm)):
                for y, end_y in ((y0, y0 + arm), (y1, y1 - arm)):
                    self._bar((x, y, end_x, y), shade, halo)
                    self._bar((x, y, x, end_y), shade, halo)
        if name:
            size = 17
            wide = _font(size).getlength(name) + 8
            x = x1 + 5 if x1 + 5 + wide < self._width else x0 - 5 - wide
            y = min(max(y0 - 4, 2), self._height - size - 6)
            self._halo((x + wide / 2, y + size / 2 + 2), name, size, colour, "mm")

    def _bar(self, ends: tuple[float, float, float, float], shade: Colour, halo: int) -> None:
        """A straight line two pixels thick, grown by ``halo`` on every side."""
        x0, y0, x1, y1 = ends
        low_x, high_x, low_y, high_y = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        self._pen.rectangle((low_x - halo, low_y - halo, high_x + 1 + halo, high_y + 1 + halo), fill=shade)

    def letters(self, sides: dict[str, str]) -> None:
        """Write what the sides of the picture show."""
        middle_x, middle_y = self._width / 2, self._height / 2
        for side, (x, y, anchor) in {
            "left": (7, middle_y, "lm"),
            "right": (self._width - 7, middle_y, "rm"),
            "top": (middle_x, 6, "ma"),
            "bottom": (middle_x, self._height - 7, "md"),
        }.items():
            self._halo((x, y), sides[side], 17, _LIGHT, anchor)

    def scale_bar(self, length_mm: float) -> None:
        """Draw a bar of a true length, with ticks, at the lower left."""
        length = length_mm * self._pixels_per_mm
        x, y = 10, self._height - 12
        for shade, halo in (((0, 0, 0), 1), (_LIGHT, 0)):
            self._bar((x, y, x + length, y), shade, halo)
            for tick in (x, x + length):
                self._bar((tick, y - 5, tick, y + 5), shade, halo)
        self._halo((x + length / 2, y - 6), f"{length_mm:g} mm", 13, _LIGHT, "md")

    def caption(self, text: str) -> None:
        """Write a line at the upper left."""
        self._halo((8, 7), text, 13, _LIGHT, "la")

    def _halo(self, place: tuple[float, float], text: str, size: int, colour: Colour, anchor: str) -> None:
        text = _drawable(text)
        self._pen.text(place, text, font=_font(size), fill=colour, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def _font(size: int) -> Any:
    """Pillow's own scalable face: the same letters on every machine."""
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def _drawable(text: str) -> str:
    """The text with letters that Pillow's face lacks as question marks, not as empty boxes."""
    return text.encode("ascii", "replace").decode()


def _weight(bold: bool, colour: Colour) -> dict[str, Any]:
    return {"stroke_width": 0.5, "stroke_fill": colour} if bold else {}
