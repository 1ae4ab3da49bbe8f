"""Lanes on the machines of a Ray cluster, which Ray starts and places; what is lost is replaced."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from mtnet.hosts.batch.lane import Lane, Limits, WorkerError
from mtnet.hosts.batch.tasks import ItemOutcome, Outcome, Task
from mtnet.hosts.batch.worker import Start

_WAIT_S = 1.0
MOST_LOSSES = 3
"""Times that a task may lose the machine that works on it before it is set aside."""


class RayLane:
    """The actor: a lane on the machine that Ray gave it, whose worker keeps the model loaded."""

    def __init__(self, start: Start, limits: Limits) -> None:
        self._lane = Lane(start, limits)
        self._lane.warm()

    def step(self, tasks: list[Task]) -> tuple[list[Outcome], int]:
        """Take tasks; the next outcomes, and how many more tasks it has room for. Returns at once when idle."""
        for task in tasks:
            self._lane.submit(task)
        outcomes: list[Outcome] = []
        while self._lane.held and not outcomes:
            outcomes = self._lane.poll(_WAIT_S)
        return outcomes, self._lane.room

    def close(self) -> None:
        """End the worker."""
        self._lane.close()


def on_ray(
    tasks: Iterable[Task], start: Start, limits: Limits, *, address: str | None = None, workers: int | None = None
) -> Iterator[Outcome]:
    """Outcomes of actors on a Ray cluster, which Ray starts, places and replaces.

    Every machine needs mtnet, and the bundle, inputs and results under the same paths; studies on a server need no
    path. An actor has one GPU where the cluster has some; else it has the cores of one machine.

    Args:
        tasks, start, limits: as ``local``.
        address: of the cluster; by default that of ``RAY_ADDRESS``, else a cluster on this machine alone.
        workers: how many actors; by default one a GPU, else one a machine.

    Raises:
        WorkerError: Ray is not installed or no cluster there, or as ``local``.
    """
    # Ray would send statistics of its use; nothing leaves a hospital that nobody asked for.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise WorkerError(f"--engine ray needs an extra ({error.name}): pip install 'mtnet[ray]'.") from error
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, include_dashboard=False, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise WorkerError(
                f"There is no Ray cluster at {address or 'RAY_ADDRESS'} ({type(error).__name__})."
            ) from None
    crew = _Crew(ray, start, limits, workers)
    try:
        yield from crew.outcomes(iter(tasks))
    finally:
        crew.close()
        if ours:
            ray.shutdown()


class _Crew:
    """Actors, the step that each is at, and the tasks that each has."""

    def __init__(self, ray: Any, start: Start, limits: Limits, workers: int | None) -> None:
        self._ray = ray
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(resources.get("GPU", 0) for resources in nodes))
        cores = [int(resources["CPU"]) for resources in nodes if resources.get("CPU", 0) >= 1]
        if not cores:
            raise WorkerError("The Ray cluster has no machine with a core to give.")
        needs = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": min(cores)}
        # Ray itself would restart an actor, and hold its step until it has a machine for it; the step's tasks can go to
        # another actor at once.
        remote = ray.remote(max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD", **needs)(RayLane)
        self._new: Callable[[], Any] = lambda: remote.remote(start, limits)
        self._actors = [self._new() for _ in range(workers or gpus or len(cores))]
        self._held: list[dict[str, Task]] = [{} for _ in self._actors]
        self._never_ready = [0] * len(self._actors)
        self._losses: dict[str, int] = {}
        self._again: deque[Task] = deque()
        self._more = True

    def outcomes(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """Outcomes until there are no tasks."""
        steps = {actor.step.remote([]): number for number, actor in enumerate(self._actors)}
        idle: dict[int, int] = {}
        # Once everything is answered, what is left are steps of actors that Ray has no machine for.
        while self._more or self._again or any(self._held):
            (ref,), _ = self._ray.wait(list(steps), num_returns=1)
            number = steps.pop(ref)
            try:
                outcomes, idle[number] = self._ray.get(ref)
                self._never_ready[number] = 0
            except self._ray.exceptions.RayTaskError as error:
                raise WorkerError(str(error.cause)) from None
            except self._ray.exceptions.RayActorError as error:
                outcomes = self._mourn(number, error)
                steps[self._actors[number].step.remote([])] = number
            for outcome in outcomes:
                self._held[number].pop(outcome.id, None)
            yield from outcomes
            for one, room in list(idle.items()):
                given = self._take(room, tasks)
                self._held[one].update({task.input.id: task for task in given})
                if self._held[one]:
                    steps[self._actors[one].step.remote(given)] = one
                    del idle[one]

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            self._ray.kill(actor)

    def _take(self, count: int, tasks: Iterator[Task]) -> list[Task]:
        taken: list[Task] = []
        while len(taken) < count:
            task = self._again.popleft() if self._again else next(tasks, None)
            if task is None:
                self._more = False
                break
            taken.append(task)
        return taken

    def _mourn(self, number: int, error: Exception) -> list[Outcome]:
        """Replace a lost actor and give what it had to others; what was lost too often is set aside."""
        self._never_ready[number] += 1
        if self._never_ready[number] > MOST_LOSSES:
            raise WorkerError(f"A worker on the Ray cluster does not start ({type(error).__name__}).") from error
        self._actors[number] = self._new()
        held, self._held[number] = self._held[number], {}
        aside = []
        for name, task in held.items():
            self._losses[name] = self._losses.get(name, 0) + 1
            if self._losses[name] > MOST_LOSSES:
                message = f"The machine that worked on it was lost {MOST_LOSSES + 1} times."
                aside.append(Outcome(name, task.seen, "", [ItemOutcome(0, "set_aside", "worker_lost", message)]))
            else:
                self._again.append(replace(task, alone=False))
        return aside
