"""The window engine: one pass of the network over an image's windows, every output merged as its kind is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import lcm
from typing import Any

import torch
from torch import Tensor

from mtnet.inference.feeder import Feeder
from mtnet.inference.grids import TargetMap
from mtnet.inference.memory import ActivationMeter, Memory, is_out_of_memory
from mtnet.inference.mergers import MERGERS, Job, Merger, merger_of
from mtnet.inference.plan import Outputs, Plan
from mtnet.inference.runtimes import EagerPass, Network, Pass, filled, module_of, prepare
from mtnet.inference.sink import Place
from mtnet.inference.windows import lay_windows
from mtnet.structures import OutputSpec

Progress = Callable[[int, int], None]


def run(
    net: Network, image: Tensor, plan: Plan, progress: Progress | None = None, ready: Pass | None = None
) -> Outputs:
    """Run ``net`` once over the windows of one image and merge all of its outputs.

    Args:
        net: network on ``plan.device``, in the mode (``eval``, normally) in which it is to answer; it is not changed.
        image: ``(1, C, *S)``, 2D or 3D, padded by ``mtnet.inference.windows.pad_to_window``.
        plan: windows, region, precision, target grid, limits.
        progress: called with windows done and windows to do, after every pass.
        ready: ``net`` as ``mtnet.inference.runtimes.prepare`` made it ready before, so that it is compiled once for
            many images; otherwise it is made ready here.

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
    ready = ready or prepare(net, plan.runtime, plan.precision, plan.device)
    with torch.no_grad():
        _Windows(net, ready, image, job, mergers).merge_all(progress)
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

    def __init__(self, net: Network, ready: Pass, image: Tensor, job: Job, mergers: Mapping[str, Merger]) -> None:
        self._net = net
        self._pass = ready
        self._job = job
        self._mergers = mergers
        self._device = torch.device(job.plan.device)
        self._feeder = Feeder(image, job.layout, self._device, job.plan.memory_limit_bytes)
        self._count = len(job.layout.starts)
        self._next = 0

    def merge_all(self, progress: Progress | None) -> None:
        """Every window once, in order."""
        memory = self._job.memory
        tell = progress or (lambda _done, _to_do: None)
        if self._job.plan.memory_limit_bytes is not None:
            window_bytes = self._measured_pass()
            memory.limit(self._job.plan.memory_limit_bytes - self._feeder.device_bytes, window_bytes)
        if self._device.type == "cuda":
            self._overlapped(tell)
        while self._next < self._count:
            if self._next:
                tell(self._next, self._count)
            windows, prepared = memory.until_it_fits(self._passed_and_prepared)
            self._commit(windows, prepared)
        tell(self._count, self._count)

    def _measured_pass(self) -> int:
        """Merge the first window; returns an estimate of what one window takes in the network."""
        module = module_of(self._net)
        # Compiled networks do not tell what goes on in them; as it is, the network takes no less.
        ready = EagerPass(self._net, self._job.plan.precision, self._job.plan.device)
        with ActivationMeter(module, self._device) as meter:
            tensors = self._job.memory.until_it_fits(lambda: self._checked(ready(self._feeder.batch(range(1)), 1)))
        self._commit(range(1), self._job.memory.until_it_fits(lambda: self._prepared(range(1), tensors)))
        return meter.window_bytes

    def _overlapped(self, tell: Progress) -> None:
        """On CUDA: while a batch is in the network, the one after it is copied and the one before it is merged, on
        streams of their own. Gives up where memory runs out, with all that was committed done."""
        merging = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        at_work = torch.cuda.current_stream(self._device)
        merging.wait_stream(at_work)
        begun, waiting = self._next, None
        while self._next < self._count:
            prepared: dict[str, Any] = {}
            try:
                following = self._launched(begun) if begun < self._count else None
                if waiting is not None:
                    for tensor in waiting[1].values():
                        if tensor.is_cuda:
                            # Its memory must not be used again before the other stream is done with it.
                            tensor.record_stream(merging)
                    with torch.cuda.stream(merging):
                        merging.wait_event(waiting[2])
                        prepared = self._prepared(waiting[0], waiting[1])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                break
            if waiting is not None:
                with torch.cuda.stream(merging):
                    self._commit(waiting[0], prepared)
                tell(self._next, self._count)
            waiting = following
            begun = waiting[0].stop if waiting is not None else begun
        else:
            at_work.wait_stream(merging)
            return
        # Only here, with the error and the tensors of its frames gone, is there anything to hand back.
        following = waiting = None
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        self._job.memory.no_overlap()

    def _launched(self, begun: int) -> tuple[range, Mapping[str, Tensor], torch.cuda.Event]:
        """Put the windows from ``begun`` into the network and begin to copy those after them."""
        windows = self._windows(begun)
        tensors = self._checked(self._pass(self._feeder.batch(windows), self._at_once()))
        self._feeder.expect(self._windows(windows.stop))
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self._device))
        return windows, tensors, done

    def _windows(self, begun: int) -> range:
        return range(begun, min(begun + self._job.memory.batch, self._count))

    def _at_once(self) -> int:
        """Windows in a full batch of this image; an image of one window has no other."""
        return self._job.memory.batch if self._count > 1 else 1

    def _passed_and_prepared(self) -> tuple[range, dict[str, Any]]:
        """One pass: its windows, and what each merger needs of it, by kind."""
        windows = self._windows(self._next)
        return windows, self._prepared(windows, self._passed(windows))

    def _passed(self, windows: range) -> Mapping[str, Tensor]:
        """The network's tensors of these windows. On a CPU none of several windows is passed alone: torch has other
        kernels there for one than for more, so that what stands beside a window would show in its answers."""
        batch, at_once = self._feeder.batch(windows), self._at_once()
        if len(windows) > 1 or at_once == 1 or self._device.type != "cpu":
            return self._checked(self._pass(batch, at_once))
        tensors = self._checked(self._pass(filled(batch, 2), at_once))
        return {name: tensor[:1] for name, tensor in tensors.items()}

    def _checked(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        missing = [name for spec in self._net.outputs for name in spec.tensor_names if name not in tensors]
        if missing:
            raise ValueError(f"The network did not give {', '.join(missing)}; it gave {', '.join(tensors)}.")
        return tensors

    def _prepared(self, windows: range, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        return {kind: merger.prepare(windows, tensors) for kind, merger in self._mergers.items()}

    def _commit(self, windows: range, prepared: Mapping[str, Any]) -> None:
        for kind, merger in self._mergers.items():
            merger.commit(windows, prepared[kind])
        self._next = windows.stop
