"""The whole batch: what is new is given to an engine, and what comes of it goes to the ledger, once."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from mtnet.hosts.batch.ledger import Entry, Ledger, opened
from mtnet.hosts.batch.sources import content, fingerprint, in_shard
from mtnet.hosts.batch.tasks import Input, Outcome, Settings, Task
from mtnet.hosts.batch.worker import Start
from mtnet.hosts.dicomweb import SCHEMES, DicomWeb
from mtnet.io.atomic import atomic_path

STUDIES = "studies"
"""Folder of the results, below that of the batch: one folder an input, by its id."""
INPUTS = "inputs.csv"
"""Which input an id stands for."""

Engine = Callable[[Iterable[Task], Start], Iterator[Outcome]]


@dataclass(frozen=True, slots=True)
class Batch:
    """What was done.

    Args:
        entries: the ledger's entry of every input of the shard, by id.
        done: how many inputs were given to the engine in this run; the others were done before.
        unsent: why results are not on the server that they were to go to, by id.
    """

    entries: Mapping[str, Entry]
    done: int
    unsent: Mapping[str, str]


def check_out(source: str, out: Path) -> None:
    """Refuse a place for results that a later run would read as input.

    Raises:
        ValueError: ``out`` is a file, or is the source or lies in it.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder to write the results to.")
    if not source.startswith(SCHEMES) and out.resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(
            f"OUT ({out}) lies in SOURCE: a later run would read its own results. Give a folder elsewhere."
        )


