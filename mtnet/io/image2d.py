"""PNG, JPEG, TIFF and BMP files as 2D images, through Pillow; colour of 16 bits, which Pillow halves, through ITK."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtnet.io.limits import Limits
from mtnet.io.verdicts import line, mode_of
from mtnet.structures.image import Image
from mtnet.structures.report import InputReport, RefusedError, ReportLine

if TYPE_CHECKING:
    from PIL import Image as PillowImages

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
"""2D image formats by file name."""

_DEFAULT_LIMITS = Limits()
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_AS_STORED = ("L", "RGB", "F", "I", "I;16", "I;16B", "I;16L", "I;16N")
_CONVERTED = ("1", "P", "CMYK", "YCbCr", "RGBX")
_ORIENTATION_TAG, _BITS_TAG, _PHOTOMETRIC_TAG = 0x0112, 258, 262
# Deflate packs at most 1032 to 1. Fax and LZW coding go further on blank pages, so small images may be anything.
_LARGEST_RATIO, _RATIO_FROM_BYTES = 1100, 64 * 1024**2
_PACKED = {"1": 8, "P": 8, "L": 4}
"""Pixels of a byte, at most, by Pillow's mode (PNG keeps palettes in 1 bit and grey in 2 or more)."""


def read_picture(
    path: Path,
    *,
    modality: str = "",
    strict: bool = False,
    repair: bool = False,
    limits: Limits = _DEFAULT_LIMITS,
) -> Image:
    """Read one PNG, JPEG, TIFF or BMP file; its content, not its name, tells the format.

    Grey stays grey and colour becomes RGB, in 8 or 16 bits as stored (1-bit images become 0 and 255, floating-point
    ones float32). The picture is turned as its EXIF Orientation says. Alpha is left out and never blended with a
    background, which no file names: stored colours are what was measured. Print resolution (pHYs, XResolution) is no
    pixel size of the patient: spacing is always unknown here, and the report says so.

    Args:
        path: the file.
        modality: what the caller knows; these formats do not say it.
        strict: refuse what would be repaired (pixels that are partly or wholly transparent).
        repair: the same as neither here.
        limits: ``image_bytes`` is checked against the header before memory is taken.

    Raises:
        FileNotFoundError: there is no file.
        RefusedError: ``unsupported_format``, ``unreadable_image`` (broken or cut short), ``several_pages``,
            ``values_not_finite``, ``transparent_pixels`` or ``limit_exceeded``.
        ValueError: ``strict`` and ``repair`` are both set.
    """
    from PIL import ImageOps

    path = Path(path)
    mode = mode_of(strict=strict, repair=repair)
    with _opened(path, limits) as picture:
        wide_colour = _is_wide_colour(picture, path)
        try:
            picture.load()
            lines = _header_lines(picture, path)
            if wide_colour:
                values, alpha = _through_itk(path, picture)
                top = int(np.iinfo(np.uint16).max)
            else:
                upright = ImageOps.exif_transpose(picture)
                values, alpha = _pixels(upright, inverted=_is_inverted(picture))
                top = 255
        except (OSError, EOFError, ValueError, SyntaxError, RuntimeError, struct.error, zlib.error) as error:
            raise _broken(path) from error
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        message = "The picture holds values that are no finite numbers. Mend it where it was made."
        raise RefusedError([ReportLine("values_not_finite", "refused", message, path.name)])
    if alpha is not None:
        lines.append(_alpha_line(alpha, top, path, strict=mode == "strict"))
    array = np.ascontiguousarray(values.transpose(2, 1, 0))
    return Image(array, None, modality, InputReport(tuple(lines)))


def describe_picture(path: Path, limits: Limits = _DEFAULT_LIMITS) -> tuple[tuple[int, int], tuple[ReportLine, ...]]:
    """What a picture's header tells: (columns, rows) as it will be read, and the notes; pixels stay unread.

    Raises:
        FileNotFoundError, RefusedError: as ``read_picture``, as far as the header shows it.
    """
    path = Path(path)
    with _opened(path, limits) as picture:
        columns, rows = picture.size
        lines = _header_lines(picture, path)
        turned = _orientation(picture) >= 5
    return ((rows, columns) if turned else (columns, rows)), tuple(lines)


