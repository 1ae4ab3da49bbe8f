"""What each stage of a run costs: seconds and the peak of resident memory, sampled while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mtnet.structures import StageCost

_SAMPLE_SECONDS = 0.02


class CostMeter:
    """Collects a ``StageCost`` for every ``with meter.stage(name)`` block."""

    def __init__(self) -> None:
        self.costs: list[StageCost] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block and sample the process's resident memory every 20 ms."""
        import psutil

        process = psutil.Process()
        peak = [process.memory_info().rss]
        done = threading.Event()

        def sample() -> None:
            while not done.wait(_SAMPLE_SECONDS):
                peak[0] = max(peak[0], process.memory_info().rss)

        sampler = threading.Thread(target=sample, daemon=True)
        start = time.perf_counter()
        sampler.start()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            done.set()
            sampler.join()
            peak[0] = max(peak[0], process.memory_info().rss)
            self.costs.append(StageCost(name, seconds, peak[0]))


class NoMeter(CostMeter):
    """Measures nothing: for frames, of which there may be too many to keep what each has cost."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Run the block."""
        yield
