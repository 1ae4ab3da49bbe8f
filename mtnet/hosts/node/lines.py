"""What a node tells: one line of JSON an event, on standard error, with pseudonyms in the place of UIDs."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TextIO

_UID = re.compile(r"\d+(\.\d+){4,}")

Fact = str | int | float | bool | None


class Pseudonyms:
    """Names that stand for UIDs in logs and commands: keyed hashes, whose key never leaves the state folder."""

    def __init__(self, state: Path) -> None:
        path = state / "pseudonyms.key"
        if not path.exists():
            # Several commands may start at once: who links first has made the key.
            draft = state / f".key-{secrets.token_hex(4)}"
            descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secrets.token_bytes(32))
                stream.flush()
                os.fsync(stream.fileno())
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        self._key = path.read_bytes()

    def of(self, uid: str) -> str:
        """Sixteen characters that stand for a UID."""
        return hmac.new(self._key, uid.encode(), hashlib.sha256).hexdigest()[:16]


class Lines:
    """Writes the lines. Safe from several threads; a reader that has gone away is no reason to stop."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._lock = threading.Lock()

    def tell(self, event: str, **facts: Fact) -> None:
        """One event, with what belongs to it. Never a name, an identifier, a date or a UID of a patient's."""
        now = time.time()
        told = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
        line = json.dumps({"time": told, "event": event, **facts})
        with self._lock:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                pass


def without_uids(text: str) -> str:
    """A sentence of ours without the UIDs in it."""
    return _UID.sub("(UID)", text)


def kind_of(error: BaseException) -> str:
    """What an error is and where it arose, without its message: that may quote what was read."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"
