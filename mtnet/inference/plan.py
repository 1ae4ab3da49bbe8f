"""How one image is to be inferred, and what comes out: plain data, no machinery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mtnet.inference.precision import Precision
from mtnet.inference.runtimes import Runtime
from mtnet.structures import Geometry, ReportLine

Importance = Literal["gaussian", "constant"]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What the window engine is to do with one image.

    Args:
        window: voxels of a window along each image axis, multiples of the network's coarsest output stride.
        overlap: share of a window that it has in common with the next one, 0 or more and below 1.
        batch: windows in one pass of the network.
        importance: weight of a window's voxels in the blend. ``gaussian`` is MONAI's map: sigma an eighth of the
            window, not below 1e-3 or its own minimum; ``constant`` is a plain mean.
        precision: ``float32``, or autocast to ``bfloat16`` or ``float16``. Accumulators are always float32.
        runtime: what passes the windows through the network: ``eager``, ``compile`` or ``openvino``; see
            ``mtnet.inference.runtimes``.
        device: where the network lies; windows are moved there.
        starts: first voxel of every window, where windows are given instead of laid out. Dense outputs are background
            where no given window comes (with interpolation also one voxel around it), and no box centre counts there.
        region: ``(*S)`` bool mask on the image grid; None is the whole image. Outside it dense outputs are their
            background and no box centre counts; windows that its voxels do not need are not run.
        valid_shape: image size before it was padded at its high end; None where it was not.
        grid: geometry of the image. With ``valid_shape`` it may be that of the image before padding. 2D images have
            one voxel along k.
        target: grid on which dense outputs are wanted; None is the image grid. Needs ``grid``.
        keep_probabilities: also return the probabilities of every labelled dense output on the target grid.
        memory_limit_bytes: memory of the network's device that the engine may take beyond what is taken when it
            starts; batch and slabs are chosen to an estimate of it.
        score_floor: candidates below this score are not looked at.
        max_candidates: best candidates of a window that are looked at, for each output.
        nms_iou: a box that overlaps a better one by more than this IoU is dropped.
        max_boxes: boxes that are returned at most, for each output.

    Raises:
        ValueError: a field is not what is described above.
    """

    window: tuple[int, ...]
    overlap: float = 0.25
    batch: int = 1
    importance: Importance = "gaussian"
    precision: Precision = "float32"
    runtime: Runtime = "eager"
    device: str = "cpu"
    starts: tuple[tuple[int, ...], ...] | None = None
    region: Tensor | None = None
    valid_shape: tuple[int, ...] | None = None
    grid: Geometry | None = None
    target: Geometry | None = None
    keep_probabilities: bool = False
    memory_limit_bytes: int | None = None
    score_floor: float = 0.05
    max_candidates: int = 512
    nms_iou: float = 0.22
    max_boxes: int = 300

    def __post_init__(self) -> None:
        if len(self.window) not in (2, 3) or min(self.window) < 1:
            raise ValueError(f"Plan.window is {self.window!r}; expected two or three positive sizes.")
        if not 0.0 <= self.overlap < 1.0:
            raise ValueError(f"Plan.overlap is {self.overlap}; expected 0 or more and below 1.")
        for name in ("batch", "max_candidates", "max_boxes"):
            if getattr(self, name) < 1:
                raise ValueError(f"Plan.{name} is {getattr(self, name)}; expected 1 or more.")
        allowed = {"importance": Importance, "precision": Precision, "runtime": Runtime}
        for name, choices in ((name, get_args(kind)) for name, kind in allowed.items()):
            if getattr(self, name) not in choices:
                raise ValueError(f"Plan.{name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}.")
        for name in ("nms_iou", "score_floor"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"Plan.{name} is {getattr(self, name)}; expected 0..1.")
        if self.memory_limit_bytes is not None and self.memory_limit_bytes < 1:
            raise ValueError(f"Plan.memory_limit_bytes is {self.memory_limit_bytes}; expected 1 or more, or None.")
        if self.target is not None and self.grid is None:
            raise ValueError("Plan.target is given without Plan.grid; the grid of the image is needed to reach it.")


@dataclass(frozen=True, slots=True, eq=False)
class DenseOutput:
    """A dense output on the target grid. In memory the first spatial axis runs fastest, as in NIfTI and DICOM.

    Args:
        array: ``(1, *target)`` uint8 label values where the output has labels, else ``(C, *target)`` float32 values.
        probabilities: ``(C, *target)`` float32, only where asked for and the output has labels. Outside the region the
            background label, if it is one of the channels, has probability 1.
    """

    array: NDArray[np.generic]
    probabilities: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Boxes of one output after ownership and suppression, N of them by falling score; tensors on the CPU.

    Args:
        box_index: ``(N, 2D)`` half-open boxes in voxel index of the image, cut to the valid image.
        score: ``(N,)`` in 0..1, as one window of the network gave it.
        label: ``(N,)`` int64, index into the output's labels.
        lesion: for each per-lesion channel, its name to ``(N, channels)``, activated.
    """

    box_index: Tensor
    score: Tensor
    label: Tensor
    lesion: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """All that one run of the engine gives, by output name.

    Args:
        dense: on the target grid.
        boxes: on the image grid.
        global_: ``(C,)`` float32, pooled over the region's windows, temperature and activation applied.
        lines: what had to be done when memory ran short, and anything else worth a line in the report.
        windows_total: windows of the whole image.
        windows_run: windows that the network saw.
        region_share: share of the valid image's voxels that lie in the region.
        extras: tensors of kinds that installed packages bring, whose first axis counts what was found.
    """

    dense: Mapping[str, DenseOutput]
    boxes: Mapping[str, Detections]
    global_: Mapping[str, Tensor]
    lines: tuple[ReportLine, ...] = ()
    windows_total: int = 0
    windows_run: int = 0
    region_share: float = 1.0
    extras: Mapping[str, Tensor] = field(default_factory=dict)
