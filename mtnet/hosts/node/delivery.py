"""Answers on their way to where they go: C-STORE, STOW-RS or a folder.

The same objects may be sent twice: their UIDs are hashed from what they say, so the other side has them once.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtnet.hosts.dicomweb import DicomWeb, check_uid
from mtnet.hosts.node.config import Destination, NodeConfig
from mtnet.hosts.node.ledger import Delivery, Ledger
from mtnet.hosts.node.lines import Lines, kind_of, without_uids
from mtnet.hosts.node.metrics import Metrics
from mtnet.hosts.node.tls import client_context
from mtnet.hosts.node.workers import ANSWERS

if TYPE_CHECKING:
    from pynetdicom.association import Association

_THREAD_ENDS_WITHIN_S = 2.0


class UndeliveredError(OSError):
    """A destination did not take an answer; the message says why, in words without patient data."""


class Deliveries:
    """Sends what is to be sent, one thread a destination, so that none waits for another.

    Args:
        config: of the node.
        ledger: the queue.
        lines, metrics: where it is told and counted.
    """

    def __init__(self, config: NodeConfig, ledger: Ledger, lines: Lines, metrics: Metrics) -> None:
        self._config, self._ledger, self._lines, self._metrics = config, ledger, lines, metrics
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, args=(one,), name=f"to {one.name}", daemon=True)
            for one in config.destination
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, within_s: float) -> None:
        """Begin nothing more. What is being sent after that time is sent again later."""
        self._stop.set()
        for thread in self._threads:
            thread.join(within_s)

    def _serve(self, destination: Destination) -> None:
        while not self._stop.is_set():
            try:
                delivery = self._ledger.next_delivery(destination.name)
                if delivery is None:
                    self._stop.wait(0.2)
                else:
                    self._deliver(destination, delivery)
            except Exception as error:
                self._lines.tell("delivery_failed", destination=destination.name, error=kind_of(error))
                self._stop.wait(2.0)

    def _deliver(self, destination: Destination, delivery: Delivery) -> None:
        facts = {"study": delivery.pseudonym, "route": delivery.route, "destination": destination.name}
        answer = self._config.state / ANSWERS / str(delivery.task)
        try:
            send(destination, answer, delivery, self._config.receiver.ae_title)
        except Exception as error:
            # The message of anything else may quote what was sent.
            reason = str(error) if isinstance(error, UndeliveredError) else kind_of(error)
            pause_s = self._ledger.delivery_failed(delivery, reason, self._config.retry)
            outcome = "set_aside" if pause_s is None else "not_delivered"
            self._lines.tell(outcome, **facts, reason=reason, again_in_s=pause_s)
            self._metrics.delivered.labels(destination.name, outcome).inc()
            return
        self._ledger.delivered(delivery)
        self._lines.tell("delivered", **facts)
        self._metrics.delivered.labels(destination.name, "delivered").inc()


def send(destination: Destination, answer: Path, delivery: Delivery, ae_title: str) -> None:
    """Send one answer, whole, to one destination.

    Raises:
        UndeliveredError: it did not take all of it.
        OSError: as ``UndeliveredError``, of a folder or server.
    """
    if destination.folder is not None:
        _copy(answer, destination.folder / check_uid(delivery.study_uid) / delivery.route)
        return
    objects = sorted(answer.rglob("*.dcm"))
    if not objects:
        return
    if destination.url:
        try:
            DicomWeb(destination.url, timeout_s=destination.timeout_s).store(objects)
        except OSError as error:
            raise UndeliveredError(without_uids(str(error))) from None
    else:
        _store(objects, destination, ae_title)


def _store(objects: Sequence[Path], destination: Destination, ae_title: str) -> None:
    """C-STORE over one association."""
    from pydicom import dcmread
    from pynetdicom import AE

    datasets = [dcmread(path) for path in objects]
    entity = AE(ae_title)
    entity.connection_timeout = entity.network_timeout = destination.timeout_s
    entity.acse_timeout = entity.dimse_timeout = destination.timeout_s
    for dataset in datasets:
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    context = client_context(destination.tls)
    association = entity.associate(
        destination.host,
        destination.port,
        ae_title=destination.ae_title,
        tls_args=None if context is None else (context, destination.host),
    )
    if not association.is_established:
        _close(association)
        told = "rejected the association" if association.is_rejected else "cannot be reached, or is silent"
        raise UndeliveredError(f"{destination.name} {told}")
    try:
        accepted = {context.abstract_syntax for context in association.accepted_contexts}
        for path, dataset in zip(objects, datasets, strict=True):
            if dataset.SOPClassUID not in accepted:
                raise UndeliveredError(f"{destination.name} does not take objects such as {path.name}")
            status = association.send_c_store(dataset).get("Status")
            # 0xB000 to 0xBFFF are warnings: it is stored (PS3.4 B.2.3).
            if status is None or (status != 0 and status >> 12 != 0xB):
                told = "did not answer" if status is None else f"answered 0x{status:04X}"
                raise UndeliveredError(f"{destination.name} {told} to {path.name}")
    finally:
        if association.is_established:
            association.release()
        _close(association)


def _close(association: Association) -> None:
    """Let go of the socket, which pynetdicom keeps open where the other side has gone away."""
    association.dul.join(_THREAD_ENDS_WITHIN_S)
    transport = association.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.close()


def _copy(answer: Path, place: Path) -> None:
    """All files of an answer, under their name together or not at all; an earlier answer gives way."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for left in place.parent.glob(f".{place.name}.*"):
        shutil.rmtree(left, ignore_errors=True)
    made, old = (place.parent / f".{place.name}.{kind}-{secrets.token_hex(4)}" for kind in ("tmp", "old"))
    try:
        shutil.copytree(answer, made)
        for path in made.rglob("*"):
            if path.is_file():
                _sync(path)
        if place.exists():
            place.rename(old)
        made.rename(place)
        _sync(place.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
