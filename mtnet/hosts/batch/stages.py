"""Inputs through one network in three stages that overlap: reading, the network, and writing."""

from __future__ import annotations

import os
import queue
import secrets
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mtnet.answers import Answers
from mtnet.cases import Case, Clip, Item, ReadOptions
from mtnet.clips import answer_clip
from mtnet.hosts.batch.sources import content
from mtnet.hosts.batch.tasks import ItemOutcome, Outcome, Reason, State, Task
from mtnet.hosts.dicomweb import SCHEMES, DicomWebError, parse_study_url
from mtnet.predictor import Predictor
from mtnet.structures import RefusedError, ReportLine
from mtnet.study_folder import WriteOptions, items_at, read_or_refuse, write_case

_BETWEEN_STAGES = 1
Told = Callable[[str, int, str, bool], None]
"""Called with input, item, stage, and whether it begins or ends."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where results go: ``studies`` below the folder of a batch, from ``work`` on the same file system."""

    studies: Path
    work: Path


class _Job:
    """One task on its way: its items and what became of them."""

    def __init__(self, task: Task, places: Places) -> None:
        self.task = task
        self.folder = places.work / f"{task.input.id}-{secrets.token_hex(4)}"
        self.fetched = self.folder.with_name(f"{self.folder.name}-source")
        self.content = ""
        self.items: list[ItemOutcome] = []
        self.count: int | None = None
        self.seconds: dict[int, dict[str, float]] = {}
        self.lock = threading.Lock()
        self.alone = threading.Semaphore(1)

    def folder_of(self, item: int) -> Path:
        return self.folder if self.count == 1 else self.folder / str(item)


