"""Frames of one DICOM object, decoded as stored: one or many, grey or colour, compressed or not."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from mtnet.io.decoders import GREY, FrameFormat, missing_packages
from mtnet.io.decoding import POOL, DecoderStartError, DecodingError
from mtnet.io.encapsulation import Fragment, find_frames, read_frame
from mtnet.io.files import Opener
from mtnet.io.limits import Limits
from mtnet.io.streams import read_facts
from mtnet.io.values import padding_mask
from mtnet.io.verdicts import line
from mtnet.io.ybr import rgb_from_ybr_full, ybr_full_from_422
from mtnet.structures.report import RefusedError
from mtnet.structures.study import Instance

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_IMPLICIT = "1.2.840.10008.1.2"
_EXPLICIT = "1.2.840.10008.1.2.1"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = (_IMPLICIT, _EXPLICIT, _BIG_ENDIAN, _DEFLATED)
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"UN")
_UNDEFINED_LENGTH = 0xFFFFFFFF
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420", "YBR_PARTIAL_422")
_NATIVE_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422")
_TAGS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ExtendedOffsetTable",
)  # fmt: skip
_OVERLAY_BIT_POSITIONS = tuple((group << 16) | 0x0102 for group in range(0x6000, 0x6020, 2))

Pixels = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Frames:
    """Decoded frames of one object.

    Args:
        values: ``(frames, rows, columns)`` for one sample a pixel, ``(frames, rows, columns, 3)`` for colour; integers
            of the size that BitsAllocated has, signed where PixelRepresentation says so, without what is no pixel in
            their high bits. Never rescaled, windowed or inverted; palette indices stay indices.
        photometric: what they mean now: ``MONOCHROME1``, ``MONOCHROME2``, ``PALETTE COLOR`` or ``RGB``.
    """

    values: Pixels
    photometric: str


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the pixels of one object lie, as its header says.

    ``length`` is ``None`` for a sequence of items; ``words`` is whether the value is of 16-bit words; ``content`` holds
    the value itself where the object is deflated; ``fragments`` are those of each compressed frame.
    """

    dataset: Dataset
    form: FrameFormat
    offset: int
    length: int | None
    words: bool
    content: bytes | None = None
    fragments: tuple[tuple[Fragment, ...], ...] = ()


# Frames of one object are asked for one after the other: the object last read through an opener.
_last_source: WeakKeyDictionary[Opener, tuple[tuple[Path, str | None, int], _Source]] = WeakKeyDictionary()


