"""The receiving side: C-ECHO and C-STORE, each object on disk before it is acknowledged (PS3.4 annex B)."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from mtnet.hosts.node.budget import Budget
from mtnet.hosts.node.config import NodeConfig, Sender
from mtnet.hosts.node.intake import Intake
from mtnet.hosts.node.lines import Lines, Pseudonyms, kind_of
from mtnet.hosts.node.metrics import Metrics
from mtnet.hosts.node.objects import BrokenObjectError, file_meta, read_facts, received
from mtnet.hosts.node.tls import server_context

if TYPE_CHECKING:
    from pynetdicom.events import Event

# PS3.4 B.2.3: out of resources, data set does not match SOP class, cannot understand.
SUCCESS, NO_RESOURCES, NO_MATCH, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
_NOT_RECOGNISED = (0x01, 0x01, 0x03)
_SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{tail}" for tail in (50, 51, 57, 70, 80, 81, 90, 91, 100, 101, 102, 103, 201, 202, 203)),
)


class ReceiverService:
    """The DICOM port of a node. Everything that arrives is handed to an ``Intake``.

    Args:
        config: of the node.
        intake: keeps objects.
        lines: where it is told.
        metrics: where it is counted.
        pseudonyms: of studies.
    """

    def __init__(
        self, config: NodeConfig, intake: Intake, lines: Lines, metrics: Metrics, pseudonyms: Pseudonyms
    ) -> None:
        import logging

        from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
        from pynetdicom.sop_class import Verification

        from mtnet.hosts.node.listener import BoundedServer

        # Its log lines may quote what it was sent.
        _config.LOG_HANDLER_LEVEL = "none"
        for name in ("pynetdicom", "pydicom"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self._limits, self._senders = config.receiver, config.sender
        self._intake, self._lines, self._metrics, self._pseudonyms = intake, lines, metrics, pseudonyms
        self._budget = Budget(config.receiver)
        self._sending: dict[Any, str] = {}
        entity = AE(config.receiver.ae_title)
        entity.maximum_pdu_size = config.receiver.max_pdu_bytes
        entity.maximum_associations = config.receiver.max_associations
        entity.require_called_aet = True
        # Where the address is looked at too, an error would be swallowed; this holds all the same.
        entity.require_calling_aet = [sender.ae_title for sender in config.sender]
        entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = config.receiver.idle_s
        entity.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, list(_SYNTAXES))
        self._server: Any = entity.make_server(
            (config.receiver.host, config.receiver.port),
            ae_title=config.receiver.ae_title,
            ssl_context=server_context(config.receiver.tls),
            evt_handlers=[
                (evt.EVT_C_ECHO, lambda event: SUCCESS),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_REQUESTED, self._requested),
                (evt.EVT_PDU_RECV, self._count),
                (evt.EVT_CONN_CLOSE, self._closed),
                (evt.EVT_REJECTED, lambda event: metrics.rejected.inc()),
            ],
            server_class=BoundedServer,
            limits=config.receiver,
            may_connect=self._may_connect,
            on_error=lambda error: lines.tell("connection_failed", error=kind_of(error)),
        )
        # Its shutdown removes it from there.
        entity._servers.append(self._server)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="receiver", daemon=True)

    def start(self) -> None:
        """Take connections from now on."""
        self._thread.start()

    def stop(self, within_s: float) -> None:
        """Take no more connections; end the associations that are not through in time."""
        self._server.shutdown()
        until = time.monotonic() + within_s
        while (left := self._server.active_associations) and time.monotonic() < until:
            time.sleep(0.02)
        for association in left:
            association.abort()
        self._thread.join()

    def associations(self) -> int:
        """How many there are."""
        return len(self._server.active_associations)

    def _may_connect(self, address: str) -> bool:
        taken = not self._senders or any(sender.holds(address) for sender in self._senders)
        if not taken:
            self._metrics.rejected.inc()
            self._lines.tell("connection_refused", reason="address_not_listed")
        return taken

    def _requested(self, event: Event) -> None:
        """Reject who is not listed with the address that it comes from."""
        association = event.assoc
        title, address = association.requestor.primitive.calling_ae_title, association.requestor.address
        if self._senders and not any(_is(sender, title, address) for sender in self._senders):
            self._metrics.rejected.inc()
            self._lines.tell("association_rejected", reason="ae_title_not_listed")
            association.acse.send_reject(*_NOT_RECOGNISED)
            association.is_rejected = True
            association.kill()

    def busy_studies(self) -> set[str]:
        """The study of the last object of every association that is open: more of it may be on its way."""
        for association in list(self._sending):
            if not association.is_alive():
                self._sending.pop(association, None)
        return set(self._sending.values())

    def _closed(self, event: Event) -> None:
        self._budget.ended(event.assoc)
        self._sending.pop(event.assoc, None)
        if not event.assoc.is_established:
            # Who closes before the association is asked for would hold its place until the time for that is up.
            event.assoc.dul.to_user_queue.put(None)

    def _count(self, event: Event) -> None:
        """End an association whose objects take more than they may while they arrive."""
        for item in getattr(event.pdu, "presentation_data_value_items", ()):
            passed = self._budget.arrived(event.assoc, item.presentation_data_value)
            if passed:
                self._metrics.refused.labels(passed).inc()
                self._lines.tell("association_ended", reason=passed)
                event.assoc.dul.socket.closing = True
                return

    def _store(self, event: Event) -> int:
        """Keep one object; the status is what the sender is told."""
        started = time.perf_counter()
        try:
            status, outcome = self._kept(event)
        except BrokenObjectError as error:
            status, outcome = NOT_UNDERSTOOD, "broken"
            self._lines.tell("object_refused", reason=str(error))
        except Exception as error:
            # Nothing was kept, and the sender has to know, whatever the reason is.
            status, outcome = NO_RESOURCES, "not_kept"
            self._lines.tell("object_not_kept", error=kind_of(error))
        if status == SUCCESS:
            self._metrics.received.labels(outcome).inc()
            self._metrics.storing.observe(time.perf_counter() - started)
        else:
            self._metrics.refused.labels(outcome).inc()
        return status

    def _kept(self, event: Event) -> tuple[int, str]:
        request, data = event.request, event.request.DataSet.getbuffer()
        try:
            if len(data) > self._limits.max_instance_bytes:
                return NO_RESOURCES, "instance_too_large"
            syntax = str(event.context.transfer_syntax)
            meta = file_meta(str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), syntax)
            facts = read_facts(meta, data)
            if (facts.sop_class, facts.sop_uid) != (request.AffectedSOPClassUID, request.AffectedSOPInstanceUID):
                self._lines.tell("object_refused", reason="It is not the object that the request names.")
                return NO_MATCH, "no_match"
            self._sending[event.assoc] = facts.study_uid
            one = received(facts, meta, data)
            kept = self._intake.keep(one, (meta, data))
        finally:
            self._budget.stored(event.assoc, len(data))
            data.release()
        self._metrics.bytes.inc(one.bytes)
        if kept.outcome == "too_large":
            self._lines.tell("study_too_large", study=self._pseudonyms.of(facts.study_uid))
            return NO_RESOURCES, "study_too_large"
        return SUCCESS, kept.outcome


def _is(sender: Sender, title: str, address: str) -> bool:
    return sender.ae_title.strip() == str(title).strip() and sender.holds(address)
