"""The ledger of a batch: what became of every input, a line each, so that a batch that ended goes on where it was."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from mtnet.hosts.batch.tasks import ItemOutcome, Outcome

_PATTERN = "ledger*.jsonl"


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the ledger.

    Args:
        key: ``Settings.key`` that the input was answered under.
        outcome: what became of it.
        stored: whether a server has the results; None where none was to have them.
        sent: UIDs of all results that were ever sent of the input. They may lie in the study that they are of, and are
            no part of its content.
    """

    key: str
    outcome: Outcome
    stored: bool | None = None
    sent: Sequence[str] = ()


class Ledger:
    """Lines of all shards below ``out``, the last of an input counting; this shard's file takes new ones.

    A line is on disk before ``add`` returns. A line that was cut off when the machine stopped is passed over.
    """

    def __init__(self, out: Path, stream: IO[bytes]) -> None:
        self._stream = stream
        self.entries: dict[str, Entry] = {}
        for path in sorted(out.glob(_PATTERN)):
            for line in path.read_bytes().splitlines():
                # What was cut off is no JSON; it may end in the middle of a character.
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    entry = _entry(json.loads(line))
                    self.entries[entry.outcome.id] = entry

    def add(self, entry: Entry) -> None:
        """Write a line.

        Raises:
            OSError: it cannot be written.
        """
        self._stream.write(json.dumps(asdict(entry)).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.entries[entry.outcome.id] = entry

    def known(self, key: str) -> dict[str, Entry]:
        """By content, what was answered or refused under ``key`` and need not be done again, wherever it lay."""
        return {
            entry.outcome.content: entry
            for entry in self.entries.values()
            if entry.key == key and entry.outcome.content and entry.outcome.state in ("answered", "refused")
        }


@contextmanager
def opened(out: Path, shard: tuple[int, int]) -> Iterator[Ledger]:
    """The ledger of a shard, which no other batch may write meanwhile.

    Raises:
        ValueError: another batch writes it.
    """
    name = "ledger.jsonl" if shard[1] == 1 else f"ledger-{shard[0]}-of-{shard[1]}.jsonl"
    with (out / name).open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"Another batch writes to {out}; wait for it, or give another folder.") from None
        if (out / name).read_bytes()[-1:] not in (b"", b"\n"):
            # After a line that was cut off the next one begins anew.
            stream.write(b"\n")
        yield Ledger(out, stream)


def _entry(line: Any) -> Entry:
    outcome = line["outcome"]
    items = tuple(ItemOutcome(**item) for item in outcome.pop("items"))
    return Entry(line["key"], Outcome(**outcome, items=items), line["stored"], tuple(line["sent"]))