def read_frames(instance: Instance, opener: Opener, limits: Limits, indices: Sequence[int] | None = None) -> Frames:
    """Decode frames of one object.

    Uncompressed frames are read from where they lie in the file, the others left alone (a deflated object is inflated
    whole). Compressed ones are decoded in another process (``mtnet.io.decoding``): a decoder that crashes or hangs is a
    reason of refusal. The stream's own header is compared with the DICOM header before it is decoded. Colour that is
    coded as YBR comes back as RGB (PS3.3 C.7.6.3.1.2).

    Args:
        instance: as ``scan`` found it.
        opener: reads its file.
        limits: ``decoded_bytes`` bounds what is asked for.
        indices: frames from 0, in any order; all by default.

    Raises:
        RefusedError: ``no_pixel_data``, ``unknown_decoder`` (naming the transfer syntax), ``signedness_mismatch``,
            ``unreadable_pixels`` or ``limit_exceeded``.
        IndexError: there is no such frame.
        DecoderStartError: the decoding process does not start.
    """
    asked = range(instance.number_of_frames) if indices is None else [int(index) for index in indices]
    if any(not 0 <= index < instance.number_of_frames for index in asked):
        raise IndexError(f"{instance.where} has frames 0 to {instance.number_of_frames - 1}.")
    if min(instance.rows or 0, instance.columns or 0) < 1 or not asked:
        raise _unreadable(instance, "expected Rows, Columns and at least one frame.")
    size = (instance.rows or 0) * (instance.columns or 0) * instance.samples_per_pixel * len(asked)
    if size * max((instance.bits_allocated or 16) // 8, 1) > limits.decoded_bytes:
        what = "The size of the decoded frames"
        raise RefusedError([line("limit_exceeded", instance.where, what=what, limit=limits.decoded_bytes)])
    try:
        with opener.open(instance.path, instance.member) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read(stream, _source(stream, instance, opener, limits), instance, asked)
    except (RefusedError, MemoryError, ImportError, DecoderStartError):
        raise
    except Exception as error:
        # The parser raises what it likes on broken files; whatever it is, these pixels cannot be read.
        said = str(error).splitlines()[0] if isinstance(error, (ValueError, DecodingError)) and str(error) else ""
        raise _unreadable(instance, f"{(said or type(error).__name__).rstrip('.')}.") from error


def _read(stream: IO[bytes], source: _Source, instance: Instance, asked: Sequence[int]) -> Frames:
    form = source.form
    if form.syntax in _NATIVE:
        values, photometric = _native(stream, source, instance, asked)
    else:
        values, photometric = _compressed(stream, source, instance, asked)
    values = _within_bits(values, source, instance)
    if photometric == "YBR_FULL":
        if form.signed:
            raise _unreadable(instance, "colour of signed samples has no meaning.")
        values, photometric = rgb_from_ybr_full(values, form.bits_stored), "RGB"
    return Frames(values, photometric)


def _source(stream: IO[bytes], instance: Instance, opener: Opener, limits: Limits) -> _Source:
    key = (instance.path, instance.member, instance.file_bytes)
    known = _last_source.get(opener)
    if known is not None and known[0] == key:
        return known[1]
    source = _find_source(stream, instance, limits)
    _last_source[opener] = key, source
    return source


def _find_source(stream: IO[bytes], instance: Instance, limits: Limits) -> _Source:
    """Read the header as far as pixels need it, up to the pixel data element."""
    import pydicom

    deflated = instance.transfer_syntax_uid == _DEFLATED
    if deflated:
        _check_inflated(stream, instance, limits)
    tags: list[Any] = [*_TAGS, *_OVERLAY_BIT_POSITIONS, *(["PixelData"] if deflated else [])]
    try:
        dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=not deflated, specific_tags=tags)
        if deflated and "PixelData" in dataset:
            content = bytes(dataset.PixelData)
            return _Source(dataset, _format(dataset, instance, _DEFLATED), 0, len(content), False, content)
    except ValueError as error:
        # The parser's own words may hold a value of the header, and so a person's name.
        raise _unreadable(instance, "the header cannot be parsed.") from error
    offset = stream.tell()
    # Files without meta group say nothing; pydicom has then found out which of the uncompressed encodings it is.
    encoding = getattr(dataset, "original_encoding", None)
    little = encoding[1] if encoding else dataset.is_little_endian
    syntax = instance.transfer_syntax_uid or (_IMPLICIT if little else _BIG_ENDIAN)
    order = ">" if syntax == _BIG_ENDIAN else "<"
    start = stream.read(12)
    if len(start) < 8 or struct.unpack(f"{order}HH", start[:4]) != (0x7FE0, 0x0010):
        raise RefusedError([line("no_pixel_data", instance.where)])
    form = _format(dataset, instance, syntax)
    explicit = start[4:6] in _LONG_VRS and len(start) == 12
    (length,) = struct.unpack(f"{order}I", start[8:12] if explicit else start[4:8])
    offset, words = offset + (12 if explicit else 8), start[4:6] == b"OW"
    if syntax in _NATIVE:
        if length == _UNDEFINED_LENGTH:
            raise _unreadable(instance, "uncompressed pixel data of undefined length.")
        return _Source(dataset, form, offset, length, words)
    _check_decoder(syntax, instance)
    if length != _UNDEFINED_LENGTH:
        raise _unreadable(instance, "the compressed pixel data are no sequence of items.")
    stream.seek(offset)
    table = bytes(dataset.get("ExtendedOffsetTable", b"") or b"")
    fragments = find_frames(stream, instance.number_of_frames, extended_offsets=table)
    return _Source(dataset, form, offset, None, words, fragments=fragments)


def _check_decoder(syntax: str, instance: Instance) -> None:
    missing = missing_packages(syntax)
    if missing is None or missing:
        from pydicom.uid import UID

        advice = f"Install {' and '.join(missing)}." if missing else _advice(syntax)
        name = f"{syntax} ({UID(syntax).name})"
        raise RefusedError([line("unknown_decoder", instance.where, syntax=name, advice=advice)])