@contextmanager
def _opened(path: Path, limits: Limits) -> Iterator[PillowImages.Image]:
    """The file opened and judged by its header; Pillow's warnings stay silent, for what they say is judged here."""
    from PIL import Image as PillowImages
    from PIL import UnidentifiedImageError

    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        try:
            if _is_png(path):
                # Pillow passes over the check sums of pixel chunks unless it is asked to verify.
                with PillowImages.open(path, formats=("PNG",)) as claimed:
                    claimed.verify()
            picture = stack.enter_context(PillowImages.open(path, formats=_FORMATS))
            pages = getattr(picture, "n_frames", 1)
        except PillowImages.DecompressionBombError as error:
            what = line("limit_exceeded", path.name, what="The picture", limit=limits.image_bytes)
            raise RefusedError([what]) from error
        except UnidentifiedImageError as error:
            reason = "expected a whole PNG, JPEG, TIFF or BMP file."
            raise RefusedError([line("unsupported_format", path.name, reason=reason)]) from error
        except (OSError, EOFError, ValueError, SyntaxError, struct.error, zlib.error, KeyError, TypeError) as error:
            raise _broken(path) from error
        _check_header(picture, pages, path, limits)
        yield picture


def _check_header(picture: PillowImages.Image, pages: int, path: Path, limits: Limits) -> None:
    if pages > 1 and picture.format != "MPO":
        message = f"The file holds {pages} pages; expected one picture. Split it into one file a page."
        raise RefusedError([ReportLine("several_pages", "refused", message, path.name)])
    if picture.mode not in (*_AS_STORED, *_CONVERTED, *_WITH_ALPHA):
        reason = f"its pixels are {picture.mode}; expected grey, RGB, palette, YCbCr or CMYK."
        raise RefusedError([line("unsupported_format", path.name, reason=reason)])
    item_bytes = 4 if picture.mode in ("F", "I") else 2 if "16" in picture.mode or _is_wide_colour(picture, path) else 1
    size = picture.size[0] * picture.size[1] * max(len(picture.getbands()), 3) * item_bytes
    if size > limits.image_bytes:
        what = f"The picture of {picture.size[0]} x {picture.size[1]} pixels ({size} bytes)"
        raise RefusedError([line("limit_exceeded", path.name, what=what, limit=limits.image_bytes)])
    # A mask of one even area in few bits is packed tightly and no bomb: what counts is what the file unpacks to.
    stored = picture.size[0] * picture.size[1] * len(picture.getbands()) * item_bytes / _PACKED.get(picture.mode, 1)
    if stored > max(_RATIO_FROM_BYTES, _LARGEST_RATIO * path.stat().st_size):
        raise _broken(path)


def _header_lines(picture: PillowImages.Image, path: Path) -> list[ReportLine]:
    lines = [pixel_spacing_unknown(path.name)]

    def note(code: str, message: str) -> None:
        lines.append(ReportLine(code, "note", message, path.name))

    orientation = _orientation(picture)
    if orientation != 1:
        note("exif_orientation", f"The picture is turned upright as its EXIF Orientation ({orientation}) says.")
    if picture.format in ("JPEG", "MPO"):
        note("lossy_compression", "The picture was compressed with loss: values are approximate.")
    if picture.mode == "CMYK":
        note("cmyk_converted", "CMYK became RGB without a colour profile: colours are approximate.")
    if picture.mode == "P":
        note("palette_expanded", "The palette's colours take the place of its numbers.")
    if _is_inverted(picture):
        note("white_is_zero", "PhotometricInterpretation is WhiteIsZero: values are inverted, so that bright is high.")
    return lines


def pixel_spacing_unknown(where: str) -> ReportLine:
    """The note that every image without a trusted pixel size carries."""
    message = "Nothing tells the size of a pixel in mm: lengths and areas are in pixels."
    return ReportLine("pixel_spacing_unknown", "note", message, where)


