"""Decoding in another process: whatever a decoder does, the program goes on and says what happened."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from mtnet.io.decoders import FrameFormat
from mtnet.io.decoding import POOL, DecoderStartError, DecodingError, DecodingPool
from tests.builders import write_ct_series

FORM = FrameFormat("1.2.840.10008.1.2.5", 4, 6, 1, 8, 8, False, "MONOCHROME2")
PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 6)
RLE = np.array([1, 64, *[0] * 14], dtype="<u4").tobytes() + bytes([11, *range(12)]) + bytes([11, *range(12, 24)])

# A decoder that does what the first byte of its stream says.
MISCHIEF = """
import os, time
import numpy as np
from mtnet.io import decoding_child, decoders

def decode_frame(stream, form):
    word = stream[:5]
    if word == b"abort":
        os.abort()
    if word == b"sleep":
        time.sleep(60)
    if word == b"greed":
        np.ones(2**34, dtype=np.uint8)
    if word == b"noise":
        os.write(1, b"x" * 10_000)
        os.write(2, b"x" * 10_000)
        print("noise")
        stream = stream[5:]
    if word == b"other":
        return np.zeros((3, 3), dtype=np.uint8), "MONOCHROME2"
    return decoders.decode_frame(stream, form)

decoding_child.decode_frame = decode_frame
decoding_child.main()
"""


@pytest.fixture
def pool() -> Iterator[DecodingPool]:
    pool = DecodingPool([sys.executable, "-c", MISCHIEF], seconds=1.0)
    yield pool
    pool.close()


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        (b"abort", "the decoder crashed (SIGABRT)"),
        (b"sleep", "the decoder took longer than 1 s"),
        (b"other", "another number of samples"),
        pytest.param(
            b"greed",
            "the decoder ran out of memory",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="address space is bounded on Linux alone"),
        ),
    ],
)
def test_a_decoder_that_fails_is_a_reason_and_the_next_frame_is_decoded(
    pool: DecodingPool, word: bytes, reason: str
) -> None:
    for _ in range(2):
        with pytest.raises(DecodingError) as caught:
            pool.decode(word, FORM)
        assert reason in str(caught.value)
        np.testing.assert_array_equal(pool.decode(RLE, FORM)[0], PIXELS)


def test_what_a_decoder_prints_does_not_reach_the_reader(pool: DecodingPool) -> None:
    pixels, photometric = pool.decode(b"noise" + RLE, FORM)
    np.testing.assert_array_equal(pixels, PIXELS)
    assert photometric == "MONOCHROME2"


def test_a_broken_stream_gives_the_decoders_reason_and_keeps_the_process(pool: DecodingPool) -> None:
    pool.decode(RLE, FORM)
    before = psutil.Process().children()
    with pytest.raises(DecodingError, match="cut short"):
        pool.decode(RLE[:-4], FORM)
    pool.decode(RLE, FORM)
    assert psutil.Process().children() == before


def test_threads_decode_at_the_same_time(pool: DecodingPool) -> None:
    with ThreadPoolExecutor(3) as threads:
        for pixels, _ in threads.map(lambda _: pool.decode(RLE, FORM), range(30)):
            np.testing.assert_array_equal(pixels, PIXELS)


def test_an_installation_that_cannot_start_the_process_is_no_fault_of_the_image() -> None:
    for command in (["/nonexistent/python"], [sys.executable, "-c", "raise SystemExit(3)"]):
        with pytest.raises(DecoderStartError, match="decodes compressed pixels"):
            DecodingPool(command).decode(RLE, FORM)


def _decode_in_another_process(answers: multiprocessing.SimpleQueue[bytes]) -> None:
    answers.put(POOL.decode(RLE, FORM)[0].tobytes())


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_daemonic_processes_decode_too(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    POOL.decode(RLE, FORM)  # So that a fork finds a process that is not its own.
    context = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    worker = context.Process(target=_decode_in_another_process, args=(answers,), daemon=True)
    worker.start()
    assert answers.get() == PIXELS.tobytes()
    worker.join(20)
    assert worker.exitcode == 0
    np.testing.assert_array_equal(POOL.decode(RLE, FORM)[0], PIXELS)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_the_process_ends_with_the_program_however_that_ends(how: str) -> None:
    code = (
        "import signal, sys, time, psutil; from tests.io.test_decoding import RLE, FORM, POOL;"
        # A program started in the background inherits that SIGINT is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler); POOL.decode(RLE, FORM);"
        "print(psutil.Process().children()[0].pid, flush=True); time.sleep(60)"
    )
    root = Path(__file__).parents[2]
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root, text=True
    )
    with program:
        assert program.stdout is not None
        child = psutil.Process(int(program.stdout.readline()))
        os.kill(program.pid, getattr(signal, how))
        program.wait(20)
    _, alive = psutil.wait_procs([child], timeout=10)
    assert not alive


def test_the_process_loads_neither_torch_nor_monai_nor_pydicom() -> None:
    code = (
        "import sys, mtnet.io.decoding_child; print([n for n in ('torch', 'monai', 'pydicom', 'scipy', 'itk') "
        "if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_nothing_is_started_for_uncompressed_pixels(tmp_path: Path) -> None:
    write_ct_series(tmp_path)
    code = (
        f"import psutil; from mtnet.io import read_volume; read_volume({str(tmp_path)!r});"
        "print(len(psutil.Process().children()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "0"


@pytest.mark.parametrize("after_seconds", [0.05, 0.6])
def test_an_interrupt_leaves_no_half_answer(pool: DecodingPool, after_seconds: float) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if after_seconds > 0.5:
        pool.decode(RLE, FORM)  # Else it comes while the process starts.
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, after_seconds)
        with pytest.raises(KeyboardInterrupt):
            pool.decode(b"sleep", FORM)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    np.testing.assert_array_equal(pool.decode(RLE, FORM)[0], PIXELS)
