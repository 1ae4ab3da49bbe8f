"""Decoded DICOM samples to what is looked at: RGB, or grey that is bright where values are high (PS3.3 C.7.6.3.1.2)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtnet.structures.report import ReportLine

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_UINT8_MAX = 255
_WINDOW_TAGS = ("WindowCenter", "VOILUTSequence")


class DisplayMap:
    """How the frames of one object become images.

    RGB stays. PALETTE COLOR goes through its lookup table, 16-bit entries brought to 8 bits. Grey goes
    through the modality LUT or rescale, and MONOCHROME1 is inverted over the whole range that stored values can have:
    in a 2D image, other than in a volume, grey is meant to be looked at. Padding becomes the darkest value. The VOI LUT
    or window is not applied: it is one way of looking of several, and throws values away.

    Args:
        dataset: header of the object, palette and LUT among it.
        where: its name for reports.
    """

    def __init__(self, dataset: Dataset, where: str) -> None:
        self._dataset = dataset
        self._where = where
        self._photometric = str(dataset.get("PhotometricInterpretation", ""))
        self._padding = _padding(dataset) if self._photometric in ("MONOCHROME1", "MONOCHROME2") else None
        self.lines: tuple[ReportLine, ...] = tuple(self._noted())
        """What is done to every frame."""

    def apply(self, pixels: NDArray[np.integer[Any]], photometric: str) -> NDArray[np.generic]:
        """One decoded frame ``(rows, columns[, 3])`` as ``(1 or 3, i, j)``.

        Args:
            pixels: stored values, within BitsStored.
            photometric: what they are now, as ``read_frames`` says; kinds of YBR have become RGB there.

        Raises:
            ValueError: the palette or LUT is broken, or the photometric interpretation is not known.
        """
        if photometric == "PALETTE COLOR":
            values = self._through_palette(pixels)
        elif photometric == "RGB":
            values = pixels
        elif photometric in ("MONOCHROME1", "MONOCHROME2"):
            values = self._grey(pixels)[..., None]
        else:
            raise ValueError(f"PhotometricInterpretation (0028,0004) {photometric!r} is not read here.")
        return np.ascontiguousarray(values.transpose(2, 1, 0))

    def _noted(self) -> list[ReportLine]:
        found = []
        if self._photometric == "MONOCHROME1":
            found.append(("monochrome1_inverted", "MONOCHROME1 (low is bright) is inverted, so that high is bright."))
        if self._photometric == "PALETTE COLOR":
            found.append(("palette_expanded", "The palette's colours take the place of the stored numbers."))
        if self._padding is not None:
            found.append(("padding_darkened", "Padding pixels, if there are any, become the darkest value."))
        grey = self._photometric.startswith("MONOCHROME")
        if grey and any(self._dataset.get(tag) for tag in _WINDOW_TAGS):
            found.append(
                ("window_not_applied", "The window (VOI LUT) of the file is not applied; values are unclipped.")
            )
        return [ReportLine(code, "note", message, self._where) for code, message in found]

    def _through_palette(self, pixels: NDArray[np.integer[Any]]) -> NDArray[np.generic]:
        try:
            colours: NDArray[Any] = _pydicom_function("apply_color_lut")(pixels, self._dataset)
        except Exception as error:
            # pydicom raises errors of many kinds for tables that make no sense.
            raise ValueError("the palette cannot be used.") from error
        if colours.dtype == np.uint8:
            return colours
        # Some writers store 8-bit entries in the low bytes of a 16-bit table.
        return (colours if self._palette_top() <= _UINT8_MAX else colours >> 8).astype(np.uint8)

    def _palette_top(self) -> int:
        """The largest entry of the three tables, whatever colours this frame uses."""
        first = int(self._dataset.RedPaletteColorLookupTableDescriptor[1])
        count = int(self._dataset.RedPaletteColorLookupTableDescriptor[0]) or 2**16
        every = np.arange(first, first + count).reshape(1, -1)
        return int(_pydicom_function("apply_color_lut")(every, self._dataset).max())

    def _grey(self, pixels: NDArray[np.integer[Any]]) -> NDArray[np.generic]:
        bits, signed = _bits(self._dataset), bool(self._dataset.get("PixelRepresentation", 0))
        ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
        values = self._rescaled(pixels)
        total = float(self._rescaled(ends).astype(np.float64).sum())
        if self._photometric == "MONOCHROME1":
            # Exact in 64-bit floats, and back in the same type: the range that stored values can have is mirrored.
            values = (total - values.astype(np.float64)).astype(values.dtype)
        if self._padding is not None:
            padded = (pixels >= self._padding[0]) & (pixels <= self._padding[1])
            if padded.any() and not padded.all():
                values = np.where(padded, values[~padded].min(), values)
        return values

    def _rescaled(self, stored: NDArray[np.integer[Any]]) -> NDArray[np.generic]:
        """Through the modality LUT: of the stored type where that is identity, else int32 or float32."""
        if self._dataset.get("ModalityLUTSequence"):
            try:
                values: NDArray[Any] = _pydicom_function("apply_modality_lut")(stored, self._dataset)
            except Exception as error:
                raise ValueError("the modality LUT cannot be used.") from error
            return values
        slope = _number(self._dataset, "RescaleSlope", 1.0)
        intercept = _number(self._dataset, "RescaleIntercept", 0.0)
        if slope == 0:
            raise ValueError("RescaleSlope (0028,1053) is 0: every value would be the same.")
        if (slope, intercept) == (1.0, 0.0):
            return stored
        real = stored.astype(np.float64) * slope + intercept
        return real.astype(np.int32) if slope.is_integer() and intercept.is_integer() else real.astype(np.float32)


def _pydicom_function(name: str) -> Any:
    """pydicom 3 keeps the functions elsewhere than pydicom 2."""
    import pydicom

    place = "pydicom.pixels" if int(pydicom.__version__.split(".")[0]) >= 3 else "pydicom.pixel_data_handlers.util"
    return getattr(importlib.import_module(place), name)


def _bits(dataset: Dataset) -> int:
    return int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 8)


def _number(dataset: Dataset, keyword: str, default: float) -> float:
    value = dataset.get(keyword)
    return default if value in (None, "") else float(value)


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    """Lowest and highest padding value (PS3.3 C.7.5.1.1.2), as stored."""
    value = dataset.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [int(end) for end in (value, limit if isinstance(limit, int) else value)]
    bits = int(dataset.get("BitsAllocated") or 16)
    if dataset.get("PixelRepresentation", 0):
        ends = [end - 2**bits if end >= 2 ** (bits - 1) else end for end in ends]
    else:
        ends = [end % 2**bits for end in ends]
    return min(ends), max(ends)
