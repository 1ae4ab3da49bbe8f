"""The process that holds the model: it takes tasks from its lane and tells of every stage and outcome.

It ends when the lane does, however that ends. What it says first is ``("ready",)``, or ``("fatal", why)`` where the
bundle cannot be used; then ``("stage", input, item, stage, begins, at)`` and ``("done", outcome)``, where ``at`` is of
the clock ``time.monotonic``, which processes of one machine share.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtnet.hosts.batch.tasks import Outcome, Settings

if TYPE_CHECKING:
    from mtnet.predictor import Predictor


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker is told first: settings, where results go, and what was answered before, by content."""

    settings: Settings
    studies: Path
    work: Path
    known: dict[str, Outcome]


class _Lane:
    """The lane at the other end; without it there is nothing to do."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, *message: object) -> None:
        try:
            with self._lock:
                self._connection.send(message)
        except OSError:
            os._exit(1)

    def receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            os._exit(1)


def main() -> None:
    """Answer tasks that come through the file descriptor that the last argument names."""
    lane = _Lane(Connection(int(sys.argv[-1])))
    start: Start = lane.receive()
    settings = start.settings
    try:
        predictor = build(settings)
    except Exception as error:
        lane.send(
            "fatal", f"{error}" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        )
        return
    from mtnet.cases import ReadOptions
    from mtnet.hosts.batch.stages import Places, Stages
    from mtnet.study_folder import WriteOptions

    stages = Stages(
        predictor,
        ReadOptions(strict=settings.strict, repair=settings.repair, allow_outside=settings.allow_outside),
        WriteOptions(settings.seg, settings.capture, settings.page),
        Places(start.studies, start.work),
        start.known,
        told=lambda *what: lane.send("stage", *what, time.monotonic()),
        done=lambda outcome: lane.send("done", outcome),
    )

    def listen() -> None:
        while True:
            stages.tasks.put(lane.receive())

    threading.Thread(target=listen, daemon=True).start()
    lane.send("ready")
    stages.run()


def build(settings: Settings) -> Predictor:
    """The predictor of a batch; raises as ``Predictor.from_bundle``."""
    from mtnet.predictor import Predictor

    return Predictor.from_bundle(
        settings.bundle,
        weights=settings.weights,
        device=settings.device,
        tasks=settings.tasks,
        fast=settings.fast,
        half=settings.half,
        runtime=settings.runtime,
        memory_limit_bytes=settings.memory_limit_bytes,
        trust_bundle=settings.trust_bundle,
    )
