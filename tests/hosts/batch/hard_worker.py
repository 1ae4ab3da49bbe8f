"""A worker without a network: what it does with an input stands in the input's name.

``good`` is answered, ``slow`` never ends, ``big`` takes memory and never ends, ``crash`` ends the process; ``early``
does so before there is an item.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from mtnet.hosts.batch.tasks import ItemOutcome, Outcome, Task

BIG_BYTES = 400 << 20


class Worker:
    def __init__(self) -> None:
        self._connection: Connection[Any, Any] = Connection(int(sys.argv[-1]))
        self._lock = threading.Lock()
        self._connection.recv()

    def send(self, *message: object) -> None:
        with self._lock:
            self._connection.send(message)

    def run(self) -> None:
        self.send("ready")
        while (task := self._connection.recv()) is not None:
            threading.Thread(target=self._answer, args=(task,), daemon=True).start()

    def _answer(self, task: Task) -> None:
        name, number = task.input.name, 0 if "early" in task.input.name else 1
        reason = task.without.get(number)
        if reason is None:
            self.send("stage", task.input.id, number, "network", True, time.monotonic())
            if "crash" in name:
                os.kill(os.getpid(), signal.SIGKILL)
            held = b"x" * BIG_BYTES if "big" in name else b""
            while held or "slow" in name:
                time.sleep(1)
            self.send("stage", task.input.id, number, "network", False, time.monotonic())
        state = ("answered", "", "") if reason is None else (reason.state, reason.code, reason.message)
        self.send("done", Outcome(task.input.id, task.seen, "c", [ItemOutcome(number, *state)]))


def main() -> None:
    """Answer tasks."""
    try:
        Worker().run()
    except (EOFError, OSError):
        return
