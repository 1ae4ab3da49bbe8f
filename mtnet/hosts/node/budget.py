"""What objects that are on their way may take in memory: each, and all together."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtnet.hosts.node.config import Receiver

if TYPE_CHECKING:
    from pynetdicom.association import Association

_MOST_COMMAND_BYTES = 64 * 1024
_MOST_MESSAGES = 64


@dataclass(slots=True)
class _Held:
    data: int = 0
    command: int = 0


class Budget:
    """Counts what has arrived of objects and is not on disk yet, by association.

    A sender waits for one answer before it sends the next object; one that does not is held to the same sums.
    """

    def __init__(self, limits: Receiver) -> None:
        self._limits, self._lock = limits, threading.Lock()
        self._held: dict[Association, _Held] = {}

    def arrived(self, association: Association, fragment: bytes) -> str:
        """Count one fragment of a message (PS3.8 annex E.2); returns the limit that is passed with it, or nothing."""
        header, count = fragment[0], len(fragment) - 1
        with self._lock:
            if association not in self._held:
                self._held = {other: each for other, each in self._held.items() if other.is_alive()}
            held = self._held.setdefault(association, _Held())
            if header & 1:
                held.command = 0 if header & 2 else held.command + count
            else:
                held.data += count
            if held.command > _MOST_COMMAND_BYTES or association.dimse.msg_queue.qsize() > _MOST_MESSAGES:
                return "too_many_messages"
            if held.data > self._limits.max_instance_bytes:
                return "instance_too_large"
            total = sum(each.data for each in self._held.values())
        return "memory" if total > self._limits.max_memory_bytes else ""

    def stored(self, association: Association, count: int) -> None:
        """So many bytes are held no longer."""
        with self._lock:
            if association in self._held:
                self._held[association].data -= count

    def ended(self, association: Association) -> None:
        """The association is over."""
        with self._lock:
            self._held.pop(association, None)
