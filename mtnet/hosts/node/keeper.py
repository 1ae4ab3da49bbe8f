"""What keeps the state of a node in order: studies that are complete, those that are old, and what a crash left."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from mtnet.hosts.node.config import NodeConfig
from mtnet.hosts.node.intake import OBJECTS
from mtnet.hosts.node.ledger import Ledger
from mtnet.hosts.node.lines import Lines, kind_of
from mtnet.hosts.node.workers import ANSWERS, WORK

_OLD_EVERY_S = 60.0


def recover(config: NodeConfig, ledger: Ledger, lines: Lines) -> None:
    """Make files and rows agree, before anything runs.

    A file without a row was not acknowledged, and what lies in the work folder was not finished: both go. A row without
    a file sets its study aside. What ran is ready again.
    """
    state = config.state
    ledger.recover([one.name for one in config.destination])
    shutil.rmtree(state / WORK, ignore_errors=True)
    known = ledger.known_files()
    there = {path.name for path in _entries(state / OBJECTS)}
    for name in there - known:
        (state / OBJECTS / name).unlink(missing_ok=True)
    lost = sorted(known - there)
    ledger.files_lost(lost)
    _remove_answers(state, ledger, answered=True)
    lines.tell(
        "recovered", objects=len(known) - len(lost), unfinished_objects=len(there - known), lost_objects=len(lost)
    )


def remove_study(state: Path, ledger: Ledger, study_uid: str) -> None:
    """Forget a study: its rows, then its files."""
    files, tasks = ledger.forget(study_uid)
    for file in files:
        (state / OBJECTS / file).unlink(missing_ok=True)
    for task in tasks:
        shutil.rmtree(state / ANSWERS / str(task), ignore_errors=True)


class Keeper:
    """Looks again and again for studies that are complete or old.

    Args:
        config: of the node.
        ledger: the queue.
        lines: where it is told.
        busy: UIDs of the studies that are being sent at this moment.
    """

    def __init__(self, config: NodeConfig, ledger: Ledger, lines: Lines, busy: Callable[[], Collection[str]]) -> None:
        self._config, self._ledger, self._lines, self._busy = config, ledger, lines, busy
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join()

    def _keep(self) -> None:
        pause_s = min(1.0, self._config.quiet_s / 4)
        waited_s = _OLD_EVERY_S
        while not self._stop.wait(pause_s):
            waited_s += pause_s
            try:
                for study, routes in self._ledger.complete(self._config.quiet_s, self._config.route, self._busy()):
                    self._lines.tell("complete", study=study, routes=",".join(routes))
                if waited_s >= _OLD_EVERY_S:
                    waited_s = 0.0
                    self._remove(self._ledger.old_studies(self._config.keep_hours * 3600))
                    # Of studies that a late instance sent round again; an answer that is just being made has a task.
                    _remove_answers(self._config.state, self._ledger, answered=False)
            except Exception as error:
                self._lines.tell("keeping_failed", error=kind_of(error))
                self._stop.wait(2.0)

    def _remove(self, studies: Iterable[str]) -> None:
        for uid in studies:
            remove_study(self._config.state, self._ledger, uid)
            self._lines.tell("removed")


def _remove_answers(state: Path, ledger: Ledger, *, answered: bool) -> None:
    """Remove answers without a task. Looked up after they were listed: an answer has a task before it is there."""
    there = list(_entries(state / ANSWERS))
    known = ledger.tasks(answered=answered)
    for path in there:
        if path.name not in known:
            shutil.rmtree(path, ignore_errors=True)


def _entries(folder: Path) -> Iterable[Path]:
    return folder.iterdir() if folder.is_dir() else ()
