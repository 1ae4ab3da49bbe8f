"""One worker process and its limits: it is killed where a study takes too long or too much, and begun again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from mtnet.hosts.batch.tasks import ItemOutcome, Outcome, Reason, Task
from mtnet.hosts.batch.worker import Start

DEPTH = 3
"""Inputs that a worker has at once: one in each stage."""

_RUN = "from mtnet.hosts.batch.worker import main; main()"
_LOOK_S = 0.25
_END_S = 20.0


class WorkerError(ValueError):
    """The worker cannot start, so that no study can be answered; says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one study, or image of an input, may cost.

    Args:
        time_s: seconds in all its stages together, waiting between them left out.
        memory_bytes: resident memory of the worker while it has this study alone, the model included. With others in
            flight that are then answered one by one.
    """

    time_s: float
    memory_bytes: int


class Lane:
    """Takes tasks and gives outcomes; whatever happens to its worker, each task has an outcome in the end.

    A worker that dies (a fault in native code, the system's want of memory) with one task in flight is that task's
    fault. With several, each is tried again alone, and what then dies is set aside.

    Args:
        start: what the worker is told first.
        limits: for each study.
        threads: of a network on the CPU; None leaves it to torch.
    """

    def __init__(self, start: Start, limits: Limits, threads: int | None = None) -> None:
        self._start_with, self._limits, self._threads = start, limits, threads
        self._depth = DEPTH
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._ready = False
        self._waiting: deque[Task] = deque()
        self._flying: dict[str, Task] = {}
        self._active: dict[tuple[str, int], tuple[str, float]] = {}
        self._spent: dict[tuple[str, int], float] = {}
        self._outcomes: list[Outcome] = []
        self._looked = 0.0

    @property
    def held(self) -> int:
        """Tasks that it has taken and not given an outcome of."""
        return len(self._waiting) + len(self._flying)

    @property
    def room(self) -> int:
        """How many more tasks it has use for."""
        return max(self._depth - self.held, 0)

    def submit(self, task: Task) -> None:
        """Take a task."""
        self._waiting.append(task)

    def warm(self) -> None:
        """Begin the worker's start, which takes seconds.

        Raises:
            WorkerError: it cannot be started.
        """
        if self._process is None:
            self._begin()

    def poll(self, wait_s: float) -> list[Outcome]:
        """What has come about, at the latest after ``wait_s`` seconds.

        Raises:
            WorkerError: the worker cannot start, or cannot use the bundle.
        """
        if self.held:
            self.warm()
        self._feed()
        if self._connection is not None and wait([self._connection], min(wait_s, _LOOK_S)):
            self._hear()
        if self._process is not None:
            self._look()
            self._feed()
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def close(self) -> None:
        """End the worker: in peace where it has nothing to do, else at once."""
        if self._process is not None and self._ready and not self.held:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                assert self._connection is not None
                self._connection.send(None)
                self._process.wait(_END_S)
        self._kill()

    def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        paths = [path or str(Path.cwd()) for path in sys.path]
        threads = {} if self._threads is None else {"OMP_NUM_THREADS": str(self._threads)}
        try:
            # A session of its own: an interrupt from the keyboard is for the batch, which then ends it.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _RUN, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerError(f"A worker process cannot be started: {error}.") from error
        finally:
            theirs.close()
        self._connection = Connection(ours.detach())
        # Where it has ended already, it is heard of as one that ended.
        with contextlib.suppress(OSError):
            self._connection.send(self._start_with)

    def _feed(self) -> None:
        """Give the worker what it may have: ``DEPTH`` inputs, or one that goes alone."""
        while self._ready and self._waiting:
            task = self._waiting[0]
            alone = task.alone or any(flying.alone for flying in self._flying.values())
            if len(self._flying) >= (1 if alone else self._depth):
                return
            assert self._connection is not None
            self._flying[task.input.id] = self._waiting.popleft()
            with contextlib.suppress(OSError):
                self._connection.send(task)

    def _hear(self) -> None:
        """Take every message that there is; where there will be none any more, the worker has died."""
        assert self._connection is not None
        try:
            while self._connection.poll():
                self._take(*self._connection.recv())
        except (EOFError, OSError):
            self._died()

    def _take(self, kind: str, *what: Any) -> None:
        if kind == "ready":
            self._ready = True
        elif kind == "fatal":
            self._kill()
            raise WorkerError(what[0])
        elif kind == "stage":
            name, number, stage, begins, at = what
            key = (name, number)
            if begins:
                self._active[key] = (stage, at)
            else:
                _, begun = self._active.pop(key)
                self._spent[key] = self._spent.get(key, 0.0) + at - begun
        else:
            outcome: Outcome = what[0]
            self._flying.pop(outcome.id, None)
            self._spent = {key: spent for key, spent in self._spent.items() if key[0] != outcome.id}
            self._outcomes.append(outcome)

    def _look(self) -> None:
        """Hold the limits."""
        now = time.monotonic()
        for key, (stage, begun) in self._active.items():
            if self._spent.get(key, 0.0) + now - begun > self._limits.time_s:
                message = f"It took more than {self._limits.time_s:g} s, the last of them in stage '{stage}'."
                self._end(Reason("set_aside", "time_limit", message), key)
                return
        if self._ready and self._flying and now - self._looked > _LOOK_S:
            self._looked = now
            if self._memory() > self._limits.memory_bytes:
                message = f"It took more than {self._limits.memory_bytes / 2**20:.0f} MiB of memory."
                if len(self._flying) > 1:
                    self._depth = 1
                self._end(Reason("set_aside", "memory_limit", message))

    def _memory(self) -> int:
        import psutil

        assert self._process is not None
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def _died(self) -> None:
        assert self._process is not None
        code = self._process.wait()
        if not self._ready:
            self._kill()
            raise WorkerError(f"A worker process ended while it started ({_how(code)}).")
        hint = "; often the system's want of memory" if code == -signal.SIGKILL else ""
        self._end(Reason("set_aside", "crashed", f"The process that worked on it ended ({_how(code)}{hint})."))

    def _end(self, reason: Reason, guilty: tuple[str, int] | None = None) -> None:
        """Kill the worker and settle what it had: whose fault it was is known, or it had one task, or is found out."""
        self._kill()
        flying, active = self._flying, self._active
        self._flying, self._active, self._spent = {}, {}, {}
        for name in flying:
            for left in self._start_with.work.glob(f"{name}-*"):
                shutil.rmtree(left, ignore_errors=True)
        if guilty is None and len(flying) == 1:
            (task,) = flying.values()
            if task.alone or len(active) == 1:
                guilty = next(iter(active), (task.input.id, 0))
        again = []
        for name, task in flying.items():
            if guilty is None:
                again.append(replace(task, alone=True))
            elif guilty[0] != name:
                again.append(task)
            elif guilty[1] == 0:
                item = ItemOutcome(0, reason.state, reason.code, reason.message)
                self._outcomes.append(Outcome(name, task.seen, "", [item]))
            else:
                again.append(replace(task, without={**task.without, guilty[1]: reason}))
        self._waiting.extendleft(reversed(again))

    def _kill(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                # With the processes that it started, which decode pixels.
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process, self._connection, self._ready = None, None, False


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
