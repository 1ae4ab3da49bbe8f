"""The window engine: one pass of the network over an image's windows, every output merged as its kind is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from math import lcm
from typing import Any, Protocol

import torch
from torch import Tensor

from mtnet.inference.grids import TargetMap
from mtnet.inference.memory import ActivationMeter, Memory
from mtnet.inference.mergers import MERGERS, Job, Merger, merger_of
from mtnet.inference.plan import Outputs, Plan
from mtnet.inference.sink import Place
from mtnet.inference.windows import lay_windows
from mtnet.structures import OutputSpec

Progress = Callable[[int, int], None]


class Network(Protocol):
    """What the engine needs of a network: it says what its outputs are, and gives them by tensor name."""

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """What the outputs are."""

    def __call__(self, image: Tensor, /) -> Mapping[str, Tensor]:
        """Every tensor of every output for a batch of windows ``(B, C, *window)``."""


def run(net: Network, image: Tensor, plan: Plan, progress: Progress | None = None) -> Outputs:
    """Run ``net`` once over the windows of one image and merge all of its outputs.

    Args:
        net: network on ``plan.device``, in the mode (``eval``, normally) in which it is to answer; it is not changed.
        image: ``(1, C, *S)``, 2D or 3D, padded by ``mtnet.inference.windows.pad_to_window``.
        plan: windows, region, precision, target grid, limits.
        progress: called with windows done and windows to do, after every pass.

    Returns:
        Every output of ``net.outputs`` by name.

    Raises:
        ValueError: image, plan and the network's outputs do not fit each other; the message says what would.
    """
    if image.ndim not in (4, 5) or image.shape[0] != 1:
        raise ValueError(f"The image has shape {tuple(image.shape)}; expected (1, C, *S) with two or three axes S.")
    specs = tuple(net.outputs)
    job = _make_job(specs, tuple(image.shape[2:]), plan)
    kinds = dict.fromkeys(spec.kind for spec in specs)
    mergers = {kind: merger_of(kind)(tuple(s for s in specs if s.kind == kind), job) for kind in kinds}
    with torch.no_grad():
        _Windows(net, image, job, mergers).merge_all(progress)
        merged = {kind: merger.finish() for kind, merger in mergers.items()}
    layout = job.layout
    return Outputs(
        dense=merged.get("dense", {}),
        boxes=merged.get("boxes", {}),
        global_=merged.get("global", {}),
        lines=(*layout.lines, *job.memory.lines),
        windows_total=layout.total,
        windows_run=len(layout.starts),
        region_share=layout.region_share,
        extras={name: out for kind, named in merged.items() if kind not in MERGERS for name, out in named.items()},
    )


def forward(net: Network, batch: Tensor, plan: Plan) -> Mapping[str, Tensor]:
    """One pass of the network over ``batch``, on its device, in the plan's precision."""
    half = plan.precision != "float32"
    with torch.autocast(batch.device.type, getattr(torch, plan.precision)) if half else nullcontext():
        return net(batch)


def _make_job(specs: Sequence[OutputSpec], shape: tuple[int, ...], plan: Plan) -> Job:
    valid = shape if plan.valid_shape is None else tuple(plan.valid_shape)
    if plan.grid is not None and plan.grid.shape[: len(shape)] not in (shape, valid):
        raise ValueError(
            f"Plan.grid has shape {plan.grid.shape}; expected the image's, {shape}, or that of its valid part, {valid}."
        )
    target = TargetMap.between(plan.grid, plan.target, valid)
    dense_strides = [spec.strides[0] for spec in specs if spec.kind == "dense"]
    interpolates = bool(dense_strides) and target.interpolates(valid)
    # Interpolation at a voxel of the region reads cells up to half a cell away from it.
    halo = max(((stride + 1) // 2 for stride in dense_strides if stride > 1 or interpolates), default=0)
    stride = lcm(*(s for spec in specs for s in spec.strides))
    layout = lay_windows(plan, shape, stride, target.slab_axis, halo)
    place = Place(target, layout.valid_shape, layout.region)
    return Job(plan, shape, layout, place, Memory(plan.batch, torch.device(plan.device)))


class _Windows:
    """Passes windows of one image through the network, as many at once as memory allows."""

    def __init__(self, net: Network, image: Tensor, job: Job, mergers: Mapping[str, Merger]) -> None:
        self._net = net
        self._image = image
        self._job = job
        self._mergers = mergers
        self._device = torch.device(job.plan.device)
        self._next = 0

    def merge_all(self, progress: Progress | None) -> None:
        """Every window once, in order."""
        job, count = self._job, len(self._job.layout.starts)
        if job.plan.memory_limit_bytes is not None:
            with ActivationMeter(self._net) as meter:
                self._merge(1)
            job.memory.limit(job.plan.memory_limit_bytes, meter.window_bytes)
        while self._next < count:
            if progress is not None and self._next:
                progress(self._next, count)
            self._merge(job.memory.batch)
        if progress is not None:
            progress(count, count)

    def _merge(self, at_most: int) -> None:
        windows, prepared = self._job.memory.until_it_fits(lambda: self._prepare(at_most))
        for kind, merger in self._mergers.items():
            merger.commit(windows, prepared[kind])
        self._next += len(windows)

    def _prepare(self, at_most: int) -> tuple[range, dict[str, Any]]:
        """One pass: its windows, and what each merger needs of it, by kind."""
        plan, layout = self._job.plan, self._job.layout
        size = min(at_most, self._job.memory.batch, len(layout.starts) - self._next)
        windows = range(self._next, self._next + size)
        crops = [self._image[(slice(None), slice(None), *layout.slices(n))] for n in windows]
        batch = (crops[0] if size == 1 else torch.cat(crops)).to(self._device, torch.float32)
        tensors = forward(self._net, batch, plan)
        missing = [name for spec in self._net.outputs for name in spec.tensor_names if name not in tensors]
        if missing:
            raise ValueError(f"The network did not give {', '.join(missing)}; it gave {', '.join(tensors)}.")
        return windows, {kind: merger.prepare(windows, tensors) for kind, merger in self._mergers.items()}
