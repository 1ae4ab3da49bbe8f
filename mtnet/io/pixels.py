"""Pixels of one single-frame, single-sample DICOM object, decoded as stored."""

from __future__ import annotations

import struct
import warnings
import zlib
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtnet.io.files import Opener
from mtnet.io.limits import Limits
from mtnet.io.streams import JPEG2000_SYNTAXES, JPEG_SYNTAXES, JPEGLS_SYNTAXES, read_facts, stream_of
from mtnet.io.values import padding_mask
from mtnet.io.verdicts import line
from mtnet.structures.report import RefusedError
from mtnet.structures.study import Instance

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

_IMPLICIT = "1.2.840.10008.1.2"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = (_IMPLICIT, "1.2.840.10008.1.2.1", _BIG_ENDIAN, _DEFLATED)
_DECODERS = (
    (JPEG_SYNTAXES, "python-gdcm"),
    (JPEGLS_SYNTAXES, "pyjpegls"),
    (JPEG2000_SYNTAXES, "pylibjpeg and pylibjpeg-openjpeg"),
)


def read_stored(instance: Instance, opener: Opener, limits: Limits) -> NDArray[np.integer[Any]]:
    """Decode the stored values of one instance.

    Uncompressed, RLE and deflated objects need pydicom alone; JPEG lossless needs python-gdcm, JPEG-LS pyjpegls,
    JPEG 2000 pylibjpeg-openjpeg. The stream's own header is compared with the DICOM header before it is decoded.

    Returns:
        ``(rows, columns)`` integers, signed where PixelRepresentation says so, high bits cleared of what is no pixel.

    Raises:
        RefusedError: ``no_pixel_data``, ``unknown_decoder`` (naming the transfer syntax), ``signedness_mismatch``,
            ``unreadable_pixels`` or ``limit_exceeded``.
    """
    where = instance.where
    rows, columns = instance.rows or 0, instance.columns or 0
    if instance.samples_per_pixel != 1 or instance.number_of_frames != 1 or min(rows, columns) < 1:
        raise _unreadable(instance, "expected one grey frame with Rows and Columns.")
    if rows * columns * max((instance.bits_allocated or 16) // 8, 1) > limits.decoded_bytes:
        raise RefusedError([line("limit_exceeded", where, what="The size of one slice", limit=limits.decoded_bytes)])
    try:
        with opener.open(instance.path, instance.member) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(stream, instance, limits)
    except (RefusedError, MemoryError, ImportError):
        raise
    except Exception as error:
        # Decoders raise what they like on broken streams; whatever it is, these pixels cannot be read.
        message = str(error).splitlines()[0] if isinstance(error, ValueError) and str(error) else type(error).__name__
        raise _unreadable(instance, message) from error


def _decode(stream: IO[bytes], instance: Instance, limits: Limits) -> NDArray[np.integer[Any]]:
    import pydicom

    if instance.transfer_syntax_uid == _DEFLATED:
        _check_inflated(stream, instance, limits)
    try:
        dataset = pydicom.dcmread(stream, force=True)
    except ValueError as error:
        # The parser's own words may hold a value of the header, and so a person's name.
        raise _unreadable(instance, "the header cannot be parsed.") from error
    if "PixelData" not in dataset:
        raise RefusedError([line("no_pixel_data", instance.where)])
    # Files without meta group say nothing; pydicom has then found out which of the uncompressed encodings it is.
    encoding = getattr(dataset, "original_encoding", None)
    little = encoding[1] if encoding else dataset.is_little_endian
    syntax = pydicom.uid.UID(instance.transfer_syntax_uid or (_IMPLICIT if little else _BIG_ENDIAN))
    if dataset.get("HighBit", dataset.BitsStored - 1) != dataset.BitsStored - 1:
        raise _unreadable(instance, "HighBit (0028,0102) is not BitsStored - 1.")
    if syntax in _NATIVE:
        return _within_bits(_native(dataset, instance, big_endian=syntax == _BIG_ENDIAN), dataset, instance)
    return _within_bits(_decode_stream(dataset, instance, syntax), dataset, instance)


def _native(dataset: Dataset, instance: Instance, *, big_endian: bool) -> NDArray[np.integer[Any]]:
    """Uncompressed values, straight from the bytes: pydicom 3 would clear bits that pydicom 2 keeps."""
    bits = int(dataset.BitsAllocated)
    if bits not in (8, 16, 32) or (bits == 8 and big_endian):
        raise _unreadable(instance, f"BitsAllocated (0028,0100) of {bits} is not read in this transfer syntax.")
    dtype = np.dtype(f"{'>' if big_endian else '<'}{'i' if dataset.PixelRepresentation else 'u'}{bits // 8}")
    rows, columns = instance.rows or 0, instance.columns or 0
    found, expected = len(dataset.PixelData), rows * columns * dtype.itemsize
    if found not in (expected, expected + 1):
        raise _unreadable(instance, f"the pixel data hold {found} bytes; expected {expected}.")
    pixels = np.frombuffer(dataset.PixelData, dtype=dtype, count=rows * columns).reshape(rows, columns)
    return pixels.astype(dtype.newbyteorder("="), copy=False)


def _decode_stream(dataset: Dataset, instance: Instance, syntax: UID) -> NDArray[np.integer[Any]]:
    if not _has_decoder(syntax):
        raise RefusedError(
            [line("unknown_decoder", instance.where, syntax=f"{syntax} ({syntax.name})", advice=_advice(syntax))]
        )
    _check_stream(dataset, instance, syntax)
    if hasattr(dataset, "pixel_array_options"):
        dataset.pixel_array_options(correct_unused_bits=False)
    pixels = np.asarray(dataset.pixel_array)
    if pixels.shape != (instance.rows, instance.columns) or pixels.dtype.kind not in "iu":
        raise _unreadable(instance, f"decoded to {pixels.shape} {pixels.dtype}.")
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _check_stream(dataset: Dataset, instance: Instance, syntax: str) -> None:
    facts = read_facts(stream_of(dataset.PixelData), syntax)
    if facts is None:
        return
    if (facts.rows, facts.columns, facts.samples) != (instance.rows, instance.columns, 1):
        raise _unreadable(
            instance,
            f"the compressed stream holds {facts.columns} x {facts.rows} pixels of {facts.samples} sample(s); "
            f"Columns and Rows say {instance.columns} x {instance.rows}.",
        )
    if facts.bits > dataset.BitsAllocated:
        raise _unreadable(instance, f"the compressed stream holds {facts.bits} bits; BitsAllocated says less.")
    if facts.signed is not None and facts.signed != bool(dataset.PixelRepresentation):
        raise RefusedError([line("signedness_mismatch", instance.where)])


def _within_bits(pixels: NDArray[np.integer[Any]], dataset: Dataset, instance: Instance) -> NDArray[np.integer[Any]]:
    """Values as BitsStored and PixelRepresentation mean them: sign extended, overlay bits (PS3.5 8.1.1) cleared.

    Raises:
        RefusedError: values need more bits than BitsStored, and no overlay and no padding value explains them.
    """
    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    if signed != (pixels.dtype.kind == "i"):
        raise _unreadable(instance, "the decoder and PixelRepresentation (0028,0103) disagree on the sign.")
    if bits >= 8 * pixels.dtype.itemsize:
        return pixels
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if pixels.min() >= low and pixels.max() <= high:
        return pixels
    overlay = any(group in dataset and dataset[group].value for group in _overlay_bit_positions())
    if overlay or (signed and pixels.min() >= 0 and pixels.max() < 2**bits):
        cleared = pixels & pixels.dtype.type(2**bits - 1)
        return cleared - (cleared > high) * pixels.dtype.type(2**bits) if signed else cleared
    padded = padding_mask(pixels, instance)
    outside = (pixels < low) | (pixels > high)
    if padded is not None and bool(padded[outside].all()):
        return pixels
    raise _unreadable(instance, f"values need more bits than BitsStored (0028,0101) says ({bits}).")


def _overlay_bit_positions() -> tuple[tuple[int, int], ...]:
    return tuple((group, 0x0102) for group in range(0x6000, 0x6020, 2))


def _check_inflated(stream: IO[bytes], instance: Instance, limits: Limits) -> None:
    """Inflate a deflated data set without keeping it, to see that it stays within the limits; then rewind.

    It starts after the file meta group, whose length its first element tells (PS3.10 7.1).
    """
    start = stream.read(144)
    if len(start) < 144 or start[128:136] != b"DICM\x02\x00\x00\x00":
        raise _unreadable(instance, "the deflated file does not start with its meta group.")
    stream.seek(144 + int(struct.unpack("<I", start[140:])[0]))
    engine, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    allowed = limits.header_bytes + (instance.rows or 0) * (instance.columns or 0) * 4
    # After the end of the stream a padding byte may follow, which the engine never takes.
    while not engine.eof and (pending := stream.read(1 << 16)):
        while pending and not engine.eof:
            total += len(engine.decompress(pending, 1 << 20))
            pending = engine.unconsumed_tail
            if total > allowed:
                raise RefusedError([line("limit_exceeded", instance.where, what="The inflated size", limit=allowed)])
    stream.seek(0)


def _has_decoder(syntax: str) -> bool:
    """Whether pydicom finds a decoder that is installed; pydicom 2.4 and 3 keep them in different places."""
    import pydicom

    if int(pydicom.__version__.split(".")[0]) >= 3:
        from pydicom.pixels.decoders.base import get_decoder

        try:
            return bool(get_decoder(syntax).is_available)
        except NotImplementedError:
            return False
    from pydicom import config

    return any(
        handler.is_available() and handler.supports_transfer_syntax(syntax) for handler in config.pixel_data_handlers
    )


def _advice(syntax: str) -> str:
    for syntaxes, package in _DECODERS:
        if syntax in syntaxes:
            return f"Install {package}."
    return "Convert the files to an uncompressed or lossless JPEG transfer syntax first."


def _unreadable(instance: Instance, reason: str) -> RefusedError:
    return RefusedError([line("unreadable_pixels", instance.where, reason=reason)])
