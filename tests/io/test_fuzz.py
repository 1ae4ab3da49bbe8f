"""Files with flipped and cut bytes: an answer or a clear refusal, never a crash, a hang or a flood of memory."""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mtnet.io
from tests.builders import write_ct_series

pytestmark = [
    pytest.mark.study,
    pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc"),
]

SECONDS = 10.0
ROOT = Path(__file__).parents[2]
SLICES_OF_THE_STUDY = 4
LARGEST_SOURCE_BYTES = 6 * 1024**2

# Every code is written out somewhere in the reader.
KNOWN_CODES = {
    word
    for path in Path(mtnet.io.__file__).parent.glob("*.py")
    for word in re.findall(r'"([a-z0-9]+(?:_[a-z0-9]+)+)"', path.read_text())
}


class Reader:
    """A process that reads one input after the other, started again where it ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def read(self, path: Path) -> dict[str, Any]:
        """What came of ``path``; ``{"ended": ...}`` where the process crashed or was too slow."""
        if self._process is None:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.io.reading_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                text=True,
            )
            self.read(ROOT / "tests" / "no-such-input")  # Imports and the like are not the file's.
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            ready = selector.select(SECONDS * 3)
        answer = self._process.stdout.readline() if ready else ""
        if answer:
            return dict(json.loads(answer))
        self.close()
        return {"ended": "crashed" if ready else "hung"}

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


@pytest.fixture
def sources(tmp_path: Path, data_dir: Path) -> list[Path]:
    """Real DICOM files of every kind, and small files of other formats."""
    found = sorted(path for path in (data_dir / "dicom_robustness").rglob("*") if path.is_file())
    found = [path for path in found if path.suffix != ".md" and path.stat().st_size <= LARGEST_SOURCE_BYTES]
    study = sorted(path for path in (data_dir / "chest_ct_study").rglob("*.dcm"))
    found += study[:: max(len(study) // SLICES_OF_THE_STUDY, 1)][:SLICES_OF_THE_STUDY]
    made = tmp_path / "made"
    found += write_ct_series(made / "ct", shape=(16, 12, 2)).paths[:1]
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3)).astype(np.uint8))
    for name in ("a.png", "b.jpg", "c.tif", "d.bmp"):
        picture.save(made / name)
        found.append(made / name)
    picture.convert("P").save(made / "e.png")
    picture.convert("L").save(made / "f.tif", compression="tiff_lzw")
    return [*found, made / "e.png", made / "f.tif"]


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """``content`` with bits flipped, bytes overwritten, a piece cut out or put in twice, or its end cut off.

    Half of the places are in the first 4 KiB, where headers are.
    """
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        if len(changed) < 64:
            break
        reach = min(len(changed), 4096) if rng.random() < 0.5 else len(changed)
        at = int(rng.integers(0, reach))
        size = int(2 ** rng.uniform(0, 10))
        match int(rng.integers(0, 7)):
            case 0:
                for place in rng.integers(0, reach, int(rng.integers(1, 20))):
                    changed[place] ^= 1 << int(rng.integers(0, 8))
            case 1:
                changed[at] = int(rng.integers(0, 256))
            case 2:
                changed[at : at + 4] = [b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f"][
                    rng.integers(0, 3)
                ]
            case 3:
                changed[at : at + size] = rng.integers(0, 256, size).astype(np.uint8).tobytes()
            case 4:
                del changed[at : at + size]
            case 5:
                changed[at:at] = changed[at : at + size]
            case _:
                del changed[int(rng.integers(0, len(changed))) :]
    return bytes(changed)


def failures_of(sources: list[Path], count: int, reader: Reader, folder: Path, seed: int) -> list[str]:
    """Read ``count`` damaged files, sources in turn; what went wrong, with what makes each file again."""
    clean = {}
    wrong = []
    order = np.random.default_rng(seed).permutation(len(sources))
    for number in range(count):
        source = sources[order[number % len(sources)]]
        target = folder / "damaged"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        path = target / f"one{source.suffix}"
        content = source.read_bytes()
        asked = path if source.suffix in (".png", ".jpg", ".tif", ".bmp") else target
        if source not in clean:
            path.write_bytes(content)
            answer = reader.read(asked)
            assert "peak" in answer and "error" not in answer, f"{source.name} undamaged: {answer}"
            answer = reader.read(asked)  # The first one starts the decoding process and imports what it needs.
            clean[source] = answer
        path.write_bytes(damaged(content, np.random.default_rng([seed, number])))
        answer = reader.read(asked)
        problem = problem_of(answer, clean[source])
        if problem:
            wrong.append(f"seed {seed}, number {number}, {source.name}: {problem}")
            if keep := os.environ.get("MTNET_FUZZ_KEEP"):
                shutil.copy(path, Path(keep) / f"{seed}-{number}-{source.name}")
    return wrong


def problem_of(answer: dict[str, Any], clean: dict[str, Any]) -> str:
    if "ended" in answer:
        return f"the reader {answer['ended']}"
    if "error" in answer:
        return f"no refusal but {answer['error']}"
    if answer["seconds"] > SECONDS:
        return f"it took {answer['seconds']:.1f} s"
    if answer["peak"] > 2 * clean["peak"]:
        return f"it took {answer['peak'] / 1e6:.0f} MB; undamaged {clean['peak'] / 1e6:.0f} MB"
    unknown = set(answer["codes"]) - KNOWN_CODES
    return f"unknown codes {sorted(unknown)}" if unknown else ""


@pytest.mark.slow
def test_two_hundred_damaged_files_are_read_or_refused(sources: list[Path], reader: Reader, tmp_path: Path) -> None:
    assert failures_of(sources, 200, reader, tmp_path, seed=7) == []


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_ten_thousand_damaged_files_are_read_or_refused(sources: list[Path], reader: Reader, tmp_path: Path) -> None:
    assert failures_of(sources, 10_000, reader, tmp_path, seed=11) == []
