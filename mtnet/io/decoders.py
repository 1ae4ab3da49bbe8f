"""Which decoder reads which transfer syntax, and decoding one compressed frame with it.

The decoders are called directly and by name, never through whatever another package finds installed: that may be a
decoder of another licence (pylibjpeg-libjpeg is GPL) or one that gives other colours. pydicom is not needed.
"""

from __future__ import annotations

import importlib.util
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.io.streams import jpeg_facts, read_facts

GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
"""Photometric interpretations of one sample a pixel."""

_YBR_CODED_AS_RGB = ("YBR_ICT", "YBR_RCT")
_COMPONENTS_RGB = (b"RGB", b"rgb")

Pixels = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class FrameFormat:
    """What the header says about every frame: the transfer syntax and the image pixel module (PS3.3 C.7.6.3)."""

    syntax: str
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str

    @property
    def dtype(self) -> np.dtype[np.integer[Any]]:
        """Type of one sample as BitsAllocated and PixelRepresentation have it, in native byte order.

        Raises:
            ValueError: BitsAllocated is not 8, 16 or 32.
        """
        if self.bits_allocated not in (8, 16, 32):
            raise ValueError(f"BitsAllocated (0028,0100) of {self.bits_allocated} is not read in this transfer syntax.")
        return np.dtype(f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}")

    @property
    def shape(self) -> tuple[int, ...]:
        """``(rows, columns)``, with samples behind where there are several."""
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)


def decode_frame(stream: bytes, form: FrameFormat) -> tuple[Pixels, str]:
    """Decode one frame. Runs native code on untrusted bytes: call it in the decoding child only.

    Args:
        stream: the frame's fragments, joined.
        form: what the header says of it.

    Returns:
        ``form.shape`` samples of ``form.dtype``, and their photometric interpretation, which is ``RGB`` or ``YBR_FULL``
        for three samples. Values are as coded: neither sign extended from BitsStored nor converted from YBR_FULL.

    Raises:
        KeyError: no decoder is known for the transfer syntax.
        Exception: whatever a decoder raises on a broken stream.
    """
    pixels, photometric = _DECODERS[form.syntax].decode(stream, form)
    if pixels.shape != form.shape:
        raise ValueError(f"the stream decodes to {pixels.shape}; expected {form.shape}.")
    if form.samples == 3 and photometric not in ("RGB", "YBR_FULL"):
        photometric = "RGB" if photometric in _YBR_CODED_AS_RGB else "YBR_FULL"
    if pixels.dtype.itemsize == form.dtype.itemsize and pixels.dtype != form.dtype:
        return np.ascontiguousarray(pixels).view(form.dtype), photometric
    return np.ascontiguousarray(pixels, dtype=form.dtype), photometric


def missing_packages(syntax: str) -> tuple[str, ...] | None:
    """Packages to install before ``syntax`` can be decoded; empty where all is there, ``None`` for no known decoder."""
    decoder = _DECODERS.get(syntax)
    if decoder is None:
        return None
    return tuple(package for module, package in decoder.needs.items() if importlib.util.find_spec(module) is None)


