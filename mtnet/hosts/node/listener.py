"""pynetdicom's server with bounds: who may connect, how many, how long a PDU is, and how long a peer may be silent.

What pynetdicom leaves open and a hospital's network does not forgive: a PDU may say that it has four gibibytes, a peer
may stop in the middle of one and hold its thread for ever, and a TLS handshake that never comes keeps all others out.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Any

from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from mtnet.hosts.node.config import Receiver

# An A-ASSOCIATE-RQ with 128 contexts of a dozen transfer syntaxes each has some 50 KB, whatever P-DATA PDUs may have.
_LEAST_PDU_LIMIT = 128 * 1024
_HANDSHAKE_S = 10.0
_WAIT_S = 0.002
_CONNECTIONS_WAITING = 64


class BoundedSocket(AssociationSocket):  # type: ignore[misc]
    """The socket of one association: reads PDUs in one go, none longer than ``pdu_limit`` bytes.

    ``closing`` makes the next read fail, which ends the association.
    """

    pdu_limit = _LEAST_PDU_LIMIT
    closing = False

    @property
    def ready(self) -> bool:
        """Whether there is something to read; waits a moment for it, so that nobody has to sleep."""
        if self.socket is None or not self._is_connected:
            return False
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True
        try:
            return bool(select.select([self.socket], [], [], _WAIT_S)[0])
        except (OSError, ValueError):
            self.event_queue.put("Evt17")
            return False

    def recv(self, nr_bytes: int) -> bytearray:
        """That many bytes, fewer where the peer has closed.

        Raises:
            OSError: they are more than a PDU may have, the peer is silent, or the association is to end.
        """
        if self.closing:
            raise OSError("The association is ended: it passes a limit")
        if nr_bytes > self.pdu_limit:
            raise OSError("A PDU is longer than the limit")
        received, view = 0, memoryview(content := bytearray(nr_bytes))
        while received < nr_bytes:
            count = self.socket.recv_into(view[received:])
            if not count:
                break
            received += count
        view.release()
        del content[received:]
        return content


class _Handler(RequestHandler):  # type: ignore[misc]
    def handle(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.settimeout(_HANDSHAKE_S)
            self.request.do_handshake()
        self.request.settimeout(self.server.limits.idle_s)
        super().handle()

    def _create_association(self) -> Any:
        association = super()._create_association()
        bounded = BoundedSocket(association, client_socket=self.request)
        bounded.pdu_limit = max(self.server.limits.max_pdu_bytes + 6, _LEAST_PDU_LIMIT)
        # Each socket announces its connection; one announcement is enough.
        association.dul.event_queue.get_nowait()
        association.dul.socket = bounded
        # The socket waits for what comes; a nap between two looks would only add to it.
        association.dul._run_loop_delay = 0
        association.dul.daemon = True
        return association


class BoundedServer(ThreadedAssociationServer):  # type: ignore[misc]
    """Accepts connections from addresses that ``may_connect``, ``limits.max_associations`` at a time.

    ``on_error`` hears of errors that arise before there is an association.
    """

    daemon_threads = True
    request_queue_size = _CONNECTIONS_WAITING

    def __init__(
        self,
        *arguments: Any,
        limits: Receiver,
        may_connect: Callable[[str], bool],
        on_error: Callable[[BaseException], None],
        **options: Any,
    ) -> None:
        self.limits, self._may_connect, self._on_error = limits, may_connect, on_error
        self._starting: set[int] = set()
        self._lock = threading.Lock()
        super().__init__(*arguments, request_handler=_Handler, **options)

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection. It is not spoken to here: one that is slow would keep the others out."""
        assert self.socket is not None
        connection, address = self.socket.accept()
        connection.settimeout(_HANDSHAKE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether a connection is taken on."""
        with self._lock:
            at_work = len(self._starting) + len(self.active_associations)
            taken = self._may_connect(client_address[0]) and at_work < self.limits.max_associations
            if taken:
                self._starting.add(id(request))
        if not taken:
            # Closed without a word to be waited for, so that a flood costs nothing.
            with contextlib.suppress(OSError):
                request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return taken

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Start the association of a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._starting.discard(id(request))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of an error by its kind; the traceback that is usual would go to the log."""
        import sys

        error = sys.exc_info()[1]
        if error is not None:
            self._on_error(error)
