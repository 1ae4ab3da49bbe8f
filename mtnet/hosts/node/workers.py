"""The worker processes of a node, and the threads that give them tasks and write down what came of them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mtnet.bundle import Bundle
from mtnet.hosts.node.config import NodeConfig, Route
from mtnet.hosts.node.intake import OBJECTS
from mtnet.hosts.node.ledger import Ledger, Task
from mtnet.hosts.node.lines import Fact, Lines, kind_of
from mtnet.hosts.node.metrics import Metrics

WORK, ANSWERS = "work", "answers"
_LONGEST_PAUSE_S = 300.0


class _DiedError(Exception):
    """The process ended in the middle of a task, or was ended because it took too long."""


def _model(bundle: Bundle) -> dict[str, str | None]:
    """What a worker loads."""
    given = bundle.given_weights
    return {"bundle": str(bundle.folder), "weights": None if given is None else str(given.resolve())}


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, _DiedError) else kind_of(error)


class _Process:
    """One worker process; ``ask`` gives it a line and waits for the one that it answers."""

    def __init__(self, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mtnet.hosts.node.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            # Control-C is for the node, which lets its workers finish.
            start_new_session=True,
        )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, what: dict[str, Any], within_s: float, stop: threading.Event) -> dict[str, Any]:
        """Raises ``_DiedError`` when it has ended, or had to be: after ``within_s`` seconds, or at ``stop``."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise _DiedError("worker_died") from None
        until = time.monotonic() + within_s
        while True:
            try:
                line = self._answers.get(timeout=0.1)
            except queue.Empty:
                if time.monotonic() < until and not stop.is_set():
                    continue
                self.end()
                raise _DiedError("stopped" if stop.is_set() else "took_too_long") from None
            if not line:
                raise _DiedError(f"worker_died_{self._process.wait()}")
            answer: dict[str, Any] = json.loads(line)
            return answer

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self._process.stdout:
                self._answers.put(line)
        self._answers.put("")


