"""How a training goes, to be seen: on the terminal, in TensorBoard, and as a picture and a table when it ends."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events
from tqdm import tqdm

from mtnet.io.atomic import atomic_path
from mtnet.training.handlers import LossTermLog
from mtnet.training.processes import is_first

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_LOG = logging.getLogger("mtnet.training")


class TerminalProgress:
    """A bar for every epoch with every loss term of the last step, on standard error where that is a terminal.

    Args:
        log: the trainer's ``LossTermLog``, which stands before this handler.
    """

    def __init__(self, log: LossTermLog) -> None:
        self.log = log
        self._bar: tqdm[Any] | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        if is_first() and sys.stderr.isatty():
            engine.add_event_handler(Events.EPOCH_STARTED, self.begin)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
            engine.add_event_handler(Events.EPOCH_COMPLETED | Events.EXCEPTION_RAISED, self.end)

    def begin(self, engine: Engine) -> None:
        """Begin the bar of an epoch."""
        name = f"epoch {engine.state.epoch}/{engine.state.max_epochs}"
        self._bar = tqdm(total=engine.state.epoch_length, desc=name, leave=False, file=sys.stderr)

    def step(self, engine: Engine) -> None:
        """One step on."""
        if self._bar is not None:
            told = {name: f"{values[-1]:.3f}" for name, values in self.log.told.items()}
            self._bar.set_postfix(told, refresh=False)
            self._bar.update()

    def end(self, engine: Engine, error: Exception | None = None) -> None:
        """Take the bar away, so that the log has the terminal for itself.

        Raises:
            Exception: what ended the training, since ignite takes an error that a handler has seen for dealt with.
        """
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if error is not None:
            raise error


class LearningCurve:
    """Keep the loss terms and validation metrics of every epoch: ``curve.json`` after each, ``curve.png`` at the end.

    The picture needs matplotlib (``pip install 'mtnet[report]'``). Where tensorboard is installed, the same numbers go
    to ``tensorboard/``.

    ``curve.json`` holds ``max_epochs`` and ``epochs``, a list of ``{"epoch", "seconds", "learning_rate", "loss":
    {term: mean}, "validation": {metric: value}}``; an epoch that was not validated has no metrics.

    Args:
        folder: for the files.
        log: the trainer's ``LossTermLog``, which stands before this handler.
        validator: evaluator whose ``ValidationHandler`` stands before this handler.
    """

    def __init__(self, folder: str | Path, log: LossTermLog, validator: Engine | None = None) -> None:
        self.folder = Path(folder)
        self.log = log
        self.validator = validator
        self.epochs: list[dict[str, Any]] = []
        self._begun = 0.0
        self._writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self.open)
        engine.add_event_handler(Events.EPOCH_STARTED, self.begin)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.add)
        engine.add_event_handler(Events.COMPLETED, self.draw)

    def open(self, engine: Engine) -> None:
        """Open TensorBoard's folder, where it is installed."""
        if is_first():
            self._writer = _tensorboard(self.folder / "tensorboard")

    def begin(self, engine: Engine) -> None:
        """Begin the time of an epoch."""
        self._begun = monotonic()

    def add(self, engine: Engine) -> None:
        """Add the epoch that ends, and write the table."""
        self.epochs.append(
            {
                "epoch": engine.state.epoch,
                "seconds": round(monotonic() - self._begun, 3),
                "learning_rate": engine.optimizer.param_groups[0]["lr"],
                "loss": dict(self.log.means),
                "validation": self._validated(engine.state.epoch),
            }
        )
        if is_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.folder / "curve.json") as path:
                told = {"max_epochs": engine.state.max_epochs, "epochs": self.epochs}
                path.write_text(json.dumps(told, indent=1), encoding="ascii")
            self._tell_tensorboard(self.epochs[-1])

    def draw(self, engine: Engine) -> None:
        """Write the picture, and close TensorBoard's folder."""
        if self._writer is not None:
            self._writer.close()
        if not is_first() or not self.epochs:
            return
        try:
            from matplotlib.figure import Figure
        except ImportError:
            _LOG.info("no curve.png: matplotlib is not installed (pip install 'mtnet[report]'); curve.json has it all")
            return
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        for axes, part in zip(figure.subplots(1, 2), ("loss", "validation"), strict=True):
            for name in dict.fromkeys(name for row in self.epochs for name in row[part]):
                rows = [row for row in self.epochs if name in row[part]]
                axes.plot([row["epoch"] for row in rows], [row[part][name] for row in rows], label=name, marker=".")
            axes.set(xlabel="epoch", title=part)
            if axes.lines:
                axes.legend(fontsize="small")
        figure.axes[0].set_yscale("log")
        with atomic_path(self.folder / "curve.png") as path:
            figure.savefig(path, format="png", dpi=120)

    def state_dict(self) -> dict[str, Any]:
        """All epochs so far."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self.epochs = list(state["epochs"])

    def _validated(self, epoch: int) -> dict[str, float]:
        """The metrics of the epoch where it was validated; ``ValidationHandler`` numbers its runs by the epoch."""
        if self.validator is None or self.validator.state.epoch != epoch or not self.validator.state.epoch_length:
            return {}
        metrics = self.validator.state.metrics
        return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}

    def _tell_tensorboard(self, row: Mapping[str, Any]) -> None:
        if self._writer is None:
            return
        self._writer.add_scalar("learning_rate", row["learning_rate"], row["epoch"])
        for part in ("loss", "validation"):
            for name, value in row[part].items():
                self._writer.add_scalar(f"{part}/{name}", value, row["epoch"])
        self._writer.flush()


def _tensorboard(folder: Path) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
