"""What is in the queue, for people and for metrics."""

from __future__ import annotations

from collections.abc import Mapping

from mtnet.hosts.node.database import Base


def find(base: Base, named: str) -> str:
    """The UID of a study that is named by its UID or the beginning of its pseudonym.

    Raises:
        ValueError: there is none, or several begin so.
    """
    rows = base.rows("SELECT uid FROM study WHERE uid=? OR substr(pseudonym, 1, ?)=? LIMIT 2", named, len(named), named)
    if len(rows) != 1:
        told = "several studies begin so" if rows else "there is no such study"
        raise ValueError(f"{told}; mtnet serve status lists them.")
    return str(rows[0][0])


def counts(base: Base) -> Mapping[str, int]:
    """How many studies, tasks and deliveries are in which state: ``study_receiving``, ``task_ready``..."""
    rows = base.rows(
        "SELECT 'study_' || state, count(*) FROM study GROUP BY 1 UNION ALL "
        "SELECT 'task_' || state, count(*) FROM task GROUP BY 1 UNION ALL "
        "SELECT 'delivery_' || state, count(*) FROM delivery GROUP BY 1"
    )
    return {str(name): int(str(count)) for name, count in rows}


def overview(base: Base, study_uid: str | None = None) -> list[dict[str, object]]:
    """Every study, or one, with its tasks and deliveries, newest first, by pseudonym."""
    now = base.clock()
    studies = base.rows(
        "SELECT uid, pseudonym, state, generation, ?-changed, instances, bytes, reason FROM study "
        "WHERE ? IS NULL OR uid=? ORDER BY changed DESC",
        now,
        study_uid,
        study_uid,
    )
    return [
        {
            "study": pseudonym, "state": state, "generation": generation, "quiet_s": round(float(str(quiet)), 1),
            "instances": instances, "bytes": size, "reason": reason, "tasks": _tasks(base, str(uid), now),
        }
        for uid, pseudonym, state, generation, quiet, instances, size, reason in studies
    ]  # fmt: skip


def _tasks(base: Base, study_uid: str, now: float) -> list[dict[str, object]]:
    names = ("id", "route", "generation", "state", "attempts", "due_in_s", "reason")
    rows = base.rows(
        "SELECT id, route, generation, state, attempts, max(0, round(due-?, 1)), reason FROM task WHERE study=? "
        "ORDER BY id",
        now,
        study_uid,
    )
    tasks = []
    for row in rows:
        sent = base.rows(
            "SELECT destination, state, attempts, max(0, round(due-?, 1)), reason FROM delivery WHERE task=?",
            now,
            row[0],
        )
        keys = ("destination", "state", "failures", "due_in_s", "reason")
        tasks.append(
            {**dict(zip(names, row, strict=True)), "deliveries": [dict(zip(keys, d, strict=True)) for d in sent]}
        )
    return tasks