def _pixels(picture: PillowImages.Image, *, inverted: bool) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
    """``(rows, columns, 1 or 3)`` values, and the alpha channel where there is one."""
    alpha = None
    if picture.mode in _WITH_ALPHA or "transparency" in picture.info:
        solid = picture.convert("RGBA")
        alpha = np.asarray(solid)[..., 3]
        picture = solid.convert("L" if picture.mode in ("L", "LA", "La", "1") else "RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode in _CONVERTED:
        picture = picture.convert("RGB")
    values = np.asarray(picture)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if picture.mode == "I":
        # Older Pillow opens 16-bit PNG as 32 bits.
        exact = values.min() >= 0 and values.max() <= np.iinfo(np.uint16).max
        values = values.astype(np.uint16 if exact else np.float64)
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
    if inverted:
        values = np.iinfo(np.uint16).max - values
    return values.reshape(*values.shape[:2], -1), alpha


def _is_png(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(8) == b"\x89PNG\r\n\x1a\n"


def _is_wide_colour(picture: PillowImages.Image, path: Path) -> bool:
    """Whether colours, or grey with alpha, are stored in 16 bits, of which Pillow would keep the upper 8."""
    if picture.format == "TIFF":
        bits = picture.tag_v2.get(_BITS_TAG, (1,))  # type: ignore[attr-defined]
        return len(bits) > 1 and max(bits) > 8
    if picture.format != "PNG":
        return False
    with path.open("rb") as stream:
        depth, colour_type = stream.read(26)[24:]  # of the header chunk, IHDR
    return depth == 16 and colour_type != 0


def _is_inverted(picture: PillowImages.Image) -> bool:
    """Whether a 16-bit TIFF has white at 0, which Pillow inverts in 8 bits only."""
    tags = getattr(picture, "tag_v2", None)
    return tags is not None and picture.mode.startswith("I;16") and tags.get(_PHOTOMETRIC_TAG) == 0


def _through_itk(path: Path, picture: PillowImages.Image) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
    """``(rows, columns, 1 or 3)`` values of 16 bits turned upright, and the alpha channel where there is one."""
    import SimpleITK

    values: NDArray[np.generic] = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    if values.ndim != 3 or values.dtype != np.uint16 or not 2 <= values.shape[2] <= 4:
        raise ValueError("not one colour picture of 16 bits")
    values = _turned(values, picture)
    return (values, None) if values.shape[2] == 3 else (values[..., :-1], values[..., -1])


def _turned(values: NDArray[np.generic], picture: PillowImages.Image) -> NDArray[np.generic]:
    """``(rows, columns, samples)`` turned as EXIF Orientation says (Exif 2.3, tag 0x0112)."""
    orientation = _orientation(picture)
    if orientation >= 5:
        values = values.transpose(1, 0, 2)
    flip_rows, flip_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return values[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def _orientation(picture: PillowImages.Image) -> int:
    if picture.format == "PNG" and not {"exif", "Raw profile type exif"} & set(picture.info):
        return 1  # Asked all the same, Pillow would decode the pixels to look for it behind them.
    try:
        found = picture.getexif().get(_ORIENTATION_TAG, 1)
    except (OSError, EOFError, ValueError, SyntaxError, struct.error, KeyError, TypeError):
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _alpha_line(alpha: NDArray[np.generic], top: int, path: Path, *, strict: bool) -> ReportLine:
    share = float(np.count_nonzero(alpha != top)) / alpha.size
    if share == 0:
        return ReportLine("alpha_dropped", "note", "The alpha channel is opaque throughout and left out.", path.name)
    message = (
        f"{share:.1%} of the pixels are transparent, partly or wholly. Their stored colours are taken; nothing is "
        "blended with a background."
    )
    if strict:
        raise RefusedError([ReportLine("transparent_pixels", "refused", message, path.name)])
    return ReportLine("transparent_pixels", "repaired", message, path.name)


def _broken(path: Path) -> RefusedError:
    message = "The picture is broken or cut short. Bring the original file."
    return RefusedError([ReportLine("unreadable_image", "refused", message, path.name)])
