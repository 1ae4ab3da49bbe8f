"""The window engine as a MONAI ``Inferer``, for bundle configs and the hosts that run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import lcm
from typing import Any, Literal, get_args

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import MetaKeys
from numpy.typing import NDArray
from torch import Tensor, nn

from mtnet.inference.dropout import under_dropout
from mtnet.inference.engine import Progress, run
from mtnet.inference.memory import is_out_of_memory
from mtnet.inference.memory_layout import lay_out
from mtnet.inference.plan import Detections, Importance, Outputs, Plan
from mtnet.inference.precision import Precision
from mtnet.inference.region import Region, RegionResult
from mtnet.inference.runtimes import EagerPass, Network, Pass, Runtime, module_of, prepare, tensor_names
from mtnet.inference.windows import pad_to_window
from mtnet.structures import Geometry, OutputSpec

Layout = Literal["batch", "list"]
DenseForm = Literal["logits", "probabilities", "labels", "source"]
UNDER_DROPOUT = "under_dropout"
"""Key that marks answers of a network in training mode, which hosts score for how sure it is."""
PROBABILITIES = "_probabilities"
"""Ending of the key of the probabilities behind a label map."""


class MultiTaskInferer(Inferer):  # type: ignore[misc]  # MONAI is not typed
    """All answers of a multi-task network, by sliding windows, in one dict of batch-first tensors.

    The network says in ``outputs`` what it gives (``mtnet.nets.MultiTaskNet`` does). By kind its answers become

    - dense: ``(B, C, *S)`` blended as ``monai.inferers.SlidingWindowInferer`` blends, ``MetaTensor`` where the input is
      one; a coarse output is interpolated to the image. See ``dense`` for what the values are.
    - boxes: ``(B, M, 2D + 3 + L)``: lows and highs in voxel index of the input, score, label index, valid (1, or 0 for
      rows that only fill up), then the activated per-lesion channels. M is the most boxes of an item, at least 1:
      hosts take a batch apart along its first axis, so items cannot have different lengths.
    - global: ``(B, C)``, activated.
    - a kind that an installed package brings: ``(B, M, ...)``, filled up as boxes are.

    Args:
        roi_size: window, one size for all axes or one each; None sees the whole image at once, padded at its high end
            to whole cells of the network's coarsest stride (padding counts for nothing in the answers).
        overlap: share of a window in common with the next.
        sw_batch_size: windows in one pass.
        mode: ``gaussian`` or ``constant`` importance.
        cval: value of the padding at the high end, where the input is no whole number of windows and cells.
        layout: ``batch``, or ``list`` for one dict an item without the batch axis, which MONAI Deploy needs.
        dense: ``logits`` (raw blended values, for a config that activates them itself), ``probabilities``,
            ``labels`` (``(B, 1, *S)``), or ``source``: labels on the grid that the image was loaded on, as its metadata
            tell it, for hosts. Of 2D images there are also the probabilities behind them, ``<name>_probabilities``. A
            network in training mode then runs with its dropout alone in that mode and gives the probabilities in place
            of the labels, and ``under_dropout``: entropy is not one of labels.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        runtime: ``eager``, ``compile`` or ``openvino``; what was compiled for a network serves all images after it.
        memory_limit_bytes: of the network's device, beyond what is taken when an image starts; None for no limit.
        device: where the network lies; that of the inputs by default. Answers come back on the inputs' device.
        nms_iou: IoU above which a box is dropped for a better one.
        score_floor: boxes below it are not returned.
        max_boxes: of one item.
        region: where to look; everywhere by default, and where the input has no geometry.

    Raises:
        ValueError: an option is none of those named.
    """

    mirror_axes = ""
    """Axes along which the image is asked about mirrored too; see ``mtnet.inference.mirrored``."""

    def __init__(
        self,
        roi_size: Sequence[int] | int | None,
        overlap: float = 0.25,
        sw_batch_size: int = 1,
        mode: Importance = "gaussian",
        *,
        cval: float = 0.0,
        layout: Layout = "batch",
        dense: DenseForm = "logits",
        precision: Precision = "float32",
        runtime: Runtime = "eager",
        memory_limit_bytes: int | None = None,
        device: str | None = None,
        nms_iou: float = 0.22,
        score_floor: float = 0.05,
        max_boxes: int = 300,
        region: Region | None = None,
    ) -> None:
        super().__init__()
        if layout not in get_args(Layout):
            raise ValueError(f"layout is {layout!r}; expected one of {', '.join(get_args(Layout))}.")
        if dense not in get_args(DenseForm):
            raise ValueError(f"dense is {dense!r}; expected one of {', '.join(get_args(DenseForm))}.")
        self.roi_size = roi_size
        self.cval = cval
        self.layout = layout
        self.dense = dense
        self.device = device
        self.region = region
        window = (1, 1) if roi_size is None else _sizes(roi_size, 2)
        self.plan = Plan(
            window=window,
            overlap=overlap,
            batch=sw_batch_size,
            importance=mode,
            precision=precision,
            runtime=runtime,
            memory_limit_bytes=memory_limit_bytes,
            nms_iou=nms_iou,
            score_floor=score_floor,
            max_boxes=max_boxes,
        )
        self._compiled: tuple[object, Pass] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled, which cannot be copied."""
        return {**self.__dict__, "_compiled": None}

    def __call__(
        self, inputs: Tensor, network: Callable[..., Mapping[str, Tensor]], *args: Any, **kwargs: Any
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Run ``network`` over ``inputs`` ``(B, C, *S)``; further arguments go to the network.

        Raises:
            ValueError: the network does not say what its outputs are.
        """
        on_source = self.dense == "source"
        scored = False
        if on_source and isinstance(network, nn.Module):
            scored = network.training
            network = under_dropout(network) if scored else network
            lay_out(network, self.device or str(inputs.device))
        view = _View(network, "probabilities" if scored else self.dense, args, kwargs)
        images = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        drawn = on_source and isinstance(inputs, MetaTensor) and any(spec.kind == "dense" for spec in view.outputs)
        items = []
        for number, image in enumerate(images.split(1)):
            gridded = drawn or (isinstance(inputs, MetaTensor) and image.ndim == 5)
            outputs, _ = self.outputs_of(
                image,
                view,
                grid=_grid_of(inputs, number) if gridded else None,
                target=source_grid(inputs, number) if drawn else None,
                keep_probabilities=on_source and image.ndim == 4,
            )
            items.append(_tensors(outputs, view.outputs, images.device))
            if scored:
                items[-1][UNDER_DROPOUT] = torch.ones(1)
        rows = {name: max(1, *(item[name].shape[0] for item in items)) for name in _row_names(view.outputs)}
        batch = {name: torch.stack([_filled(item[name], rows.get(name)) for item in items]) for name in items[0]}
        if isinstance(inputs, MetaTensor) and not on_source:
            for spec in view.outputs:
                if spec.kind == "dense":
                    batch[spec.name] = MetaTensor(batch[spec.name]).copy_meta_from(inputs, copy_attr=False)
        if self.layout == "batch":
            return batch
        return [{name: tensor[n] for name, tensor in batch.items()} for n in range(len(items))]

    def outputs_of(
        self,
        image: Tensor,
        network: Network,
        *,
        grid: Geometry | None = None,
        target: Geometry | None = None,
        progress: Progress | None = None,
        on_region: Callable[[RegionResult | None], None] | None = None,
        keep_probabilities: bool = False,
    ) -> tuple[Outputs, RegionResult | None]:
        """Every output of ``network`` for one image, dense ones on ``target``, and the region that was looked at.

        Args:
            image: ``(1, C, *S)``.
            network: in the mode in which it is to answer.
            grid: geometry of the image; without it there is no region. Regions are looked for in volumes only.
            target: grid of the dense outputs; that of the image by default.
            progress: called with windows done and windows to do.
            on_region: called with the region before the network runs; what it raises keeps it from running.
            keep_probabilities: also those behind label maps, as ``Plan.keep_probabilities`` always does.
        """
        padded, valid, window = self.padded(image, network)
        device = self.device or str(image.device)
        plan = replace(self.plan, window=window, valid_shape=valid, device=device, grid=grid, target=target)
        if keep_probabilities:
            plan = replace(plan, keep_probabilities=True)
        region = None
        if self.region is not None and grid is not None and image.ndim == 5:
            region = self.region.of(padded[0, 0], grid, valid)
            plan = replace(plan, region=region.mask)
        if on_region is not None:
            on_region(region)
        return run(network, padded, plan, progress, self._ready(network, device)), region

    def outputs_of_batch(
        self,
        images: Tensor,
        network: Network,
        *,
        grids: Sequence[Geometry] | None = None,
        target: Geometry | None = None,
    ) -> list[Outputs]:
        """``outputs_of`` for images of one size, such as frames of a clip: where each is seen as a whole, the network
        passes over all of them at once; else, and where that takes too much memory, one goes after the other.

        Args:
            images: ``(N, C, *S)``.
            network: in the mode in which it is to answer.
            grids: of each image; not needed for global outputs alone.
            target: grid of the dense outputs; that of the image by default.
        """
        padded, _, window = self.padded(images, network)
        nets: list[Network] = [network] * len(images)
        if tuple(padded.shape[2:]) == window:
            try:
                with torch.no_grad():
                    batch = padded.to(self.device or str(images.device), torch.float32)
                    ready = self._ready(network, self.device or str(images.device))
                    tensors = ready(batch, max(len(batch), self.plan.batch))
                nets = [_Answered(network, tensors, number) for number in range(len(images))]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
        return [
            self.outputs_of(
                images[number : number + 1], net, grid=None if grids is None else grids[number], target=target
            )[0]
            for number, net in enumerate(nets)
        ]

    def _ready(self, network: Network, device: str) -> Pass:
        """The network in the plan's runtime; the one that was made ready last if it is still the same."""
        plan = self.plan
        if plan.runtime == "eager" or isinstance(network, _Answered):
            return EagerPass(network, plan.precision, device)
        module = module_of(network)
        held = [] if module is None else [*module.parameters(), *module.buffers()]
        weights = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in held)
        key = (module, weights, tensor_names(network), plan.runtime, plan.precision, device)
        if self._compiled is None or self._compiled[0] != key:
            self._compiled = key, prepare(network, plan.runtime, plan.precision, device)
        return self._compiled[1]

    def padded(self, image: Tensor, network: Network) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
        """The image padded as the engine wants it, its size before that, and the window."""
        stride = lcm(*(s for spec in network.outputs for s in spec.strides))
        if self.roi_size is None:
            # A network may go coarser inside than any of its outputs.
            stride = lcm(stride, int(getattr(network, "stride", 1)))
            padded, valid = pad_to_window(image, (1,) * (image.ndim - 2), stride, self.cval)
            return padded, valid, tuple(padded.shape[2:])
        window = _sizes(self.roi_size, image.ndim - 2)
        padded, valid = pad_to_window(image, window, stride, self.cval)
        return padded, valid, window