def _format(dataset: Dataset, instance: Instance, syntax: str) -> FrameFormat:
    """What the header says of a frame, once it makes sense."""
    bits_allocated = int(dataset.BitsAllocated)
    bits_stored = int(dataset.get("BitsStored") or bits_allocated)
    samples, photometric = instance.samples_per_pixel, instance.photometric
    if dataset.get("HighBit", bits_stored - 1) != bits_stored - 1 or not 1 <= bits_stored <= bits_allocated:
        raise _unreadable(instance, "HighBit (0028,0102) is not BitsStored - 1, or BitsStored is not in BitsAllocated.")
    native = syntax in _NATIVE
    known = GREY if samples == 1 else (_NATIVE_COLOUR if native else _COLOUR) if samples == 3 else ()
    if photometric not in known:
        raise _unreadable(
            instance,
            f"PhotometricInterpretation (0028,0004) {photometric!r} with {samples} sample(s) a pixel is not read here.",
        )
    return FrameFormat(
        syntax=syntax,
        rows=instance.rows or 0,
        columns=instance.columns or 0,
        samples=samples,
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        signed=bool(dataset.get("PixelRepresentation", 0)),
        photometric=photometric,
    )


def _native(stream: IO[bytes], source: _Source, instance: Instance, asked: Sequence[int]) -> tuple[Pixels, str]:
    """Uncompressed samples, straight from the bytes."""
    form = source.form
    halved = form.photometric == "YBR_FULL_422"
    if halved and form.columns % 2:
        raise _unreadable(instance, "YBR_FULL_422 needs an even number of Columns.")
    samples = form.rows * form.columns * (2 if halved else form.samples)
    bits = samples * form.bits_allocated
    expected = (bits * instance.number_of_frames + 7) // 8
    if source.length not in (expected, expected + 1):
        raise _unreadable(instance, f"the pixel data hold {source.length} bytes; expected {expected}.")
    if form.bits_allocated == 1:
        frames = [_bits_of(stream, source, index * bits, bits) for index in asked]
        return np.stack(frames).reshape(len(asked), *form.shape), form.photometric
    dtype = form.dtype.newbyteorder(">" if form.syntax == _BIG_ENDIAN else "<")
    swapped = form.syntax == _BIG_ENDIAN and form.bits_allocated == 8 and source.words
    values = np.empty((len(asked), samples), dtype=form.dtype)
    for place, index in enumerate(asked):
        raw = _bytes_of(stream, source, index * bits // 8, bits // 8, swapped=swapped)
        values[place] = np.frombuffer(raw, dtype=dtype)
    if halved:
        return ybr_full_from_422(values.reshape(len(asked), form.rows, form.columns * 2)), "YBR_FULL"
    if form.samples > 1 and source.dataset.get("PlanarConfiguration", 0) == 1:
        by_plane = values.reshape(len(asked), form.samples, form.rows, form.columns)
        return np.ascontiguousarray(by_plane.transpose(0, 2, 3, 1)), form.photometric
    return values.reshape(len(asked), *form.shape), form.photometric


def _bytes_of(stream: IO[bytes], source: _Source, start: int, size: int, *, swapped: bool = False) -> bytes:
    """``size`` bytes of the value from ``start``; ``swapped`` where they stand in big-endian words of two.

    Raises:
        ValueError: the file ends before them.
    """
    first, last = (start - start % 2, start + size + (start + size) % 2) if swapped else (start, start + size)
    if source.content is not None:
        content = source.content[first:last]
    else:
        stream.seek(source.offset + first)
        content = stream.read(last - first)
    if len(content) != last - first:
        raise ValueError("the file ends inside the pixel data.")
    if swapped:
        content = np.frombuffer(content, dtype=np.uint16).byteswap().tobytes()[start - first :][:size]
    return content


def _bits_of(stream: IO[bytes], source: _Source, start: int, count: int) -> NDArray[np.uint8]:
    """Pixels of one bit, the first in the lowest bit of its byte (PS3.5 8.1.1); frames may start inside a byte."""
    first, last = start // 8, (start + count + 7) // 8
    # Big-endian data of one bit stand in words too, but writers and readers agree on bytes.
    content = _bytes_of(stream, source, first, last - first)
    unpacked = np.unpackbits(np.frombuffer(content, dtype=np.uint8), bitorder="little")
    return unpacked[start - 8 * first :][:count]


def _compressed(stream: IO[bytes], source: _Source, instance: Instance, asked: Sequence[int]) -> tuple[Pixels, str]:
    form = source.form
    values = np.empty((len(asked), *form.shape), dtype=form.dtype)
    photometrics = set()
    for place, index in enumerate(asked):
        coded = read_frame(stream, source.fragments[index])
        _check_stream(coded, form, instance)
        values[place], photometric = POOL.decode(coded, form)
        photometrics.add(photometric)
    if len(photometrics) > 1:
        raise _unreadable(instance, "the frames differ in how their colour is coded.")
    return values, photometrics.pop()


def _advice(syntax: str) -> str:
    if syntax.startswith("1.2.840.10008.1.2.4.10"):
        return "Export the video as a file of its own, or the frames as single images."
    return "Convert the files to an uncompressed or lossless JPEG transfer syntax first."


def _check_stream(stream: bytes, form: FrameFormat, instance: Instance) -> None:
    facts = read_facts(stream, form.syntax)
    if facts is None:
        return
    if (facts.rows, facts.columns, facts.samples) != (form.rows, form.columns, form.samples):
        raise _unreadable(
            instance,
            f"the compressed stream holds {facts.columns} x {facts.rows} pixels of {facts.samples} sample(s); "
            f"Columns and Rows say {form.columns} x {form.rows}, SamplesPerPixel {form.samples}.",
        )
    if facts.bits > form.bits_allocated:
        raise _unreadable(instance, f"the compressed stream holds {facts.bits} bits; BitsAllocated says less.")
    if facts.signed is not None and facts.signed != form.signed:
        raise RefusedError([line("signedness_mismatch", instance.where)])


def _within_bits(pixels: Pixels, source: _Source, instance: Instance) -> Pixels:
    """Values as BitsStored and PixelRepresentation mean them: sign extended, overlay bits (PS3.5 8.1.1) cleared.

    Raises:
        RefusedError: values need more bits than BitsStored, and no overlay and no padding value explains them.
    """
    dataset, bits, signed = source.dataset, source.form.bits_stored, source.form.signed
    if bits >= 8 * pixels.dtype.itemsize:
        return pixels
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    smallest, largest = int(pixels.min()), int(pixels.max())
    if smallest >= low and largest <= high:
        return pixels
    overlay = any(tag in dataset and dataset[tag].value for tag in _OVERLAY_BIT_POSITIONS)
    if overlay or (signed and smallest >= 0 and largest < 2**bits):
        cleared = pixels & pixels.dtype.type(2**bits - 1)
        return cleared - (cleared > high) * pixels.dtype.type(2**bits) if signed else cleared
    padded = padding_mask(pixels, instance)
    outside = (pixels < low) | (pixels > high)
    if padded is not None and bool(padded[outside].all()):
        return pixels
    raise _unreadable(instance, f"values need more bits than BitsStored (0028,0101) says ({bits}).")


def _check_inflated(stream: IO[bytes], instance: Instance, limits: Limits) -> None:
    """Inflate a deflated data set without keeping it, to see that it stays within the limits; then rewind.

    It starts after the file meta group, whose length its first element tells (PS3.10 7.1).
    """
    start = stream.read(144)
    if len(start) < 144 or start[128:136] != b"DICM\x02\x00\x00\x00":
        raise _unreadable(instance, "the deflated file does not start with its meta group.")
    stream.seek(144 + int(struct.unpack("<I", start[140:])[0]))
    engine, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    plane = (instance.rows or 0) * (instance.columns or 0) * instance.samples_per_pixel
    allowed = limits.header_bytes + plane * instance.number_of_frames * 4
    # After the end of the stream a padding byte may follow, which the engine never takes.
    while not engine.eof and (pending := stream.read(1 << 16)):
        while pending and not engine.eof:
            total += len(engine.decompress(pending, 1 << 20))
            pending = engine.unconsumed_tail
            if total > allowed:
                raise RefusedError([line("limit_exceeded", instance.where, what="The inflated size", limit=allowed)])
    stream.seek(0)


def _unreadable(instance: Instance, reason: str) -> RefusedError:
    return RefusedError([line("unreadable_pixels", instance.where, reason=reason)])
