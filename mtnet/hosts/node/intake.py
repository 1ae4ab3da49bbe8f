"""Onto the disk, and only then acknowledged: files are synced one by one, their rows committed several at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mtnet.hosts.node.config import Receiver
from mtnet.hosts.node.ledger import Kept, Ledger, Received
from mtnet.hosts.node.lines import Pseudonyms

OBJECTS = "objects"
_MOST_AT_ONCE = 256
# Times of the file, which it leaves out, are not worth a wait.
_sync_content = getattr(os, "fdatasync", os.fsync)


class UnsyncedError(OSError):
    """The disk failed after the row was committed: the object is there, and must not be acknowledged."""


class Intake:
    """Takes objects from several threads. ``keep`` returns when file, folder entry and row are on disk.

    One thread commits what has come up while it committed the last time, so that senders share the disk's pauses. The
    folder is synced while the row is committed: a row whose file a power failure took was not acknowledged, and goes.

    Args:
        state: the node's folder.
        ledger: where rows go.
        pseudonyms: of studies.
        limits: sizes of studies, and the disk that is to stay free.
    """

    def __init__(self, state: Path, ledger: Ledger, pseudonyms: Pseudonyms, limits: Receiver) -> None:
        self.folder = state / OBJECTS
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self._folder_descriptor = os.open(self.folder, os.O_RDONLY)
        self._ledger, self._pseudonyms, self._limits = ledger, pseudonyms, limits
        self._waiting: queue.SimpleQueue[tuple[Received, Future[Kept]] | None] = queue.SimpleQueue()
        self._syncer = ThreadPoolExecutor(1, "sync")
        self._thread = threading.Thread(target=self._commit_all, name="intake", daemon=True)
        self._thread.start()

    def free_bytes(self) -> int:
        """Free disk beyond the reserve."""
        return shutil.disk_usage(self.folder).free - self._limits.reserve_bytes

    def keep(self, one: Received, parts: Sequence[bytes | memoryview]) -> Kept:
        """Keep an object, whose file is made of ``parts``.

        Raises:
            OSError: the disk is full, or fails; nothing is kept then.
            sqlite3.Error: as ``OSError``, of the queue.
        """
        if self.free_bytes() < one.bytes:
            raise OSError(errno.ENOSPC, "The disk is full up to its reserve")
        path = self.folder / one.file
        try:
            _write(path, parts)
            done: Future[Kept] = Future()
            self._waiting.put((one, done))
            kept = done.result()
        except UnsyncedError:
            raise
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            raise
        if kept.unused is not None:
            with contextlib.suppress(OSError):
                (self.folder / kept.unused).unlink(missing_ok=True)
        return kept

    def stop(self) -> None:
        """Commit what waits, and end."""
        self._waiting.put(None)
        self._thread.join()
        self._syncer.shutdown()
        os.close(self._folder_descriptor)

    def _commit_all(self) -> None:
        more = True
        while more:
            batch = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < _MOST_AT_ONCE:
                    batch.append(self._waiting.get_nowait())
            more = None not in batch
            entries = [entry for entry in batch if entry is not None]
            if entries:
                self._commit(entries)

    def _commit(self, entries: Sequence[tuple[Received, Future[Kept]]]) -> None:
        synced = self._syncer.submit(os.fsync, self._folder_descriptor)
        try:
            kept = self._ledger.keep(
                [(one, self._pseudonyms.of(one.study_uid)) for one, _ in entries],
                most_instances=self._limits.max_study_instances,
                most_bytes=self._limits.max_study_bytes,
            )
        except Exception as error:
            for _, done in entries:
                done.set_exception(error)
            return
        try:
            synced.result()
        except OSError:
            for _, done in entries:
                done.set_exception(UnsyncedError(errno.EIO, "The folder cannot be synced"))
            return
        for (_, done), outcome in zip(entries, kept, strict=True):
            done.set_result(outcome)


def _write(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    """A new file, on disk when this returns; its entry in the folder may not be."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(descriptor, view) :]
        _sync_content(descriptor)
    finally:
        os.close(descriptor)