def _sizes(roi_size: Sequence[int] | int, dims: int) -> tuple[int, ...]:
    return (roi_size,) * dims if isinstance(roi_size, int) else tuple(roi_size)


class _Answered:
    """A network that has answered already: for one item of a batch that was seen as a whole."""

    def __init__(self, network: Network, tensors: Mapping[str, Tensor], number: int) -> None:
        self.outputs = network.outputs
        self.stride = int(getattr(network, "stride", 1))
        self._tensors = {name: tensor[number : number + 1] for name, tensor in tensors.items()}

    def __call__(self, image: Tensor, /) -> Mapping[str, Tensor]:
        return self._tensors


class _View:
    """The network as the engine sees it, with dense outputs in the form that is wanted."""

    def __init__(
        self,
        network: Callable[..., Mapping[str, Tensor]],
        dense: DenseForm,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> None:
        # DistributedDataParallel and its like keep the network under this name.
        specs = getattr(network, "outputs", None) or getattr(getattr(network, "module", None), "outputs", None)
        if not specs:
            raise ValueError(
                f"{type(network).__name__} has no outputs; MultiTaskInferer needs a network that says in .outputs what "
                "it gives, such as mtnet.nets.MultiTaskNet."
            )
        self.outputs: tuple[OutputSpec, ...] = tuple(_as_wanted(spec, dense) for spec in specs)
        self.stride = int(getattr(getattr(network, "module", network), "stride", 1))
        self.module = None if args or kwargs else module_of(network)
        self._network = network
        self._args = args
        self._kwargs = kwargs

    def __call__(self, image: Tensor, /) -> Mapping[str, Tensor]:
        return self._network(image, *self._args, **self._kwargs)


def _grid_of(images: MetaTensor, number: int) -> Geometry:
    """Geometry of one item of a batch, whose affines MONAI keeps one for all or one each."""
    affine = images.affine if images.affine.ndim == 2 else images.affine[number]
    return grid_from_ras(images.shape[2:], affine.cpu().numpy())


def source_grid(images: MetaTensor, number: int = 0) -> Geometry | None:
    """The grid that an image was loaded on, as the metadata of MONAI's loaders tell it; None where they don't.

    Args:
        images: an image, or a batch whose metadata MONAI keeps one for all or one each.
        number: of the item in the batch.
    """
    shape, affine = images.meta.get(MetaKeys.SPATIAL_SHAPE), images.meta.get(MetaKeys.ORIGINAL_AFFINE)
    if shape is None or affine is None:
        return None
    sizes, matrix = np.asarray(shape), np.asarray(affine, np.float64)
    sizes = sizes[number] if sizes.ndim == 2 else sizes
    return grid_from_ras(sizes.tolist(), matrix[number] if matrix.ndim == 3 else matrix)


def grid_from_ras(shape: Sequence[int], affine_ras: NDArray[np.float64]) -> Geometry:
    """The grid of a volume, or of a 2D image as one voxel along k, from the affine that MONAI keeps of it.

    Args:
        shape: two or three sizes.
        affine_ras: 4 x 4, or of a 2D image also 3 x 3.
    """
    if len(shape) == 3:
        return Geometry.from_ras(shape, affine_ras)
    full = np.eye(4)
    full[:2, :2], full[:2, 3] = affine_ras[:2, :2], affine_ras[:2, -1]
    return Geometry.from_ras((*shape, 1), full)


def _as_wanted(spec: OutputSpec, dense: DenseForm) -> OutputSpec:
    if spec.kind != "dense" or dense in ("labels", "source"):
        return spec
    if dense == "probabilities":
        return replace(spec, labels=(), background=0.0)
    return replace(spec, labels=(), background=0.0, activation="none", temperature=1.0)


def _row_names(specs: Sequence[OutputSpec]) -> list[str]:
    """Outputs whose items have as many rows as things were found."""
    return [spec.name for spec in specs if spec.kind not in ("dense", "global")]


def _tensors(outputs: Outputs, specs: Sequence[OutputSpec], device: torch.device) -> dict[str, Tensor]:
    """One item's answers in the order of the network's outputs, boxes as rows."""
    made: dict[str, Tensor] = {}
    for spec in specs:
        if spec.name in outputs.dense:
            dense = outputs.dense[spec.name]
            made[spec.name] = torch.from_numpy(dense.array).contiguous()
            if dense.probabilities is not None:
                made[f"{spec.name}{PROBABILITIES}"] = torch.from_numpy(dense.probabilities).contiguous()
        elif spec.name in outputs.boxes:
            made[spec.name] = _rows(outputs.boxes[spec.name])
        elif spec.name in outputs.global_:
            made[spec.name] = outputs.global_[spec.name]
        elif spec.name in outputs.extras:
            made[spec.name] = outputs.extras[spec.name]
    return {name: tensor.to(device) for name, tensor in made.items()}


def _rows(found: Detections) -> Tensor:
    """Boxes as ``(N, 2D + 3 + L)`` rows; see ``MultiTaskInferer``."""
    columns = [found.box_index.float(), found.score.float()[:, None], found.label.float()[:, None]]
    return torch.cat([*columns, torch.ones(len(found.score), 1), *found.lesion.values()], dim=1)


def _filled(tensor: Tensor, rows: int | None) -> Tensor:
    """``tensor`` with rows of zeros, so not valid, up to ``rows``; as it is where ``rows`` is None."""
    if rows is None:
        return tensor
    filled = tensor.new_zeros(rows, *tensor.shape[1:])
    filled[: len(tensor)] = tensor
    return filled
