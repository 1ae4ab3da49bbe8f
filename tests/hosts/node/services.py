"""The receiving side of a node in this process, without workers: fast, and open to be looked into."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtnet.hosts.node.config import Destination, NodeConfig, Receiver, Route, Sender
from mtnet.hosts.node.intake import Intake
from mtnet.hosts.node.ledger import Ledger
from mtnet.hosts.node.lines import Lines, Pseudonyms
from mtnet.hosts.node.metrics import Metrics
from mtnet.hosts.node.receiver import ReceiverService

ROUTE = Route("chest", "bundle", ("folder",))


@dataclass
class Service:
    """What runs, and what it has kept and told."""

    receiver: ReceiverService
    intake: Intake
    ledger: Ledger
    metrics: Metrics
    stream: io.StringIO

    @property
    def port(self) -> int:
        """Of the DICOM side."""
        return self.receiver.port

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it has told."""
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def files(self) -> list[Path]:
        """What lies on disk."""
        return sorted(self.intake.folder.iterdir())

    def count(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def node_config(state: Path, *senders: Sender, **receiver: Any) -> NodeConfig:
    """A config whose route goes to a folder."""
    limits = replace(Receiver(port=0, reserve_bytes=0, idle_s=30.0), **receiver)
    return NodeConfig(
        state, (ROUTE,), (Destination("folder", folder=state / "out"),), receiver=limits, sender=tuple(senders)
    )


@contextmanager
def receiving(state: Path, *senders: Sender, **receiver: Any) -> Iterator[Service]:
    """A DICOM port that keeps what it is sent."""
    config = node_config(state, *senders, **receiver)
    stream, pseudonyms, metrics = io.StringIO(), Pseudonyms(state), Metrics()
    ledger = Ledger(state)
    intake = Intake(state, ledger, pseudonyms, config.receiver)
    service = ReceiverService(config, intake, Lines(stream), metrics, pseudonyms)
    service.start()
    try:
        yield Service(service, intake, ledger, metrics, stream)
    finally:
        service.stop(1.0)
        intake.stop()
        ledger.close()
