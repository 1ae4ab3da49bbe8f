"""A whole node: one process that receives, keeps the queue and sends, and worker processes that answer."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtnet.bundle import Bundle, find_bundle
from mtnet.hosts.node.config import NodeConfig
from mtnet.hosts.node.delivery import Deliveries
from mtnet.hosts.node.fetcher import Fetcher
from mtnet.hosts.node.intake import Intake
from mtnet.hosts.node.keeper import Keeper, recover
from mtnet.hosts.node.ledger import Ledger
from mtnet.hosts.node.lines import Lines, Pseudonyms, kind_of
from mtnet.hosts.node.metrics import HealthServer, Metrics
from mtnet.hosts.node.overview import counts
from mtnet.hosts.node.receiver import ReceiverService
from mtnet.hosts.node.workers import Workers

_ASSOCIATIONS_END_WITHIN_S = 5.0


class Node:
    """Everything that runs, in the order in which it starts; it stops in the opposite one.

    Args:
        config: what it is told.
        lines: where it tells what happens.

    Raises:
        BundleError: a route's bundle is missing or damaged.
        ConfigError: TLS files cannot be used.
        OSError: a port is taken, or the state folder cannot be written.
        ValueError: the extra ``node`` is missing.
    """

    def __init__(self, config: NodeConfig, lines: Lines) -> None:
        try:
            import prometheus_client  # noqa: F401
            import pynetdicom  # noqa: F401
        except ImportError as error:
            raise ValueError(f"A DICOM node needs an extra ({error.name}): pip install 'mtnet[node]'.") from error
        self.config, self._lines = config, lines
        bundles = {
            route.name: Bundle.read(find_bundle(route.bundle).resolve()).with_weights(route.weights or None)
            for route in config.route
        }
        pseudonyms = Pseudonyms(config.state)
        self._ledger = Ledger(config.state)
        recover(config, self._ledger, lines)
        metrics = Metrics()
        self._intake = Intake(config.state, self._ledger, pseudonyms, config.receiver)
        self._workers = Workers(config, self._ledger, lines, metrics, bundles)
        self._deliveries = Deliveries(config, self._ledger, lines, metrics)
        self._receiver = ReceiverService(config, self._intake, lines, metrics, pseudonyms)
        self._fetcher = Fetcher(config, self._ledger, self._intake, lines, pseudonyms)
        self._keeper = Keeper(
            config, self._ledger, lines, lambda: self._receiver.busy_studies() | self._fetcher.busy_studies()
        )
        self._health = HealthServer(config.health, metrics, self.ailments)
        metrics.states(lambda: counts(self._ledger))
        metrics.gauge("free_bytes", "Free disk beyond the reserve", self._intake.free_bytes)
        metrics.gauge("workers_ready", "Worker processes that have loaded their models", lambda: self._workers.ready)
        metrics.gauge("associations", "Associations at this moment", self._receiver.associations)

    def start(self) -> None:
        """Begin to work, and then to receive."""
        for part in (self._keeper, self._deliveries, self._workers, self._health, self._receiver, self._fetcher):
            part.start()
        self._lines.tell("listening", dicom_port=self._receiver.port, http_port=self._health.port)

    def stop(self) -> None:
        """Receive no more, let running work finish for ``stop_s`` seconds, and end."""
        self._lines.tell("stopping")
        self._receiver.stop(min(_ASSOCIATIONS_END_WITHIN_S, self.config.stop_s))
        self._fetcher.stop(self.config.stop_s)
        self._keeper.stop()
        self._workers.stop(self.config.stop_s)
        self._deliveries.stop(self.config.stop_s)
        self._health.stop()
        self._intake.stop()
        self._ledger.close()
        self._lines.tell("stopped")

    def ailments(self) -> list[str]:
        """What is wrong at this moment."""
        found = []
        if self._intake.free_bytes() <= 0:
            found.append("disk_full")
        if not self._workers.ready:
            found.append("no_worker_ready")
        return found


def serve(config: NodeConfig, lines: Lines) -> None:
    """Run a node until SIGTERM or SIGINT.

    Raises:
        BlockingIOError: another node works in the same state folder.
        OSError: the queue cannot be opened or put in order; on a full disk there is no room for that.
        Exception: as ``Node``.
    """
    config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    with only_one(config.state):
        try:
            node = Node(config, lines)
        except sqlite3.OperationalError as error:
            raise OSError(
                f"The queue in {config.state} cannot be put in order ({error}), and {_free_kib(config.state)} KiB of "
                "its disk are free. Make room or mend the disk, and start again; nothing is lost."
            ) from error
        # What libraries warn of and log quotes values of headers, and addresses.
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        threading.excepthook = lambda died: lines.tell("thread_failed", error=_kind(died.exc_value))
        node.start()
        asked.wait()
        node.stop()


def _free_kib(folder: Path) -> int:
    return shutil.disk_usage(folder).free // 1024


def _kind(error: BaseException | None) -> str:
    return "unknown" if error is None else kind_of(error)


@contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold the state folder; the system lets go of it when the process ends, however that is.

    Raises:
        BlockingIOError: another node holds it.
    """
    descriptor = os.open(state / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"{state} is in use by another node; give each a state folder of its own.") from None
        yield
    finally:
        os.close(descriptor)
