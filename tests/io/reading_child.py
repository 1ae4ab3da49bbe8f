"""Reads inputs in a process of its own, for the fuzz test: one path a line in, what came of it a line out.

The lines are JSON: ``seconds``, ``peak`` and either ``codes`` (what a ``RefusedError`` said; empty for an answer) or
``error`` (any other exception). ``peak`` is what a fresh process would have held, in bytes: what this one held when
it had read nothing, and what it and its children took more at most while they read this input.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path

import psutil

from mtnet.io import DicomFrames, Limits, load, load_image_file, read_picture, scan
from mtnet.structures import RefusedError

PICTURES = (".png", ".jpg", ".tif", ".bmp")
LIMITS = Limits(decoded_bytes=2**30)


def read_all(path: Path) -> None:
    """Everything that an input holds, as a user would get it: volumes, images, the first and last frame of cines.

    Raises:
        RefusedError: of what is refused; the rest is read all the same.
    """
    if path.suffix in PICTURES:
        read_picture(path)
        return
    if path.name.endswith((".nii", ".nii.gz", ".nrrd", ".mha")):
        load_image_file(path)
        return
    refused = []
    for study in scan(path, LIMITS):
        for series in study.series:
            for stack in series.stacks:
                try:
                    if stack.kind == "volume":
                        load(stack, series, repair=True, limits=LIMITS)
                        continue
                    if stack.kind not in ("image", "cine", "secondary_capture"):
                        continue
                    for instance in stack.instances:
                        frames = DicomFrames(instance, LIMITS)
                        frames.frame(0)
                        frames.frame(len(frames) - 1)
                except RefusedError as error:
                    refused += error.lines
    if refused:
        raise RefusedError(refused)


def main() -> None:
    own = psutil.Process()
    fresh = own.memory_info().rss
    for text in sys.stdin:
        for each in (own, *own.children()):
            Path(f"/proc/{each.pid}/clear_refs").write_text("5")  # Peaks count from here.
        before = sum(each.memory_info().rss for each in (own, *own.children()))
        started = time.monotonic()
        answer: dict[str, object] = {"codes": []}
        try:
            read_all(Path(text.rstrip("\n")))
        except RefusedError as error:
            answer = {"codes": [item.code for item in error.lines]}
        except Exception:
            answer = {"error": traceback.format_exc()}
        seconds = time.monotonic() - started
        peak = sum(_peak(each) for each in (own, *own.children()))
        print(json.dumps({**answer, "seconds": seconds, "peak": fresh + max(peak - before, 0)}), flush=True)


def _peak(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()
