"""How the windows' answers become one: a merger for each kind of output (``mtnet.structures.kinds``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mtnet.detection.coding import Candidates, decode
from mtnet.detection.suppression import suppress
from mtnet.inference.answer import Answer, activate, refuse_nan
from mtnet.inference.bands import Band
from mtnet.inference.memory import Memory
from mtnet.inference.ownership import Ownership
from mtnet.inference.plan import DenseOutput, Detections, Plan
from mtnet.inference.sink import Place, Sink, make_sink
from mtnet.inference.windows import Layout, importance_map
from mtnet.structures import LesionChannel, OutputSpec
from mtnet.structures.kinds import of_kind


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What a merger may need to know of the run: the plan, the size of the padded image, the windows, where dense
    answers go, and the memory that there is."""

    plan: Plan
    shape: tuple[int, ...]
    layout: Layout
    place: Place
    memory: Memory


class Merger(Protocol):
    """Merges all outputs of one kind. Called with ``(specs, job)``."""

    def prepare(self, windows: Sequence[int], tensors: Mapping[str, Tensor]) -> Any:
        """Take what is needed from one pass, by tensor name, for windows of these numbers.

        May run out of memory, is then called again with fewer windows, and so changes no result.
        """

    def commit(self, windows: Sequence[int], prepared: Any) -> None:
        """Merge what ``prepare`` gave. Windows come in the layout's order, each once."""

    def finish(self) -> Mapping[str, Any]:
        """The merged outputs by name, once all windows have been committed.

        Those of an outside kind are tensors whose first axis counts what was found: where items of a batch have
        different lengths, rows of zeros fill up, so a row of zeros is to say that there is nothing.
        """


MergerFactory = Callable[[tuple[OutputSpec, ...], Job], Merger]


def merger_of(kind: str) -> MergerFactory:
    """The merger of a kind of output, ours or an installed package's.

    Raises:
        ValueError: nobody knows the kind.
    """
    return of_kind(kind, "merger", MERGERS)


