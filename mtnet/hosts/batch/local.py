"""Lanes on this machine: tasks in, no more at once than they have use for, and outcomes as they come."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from mtnet.hosts.batch.lane import Lane, Limits
from mtnet.hosts.batch.tasks import Outcome, Task
from mtnet.hosts.batch.worker import Start

_WAIT_S = 1.0


def local(tasks: Iterable[Task], start: Start, limits: Limits, workers: int) -> Iterator[Outcome]:
    """Outcomes of ``workers`` processes on this machine, each with a model and its share of the cores.

    Raises:
        WorkerError: the bundle cannot be used, or no process be started.
    """
    threads = None if workers == 1 else max((os.cpu_count() or 1) // workers, 1)
    lanes = [Lane(start, limits, threads) for _ in range(workers)]
    waiting = iter(tasks)
    more = True
    try:
        while more or any(lane.held for lane in lanes):
            for lane in lanes:
                for _ in range(lane.room if more else 0):
                    task = next(waiting, None)
                    if task is None:
                        more = False
                        break
                    lane.submit(task)
                yield from lane.poll(_WAIT_S / workers)
    finally:
        for lane in lanes:
            lane.close()