def run_batch(
    inputs: Sequence[Input],
    out: Path,
    settings: Settings,
    engine: Engine,
    *,
    shard: tuple[int, int] = (1, 1),
    retry: bool = False,
    store: DicomWeb | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Batch:
    """Answer what was not answered before, each input into ``out/studies/ID``.

    An input is passed over where the ledger has an outcome of the same content, model and options, its results are
    there, and it did not fail. What failed because a server did is tried once more at the end.

    Args:
        inputs: of the source.
        out: folder of the batch; several shards may share it.
        settings: how inputs are answered.
        engine: does the work.
        shard: (i, n): this run takes the i-th of n parts, counted from 1.
        retry: also try again what was refused or set aside.
        store: server that gets the DICOM results of every input.
        progress: called with inputs done and inputs to do in this run.

    Raises:
        ValueError: another run writes to the same shard, or the engine cannot start.
        OSError: ``out`` cannot be written, its disk is full.
    """
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    work = out / f".work-{shard[0]}-of-{shard[1]}"
    with ExitStack() as stack:
        ledger = stack.enter_context(opened(out, shard))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        _write_inputs(inputs, out / INPUTS)
        mine = [one for one in inputs if in_shard(one, shard)]
        key = settings.key()
        todo = _todo(mine, ledger, key, out / STUDIES, retry=retry)
        done = 0
        with ThreadPoolExecutor(1) as executor:
            sender = _Sender(executor, store, ledger, out / STUDIES)
            given = {task.input.id: task for task in todo}
            for one in mine:
                entry = ledger.entries.get(one.id)
                if one.id not in given and entry is not None and entry.key == key and entry.stored is not True:
                    sender.send(entry, again=True)
            try:
                if todo:
                    _make_room(todo, out / STUDIES, work)
                    start = Start(settings, out / STUDIES, work, _known(ledger, key, out / STUDIES))
                    for outcome in _outcomes(engine, todo, start):
                        task = given[outcome.id]
                        sender.send(Entry(key, _identified(outcome, task), sent=task.own))
                        done += 1
                        if progress is not None:
                            progress(done, len(todo))
            finally:
                unsent = sender.finish()
        return Batch({one.id: ledger.entries[one.id] for one in mine}, done, unsent)


def _todo(mine: Sequence[Input], ledger: Ledger, key: str, studies: Path, *, retry: bool) -> list[Task]:
    """The inputs that have no outcome that still holds."""
    todo: list[Task] = []
    for one in mine:
        seen = "" if one.where.startswith(SCHEMES) else _or_nothing(fingerprint, one.where)
        entry = ledger.entries.get(one.id)
        own = () if entry is None else entry.sent
        final = ("answered",) if retry else ("answered", "refused", "set_aside")
        if entry is None or entry.key != key or entry.outcome.state not in final or not _there(entry.outcome, studies):
            todo.append(Task(one, seen, own=own))
        elif not seen or entry.outcome.seen != seen:
            if _or_nothing(content, one.where, own) != entry.outcome.content:
                todo.append(Task(one, seen, own=own))
            elif seen:
                ledger.add(replace(entry, outcome=replace(entry.outcome, seen=seen)))
    # Results that stand in the folder of an input that is answered anew go with it.
    redone = {task.input.id for task in todo}
    for one in mine:
        entry = ledger.entries.get(one.id)
        if one.id not in redone and entry is not None and entry.outcome.folder in redone:
            todo.append(Task(one, entry.outcome.seen, own=entry.sent))
    return todo


def _identified(outcome: Outcome, task: Task) -> Outcome:
    """The outcome with what a later run knows its input by. A worker that was killed has not told the content, and a
    study on a server has nothing else."""
    if outcome.seen:
        return outcome
    found = outcome.content or _or_nothing(content, task.input.where, task.own)
    return replace(outcome, seen=found, content=found)


def _or_nothing(of: Callable[..., str], *what: object) -> str:
    """A hash of the input; nothing where it cannot be read now, which is then found out again and told."""
    try:
        return of(*what)
    except OSError:
        return ""


def _uids(files: Sequence[Path]) -> set[str]:
    from pydicom import dcmread

    return {str(dcmread(path, force=True, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID")) for path in files}


def _there(outcome: Outcome, studies: Path) -> bool:
    return not outcome.folder or (studies / outcome.folder).is_dir()


def _known(ledger: Ledger, key: str, studies: Path) -> dict[str, Outcome]:
    known = ledger.known(key)
    return {name: entry.outcome for name, entry in known.items() if _there(entry.outcome, studies)}


def _make_room(todo: Sequence[Task], studies: Path, work: Path) -> None:
    """Remove results that hold no more, and what a run that was killed left."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    studies.mkdir(exist_ok=True)
    for task in todo:
        old = studies / task.input.id
        if old.is_dir():
            # Gone at once: a folder that is half removed is never seen.
            old = old.rename(work / task.input.id)
            shutil.rmtree(old)


def _outcomes(engine: Engine, todo: Sequence[Task], start: Start) -> Iterator[Outcome]:
    tasks = {task.input.id: task for task in todo}
    again: list[Task] = []
    for outcome in engine(todo, start):
        if any(item.code == "server" for item in outcome.items):
            again.append(tasks[outcome.id])
        else:
            yield outcome
    if again:
        yield from engine(again, start)


def _write_inputs(inputs: Sequence[Input], path: Path) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("id", "input"))
        table.writerows((one.id, one.name.encode("utf-8", "replace").decode()) for one in inputs)


class _Sender:
    """Stores results on a server, in a thread beside the engine, and writes the ledger when that is done."""

    def __init__(self, executor: ThreadPoolExecutor, store: DicomWeb | None, ledger: Ledger, studies: Path) -> None:
        self._executor, self._store, self._ledger, self._studies = executor, store, ledger, studies
        self._sending: list[tuple[Entry, Future[None]]] = []
        self._unsent: dict[str, str] = {}

    def send(self, entry: Entry, *, again: bool = False) -> None:
        """Take an outcome; ``again`` where only the results of an earlier run are to be sent."""
        if self._store is None or not entry.outcome.folder:
            if not again:
                self._ledger.add(entry)
            return
        files = sorted((self._studies / entry.outcome.folder).rglob("*.dcm"))
        entry = replace(entry, sent=tuple(sorted({*entry.sent, *_uids(files)})))
        self._sending.append((entry, self._executor.submit(self._store.store, files)))
        self._settle([one for one in self._sending if one[1].done()])

    def finish(self) -> dict[str, str]:
        """Wait for all; why results could not be sent, by id."""
        self._settle(list(self._sending))
        return self._unsent

    def _settle(self, sent: list[tuple[Entry, Future[None]]]) -> None:
        for one in sent:
            entry, future = one
            self._sending.remove(one)
            try:
                future.result()
            except (OSError, ValueError) as error:
                self._unsent[entry.outcome.id] = str(error)
                self._ledger.add(replace(entry, stored=False))
            else:
                self._ledger.add(replace(entry, stored=True))
