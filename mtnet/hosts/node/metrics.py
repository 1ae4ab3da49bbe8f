"""What a node counts, for Prometheus, and whether it is well, over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mtnet.hosts.node.config import Health


class Metrics:
    """The counters of one node, in a registry of their own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self.registry = CollectorRegistry()

        def counter(name: str, says: str, *labels: str) -> Any:
            return Counter(f"mtnet_{name}", says, labels, registry=self.registry)

        def histogram(name: str, says: str, *buckets: float) -> Any:
            return Histogram(f"mtnet_{name}", says, registry=self.registry, buckets=buckets)

        self.received = counter("received_instances", "Instances that were acknowledged", "outcome")
        self.bytes = counter("received_bytes", "Bytes of instances that were taken")
        self.refused = counter("refused_instances", "Instances that were not taken", "reason")
        self.rejected = counter("rejected_associations", "Associations and connections that were not taken")
        self.answered = counter("answers", "Answers that were made, refused or failed", "route", "outcome")
        self.delivered = counter("deliveries", "Answers that were sent, or could not be", "destination", "outcome")
        self.storing = histogram("storing_seconds", "From an instance in memory to its rows on disk", *_SHORT)
        self.answering = histogram("answering_seconds", "From a study on disk to its answer on disk", *_LONG)

    def gauge(self, name: str, says: str, value: Callable[[], float]) -> None:
        """A value that is asked for when somebody looks."""
        from prometheus_client import Gauge

        Gauge(f"mtnet_{name}", says, registry=self.registry).set_function(value)

    def states(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """How many studies, tasks and deliveries are in which state."""
        from prometheus_client.core import GaugeMetricFamily

        class States:
            def collect(self) -> Any:
                family = GaugeMetricFamily(
                    "mtnet_queue", "Studies, tasks and deliveries by state", labels=["what", "state"]
                )
                for name, count in counts().items():
                    family.add_metric(name.split("_", 1), count)
                yield family

        self.registry.register(States())


_SHORT = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_LONG = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)


class HealthServer:
    """``/healthz`` (200 with what is well, 503 with what is not, as JSON) and ``/metrics``.

    Args:
        health: where it listens.
        metrics: what it tells.
        ailments: what is wrong at this moment, as words; none when all is well.
    """

    def __init__(self, health: Health, metrics: Metrics, ailments: Callable[[], list[str]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10.0

            def do_GET(self) -> None:
                from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

                if self.path == "/healthz":
                    wrong = ailments()
                    body = json.dumps({"status": "failing" if wrong else "ok", "reasons": wrong}).encode()
                    self._answer(503 if wrong else 200, "application/json", body)
                elif self.path == "/metrics":
                    self._answer(200, CONTENT_TYPE_LATEST, generate_latest(metrics.registry))
                else:
                    self._answer(404, "text/plain", b"/healthz and /metrics are here.\n")

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Who looks is not told."""

        self._server = ThreadingHTTPServer((health.host, health.port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