class Stages:
    """Answers tasks until it is told that there are no more.

    At most one item is in each stage and one between two stages. The network runs in the thread that calls ``run``.

    Args:
        predictor: with its model.
        options, write: how inputs are read, and what is written of them.
        places: where results go.
        known: outcome by content, of what was answered before.
        told: hears of every stage of every item.
        done: hears of every outcome, when the results are in their place.
    """

    def __init__(
        self,
        predictor: Predictor,
        options: ReadOptions,
        write: WriteOptions,
        places: Places,
        known: Mapping[str, Outcome],
        told: Told,
        done: Callable[[Outcome], None],
    ) -> None:
        self._predictor, self._options, self._write_options = predictor, options, write
        self._places, self._known, self._told, self._done = places, known, told, done
        self.tasks: queue.Queue[Task | None] = queue.Queue()
        self._to_network: queue.Queue[tuple[_Job, int, Case | Clip] | None] = queue.Queue(_BETWEEN_STAGES)
        self._to_write: queue.Queue[tuple[_Job, int, Case, Answers] | None] = queue.Queue(_BETWEEN_STAGES)

    def run(self) -> None:
        """Answer what comes through ``tasks`` until None comes."""
        reader = threading.Thread(target=self._read_all, daemon=True)
        writer = threading.Thread(target=self._write_all, daemon=True)
        reader.start()
        writer.start()
        while (entry := self._to_network.get()) is not None:
            self._network(*entry)
            # Not held while the next one is waited for.
            del entry
        self._to_write.put(None)
        reader.join()
        writer.join()

    def _read_all(self) -> None:
        while (task := self.tasks.get()) is not None:
            job = _Job(task, self._places)
            with self._failures(job, 0):
                if self._found(job):
                    continue
            if job.count is None:
                job.count = 1
                self._settle(job)
        self._to_network.put(None)

    def _found(self, job: _Job) -> bool:
        """Find the items of an input and read them one after the other; False where it fails as a whole."""
        task = job.task
        with self._stage(job, 0, "find"):
            job.content = content(task.input.where, task.own)
            known = self._known.get(job.content)
            if known is not None:
                self._done(Outcome(task.input.id, task.seen, job.content, known.items, known.folder, known=True))
                return True
            path, options = self._at_hand(job)
            items = items_at(self._predictor, path, options)
            if not items:
                raise RefusedError([ReportLine("nothing_found", "refused", "There is nothing to answer in it.")])
        job.count = len(items)
        for number, item in enumerate(items, 1):
            if number in task.without:
                self._end(job, number, task.without[number])
                continue
            if task.alone:
                job.alone.acquire()
            self._read(job, number, item, options)
        return True

    def _read(self, job: _Job, number: int, item: Item, options: ReadOptions) -> None:
        with self._failures(job, number):
            with self._stage(job, number, "read"):
                case = read_or_refuse(self._predictor, item, options)
            if not isinstance(case, Case | Clip):
                raise RefusedError(case)
            self._to_network.put((job, number, case))

    def _at_hand(self, job: _Job) -> tuple[Path, ReadOptions]:
        """Where the input's files are, fetched where they lie on a server; a series that is named there is taken."""
        where = job.task.input.where
        if not where.startswith(SCHEMES):
            return Path(where), self._options
        web, study, series = parse_study_url(where)
        if series is None:
            web.fetch_study(study, job.fetched)
        else:
            web.fetch_series(study, series, job.fetched)
        return job.fetched, replace(self._options, series_uid=series)

    def _network(self, job: _Job, number: int, case: Case | Clip) -> None:
        with self._failures(job, number):
            with self._stage(job, number, "network"):
                if isinstance(case, Clip):
                    how = self._write_options
                    folder = job.folder_of(number)
                    answer_clip(self._predictor, case, folder, seg=how.seg, capture=how.capture, page=how.page)
                else:
                    answers = self._predictor.infer(case)
            if isinstance(case, Clip):
                self._end(job, number)
            else:
                self._to_write.put((job, number, case, answers))

    def _write_all(self) -> None:
        while (entry := self._to_write.get()) is not None:
            job, number, case, answers = entry
            with self._failures(job, number):
                with self._stage(job, number, "write"):
                    findings = self._predictor.finish(case, answers)
                    write_case(findings, case, job.folder_of(number), self._write_options)
                self._end(job, number)
            del entry, job, case, answers

    @contextmanager
    def _stage(self, job: _Job, number: int, stage: str) -> Iterator[None]:
        self._told(job.task.input.id, number, stage, True)
        start = time.perf_counter()
        try:
            yield
        finally:
            job.seconds.setdefault(number, {})[stage] = time.perf_counter() - start
            self._told(job.task.input.id, number, stage, False)

    @contextmanager
    def _failures(self, job: _Job, number: int) -> Iterator[None]:
        """One bad item never stops the others."""
        try:
            yield
        except Exception as error:
            self._end(job, number, reason_of(error))

    def _end(self, job: _Job, number: int, reason: Reason | None = None) -> None:
        """Note what became of an item; of an input as a whole it is item 0."""
        state: State = "answered" if reason is None else reason.state
        told = (reason.code, reason.message) if reason else ("", "")
        with job.lock:
            job.items.append(ItemOutcome(number, state, *told, seconds=job.seconds.get(number, {})))
            last = len(job.items) == job.count
        if job.task.alone and number:
            job.alone.release()
        if last:
            self._settle(job)

    def _settle(self, job: _Job) -> None:
        """Put the results in their place, all at once; where they are there already, those stay."""
        task, folder = job.task, ""
        if any(item.state == "answered" for item in job.items):
            folder = task.input.id
            try:
                _put(job.folder, self._places.studies / folder)
            except OSError as error:
                folder, job.items = "", [ItemOutcome(0, "failed", "cannot_write", _in_words(error))]
        for left in (job.folder, job.fetched):
            shutil.rmtree(left, ignore_errors=True)
        items = tuple(sorted(job.items, key=lambda item: item.number))
        self._done(Outcome(task.input.id, task.seen, job.content, items, folder))


def _put(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError:
        # Another worker was given it too, because this one seemed lost, and was first.
        if not target.is_dir():
            raise
        return
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason_of(error: Exception) -> Reason:
    """Why an item was not answered, in words without patient data: what a library says may quote the input."""
    if isinstance(error, RefusedError):
        refused = [line for line in error.lines if line.severity == "refused"] or list(error.lines)
        return Reason("refused", refused[0].code, " ".join(line.message for line in refused[:3]))
    if isinstance(error, DicomWebError):
        return Reason("failed", "server", str(error))
    if isinstance(error, MemoryError):
        return Reason("set_aside", "memory_limit", "There was not enough memory for it.")
    if isinstance(error, OSError):
        return Reason("failed", "files", _in_words(error))
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return Reason("failed", "unexpected", f"It failed unexpectedly ({type(error).__name__} in {frame.name}).")


def _in_words(error: OSError) -> str:
    return f"A file could not be read or written: {error.strerror or type(error).__name__}."