class DenseMerger:
    """Weighted mean over windows, finished plane by plane and restored onto the target grid at once."""

    def __init__(self, specs: tuple[OutputSpec, ...], job: Job) -> None:
        self._specs = specs
        self._job = job
        self._axis = job.place.target.slab_axis
        self._reached = 0
        self._bands: dict[int, Band] = {}
        self._sinks: dict[str, Sink] = {}

    def prepare(self, windows: Sequence[int], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values in float32 where the accumulators lie; the accumulators themselves on the first call."""
        for spec in self._specs:
            self._check(spec, tensors[spec.name], len(windows))
        device = self._job.memory.accumulator_device
        if not self._bands:
            self._bands, self._sinks = self._build(tensors, device)
        for band in self._bands.values():
            if band.device.type != device.type:
                band.move(device)
        return {spec.name: tensors[spec.name].to(device, torch.float32) for spec in self._specs}

    def commit(self, windows: Sequence[int], prepared: dict[str, Tensor]) -> None:
        """Add each window; before the first of a new slab, finish the planes below it."""
        for item, window in enumerate(windows):
            start = self._job.layout.starts[window].tolist()
            if start[self._axis] > self._reached:
                self._finish_below(start[self._axis])
            for stride, band in self._bands.items():
                values = {spec.name: prepared[spec.name][item] for spec in self._specs if spec.strides[0] == stride}
                band.add([s // stride for s in start], values)

    def finish(self) -> dict[str, DenseOutput]:
        """Finish all planes that are left."""
        self._finish_below(self._job.shape[self._axis])
        return {name: sink.finish() for name, sink in self._sinks.items()}

    def _finish_below(self, voxel: int) -> None:
        self._reached = voxel
        for stride, band in self._bands.items():
            band.finish_below(voxel // stride)
            for spec in self._specs:
                if spec.strides[0] == stride:
                    self._sinks[spec.name].take(band)
            band.release()

    def _build(self, tensors: Mapping[str, Tensor], device: torch.device) -> tuple[dict[int, Band], dict[str, Sink]]:
        plan, shape = self._job.plan, self._job.shape
        channels = {spec.name: tensors[spec.name].shape[1] for spec in self._specs}
        bands = {
            stride: Band(
                [n // stride for n in shape],
                importance_map(plan.window, plan.importance, stride),
                self._axis,
                {spec.name: channels[spec.name] for spec in self._specs if spec.strides[0] == stride},
                device,
            )
            for stride in dict.fromkeys(spec.strides[0] for spec in self._specs)
        }
        target = self._job.place.target.shape
        answers = [Answer(s, channels[s.name], target, plan.keep_probabilities) for s in self._specs]
        sinks = {a.spec.name: make_sink(a, self._job.place, self._job.memory) for a in answers}
        on_host = sum(a.nbytes for a in answers) if device.type == "cpu" else 0
        self._job.memory.fixed_bytes = sum(b.nbytes for b in bands.values()) + on_host
        return bands, sinks

    def _check(self, spec: OutputSpec, tensor: Tensor, windows: int) -> None:
        cells = tuple(w // spec.strides[0] for w in self._job.plan.window)
        if tensor.ndim != len(cells) + 2 or tensor.shape[0] != windows or tuple(tensor.shape[2:]) != cells:
            raise ValueError(
                f"Dense output {spec.name!r} has shape {tuple(tensor.shape)}; with stride {spec.strides[0]} and "
                f"windows of {self._job.plan.window} expected ({windows}, C, {', '.join(map(str, cells))})."
            )


class BoxMerger:
    """Candidates of every window that belong to it and whose centre lies in the region, then one suppression.

    Suppression is over all classes of an output together: one lesion, one box.
    """

    def __init__(self, specs: tuple[OutputSpec, ...], job: Job) -> None:
        self._specs = specs
        self._job = job
        self._dims = len(job.shape)
        self._owners = {
            spec.name: Ownership(job.layout.starts, job.layout.window, self._margin(spec)) for spec in specs
        }
        self._found: dict[str, list[_Found]] = {spec.name: [] for spec in specs}

    def prepare(self, windows: Sequence[int], tensors: Mapping[str, Tensor]) -> dict[str, list[_Found]]:
        """What each window found and may keep."""
        return {spec.name: self._found_by(spec, windows, tensors) for spec in self._specs}

    def commit(self, windows: Sequence[int], prepared: dict[str, list[_Found]]) -> None:
        """Remember it."""
        for name, found in prepared.items():
            self._found[name].extend(found)

    def finish(self) -> dict[str, Detections]:
        """One suppression over all windows; boxes are then cut to the valid image."""
        return {spec.name: self._suppressed(spec) for spec in self._specs}

    @staticmethod
    def _margin(spec: OutputSpec) -> float:
        """How far from its true place a lesion's centre is expected at most, in voxels: half a cell."""
        return min(spec.strides) / 2

    def _found_by(self, spec: OutputSpec, windows: Sequence[int], tensors: Mapping[str, Tensor]) -> list[_Found]:
        levels = [
            decode(tensors[name], stride, len(spec.labels), self._dims)
            for name, stride in zip(spec.tensor_names, spec.strides, strict=True)
        ]
        candidates = Candidates.joined(levels)
        if spec.temperature != 1.0:
            logits = candidates.class_logits / spec.temperature
            candidates = Candidates(candidates.box_index, logits, candidates.quality_logit, candidates.lesion)
        score, label = candidates.scores.max(-1)
        refuse_nan(spec, score)
        return [
            self._kept(spec, window, candidates[item], score[item], label[item]) for item, window in enumerate(windows)
        ]

    def _kept(self, spec: OutputSpec, window: int, candidates: Candidates, score: Tensor, label: Tensor) -> _Found:
        plan, layout = self._job.plan, self._job.layout
        best = torch.nonzero(score >= plan.score_floor)[:, 0]
        if len(best) > plan.max_candidates:
            best = best[score[best].topk(plan.max_candidates).indices]
        start = torch.from_numpy(layout.starts[window]).repeat(2)
        boxes = candidates.box_index[best].cpu() + start
        centres = ((boxes[:, : self._dims] + boxes[:, self._dims :]) / 2).double().numpy()
        # A lesion at the image's edge may be placed a little beyond it.
        held = centres.clip(0, np.asarray(layout.valid_shape) - 1.0)
        at_hand = (np.abs(centres - held) <= 0.5 + self._margin(spec)).all(axis=1)
        owned, near = self._owners[spec.name].judge(window, held)
        counts = near & at_hand
        voxel = np.floor(held + 0.5).astype(np.int64)
        if layout.region is not None:
            counts[counts] = layout.region[tuple(voxel[counts].T)]
        kept = torch.from_numpy(np.nonzero(counts)[0])
        chosen = best[kept.to(best.device)]
        return _Found(
            boxes[kept],
            score[chosen].cpu(),
            label[chosen].cpu(),
            candidates.lesion[chosen].cpu(),
            torch.from_numpy(owned)[kept],
        )

    def _suppressed(self, spec: OutputSpec) -> Detections:
        parts = self._found[spec.name]
        boxes, score, label, lesion, owned = (
            torch.cat([getattr(part, name) for part in parts])
            for name in ("boxes", "score", "label", "lesion", "owned")
        )
        # A box that lies just across the seam ranks behind all that belong to their window.
        kept = suppress(boxes, score + owned, self._job.plan.nms_iou, max_boxes=self._job.plan.max_boxes)
        kept = kept[score[kept].argsort(descending=True, stable=True)]
        limit = torch.tensor(self._job.layout.valid_shape, dtype=boxes.dtype).repeat(2) - 0.5
        return Detections(
            boxes[kept].clamp_min(-0.5).minimum(limit), score[kept], label[kept], _lesion_answers(spec, lesion[kept])
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """What one window found: boxes in image index, scores, labels, raw per-lesion channels, whether it owns them."""

    boxes: Tensor
    score: Tensor
    label: Tensor
    lesion: Tensor
    owned: Tensor


def _lesion_answers(spec: OutputSpec, raw: Tensor) -> dict[str, Tensor]:
    sizes = [channel.channels for channel in spec.lesion_channels]
    if raw.shape[1] != sum(sizes):
        raise ValueError(
            f"Boxes output {spec.name!r} has {raw.shape[1]} per-lesion channels; its lesion_channels take {sum(sizes)}."
        )
    parts = zip(spec.lesion_channels, torch.split(raw, sizes, dim=1), strict=True) if sizes else ()
    return {channel.name: _activated(values, channel) for channel, values in parts}


def _activated(values: Tensor, channel: LesionChannel) -> Tensor:
    if channel.activation == "softmax":
        return values.softmax(1)
    return values.sigmoid() if channel.activation == "sigmoid" else values


class GlobalMerger:
    """One answer for the image from one a window, over the windows that touch the region.

    ``mean`` is of raw values, weighted with exp(learned weight) times the share of the window in the region; ``max`` is
    of raw values; temperature and activation come after. ``noisy_or`` is 1 - prod(1 - p) over the windows' sigmoid
    probabilities: present if any window has it. A network that gives no learned weight counts as giving 0.
    """

    def __init__(self, specs: tuple[OutputSpec, ...], job: Job) -> None:
        for spec in specs:
            if spec.pooling == "noisy_or" and spec.activation != "sigmoid":
                raise ValueError(
                    f"Global output {spec.name!r} pools by noisy_or, which needs activation 'sigmoid', not "
                    f"{spec.activation!r}."
                )
        self._specs = specs
        self._share = torch.from_numpy(job.layout.share)
        self._rows: dict[str, list[Tensor]] = {spec.name: [] for spec in specs}

    def prepare(self, windows: Sequence[int], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values on the host, in float64 so that their order does not matter."""
        return {spec.name: self._values(spec, tensors[spec.name]) for spec in self._specs}

    def commit(self, windows: Sequence[int], prepared: dict[str, Tensor]) -> None:
        """Remember them."""
        for name, values in prepared.items():
            self._rows[name].append(values)

    def finish(self) -> dict[str, Tensor]:
        """Pool over windows, then temperature and activation."""
        return {spec.name: self._pooled(spec, torch.cat(self._rows[spec.name])) for spec in self._specs}

    def _values(self, spec: OutputSpec, tensor: Tensor) -> Tensor:
        channels = spec.value_channels
        if tensor.ndim != 2 or tensor.shape[1] not in (channels, channels + 1):
            raise ValueError(
                f"Global output {spec.name!r} has shape {tuple(tensor.shape)}; expected (B, {channels}), or "
                f"(B, {channels + 1}) with a learned weight."
            )
        values = tensor.double().cpu()
        refuse_nan(spec, values)
        return values if values.shape[1] == channels + 1 else torch.cat([values, values.new_zeros(len(values), 1)], 1)

    def _pooled(self, spec: OutputSpec, rows: Tensor) -> Tensor:
        touching = self._share > 0
        values, logit = rows[touching, :-1], rows[touching, -1]
        if spec.pooling == "noisy_or":
            present = (values / spec.temperature).sigmoid()
            return (1 - (1 - present).prod(0)).float()
        if spec.pooling == "max":
            pooled = values.amax(0)
        else:
            weight = (logit + self._share[touching].log()).softmax(0)
            pooled = (values * weight[:, None]).sum(0)
        return activate(pooled, spec, 0).float()


MERGERS: dict[str, MergerFactory] = {"dense": DenseMerger, "boxes": BoxMerger, "global": GlobalMerger}
"""The built-in kinds of output."""
