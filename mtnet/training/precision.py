"""Under which precision and memory layout a step is fastest here: measured, since no table of processors tells."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from time import perf_counter
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mtnet.nets.upsampled_conv import fold_upsampling
from mtnet.training.freed_memory import keep_freed_memory
from mtnet.training.processes import gathered
from mtnet.training.small_convolutions import SmallConvolutionsInFloat32

_SAMPLES = 4
_ROUNDS = 4
_LOG = logging.getLogger("mtnet.training")

Setting = tuple[str, bool]
"""A precision, and whether channels come last in memory."""


class AutocastInferer(Inferer):  # type: ignore[misc]  # MONAI is not typed
    """Call the network under autocast, on the CPU as well (MONAI's ``amp`` is CUDA's alone).

    Args:
        precision: ``float32`` switches it off; ``bfloat16`` is faster where the processor has instructions for it;
            ``auto`` tries both at the first call, with channels last and not, and stays with the fastest.
    """

    def __init__(self, precision: str = "bfloat16") -> None:
        super().__init__()
        self.dtype: torch.dtype | None = None if precision == "auto" else getattr(torch, precision)
        self.channels_last = False
        self._laid_out = False
        self._begun = False

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The network's answer for ``inputs``, which it sees without their metadata."""
        inputs = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        if not self._begun and isinstance(network, nn.Module):
            on_cpu = inputs.device.type == "cpu"
            fold_upsampling(network, on_cpu)
            if on_cpu:
                keep_freed_memory()
            self._begun = True
        if self.dtype is None:
            precision, self.channels_last = fastest(network, inputs)
            self.dtype = getattr(torch, precision)
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=_last(inputs))
            # Several processes share gradients in the layout that their weights had from the start.
            if (
                not self._laid_out
                and isinstance(network, nn.Module)
                and not isinstance(network, DistributedDataParallel)
            ):
                _lay_out(network, _last(inputs))
                self._laid_out = True
        with _autocast(inputs, self.dtype or torch.float32):
            return network(inputs, *args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """What was chosen, so that a training that goes on computes as it did."""
        return {"dtype": self.dtype, "channels_last": self.channels_last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as ``state_dict`` says."""
        self.dtype, self.channels_last = state["dtype"], state["channels_last"]


def fastest(network: Callable[..., Any], inputs: Tensor) -> Setting:
    """The fastest setting for a step (forwards and backwards) of a copy of ``network``; the log has all times.

    One that once gave a gradient that is not finite is not taken: with bfloat16 torch's 3D convolutions can, on a CPU.
    Neither the network nor torch's generators change. Of several processes the first one's choice counts.

    Args:
        network: in training mode; the one inside ``DistributedDataParallel`` is tried.
        inputs: ``(B, C, *S)``; the first few of the batch are taken.
    """
    inner: Any = getattr(network, "module", network)
    tried: nn.Module = copy.deepcopy(inner)
    few = inputs[:_SAMPLES].detach()
    settings: list[Setting] = [(name, last) for last in (False, True) for name in ("float32", "bfloat16")]
    devices = [few.device] if few.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # In turns, so that what else the machine does falls on all of them; the quickest of each counts.
        rounds = [{setting: _step_seconds(tried, few, setting) for setting in settings} for _ in range(_ROUNDS)]
    taken = {setting: [one[setting] for one in rounds] for setting in settings}
    seconds = {setting: math.inf if math.inf in each else min(each) for setting, each in taken.items()}
    chosen = gathered(min(settings, key=seconds.__getitem__))[0]
    told = ", ".join(f"{_named(setting)} {_milliseconds(one)}" for setting, one in seconds.items())
    _LOG.info("a step of %d samples takes %s: %s it is", len(few), told, _named(chosen))
    return chosen


def _step_seconds(network: nn.Module, inputs: Tensor, setting: Setting) -> float:
    """Of one step; infinite where its gradient's length is not finite."""
    precision, last = setting
    layout = _last(inputs) if last else torch.contiguous_format
    placed = inputs.contiguous(memory_format=layout)
    _lay_out(network, layout)
    network.zero_grad(set_to_none=True)
    begin = perf_counter()
    with _autocast(placed, getattr(torch, precision)):
        answers = network(placed)
    sum(answer.float().mean() for answer in answers.values()).backward()
    if placed.device.type == "cuda":
        torch.cuda.synchronize(placed.device)
    taken = perf_counter() - begin
    # The length overflows where values are absurd and finite, too.
    length = nn.utils.clip_grad_norm_(network.parameters(), math.inf)
    return taken if bool(torch.isfinite(length)) else math.inf


@contextmanager
def _autocast(inputs: Tensor, dtype: torch.dtype) -> Iterator[None]:
    if dtype == torch.float32:
        yield
        return
    on_cpu = inputs.device.type == "cpu"
    with torch.autocast(inputs.device.type, dtype), SmallConvolutionsInFloat32() if on_cpu else nullcontext():
        yield


def _last(inputs: Tensor) -> torch.memory_format:
    return torch.channels_last if inputs.ndim == 4 else torch.channels_last_3d


def _lay_out(network: nn.Module, layout: torch.memory_format) -> None:
    """Place tensors of as many axes as the layout has; ``Module.to`` refuses one that is for others alone."""
    axes = {torch.channels_last: (4,), torch.channels_last_3d: (5,)}.get(layout, (4, 5))
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim in axes:
            tensor.data = tensor.data.contiguous(memory_format=layout)


def _milliseconds(seconds: float) -> str:
    return "no finite gradient" if math.isinf(seconds) else f"{1000 * seconds:.0f} ms"


def _named(setting: Setting) -> str:
    return f"{setting[0]}{' channels-last' if setting[1] else ''}"
