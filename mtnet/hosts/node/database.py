"""The database of a node: its tables, and transactions that are on disk when they end (SQLite in WAL mode)."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DATABASE = "node.sqlite"
_VERSION = 1

_SCHEMA = """
CREATE TABLE study (
    uid TEXT PRIMARY KEY, pseudonym TEXT NOT NULL, state TEXT NOT NULL, generation INTEGER NOT NULL,
    changed REAL NOT NULL, instances INTEGER NOT NULL, bytes INTEGER NOT NULL, reason TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE instance (
    study TEXT NOT NULL REFERENCES study ON DELETE CASCADE, uid TEXT NOT NULL, series TEXT NOT NULL,
    modality TEXT NOT NULL, body_part TEXT NOT NULL, file TEXT NOT NULL, bytes INTEGER NOT NULL, sha256 TEXT NOT NULL,
    PRIMARY KEY (study, uid)
) STRICT;
CREATE TABLE task (
    id INTEGER PRIMARY KEY AUTOINCREMENT, study TEXT NOT NULL REFERENCES study ON DELETE CASCADE,
    generation INTEGER NOT NULL, route TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL, reason TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE delivery (
    task INTEGER NOT NULL REFERENCES task ON DELETE CASCADE, destination TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL, reason TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (task, destination)
) STRICT;
CREATE TABLE product (uid TEXT PRIMARY KEY, made REAL NOT NULL) STRICT;
CREATE TABLE fetched (study TEXT PRIMARY KEY) STRICT;
CREATE INDEX study_changed ON study (state, changed);
CREATE INDEX task_due ON task (state, due);
CREATE INDEX task_study ON task (study);
CREATE INDEX delivery_due ON delivery (state, destination, due);
"""

# Without a change to the content a table of an older SQLite does without the check of types.
_OLD_SCHEMA = _SCHEMA.replace(" STRICT;", ";")


class Base:
    """One database, one connection, one lock.

    Args:
        state: the folder that it lies in.
        clock: what time it is.
    """

    def __init__(self, state: Path, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._lock = threading.RLock()
        self.base = sqlite3.connect(state / DATABASE, timeout=60, isolation_level=None, check_same_thread=False)
        self.base.execute("PRAGMA journal_mode=WAL")
        self.base.execute("PRAGMA synchronous=FULL")
        self.base.execute("PRAGMA foreign_keys=ON")
        with self.transaction():
            version = self.base.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                strict = sqlite3.sqlite_version_info >= (3, 37)
                for statement in (_SCHEMA if strict else _OLD_SCHEMA).split(";"):
                    self.base.execute(statement)
                self.base.execute(f"PRAGMA user_version={_VERSION}")
            elif version != _VERSION:
                raise ValueError(f"{state / DATABASE} is of version {version}; this mtnet knows version {_VERSION}.")

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self.base.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; on disk when it ends."""
        with self._lock:
            self.base.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.base.execute("COMMIT")
            except BaseException:
                # A commit that failed may have ended the transaction by itself.
                with contextlib.suppress(sqlite3.OperationalError):
                    self.base.execute("ROLLBACK")
                raise

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """What a query finds."""
        with self._lock:
            return self.base.execute(query, values).fetchall()
