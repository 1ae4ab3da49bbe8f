"""The process that decodes compressed frames, so that a crash in native code ends it and not the program.

It reads requests from its input and writes replies to its output until the input ends: which it does when the process
that started it ends, however that ends. A message is a JSON head, with its length and that of the bytes after it before
it (``send`` and ``receive``); a request's bytes are the compressed frame, a reply's the samples.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import os
import signal
import struct
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from mtnet.io.decoders import FrameFormat, decode_frame

_LENGTHS = struct.Struct("<IQ")
_LARGEST_HEAD = 1 << 16
_MEMORY_BYTES = 512 * 1024**2
_MEMORY_PER_SAMPLE_BYTE = 24
"""Decoders hold 32-bit integers of all samples, a copy or two, and their output."""


def send(stream: IO[bytes], head: Mapping[str, object], content: bytes | memoryview = b"") -> None:
    """Write one message.

    Raises:
        OSError: the other side is gone.
    """
    text = json.dumps(head).encode()
    parts = (_LENGTHS.pack(len(text), len(content)) + text, content)
    for part in parts:
        left = memoryview(part)
        while left:
            left = left[stream.write(left) :]


def receive(stream: IO[bytes], largest: int) -> tuple[dict[str, Any], bytearray] | None:
    """Read one message; ``None`` where the stream ends first.

    Raises:
        ValueError: it is no message, or its bytes are more than ``largest``.
    """
    lengths = _exactly(stream, _LENGTHS.size)
    if lengths is None:
        return None
    head_size, size = _LENGTHS.unpack(lengths)
    if head_size > _LARGEST_HEAD or size > largest:
        raise ValueError("the other process sent what is no message.")
    head, content = _exactly(stream, head_size), _exactly(stream, size)
    return None if head is None or content is None else (json.loads(bytes(head)), content)


def main() -> None:
    """Answer requests until the input ends."""
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # The process that started this one decides.
    source, sink = _private_pipes()
    warnings.simplefilter("ignore")
    base = _address_space()
    send(sink, {"ready": True})
    while (request := receive(source, sys.maxsize)) is not None:
        head, content = request
        seconds = head.pop("seconds")
        form = FrameFormat(**head)
        _bound_memory(base, len(content) + math.prod(form.shape) * max(form.bits_allocated // 8, 1))
        # A thread of C code that needs neither this interpreter's lock nor the decoder's consent.
        faulthandler.dump_traceback_later(seconds, exit=True)
        try:
            pixels, photometric = decode_frame(bytes(content), form)
        except Exception as error:
            faulthandler.cancel_dump_traceback_later()
            # Decoders raise what they like on broken streams. Their text knows nothing but the stream.
            text = "the decoder ran out of memory" if isinstance(error, MemoryError) else str(error).strip()
            send(sink, {"error": text.splitlines()[0][:300] if text else type(error).__name__})
            continue
        faulthandler.cancel_dump_traceback_later()
        send(sink, {"photometric": photometric}, pixels.reshape(-1).view("u1").data)


def _private_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Input and output under other numbers, so that what a library prints goes nowhere."""
    source, sink = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    return source, sink


def _exactly(stream: IO[bytes], size: int) -> bytearray | None:
    content = bytearray(size)
    left = memoryview(content)
    while left:
        count = stream.readinto(left)  # type: ignore[attr-defined]
        if not count:
            return None
        left = left[count:]
    return content


def _address_space() -> int | None:
    """Bytes of address space in use now, ``None`` where the system does not tell or cannot bound it."""
    try:
        import resource
    except ImportError:
        return None
    with contextlib.suppress(OSError, ValueError):
        # A core dump would hold pixels of a patient.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return None


def _bound_memory(base: int | None, frame_bytes: int) -> None:
    if base is None:
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = base + _MEMORY_BYTES + _MEMORY_PER_SAMPLE_BYTE * frame_bytes
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


if __name__ == "__main__":
    main()
