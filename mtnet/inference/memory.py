"""What to do when memory runs out, and how much to take beforehand when it is limited."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from mtnet.structures import ReportLine

T = TypeVar("T")

SLAB_BYTES = 64 << 20
"""Temporaries of one step of restoring: large enough for long vector loops, small beside one full-size class."""

_MIN_SLAB_BYTES = 1 << 18

_OUT_OF_MEMORY_TEXTS = ("DefaultCPUAllocator: can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""What torch's CPU allocators (Linux, Windows), cuBLAS and cuDNN say in a plain RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on the device or on the host, and nothing else."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY_TEXTS)


class Memory:
    """The three things that give way when memory runs out, in this order: the batch halves down to 1, accumulators
    move to the host, slabs halve. Each step leaves a report line; when none is left the error goes on.

    Args:
        batch: windows in one pass to start with.
        device: where the network and, at first, the accumulators lie.

    ``fixed_bytes`` is what accumulators, and results where they lie beside them, take whatever the batch; the merger
    that makes them sets it.
    """

    def __init__(self, batch: int, device: torch.device) -> None:
        self.batch = batch
        self.accumulator_device = device
        self.slab_bytes = SLAB_BYTES
        self.fixed_bytes = 0
        self.lines: list[ReportLine] = []

    def until_it_fits(self, work: Callable[[], T]) -> T:
        """Call ``work``, which reads this object's sizes, until it does not run out of memory.

        ``work`` must leave nothing half done behind when it fails. Errors other than out of memory pass through.
        """
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self._give_way():
                    raise
            # Only here, with the error and the tensors of its frames gone, is there anything to hand back.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def limit(self, limit_bytes: int, window_bytes: int) -> None:
        """Choose batch and slabs so that an estimate of what is taken stays below ``limit_bytes``.

        Args:
            limit_bytes: what may be taken, ``fixed_bytes`` among it.
            window_bytes: one window in one pass of the network.
        """
        if self.accumulator_device.type != "cpu" and self.fixed_bytes + _MIN_SLAB_BYTES + window_bytes > limit_bytes:
            self._accumulate_on_host("To stay in the memory limit")
            self.fixed_bytes = 0
        free = limit_bytes - self.fixed_bytes
        self.slab_bytes = int(min(self.slab_bytes, max(free // 4, _MIN_SLAB_BYTES)))
        fits = max((free - self.slab_bytes) // max(window_bytes, 1), 0)
        if fits < self.batch:
            was, self.batch = self.batch, int(max(fits, 1))
            if was > self.batch:
                self._say(
                    "memory_limit_batch", f"Windows in one pass: {self.batch} instead of {was}, to stay in the limit."
                )
        if fits < 1:
            need = self.fixed_bytes + self.slab_bytes + window_bytes
            self._say(
                "memory_limit_exceeded",
                f"The memory limit of {limit_bytes >> 20} MiB is less than the {need >> 20} MiB that one window at a "
                "time is estimated to need; it may be passed.",
            )

    def no_overlap(self) -> None:
        """Say that from here on nothing is copied or merged while the network runs."""
        self._say("memory_no_overlap", "Memory ran out; windows are merged before the next ones are in the network.")

    def _give_way(self) -> bool:
        if self.batch > 1:
            self.batch //= 2
            self._say("memory_batch_halved", f"Memory ran out; {self.batch} windows go through the network at once.")
        elif self.accumulator_device.type != "cpu":
            self._accumulate_on_host("Memory ran out")
        elif self.slab_bytes > _MIN_SLAB_BYTES:
            self.slab_bytes //= 2
            self._say(
                "memory_slabs_halved", f"Memory ran out; slabs are restored {self.slab_bytes >> 10} KiB at a time."
            )
        else:
            return False
        return True

    def _accumulate_on_host(self, why: str) -> None:
        self.accumulator_device = torch.device("cpu")
        self._say("memory_accumulators_on_host", f"{why}, outputs are accumulated on the host.")

    def _say(self, code: str, message: str) -> None:
        self.lines.append(ReportLine(code, "note", message, "inference"))


class ActivationMeter:
    """While entered, measures what a pass of ``net`` takes.

    On CUDA that is what torch's allocator tells. Elsewhere it is the largest module, bytes of its input and output
    tensors together, twice: a decoder's concatenated input is on top of the levels that it was made of, and a
    convolution's workspace is about its output again.
    """

    def __init__(self, net: nn.Module | None, device: torch.device) -> None:
        self.largest_bytes = 0
        self._device = device if device.type == "cuda" else None
        self._base_bytes = 0
        self._leaves = [] if net is None else [m for m in net.modules() if not any(m.children())]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> ActivationMeter:
        if self._device is not None:
            torch.cuda.reset_peak_memory_stats(self._device)
            self._base_bytes = torch.cuda.memory_allocated(self._device)
        else:
            self._handles = [leaf.register_forward_hook(self._measure) for leaf in self._leaves]
        return self

    def __exit__(self, *_: object) -> None:
        if self._device is not None:
            self.largest_bytes = (torch.cuda.max_memory_allocated(self._device) - self._base_bytes) // 2
        for handle in self._handles:
            handle.remove()

    @property
    def window_bytes(self) -> int:
        """Estimate of what the measured pass took."""
        return 2 * self.largest_bytes

    def _measure(self, _module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        total = sum(t.nbytes for t in (*inputs, output) if isinstance(t, torch.Tensor))
        self.largest_bytes = max(self.largest_bytes, total)
