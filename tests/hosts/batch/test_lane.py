from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from mtnet.hosts.batch import lane as lane_module
from mtnet.hosts.batch.lane import Lane, Limits, WorkerError
from mtnet.hosts.batch.local import local
from mtnet.hosts.batch.tasks import Input, Outcome, Settings, Task
from mtnet.hosts.batch.worker import Start

MIB = 1 << 20
LIMITS = Limits(time_s=5.0, memory_bytes=250 * MIB)
PATIENT = Limits(time_s=600.0, memory_bytes=250 * MIB)


@pytest.fixture(autouse=True)
def _hard_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "_RUN", "from tests.hosts.batch.hard_worker import main; main()")


@pytest.fixture(name="start")
def _start(tmp_path: Path) -> Start:
    (tmp_path / "work").mkdir()
    return Start(Settings("bundle"), tmp_path / "studies", tmp_path / "work", {})


def tasks(*names: str) -> list[Task]:
    return [Task(Input.of(name, name), "seen") for name in names]


def answered(names: list[str], start: Start, limits: Limits, workers: int = 1) -> dict[str, tuple[str, str]]:
    """State and code of every input; each has one outcome."""
    given = {task.input.id: task.input.name for task in tasks(*names)}
    outcomes: list[Outcome] = list(local(tasks(*names), start, limits, workers))
    assert sorted(one.id for one in outcomes) == sorted(given)
    return {given[one.id]: (one.state, one.items[0].code) for one in outcomes}


GOOD = ("answered", "")


def test_a_study_over_its_time_is_set_aside_and_the_others_are_answered(start: Start) -> None:
    assert answered(["good 1", "slow", "good 2", "good 3", "slow early"], start, LIMITS) == {
        "good 1": GOOD,
        "good 2": GOOD,
        "good 3": GOOD,
        "slow": ("set_aside", "time_limit"),
        "slow early": ("set_aside", "time_limit"),
    }


def test_a_study_over_its_memory_is_found_among_those_in_flight_and_set_aside(start: Start) -> None:
    names = [*(f"good {n}" for n in range(4)), "big 1", "good 5", "big 2", "good 6"]
    told = answered(names, start, PATIENT)
    assert {name for name, what in told.items() if what != GOOD} == {"big 1", "big 2"}
    assert told["big 1"] == told["big 2"] == ("set_aside", "memory_limit")


def test_a_study_that_ends_its_process_is_found_among_those_in_flight_and_set_aside(start: Start) -> None:
    names = ["crash 1", "good 1", "good 2", "crash 2", "crash early", "good 3"]
    told = answered(names, start, PATIENT)
    assert {name for name, what in told.items() if what != GOOD} == {"crash 1", "crash 2", "crash early"}
    assert {what for what in told.values() if what != GOOD} == {("set_aside", "crashed")}


def test_what_was_left_of_a_killed_study_is_removed(start: Start) -> None:
    (task,) = tasks("slow")
    (start.work / f"{task.input.id}-0badcafe").mkdir()
    (start.work / f"{task.input.id}-0badcafe" / "half").touch()
    (outcome,) = local([task], start, LIMITS, 1)
    assert outcome.items[0].message == "It took more than 5 s, the last of them in stage 'network'."
    assert list(start.work.iterdir()) == []


def test_several_workers_answer_each_input_once(start: Start) -> None:
    names = [f"good {n}" for n in range(20)]
    assert set(answered(names, start, PATIENT, workers=2).values()) == {GOOD}


def test_no_more_is_taken_than_there_is_use_for(start: Start) -> None:
    taken: list[str] = []

    def counted() -> object:
        for task in tasks(*(f"good {n}" for n in range(50))):
            taken.append(task.input.id)
            yield task

    outcomes = local(counted(), start, PATIENT, 1)  # type: ignore[arg-type]
    for number, _ in enumerate(outcomes, 1):
        assert len(taken) <= number + 2 * lane_module.DEPTH


def test_a_worker_that_cannot_start_is_told_and_not_tried_for_ever(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_module, "_RUN", "import sys; sys.exit(7)")
    with pytest.raises(WorkerError, match=r"ended while it started \(exit code 7\)"):
        list(local(tasks("good"), start, PATIENT, 1))


def test_a_worker_ends_with_its_lane(start: Start) -> None:
    lane = Lane(start, PATIENT)
    (task,) = tasks("slow")
    lane.submit(task)
    limit = time.monotonic() + 120
    workers: list[psutil.Process] = []
    while not workers and time.monotonic() < limit:
        lane.poll(0.1)
        mine = psutil.Process(os.getpid()).children()
        workers = [one for one in mine if "hard_worker" in " ".join(one.cmdline())]
    lane.close()
    assert workers and not any(worker.is_running() for worker in workers)
