"""What is done in each step of a training: where its randomness comes from, and how long its gradient may be."""

from __future__ import annotations

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import distributed, nn


class StepSeeds:
    """Seed torch's generators before every step with the seed, the step's number and the process's alone.

    Dropout and drop path then are the same however often a training was stopped and gone on with; no generator's state
    has to be kept.

    Args:
        seed: of the training.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed the generators of all devices."""
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        state = np.random.SeedSequence((self.seed, engine.state.iteration, rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))


class ClippedGradients:
    """Shorten the network's gradient to at most ``longest`` before the optimiser's step.

    A step whose gradient is not finite is left out; how many there were is told at the end of the epoch, which raises a
    ``RuntimeError`` where there was no other step.

    Args:
        network: whose gradient it is.
        longest: its largest Euclidean length over all parameters.

    Raises:
        ValueError: ``longest`` is not positive.
    """

    def __init__(self, network: nn.Module, longest: float = 1.0) -> None:
        if not longest > 0:
            raise ValueError(f"The longest gradient is {longest}; expected more than 0 (inf for no limit).")
        self.network = network
        self.longest = longest
        self.steps = self.left_out = 0

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.tell)

    def __call__(self, engine: Engine) -> None:
        """Shorten the gradient of this step."""
        self.steps += 1
        length = nn.utils.clip_grad_norm_(self.network.parameters(), self.longest)
        if not bool(torch.isfinite(length)):
            # Parameters without a gradient are passed over by every optimiser of torch.
            engine.optimizer.zero_grad(set_to_none=True)
            self.left_out += 1

    def tell(self, engine: Engine) -> None:
        """Say how many steps of the epoch were left out.

        Raises:
            RuntimeError: all of them were.
        """
        steps, left_out = self.steps, self.left_out
        self.steps = self.left_out = 0
        if left_out:
            engine.logger.warning("%d steps were left out: their gradients were not finite", left_out)
        if left_out and left_out == steps:
            raise RuntimeError(
                f"No step of epoch {engine.state.epoch} had a finite gradient, so nothing was learnt. Train with "
                "precision float32 or a smaller learning_rate, and look for images whose values are not finite."
            )
