"""The queue: studies, their instances, what is to be answered and to be sent. Times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mtnet.hosts.node.config import Retry, Route
from mtnet.hosts.node.database import Base


@dataclass(frozen=True, slots=True)
class Received:
    """One object that lies on disk and waits for its row: what its header says, and where it is.

    ``counts`` is whether a network could read it: what cannot be read does not set an answered study going again.
    """

    study_uid: str
    sop_uid: str
    series_uid: str
    modality: str
    body_part: str
    file: str
    bytes: int
    sha256: str
    counts: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of an object: ``new``, ``replaced`` (another one of its UID), ``duplicate``, ``own`` (the node made
    it) or ``too_large`` (its study is). ``unused`` is the file that is not needed any more, of the old or the new."""

    outcome: str
    unused: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One answer that is to be made: a study in one generation by one route, in its ``attempts``-th attempt."""

    id: int
    study_uid: str
    pseudonym: str
    generation: int
    route: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One answer that is to be sent to one destination; ``failures`` so far."""

    task: int
    destination: str
    study_uid: str
    pseudonym: str
    route: str
    failures: int


class Ledger(Base):
    """The queue of one node, safe from several threads and beside other processes."""

    # What arrives

    def keep(self, arrived: Sequence[tuple[Received, str]], *, most_instances: int, most_bytes: int) -> list[Kept]:
        """Enter objects, with the pseudonyms of their studies, in one commit.

        An object that is new to a study sets it to ``receiving``; if it was complete, in a new generation.
        """
        with self.transaction():
            return [self._keep(one, pseudonym, most_instances, most_bytes) for one, pseudonym in arrived]

    def _keep(self, one: Received, pseudonym: str, most_instances: int, most_bytes: int) -> Kept:
        base, now = self.base, self.clock()
        if base.execute("SELECT 1 FROM product WHERE uid=?", (one.sop_uid,)).fetchone():
            return Kept("own", one.file)
        base.execute(
            "INSERT INTO study (uid, pseudonym, state, generation, changed, instances, bytes) "
            "VALUES (?, ?, 'receiving', 1, ?, 0, 0) ON CONFLICT (uid) DO NOTHING",
            (one.study_uid, pseudonym, now),
        )
        old = base.execute(
            "SELECT file, bytes, sha256 FROM instance WHERE study=? AND uid=?", (one.study_uid, one.sop_uid)
        ).fetchone()
        if old and old[2] == one.sha256:
            return Kept("duplicate", one.file)
        state, instances, total = base.execute(
            "SELECT state, instances, bytes FROM study WHERE uid=?", (one.study_uid,)
        ).fetchone()
        instances, total = instances + (0 if old else 1), total + one.bytes - (old[1] if old else 0)
        if instances > most_instances or total > most_bytes:
            base.execute("UPDATE study SET state='aside', reason='too_large' WHERE uid=?", (one.study_uid,))
            return Kept("too_large", one.file)
        base.execute(
            "INSERT OR REPLACE INTO instance VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                one.study_uid, one.sop_uid, one.series_uid, one.modality, one.body_part, one.file, one.bytes,
                one.sha256,
            ),
        )  # fmt: skip
        base.execute("UPDATE study SET instances=?, bytes=? WHERE uid=?", (instances, total, one.study_uid))
        if state == "receiving":
            base.execute("UPDATE study SET changed=? WHERE uid=?", (now, one.study_uid))
        elif one.counts:
            base.execute(
                "UPDATE study SET state='receiving', generation=generation+1, changed=?, reason='' WHERE uid=?",
                (now, one.study_uid),
            )
            # An answer that waits, and one that was not sent, would be about less than there is now.
            base.execute("DELETE FROM task WHERE study=? AND state NOT IN ('running', 'done')", (one.study_uid,))
        return Kept("replaced", old[0]) if old else Kept("new")

    def was_fetched(self, study_uid: str) -> bool:
        """Whether a study was fetched from a server before."""
        return bool(self.rows("SELECT 1 FROM fetched WHERE study=?", study_uid))

    def fetched(self, study_uid: str) -> None:
        """A study was fetched, and all of it is kept."""
        with self.transaction():
            self.base.execute("INSERT OR IGNORE INTO fetched VALUES (?)", (study_uid,))

    # What is complete

    def complete(
        self, quiet_s: float, routes: Sequence[Route], busy: Collection[str] = ()
    ) -> list[tuple[str, list[str]]]:
        """Turn studies that have been quiet into tasks, one for each route that a series of theirs matches.

        Args:
            quiet_s: seconds without a change.
            routes: all that there are.
            busy: UIDs of studies that are being sent at this moment, however long it takes.

        Returns:
            pseudonyms of the studies, and the names of their routes.
        """
        found: list[tuple[str, list[str]]] = []
        # A clock that was set back must not keep a study waiting.
        query = "SELECT uid, pseudonym, generation FROM study WHERE state='receiving' AND abs(?-changed)>=?"
        if not self.rows(query, self.clock(), quiet_s):
            return found
        with self.transaction():
            now = self.clock()
            for uid, pseudonym, generation in self.base.execute(query, (now, quiet_s)).fetchall():
                if uid in busy:
                    continue
                series = self.base.execute(
                    "SELECT DISTINCT modality, body_part FROM instance WHERE study=?", (uid,)
                ).fetchall()
                matching = [r for r in routes if any(matches(r, modality, part) for modality, part in series)]
                for route in matching:
                    self.base.execute(
                        "INSERT INTO task (study, generation, route, state, due) VALUES (?, ?, ?, 'ready', ?)",
                        (uid, generation, route.name, now),
                    )
                reason = "" if matching else "no_route_matches"
                self.base.execute("UPDATE study SET state='complete', reason=? WHERE uid=?", (reason, uid))
                found.append((pseudonym, [route.name for route in matching]))
        return found

    def files(self, study_uid: str, route: Route) -> list[str]:
        """The files of the series that a route takes."""
        rows = self.rows("SELECT file, modality, body_part FROM instance WHERE study=?", study_uid)
        return [str(file) for file, modality, part in rows if matches(route, str(modality), str(part))]

    # What is answered

    def next_task(self) -> Task | None:
        """Take the task that has waited longest, and count the attempt."""
        now = self.clock()
        if not self.rows("SELECT 1 FROM task WHERE state='ready' AND due<=? LIMIT 1", now):
            return None
        with self.transaction():
            row = self.base.execute(
                "SELECT task.id, study, pseudonym, task.generation, route, attempts FROM task JOIN study "
                "ON study.uid=study WHERE task.state='ready' AND due<=? ORDER BY due, task.id LIMIT 1",
                (now,),
            ).fetchone()
            if row is None:
                return None
            self.base.execute("UPDATE task SET state='running', attempts=attempts+1 WHERE id=?", (row[0],))
        id, study, pseudonym, generation, route, attempts = row
        return Task(id, study, pseudonym, generation, route, attempts + 1)

    def answered(self, task: Task, destinations: Sequence[str], products: Sequence[str]) -> bool:
        """The answer lies on disk: it is to be sent, unless the study has grown or was forgotten since (``False``)."""
        with self.transaction():
            now = self.clock()
            row = self.base.execute(
                "SELECT study.generation FROM task JOIN study ON study.uid=study "
                "WHERE task.id=? AND task.state='running'",
                (task.id,),
            ).fetchone()
            if row is None or row[0] != task.generation:
                self.base.execute("DELETE FROM task WHERE id=?", (task.id,))
                return False
            self.base.execute("UPDATE task SET state='answered', reason='' WHERE id=?", (task.id,))
            self.base.executemany("INSERT OR REPLACE INTO product VALUES (?, ?)", [(uid, now) for uid in products])
            self.base.executemany(
                "INSERT OR REPLACE INTO delivery (task, destination, state, due) VALUES (?, ?, 'ready', ?)",
                [(task.id, name, now) for name in destinations],
            )
        return True

    def task_failed(self, task: Task, reason: str, retry: Retry | None) -> float | None:
        """Try it again after a pause, or set it aside: without ``retry``, or after its last attempt.

        Returns:
            seconds of the pause; None where it was set aside.
        """
        again = retry is not None and task.attempts < retry.attempts
        pause_s = retry.pause_s(task.attempts) if retry is not None and again else None
        with self.transaction():
            self.base.execute(
                "UPDATE task SET state=?, due=?, reason=? WHERE id=? AND state='running'",
                ("ready" if again else "aside", self.clock() + (pause_s or 0), reason, task.id),
            )
            # What a late instance made void while it ran is not tried again.
            self.base.execute(
                "DELETE FROM task WHERE id=? AND generation<>(SELECT generation FROM study WHERE uid=study)", (task.id,)
            )
        return pause_s

    def put_back(self, task: Task) -> None:
        """The node stops: the attempt does not count."""
        with self.transaction():
            self.base.execute(
                "UPDATE task SET state='ready', attempts=attempts-1 WHERE id=? AND state='running'", (task.id,)
            )

    # What is sent

    def next_delivery(self, destination: str) -> Delivery | None:
        """The delivery to a destination that is due and has waited longest."""
        rows = self.rows(
            "SELECT delivery.task, destination, study, pseudonym, route, delivery.attempts FROM delivery "
            "JOIN task ON task.id=delivery.task JOIN study ON study.uid=study "
            "WHERE delivery.state='ready' AND destination=? AND delivery.due<=? ORDER BY delivery.due LIMIT 1",
            destination,
            self.clock(),
        )
        return Delivery(*rows[0]) if rows else None  # type: ignore[arg-type]

    def delivered(self, delivery: Delivery) -> bool:
        """It has arrived; returns whether the task is done with that."""
        with self.transaction():
            self.base.execute(
                "UPDATE delivery SET state='done', reason='' WHERE task=? AND destination=?",
                (delivery.task, delivery.destination),
            )
            waiting = self.base.execute(
                "SELECT count(*) FROM delivery WHERE task=? AND state<>'done'", (delivery.task,)
            ).fetchone()[0]
            if not waiting:
                self.base.execute("UPDATE task SET state='done' WHERE id=?", (delivery.task,))
        return not waiting

    def delivery_failed(self, delivery: Delivery, reason: str, retry: Retry) -> float | None:
        """As ``task_failed``."""
        failures = delivery.failures + 1
        pause_s = retry.pause_s(failures) if failures < retry.attempts else None
        with self.transaction():
            self.base.execute(
                "UPDATE delivery SET state=?, attempts=?, due=?, reason=? WHERE task=? AND destination=?",
                (
                    "aside" if pause_s is None else "ready", failures, self.clock() + (pause_s or 0), reason,
                    delivery.task, delivery.destination,
                ),
            )  # fmt: skip
        return pause_s

    # What is mended

    def recover(self, destinations: Collection[str]) -> None:
        """What ran when the node ended is ready again; the attempt counts, for it may be what ended the node.

        The time when nobody listened does not make a study complete. What is to be sent to none of the
        ``destinations``, which are all that there are, is set aside.
        """
        with self.transaction():
            self.base.execute("UPDATE study SET changed=? WHERE state='receiving'", (self.clock(),))
            self.base.execute("UPDATE task SET state='ready' WHERE state='running'")
            self.base.execute(
                "UPDATE delivery SET state='aside', reason='destination_is_gone' "
                f"WHERE state='ready' AND destination NOT IN ({','.join('?' * len(destinations))})",
                tuple(destinations),
            )
            self.base.execute(
                "DELETE FROM task WHERE state='ready' AND generation<>(SELECT generation FROM study WHERE uid=study)"
            )

    def known_files(self) -> set[str]:
        """Every file that has a row."""
        return {str(file) for (file,) in self.rows("SELECT file FROM instance")}

    def tasks(self, *, answered: bool) -> set[str]:
        """The numbers of all tasks, or of those whose answers are made."""
        which = "state IN ('answered', 'done')" if answered else "1"
        return {str(id) for (id,) in self.rows(f"SELECT id FROM task WHERE {which}")}

    def files_lost(self, files: Sequence[str]) -> None:
        """Rows whose files are gone: their studies are set aside, and the objects may be sent again."""
        with self.transaction():
            for file in files:
                row = self.base.execute("SELECT study, bytes FROM instance WHERE file=?", (file,)).fetchone()
                self.base.execute("DELETE FROM instance WHERE file=?", (file,))
                self.base.execute(
                    "UPDATE study SET state='aside', reason='files_lost', instances=instances-1, bytes=bytes-? "
                    "WHERE uid=?",
                    (row[1], row[0]),
                )
                self.base.execute("DELETE FROM task WHERE study=? AND state='ready'", (row[0],))

    def old_studies(self, keep_s: float) -> list[str]:
        """Studies that are done with, and were so long ago."""
        rows = self.rows(
            "SELECT uid FROM study WHERE state='complete' AND abs(?-changed)>=? "
            "AND NOT EXISTS (SELECT 1 FROM task WHERE study=uid AND state<>'done')",
            self.clock(),
            keep_s,
        )
        return [str(uid) for (uid,) in rows]

    def forget(self, study_uid: str) -> tuple[list[str], list[int]]:
        """Remove a study; returns its files and tasks, whose files and folders are to be removed."""
        with self.transaction():
            files = self.base.execute("SELECT file FROM instance WHERE study=?", (study_uid,)).fetchall()
            tasks = self.base.execute("SELECT id FROM task WHERE study=?", (study_uid,)).fetchall()
            self.base.execute("DELETE FROM study WHERE uid=?", (study_uid,))
        return [file for (file,) in files], [id for (id,) in tasks]

    def retry(self, study_uid: str | None = None) -> int:
        """Start what was set aside, or waits after a failure, anew: of one study or of all; returns how many things."""
        which, values = ("1", ()) if study_uid is None else ("study=?", (study_uid,))
        own = which.replace("study", "uid")
        failed = "(state='aside' OR (state='ready' AND attempts>0))"
        with self.transaction():
            now = self.clock()
            studies = self.base.execute(
                "UPDATE study SET state='receiving', generation=generation+1, changed=0, reason='' "
                f"WHERE state='aside' AND {own}",
                values,
            ).rowcount
            tasks = self.base.execute(
                f"UPDATE task SET state='ready', attempts=0, due=? WHERE {failed} AND {which}", (now, *values)
            ).rowcount
            deliveries = self.base.execute(
                "UPDATE delivery SET state='ready', attempts=0, due=? "
                f"WHERE {failed} AND task IN (SELECT id FROM task WHERE {which})",
                (now, *values),
            ).rowcount
        return studies + tasks + deliveries


def matches(route: Route, modality: str, body_part: str) -> bool:
    """Whether a series is one that a route takes."""
    return (not route.modality or modality in route.modality) and (
        not route.body_part or any(part in body_part.upper() for part in route.body_part)
    )
