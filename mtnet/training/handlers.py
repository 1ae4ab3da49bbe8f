"""Handlers for MONAI's trainer: the log of every loss term, and publishing weights as a bundle's own."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from time import monotonic
from typing import Any

import torch
from ignite.engine import Engine, Events, State
from torch import nn

from mtnet.io.atomic import atomic_path
from mtnet.nets import save_state
from mtnet.training.bag_training import TrainerLoss
from mtnet.training.items import ItemsInOrder
from mtnet.training.processes import gathered, is_first


class LossTermLog:
    """Log the mean of every loss term at the end of each epoch; ``means`` has those of the last one."""

    def __init__(self, loss: TrainerLoss) -> None:
        self.loss = loss
        self.told: dict[str, list[float]] = defaultdict(list)
        self.means: dict[str, float] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.tell)

    def collect(self, engine: Engine) -> None:
        """Add the terms of one step."""
        for name, value in self.loss.terms.items():
            self.told[name].append(value)

    def tell(self, engine: Engine) -> None:
        """Log the means and begin again."""
        self.means = {name: fmean(values) for name, values in self.told.items()}
        if is_first():
            told = "  ".join(f"{name} {mean:.4f}" for name, mean in self.means.items())
            engine.logger.info("epoch %d/%s  %s", engine.state.epoch, engine.state.max_epochs, told)
        self.told.clear()


class TrainingState:
    """Keep network, optimiser, schedule and epoch in one file after every epoch, and go on from it at the start.

    A training that goes on ends with the same weights as one that was never stopped, where ``StepSeeds`` says what is
    random in a step. This handler stands behind all that an epoch's end sets off: what it keeps is done.

    Args:
        path: the file; written whole or not at all.
        parts: by name, whatever has ``state_dict`` and ``load_state_dict``.
        items: the loader's sampler; it begins behind the items that were seen.
        validator: evaluator whose best metric so far is kept too.
        minutes: end at the first end of an epoch after so many, for trainings in pieces.
    """

    def __init__(
        self,
        path: str | Path,
        parts: Mapping[str, Any],
        items: ItemsInOrder | None = None,
        validator: Engine | None = None,
        minutes: float | None = None,
    ) -> None:
        self.path = Path(path)
        self.parts = parts
        self.items = items
        self.validator = validator
        self.minutes = math.inf if minutes is None else minutes
        self._begun = 0.0

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self.go_on)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.keep)

    def go_on(self, engine: Engine) -> None:
        """Load the file where there is one.

        Raises:
            ValueError: it has no state of one of the parts.
        """
        self._begun = monotonic()
        if not self.path.is_file():
            return
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        if missing := [name for name in self.parts if name not in state]:
            raise ValueError(
                f"{self.path.name} was written by another version or config: it has no {', '.join(missing)}. Go on "
                "with the config that began this training, or begin anew with another work_dir."
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        if self.items is not None:
            self.items.first = state["iteration"] * self.items.items_a_step
        if self.validator is not None:
            for name, value in state.get("best", {}).items():
                setattr(self.validator.state, name, value)
        engine.logger.info("going on after epoch %d", state["epoch"])

    def keep(self, engine: Engine) -> None:
        """Write the file, in the first of several processes; end where time is up."""
        if is_first():
            self._write(engine)
        # The first process's clock counts for all, since none can go on alone.
        up = gathered((monotonic() - self._begun) / 60 >= self.minutes)[0]
        if up and engine.state.epoch < engine.state.max_epochs:
            engine.logger.info("time is up after epoch %d; the same command goes on from there", engine.state.epoch)
            engine.terminate()

    def _write(self, engine: Engine) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {name: part.state_dict() for name, part in self.parts.items()}
        if self.validator is not None:
            state["best"] = {name: getattr(self.validator.state, name) for name in ("best_metric", "best_metric_epoch")}
        with atomic_path(self.path) as path:
            torch.save({**state, "epoch": engine.state.epoch, "iteration": engine.state.iteration}, path)


class PublishWeights:
    """Write the network's state dict to ``path``, with ``<path>.sha256`` beside it.

    The side-car is what marks weights as trained here: a bundle whose weights are neither the published ones nor named
    by it is refused.

    Args:
        network: whose weights they are.
        path: file to make or to replace.
        validator: evaluator whose ``ValidationHandler`` stands before this handler; then only the best epoch's weights
            are written. Without one, and while it has no samples or no metric, every epoch's are.
    """

    def __init__(self, network: nn.Module, path: str | Path, validator: Engine | None = None) -> None:
        self.network = network
        self.path = Path(path)
        self.validator = validator

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write both files, in the first of several processes."""
        if not is_first() or (self.validator is not None and not _is_best(self.validator.state, engine.state)):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_state(self.network, self.path)
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        with atomic_path(self.path.with_name(self.path.name + ".sha256")) as side_car:
            side_car.write_text(f"{digest}  {self.path.name}\n", encoding="ascii")


def _is_best(validated: State, trained: State) -> bool:
    """Whether the epoch that ends is the best, as far as validation has anything to say."""
    if not validated.epoch_length or math.isnan(validated.metrics.get(validated.key_metric_name, 0.0)):
        return True
    if validated.best_metric_epoch == -1:
        # Never validated: an interval longer than the training.
        return bool(trained.epoch == trained.max_epochs)
    return bool(validated.best_metric_epoch == trained.epoch)


class Together:
    """Several handlers as one item of a config's list, attached in their order.

    MONAI Label, and MONAI's own check of a config's properties, want every item of the list to be a mapping with
    ``_target_``; a reference or an expression is none.
    """

    def __init__(self, handlers: Sequence[Any]) -> None:
        self.handlers = tuple(handlers)

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        for handler in self.handlers:
            handler.attach(engine)
