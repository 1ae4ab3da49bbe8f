"""One queue of all trainings, in pieces of a few minutes: ``python -m mtnet.training.queue [--status]``.

What is trained is data (``data/trainings.json``): a list ``jobs`` of

- ``name``: folder of its state, below ``--state``;
- ``config``: the ``train.json`` of a bundle;
- ``prepare``: argument lists of ``mtnet prepare``, joined to one manifest in their order;
- ``overrides``: ids of the config and their values (``max_epochs``, ``seed``, ``size``...);
- ``overlays`` (may be missing): further config files, each over the one before, ``overrides`` over all;
- ``starts_from`` (may be missing): name of a job whose weights it begins with, or a list of names, of whose weights it
  takes the mean (``started_from``); it waits for them;
- ``like`` (may be missing): name of an earlier job, or of one in the file that ``base`` beside ``jobs`` names, or in
  the base of that. All but ``name`` and ``starts_from`` is that job's where it is not told, ``overrides`` key by key:
  the same recipe, but for what is compared.

A job's folder holds its manifest, checkpoint, log, curve and ``model.pt`` (the weights to publish, once they are
evaluated). No encoder begins with ImageNet weights unless ``overrides`` say ``pretrained``, so that a job is the same
on a machine that has some. Jobs with the same ``prepare`` share one manifest. A piece ends with an epoch; killed at any
moment it goes on from the epoch before. ``$MTNET_DATA`` in arguments is the folder of data, ``../shared/data`` where it
is not set.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from mtnet.io.atomic import atomic_path

JOBS = Path("data/trainings.json")
STATE = Path(".cache/train")
_KEYS = {"name": str, "config": str, "prepare": list, "overrides": dict}
_TRIES = 2


class QueueError(Exception):
    """A queue that cannot run; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training; see the module.

    Raises:
        QueueError: a field is missing or of another type.
    """

    name: str
    config: str
    prepare: Sequence[Sequence[str]]
    overrides: Mapping[str, Any]
    starts_from: str | Sequence[str] | None = None
    overlays: Sequence[str] = ()

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Job:
        """A job of an entry of the file."""
        for key, kind in _KEYS.items():
            if not isinstance(entry.get(key), kind):
                raise QueueError(f"job {entry.get('name')!r}: {key} is {entry.get(key)!r}; expected a {kind.__name__}.")
        if not isinstance(first := entry.get("starts_from"), str | list | None):
            raise QueueError(f"job {entry['name']!r}: starts_from is {first!r}; expected the name of a job, or a list.")
        if unknown := entry.keys() - {*_KEYS, "starts_from", "overlays"}:
            raise QueueError(f"job {entry['name']!r} has the unknown keys {', '.join(sorted(unknown))}.")
        return cls(**entry)

    @property
    def earlier(self) -> tuple[str, ...]:
        """Names of the jobs that it starts from."""
        if self.starts_from is None:
            return ()
        return (self.starts_from,) if isinstance(self.starts_from, str) else tuple(self.starts_from)

    @property
    def digest(self) -> str:
        """Of all that it says, so that a changed job is not gone on with."""
        told = [self.name, self.config, self.prepare, self.overrides, self.starts_from, *self.overlays]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(slots=True)
class Progress:
    """How far a job is: epochs done and asked for, pieces, seconds, and pieces that failed since one did not."""

    epochs: int = 0
    max_epochs: int | None = None
    pieces: int = 0
    seconds: float = 0.0
    failures: int = 0

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.max_epochs is not None and self.epochs >= self.max_epochs


def read_jobs(path: Path) -> list[Job]:
    """The jobs of a file.

    Raises:
        QueueError: there is no such file, or it is none of jobs; a name comes twice, one starts from no earlier job, or
            is like none that is known.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        entries = document["jobs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise QueueError(f'{path}: no file of jobs ({error!r}); expected {{"jobs": [...]}}.') from error
    known = {job.name: job for job in read_bases(path)}
    jobs: list[Job] = []
    for entry in entries:
        jobs.append(Job.read(_filled(entry, known, path)))
        known[jobs[-1].name] = jobs[-1]
    earlier: set[str] = set()
    for job in jobs:
        if job.name in earlier:
            raise QueueError(f"{path}: two jobs are called {job.name!r}.")
        for first in job.earlier:
            if first not in earlier:
                raise QueueError(f"{path}: {job.name!r} starts from {first!r}, which is no earlier job.")
        earlier.add(job.name)
    return jobs


def read_bases(path: Path) -> list[Job]:
    """The jobs that those of a file may be like: of the file that its ``base`` names, and of that one's.

    Raises:
        QueueError: as ``read_jobs``.
    """
    base = json.loads(path.read_text(encoding="utf-8")).get("base")
    return [] if base is None else [*read_bases(Path(base)), *read_jobs(Path(base))]


class Queue:
    """The trainings of a file, with what has been done of them.

    Args:
        jobs: in the order in which they are done.
        state: folder of all that is kept.
        minutes: of a piece.
        only: names of the jobs to do; none for all.
    """

    def __init__(
        self, jobs: Sequence[Job], state: Path = STATE, minutes: float = 5.0, only: Sequence[str] | None = None
    ) -> None:
        self.jobs = jobs
        self.chosen = [job for job in jobs if not only or job.name in only]
        self.state = state
        self.minutes = minutes

    def folder(self, name: str) -> Path:
        """Where a job's files lie."""
        return self.state / name

    def progress(self, job: Job) -> Progress:
        """How far the job is, as its folder tells.

        Raises:
            QueueError: the folder was begun with another job of that name.
        """
        kept = _read(self.folder(job.name) / "state.json")
        if kept and kept["digest"] != job.digest:
            raise QueueError(
                f"{job.name}: what the job says has changed since it was begun. Remove {self.folder(job.name)} to "
                "begin anew, or give the changed one another name."
            )
        curve = _read(self.folder(job.name) / "curve.json")
        epochs = curve["epochs"][-1]["epoch"] if curve.get("epochs") else 0
        counted = {key: kept[key] for key in ("pieces", "seconds", "failures") if key in kept}
        return Progress(epochs, curve.get("max_epochs"), **counted)

    def run(self, pieces: int | None = None) -> bool:
        """Do pieces until all jobs are done, ``pieces`` are, or those that are left fail again and again.

        Returns:
            whether all of them are done.

        Raises:
            QueueError: another process runs this queue, or a job has changed.
        """
        failed: dict[str, int] = {}
        count = 0
        with _alone(self.state / "lock"):
            while pieces is None or count < pieces:
                job = next((job for job in self.chosen if failed.get(job.name, 0) < _TRIES and self._ready(job)), None)
                if job is None:
                    break
                if not self.piece(job):
                    failed[job.name] = failed.get(job.name, 0) + 1
                count += 1
        return all(self.progress(job).done for job in self.chosen)

    def piece(self, job: Job) -> bool:
        """Go on with one job for some minutes; whether that went well. What it says goes to its ``log.txt``."""
        folder, before = self.folder(job.name), self.progress(job)
        folder.mkdir(parents=True, exist_ok=True)
        begun = monotonic()
        with (folder / "log.txt").open("ab") as log:
            well = all(subprocess.call(command, stdout=log, stderr=log) == 0 for command in self._commands(job))
        kept = {
            "digest": job.digest,
            "pieces": before.pieces + 1,
            "seconds": round(before.seconds + monotonic() - begun, 1),
            "failures": 0 if well else before.failures + 1,
        }
        with atomic_path(folder / "state.json") as path:
            path.write_text(json.dumps(kept), encoding="ascii")
        print(self.line(job), file=sys.stderr)
        return well

    def line(self, job: Job) -> str:
        """A job's progress for people."""
        now = self.progress(job)
        whole = job.overrides.get("max_epochs", "?") if now.max_epochs is None else now.max_epochs
        told = "done" if now.done else "begun" if now.pieces else "not begun"
        if now.failures:
            told = f"failed {now.failures} times, see {self.folder(job.name) / 'log.txt'}"
        return f"{job.name:28} epoch {now.epochs}/{whole}  {now.seconds / 60:6.1f} min in {now.pieces} pieces  {told}"

    def _ready(self, job: Job) -> bool:
        if self.progress(job).done:
            return False
        return all(self.progress(other).done for other in self.jobs if other.name in job.earlier)

    def _prepared_like(self, job: Job) -> str | None:
        """Another job that has a manifest of the same sources."""
        for other in self.jobs:
            folder = self.folder(other.name)
            whole = (folder / "manifest.json").is_file() and _read(folder / "state.json").get("digest") == other.digest
            if whole and other.prepare == job.prepare:
                return other.name
        return None

    def _commands(self, job: Job) -> Iterator[list[str]]:
        folder = self.folder(job.name)
        manifest = folder / "manifest.json"
        if not manifest.is_file() and (prepared := self._prepared_like(job)) is not None:
            # A link, since the manifest's paths are relative to its own folder.
            manifest.unlink(missing_ok=True)
            manifest.symlink_to(Path("..") / prepared / manifest.name)
        if not manifest.is_file():
            # Under another name until it is whole: a joined one that was cut off must not be trained on.
            made = folder / "preparing.json"
            yield from prepare_commands(job, made)
            made.rename(manifest)
        begun = [str(self.folder(first) / "model.pt") for first in job.earlier]
        weights = {"initial_weights": begun[0] if len(begun) == 1 else begun} if begun else {}
        changes = {
            "pretrained": False,
            "manifest": str(manifest),
            "work_dir": str(folder),
            "weights": str(folder / "model.pt"),
            "minutes": self.minutes,
            **weights,
            **job.overrides,
        }
        with atomic_path(folder / "overrides.json") as path:
            path.write_text(json.dumps(changes, indent=1), encoding="ascii")
        files = json.dumps([job.config, *job.overlays, str(folder / "overrides.json")])
        yield [sys.executable, "-m", "monai.bundle", "run", "--config_file", files]


def prepare_commands(job: Job, made: Path) -> Iterator[list[str]]:
    """What makes a job's manifest, source by source."""
    for number, told in enumerate(job.prepare):
        joined = ["--join", str(made)] if number else []
        arguments = [_with_data(argument) for argument in told]
        yield [sys.executable, "-m", "mtnet", "prepare", *arguments, *joined, "--out", str(made)]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when all is done, or told; 1 when something is left or refused."""
    parser = argparse.ArgumentParser(prog="python -m mtnet.training.queue", description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=Path, default=JOBS, help=f"file of jobs (default: {JOBS})")
    parser.add_argument("--state", type=Path, default=STATE, help=f"folder of all that is kept (default: {STATE})")
    parser.add_argument("--minutes", type=float, default=5.0, help="of one piece, at least one epoch (default: 5)")
    parser.add_argument("--pieces", type=int, help="end after so many pieces")
    parser.add_argument("--only", action="append", metavar="NAME", help="this job alone (again and again)")
    parser.add_argument("--status", action="store_true", help="tell how far each job is, and do nothing")
    options = parser.parse_args(arguments)
    try:
        jobs = read_jobs(options.jobs)
        if unknown := set(options.only or ()) - {job.name for job in jobs}:
            raise QueueError(
                f"there is no job {', '.join(sorted(unknown))}; there are {', '.join(j.name for j in jobs)}."
            )
        queue = Queue(jobs, options.state, options.minutes, options.only)
        if options.status:
            print("\n".join(queue.line(job) for job in queue.chosen))
            return 0
        return int(not queue.run(options.pieces))
    except QueueError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1


def _filled(entry: Mapping[str, Any], known: Mapping[str, Job], path: Path) -> dict[str, Any]:
    """An entry with all that the job tells which it is like."""
    own = dict(entry)
    name = own.pop("like", None)
    if name is None:
        return own
    if name not in known:
        raise QueueError(f"{path}: {own.get('name')!r} is like {name!r}, which is no earlier job, nor one of its base.")
    like = known[name]
    overrides = {**like.overrides, **own.get("overrides", {})}
    return {"config": like.config, "prepare": like.prepare, "overlays": like.overlays, **own, "overrides": overrides}


def _with_data(argument: str) -> str:
    return argument.replace("$MTNET_DATA", os.environ.get("MTNET_DATA", "../shared/data"))


def _read(path: Path) -> dict[str, Any]:
    """What a file of ours holds; nothing where there is none."""
    return dict(json.loads(path.read_text(encoding="ascii"))) if path.is_file() else {}


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold ``lock`` while the block runs; the system lets go of it when a process dies.

    Raises:
        QueueError: another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise QueueError(
                f"another process runs the queue of {lock.parent}; --status tells how far it is."
            ) from error
        yield


if __name__ == "__main__":
    sys.exit(main())
