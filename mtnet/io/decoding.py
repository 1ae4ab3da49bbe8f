"""Compressed frames decoded in child processes: started when first needed, kept, and replaced after a crash."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.io.decoders import FrameFormat
from mtnet.io.decoding_child import receive, send

SECONDS_PER_FRAME = 10.0
"""A frame that takes longer is given up."""

_GRACE_SECONDS = 2.0
_GIVEN_UP = 1  # Exit status of the watchdog in the child (faulthandler).


class DecodingError(Exception):
    """A frame cannot be decoded; the text says why, for a person, without a value of the header."""


class DecoderStartError(RuntimeError):
    """The decoding process does not start: something is wrong with the installation, not with the image."""


class DecodingPool:
    """Decoding processes, one for each thread that decodes at the same time.

    They are kept from frame to frame and from file to file: starting one takes as long as decoding many frames. Plain
    subprocesses, as daemonic processes (a DataLoader's) may not have children of ``multiprocessing``.

    Args:
        command: what to run; a program that speaks as ``decoding_child`` does.
        seconds: given to each frame.
    """

    def __init__(self, command: Sequence[str] | None = None, seconds: float = SECONDS_PER_FRAME) -> None:
        self._command = command
        self._seconds = seconds
        self._idle: list[subprocess.Popen[bytes]] = []
        self._busy: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    def decode(self, stream: bytes, form: FrameFormat) -> tuple[NDArray[np.integer[Any]], str]:
        """Decode one frame as ``decoders.decode_frame`` does. Threads may call this at the same time.

        Raises:
            DecodingError: the stream is broken, or its decoder crashed, took too long or ran out of memory.
            DecoderStartError: no decoding process can be started.
        """
        size = prod(form.shape) * form.dtype.itemsize
        with self._process() as process:
            started = time.monotonic()
            assert process.stdin is not None and process.stdout is not None
            try:
                send(process.stdin, {**asdict(form), "seconds": self._seconds}, stream)
                reply = receive(process.stdout, size)
            except (OSError, ValueError):
                reply = None
            if reply is None:
                took = time.monotonic() - started
                raise DecodingError(_end_of(process, took >= self._seconds, self._seconds))
        head, content = reply
        if "error" in head:
            raise DecodingError(str(head["error"]))
        if len(content) != size:
            raise DecodingError("the decoder gave another number of samples than the header says")
        return np.frombuffer(content, dtype=form.dtype).reshape(form.shape), str(head["photometric"])

    def close(self) -> None:
        """End the processes that wait for work."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            _end(process)

    def forget(self) -> None:
        """After a fork, in the new process: let go of what belongs to the other one, and start afresh."""
        self._lock = threading.Lock()
        others, self._idle, self._busy = [*self._idle, *self._busy], [], []
        for process in others:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            process.returncode = 0  # It is no child of this process, which must not wait for it.

    @contextlib.contextmanager
    def _process(self) -> Iterator[subprocess.Popen[bytes]]:
        """A process to talk to; it is used again only where the talk ended well."""
        with self._lock:
            process = self._idle.pop() if self._idle else None
        if process is not None and process.poll() is not None:
            _end(process)
            process = None
        process = process or _start(self._command or _own_command())
        self._busy.append(process)
        try:
            yield process
        except BaseException:
            # An interrupt may have left half a message in the pipe.
            self._busy.remove(process)
            _end(process)
            raise
        with self._lock:
            self._busy.remove(process)
            self._idle.append(process)


def _own_command() -> list[str]:
    """This interpreter with this process's own module path: what is imported here is what decodes there."""
    paths = [path or str(Path.cwd()) for path in sys.path]
    code = "import sys; sys.path[:] = sys.argv[1:]; from mtnet.io.decoding_child import main; main()"
    return [sys.executable, "-I", "-c", code, *paths]


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    # One thread: a frame is small, and OpenBLAS would hold address space for each core.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
        )
    except (OSError, ValueError) as error:
        raise DecoderStartError(f"The process that decodes compressed pixels cannot be started: {error}.") from error
    assert process.stdout is not None
    hello = None
    try:
        with contextlib.suppress(OSError, ValueError):
            hello = receive(process.stdout, 0)
    finally:
        if hello is None:
            _end(process)
    if hello is None:
        raise DecoderStartError(
            "The process that decodes compressed pixels does not start. Try: python -m mtnet.io.decoding_child"
        )
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    if process.poll() is None:
        process.kill()
    process.wait()


def _end_of(process: subprocess.Popen[bytes], late: bool, seconds: float) -> str:
    """Why a process that gave no reply ended."""
    try:
        code = process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        return "the decoder gave an answer that makes no sense"
    if late and code == _GIVEN_UP:
        return f"the decoder took longer than {seconds:g} s"
    name = signal.Signals(-code).name if code < 0 and -code in set(signal.Signals) else f"exit status {code}"
    return f"the decoder crashed ({name})"


POOL = DecodingPool()
"""The pool of this process, shared by all readers; nothing starts before the first compressed frame."""

atexit.register(POOL.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=POOL.forget)