class Workers:
    """Answers what is ready, ``config.workers`` tasks at a time.

    A task gets a folder of hard links to the files that it reads, so that nothing changes under it, and its answer is
    moved to its place and entered only when it is whole.

    Args:
        config: of the node.
        ledger: the queue.
        lines, metrics: where it is told and counted.
        bundles: by route.
    """

    def __init__(
        self, config: NodeConfig, ledger: Ledger, lines: Lines, metrics: Metrics, bundles: dict[str, Bundle]
    ) -> None:
        self._config, self._ledger, self._lines, self._metrics = config, ledger, lines, metrics
        self._routes = {route.name: route for route in config.route}
        self._bundles = bundles
        for name in (WORK, ANSWERS):
            (config.state / name).mkdir(mode=0o700, exist_ok=True)
        self._no_more, self._at_once = threading.Event(), threading.Event()
        self._alive: list[bool] = [False] * config.workers
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"worker {number}", daemon=True)
            for number in range(config.workers)
        ]

    def start(self) -> None:
        """Load the models and begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, within_s: float) -> None:
        """Begin nothing more; what is not done in time is put back."""
        self._no_more.set()
        until = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._at_once.set()
        for thread in self._threads:
            thread.join()

    @property
    def ready(self) -> int:
        """How many have loaded their models."""
        return sum(self._alive)

    def _work(self, number: int) -> None:
        process: _Process | None = None
        task: Task | None = None
        failures = 0
        while not self._no_more.is_set():
            try:
                if task is not None:
                    # What came of it could not be written down: the disk was full, or the queue was locked.
                    self._ledger.put_back(task)
                    task = None
                if process is None or not process.alive:
                    self._alive[number] = False
                    if process is not None:
                        process.end()
                    process = self._loaded()
                    self._alive[number] = True
                task, failures = self._ledger.next_task(), 0
                if task is None:
                    self._no_more.wait(0.2)
                else:
                    self._attempt(process, task)
                    task = None
            except Exception as error:
                if not self._no_more.is_set():
                    failures += 1
                    pause_s = min(self._config.retry.pause_s(failures), _LONGEST_PAUSE_S)
                    self._lines.tell("worker_failed", worker=number, error=_told(error), again_in_s=pause_s)
                    self._no_more.wait(pause_s)
        self._alive[number] = False
        if process is not None:
            process.end()

    def _loaded(self) -> _Process:
        """A process that has loaded every model."""
        process = _Process(max(1, (os.cpu_count() or 1) // self._config.workers))
        try:
            for bundle in {(one.folder, one.weights): one for one in self._bundles.values()}.values():
                what = {**_model(bundle), "device": self._config.device}
                answer = process.ask(what, self._config.study_s, self._no_more)
                if answer["outcome"] != "loaded":
                    raise _DiedError(f"bundle {bundle.folder.name} cannot be loaded: {answer.get('error')}")
        except BaseException:
            process.end()
            raise
        self._lines.tell("worker_ready")
        return process

    def _attempt(self, process: _Process, task: Task) -> None:
        route = self._routes.get(task.route)
        facts: dict[str, Fact] = {
            "study": task.pseudonym,
            "route": task.route,
            "generation": task.generation,
            "attempt": task.attempts,
        }
        if route is None:
            self._ledger.task_failed(task, "route_is_gone", None)
            self._lines.tell("set_aside", **facts, reason="route_is_gone")
            return
        work = self._config.state / WORK / f"{task.id}-{task.attempts}"
        started = time.monotonic()
        self._lines.tell("answering", **facts)
        try:
            answer = process.ask(self._request(task, route, work), self._config.study_s, self._at_once)
            if answer["outcome"] == "answered":
                self._move(work, task)
        except (_DiedError, OSError) as error:
            answer = {"outcome": "failed", "error": _told(error)}
        seconds = round(time.monotonic() - started, 2)
        self._settle(task, route, answer, seconds, facts)
        shutil.rmtree(work, ignore_errors=True)

    def _settle(self, task: Task, route: Route, answer: dict[str, Any], seconds: float, facts: dict[str, Fact]) -> None:
        """Write down what became of an attempt."""
        outcome = answer["outcome"]
        if answer.get("error") == "stopped":
            self._ledger.put_back(task)
            self._lines.tell("put_back", **facts)
            return
        if outcome == "answered":
            self._metrics.answering.observe(seconds)
            if not self._ledger.answered(task, route.destination, answer["products"]):
                outcome = "void"
                shutil.rmtree(self._config.state / ANSWERS / str(task.id), ignore_errors=True)
            self._lines.tell(outcome, **facts, seconds=seconds, objects=len(answer["products"]))
        else:
            reason = ",".join(answer["codes"]) if outcome == "refused" else answer["error"]
            retry = None if outcome == "refused" else self._config.retry
            pause_s = self._ledger.task_failed(task, answer.get("told", reason), retry)
            self._lines.tell(
                outcome if pause_s else "set_aside", **facts, seconds=seconds, reason=reason, again_in_s=pause_s
            )
        self._metrics.answered.labels(task.route, outcome).inc()

    def _request(self, task: Task, route: Route, work: Path) -> dict[str, Any]:
        """Lay out the folder of a task; returns what the worker is asked."""
        shutil.rmtree(work, ignore_errors=True)
        source = work / "input"
        source.mkdir(parents=True)
        for file in self._ledger.files(task.study_uid, route):
            os.link(self._config.state / OBJECTS / file, source / file)
        rule = {
            "modalities": route.modality or None,
            "minimum_slices": route.minimum_slices,
            "largest_angle_deg": route.largest_angle_deg,
            "excluded_image_types": route.excluded_image_types,
        }
        return {
            **_model(self._bundles[route.name]),
            "device": self._config.device,
            "input": str(source),
            "output": str(work / "output"),
            "read": {"strict": route.strict, "repair": route.repair, "allow_outside": route.allow_outside},
            "rule": {key: value for key, value in rule.items() if value is not None},
            "seg": route.seg,
            "capture": route.capture,
        }

    def _move(self, work: Path, task: Task) -> None:
        """Put an answer in its place, on disk."""
        place = self._config.state / ANSWERS / str(task.id)
        shutil.rmtree(place, ignore_errors=True)
        (work / "output").rename(place)
        descriptor = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