def _rle(stream: bytes, form: FrameFormat) -> tuple[Pixels, str]:
    """RLE (PS3.5 Annex G): a segment for each byte of each sample, the highest byte first."""
    item_bytes, plane = form.dtype.itemsize, form.rows * form.columns
    count, *starts = struct.unpack_from("<16I", stream)
    if count != form.samples * item_bytes:
        raise ValueError(f"the RLE stream has {count} segment(s); expected {form.samples * item_bytes}.")
    ends = [*starts[1:count], len(stream)]
    planes = np.empty((form.samples, item_bytes, plane), dtype=np.uint8)
    for index in range(count):
        if not 64 <= starts[index] <= ends[index] <= len(stream):
            raise ValueError("the RLE stream's segments lie outside it.")
        unpacked = _unpack_bits(stream, starts[index], ends[index], plane)
        planes[index // item_bytes, index % item_bytes] = np.frombuffer(unpacked, dtype=np.uint8)
    big_endian = np.ascontiguousarray(planes.transpose(2, 0, 1)).view(f">u{item_bytes}")
    pixels = big_endian.reshape(form.rows, form.columns, form.samples).astype(f"u{item_bytes}")
    return pixels.reshape(form.shape), form.photometric


def _unpack_bits(stream: bytes, at: int, end: int, size: int) -> bytes:
    """``size`` bytes from the run lengths in ``stream[at:end]``.

    Raises:
        ValueError: they hold fewer.
    """
    unpacked = bytearray()
    while len(unpacked) < size and at < end:
        head = stream[at]
        if head < 128:
            unpacked += stream[at + 1 : min(at + 2 + head, end)]
            at += head + 2
        else:
            if head > 128:
                unpacked += stream[at + 1 : min(at + 2, end)] * (257 - head)
            at += 2 if head > 128 else 1
    if len(unpacked) < size:
        raise ValueError("the RLE stream is cut short.")
    return bytes(unpacked[:size])


def _jpeg(stream: bytes, form: FrameFormat) -> tuple[Pixels, str]:
    return _jpeg_8_bit(stream, form) if jpeg_facts(stream).bits == 8 else _gdcm(stream, form)


def _jpeg_8_bit(stream: bytes, form: FrameFormat) -> tuple[Pixels, str]:
    """JPEG by pillow. Its library turns YCbCr into RGB as the stream's markers say.

    Where they say nothing it takes three components for YCbCr, and the header knows better if it says RGB.
    """
    from PIL import Image

    facts = jpeg_facts(stream)
    with Image.open(BytesIO(stream), formats=("JPEG",)) as image:
        silent = not {"adobe_transform", "jfif"} & image.info.keys() and facts.component_ids not in _COMPONENTS_RGB
        if form.samples == 3 and form.photometric == "RGB" and silent:
            image.draft("YCbCr", image.size)  # Hands on the components untouched.
        pixels = np.asarray(image)
    return pixels, form.photometric if form.samples == 1 else "RGB"


def _gdcm(stream: bytes, form: FrameFormat) -> tuple[Pixels, str]:
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((form.columns, form.rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType("RGB" if form.samples == 3 else "MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    if form.samples > 1:
        image.SetPlanarConfiguration(0)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(form.syntax)))
    bits = jpeg_facts(stream).bits
    image.SetPixelFormat(gdcm.PixelFormat(form.samples, form.bits_allocated, bits, bits - 1, int(form.signed)))
    decoded = image.GetBuffer()
    # Its binding hands bytes over as text.
    found = decoded.encode("utf-8", "surrogateescape") if isinstance(decoded, str) else decoded
    if len(found) != math.prod(form.shape) * form.dtype.itemsize:
        raise ValueError("the stream cannot be decoded as JPEG.")
    return np.frombuffer(found, dtype=form.dtype.newbyteorder("<")).reshape(form.shape), form.photometric


def _jpeg_ls(stream: bytes, form: FrameFormat) -> tuple[Pixels, str]:
    import jpeg_ls

    decoded, info = jpeg_ls.decode_pixel_data(stream)
    pixels = np.frombuffer(decoded, dtype=np.uint8 if info["bits_per_sample"] <= 8 else "<u2")
    if info["components"] > 1 and info["interleave_mode"] == 0:
        by_plane = pixels.reshape(form.samples, form.rows, form.columns)
        return by_plane.transpose(1, 2, 0), form.photometric
    return pixels.reshape(form.shape), form.photometric


def _jpeg_2000(stream: bytes, form: FrameFormat) -> tuple[Pixels, str]:
    import openjpeg.utils

    facts = read_facts(stream, form.syntax)
    if facts is not None and facts.signed != form.signed:
        raise ValueError("the stream and PixelRepresentation (0028,0103) disagree on the sign.")
    pixels: Pixels = np.asarray(openjpeg.utils.decode(stream))
    return pixels, form.photometric


@dataclass(frozen=True, slots=True)
class _Decoder:
    """A function, and the modules that it needs with the packages that bring them."""

    decode: Callable[[bytes, FrameFormat], tuple[Pixels, str]]
    needs: Mapping[str, str]


_PILLOW = {"PIL": "pillow"}
_GDCM = {"gdcm": "python-gdcm"}
_OPENJPEG = {"openjpeg": "pylibjpeg-openjpeg"}
_RLE_SYNTAX = "1.2.840.10008.1.2.5"
_JPEG = "1.2.840.10008.1.2.4."

_DECODERS: Mapping[str, _Decoder] = {
    _RLE_SYNTAX: _Decoder(_rle, {}),
    f"{_JPEG}50": _Decoder(_jpeg, _PILLOW),  # baseline
    f"{_JPEG}51": _Decoder(_jpeg, _PILLOW | _GDCM),  # extended: 8 bits by the first, 12 by the second
    f"{_JPEG}57": _Decoder(_gdcm, _GDCM),  # lossless
    f"{_JPEG}70": _Decoder(_gdcm, _GDCM),  # lossless, first-order prediction
    f"{_JPEG}80": _Decoder(_jpeg_ls, {"jpeg_ls": "pyjpegls"}),
    f"{_JPEG}81": _Decoder(_jpeg_ls, {"jpeg_ls": "pyjpegls"}),
    f"{_JPEG}90": _Decoder(_jpeg_2000, _OPENJPEG),
    f"{_JPEG}91": _Decoder(_jpeg_2000, _OPENJPEG),
    f"{_JPEG}201": _Decoder(_jpeg_2000, _OPENJPEG),  # high-throughput JPEG 2000
    f"{_JPEG}202": _Decoder(_jpeg_2000, _OPENJPEG),
    f"{_JPEG}203": _Decoder(_jpeg_2000, _OPENJPEG),
}
