"""How right each output is while a network trains and in a bundle's ``evaluate.json``: MONAI's metrics, by output.

Samples without a target for an output count for nothing there. Several processes gather what they measured, however
many samples each of them had. ``mtnet evaluate`` is the fuller account, with intervals.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from torch import Tensor

from mtnet.structures import OutputSpec
from mtnet.training.processes import gathered

Rows = Callable[[Tensor, Any], list[Any]]
Reduce = Callable[[list[Any]], float]

AP_IOU = {2: 0.5, 3: 0.1}
"""Overlap from which a box is a hit, in 2D and 3D (where the IoU of boxes that agree by eye is low)."""
_AP_RANGE = {2: (0.5, 0.95, 0.05), 3: (0.1, 0.5, 0.05)}


class OutputMetric:
    """A metric of one output for MONAI's evaluator.

    Args:
        name: of the output.
        rows: what is kept of one batch: of the output's answer and its targets.
        reduce: one number from all rows; NaN where there are none.
    """

    def __init__(self, name: str, rows: Rows, reduce: Reduce) -> None:
        self.name = name
        self.rows = rows
        self.reduce = reduce
        self.kept: list[Any] = []

    def attach(self, engine: Engine, name: str) -> None:
        """Attach to an evaluator, whose ``state.metrics`` then holds the number under ``name``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish, name)

    def reset(self, engine: Engine) -> None:
        """Forget."""
        self.kept = []

    def update(self, engine: Engine) -> None:
        """Keep what the last batch gives."""
        output = engine.state.output
        if self.name in output["label"]:
            self.kept += self.rows(output["pred"][self.name].detach().cpu(), output["label"][self.name])

    def finish(self, engine: Engine, name: str) -> None:
        """Put the number into the evaluator's state."""
        everything = [row for rows in gathered(self.kept) for row in rows]
        engine.state.metrics[name] = self.reduce(everything) if everything else math.nan


def output_metrics(outputs: Sequence[OutputSpec]) -> dict[str, OutputMetric]:
    """The metrics of a network's outputs, by name, the first output's first.

    Dense with labels: ``<output>_dice``, the mean over images with a foreground; without: ``<output>_mae``. Boxes:
    ``<output>_ap``, COCO's average precision at ``AP_IOU``. Global with labels: ``<output>_auroc`` (mean over classes,
    one against the rest) and ``<output>_accuracy``; without: ``<output>_mae``, in its units.
    """
    found: dict[str, OutputMetric] = {}
    for spec in outputs:
        for measure, rows, reduce in _MEASURES.get((spec.kind, bool(spec.labels)), ()):
            found[f"{spec.name}_{measure}"] = OutputMetric(spec.name, rows(spec), reduce(spec))
    return found


def key_metric(outputs: Sequence[OutputSpec], name: str | None = None) -> dict[str, OutputMetric]:
    """The one metric that tells the best epoch: the first of ``output_metrics``, or that of ``name``.

    Raises:
        ValueError: there is no such metric.
    """
    found = output_metrics(outputs)
    chosen = next(iter(found), "") if name is None else name
    if chosen not in found:
        raise ValueError(f"There is no metric {chosen!r} for the network's outputs; there are {', '.join(found)}.")
    return {chosen: found[chosen]}


def other_metrics(outputs: Sequence[OutputSpec], name: str | None = None) -> dict[str, OutputMetric]:
    """``output_metrics`` without the ``key_metric`` of that name."""
    return {key: metric for key, metric in output_metrics(outputs).items() if key not in key_metric(outputs, name)}


def better(outputs: Sequence[OutputSpec], name: str | None = None) -> Callable[[float, float], bool]:
    """``metric_cmp_fn`` of an evaluator for its ``key_metric``: errors are better when lower, and whatever is known is
    better than nothing."""
    lower = next(iter(key_metric(outputs, name))).endswith("_mae")

    def is_better(now: float, best: float) -> bool:
        return math.isnan(best) or (now < best if lower else now > best)

    return is_better


def _dice_rows(spec: OutputSpec) -> Rows:
    from monai.metrics import compute_dice

    # A softmax output has its background first; a sigmoid one has foreground alone. Targets hold 1, 2... for it.
    foreground = [label for number, label in enumerate(spec.labels) if number or spec.activation == "sigmoid"]

    def rows(labels: Tensor, targets: Sequence[Tensor | None]) -> list[Any]:
        kept = []
        for answer, target in zip(labels, targets, strict=True):
            if target is not None:
                pairs = [
                    (answer == label.value, target.cpu() == number) for number, label in enumerate(foreground, start=1)
                ]
                got, wanted = (torch.cat([pair[side] for pair in pairs])[None].float() for side in (0, 1))
                kept += compute_dice(got, wanted).numpy().tolist()
        return kept

    return rows


def _error_rows(spec: OutputSpec) -> Rows:
    def rows(values: Tensor, targets: Tensor) -> list[Any]:
        # Where a value has a log-variance, that is the second channel.
        value = values[:, :1] if spec.kind == "global" else values
        wrong = (value - targets.cpu().reshape(value.shape)).abs().flatten(1).mean(1)
        return [float(error) for error in wrong if not error.isnan()]

    return rows


def _class_rows(spec: OutputSpec) -> Rows:
    def rows(probabilities: Tensor, targets: Tensor) -> list[Any]:
        wanted = targets.cpu()
        if wanted.ndim == 1:
            one_hot = torch.nn.functional.one_hot(wanted.clamp_min(0), len(spec.labels)).float()
            wanted = torch.where(wanted[:, None] < 0, torch.nan, one_hot)
        pairs = torch.stack([probabilities.float(), wanted], 1).numpy()
        return [pair for pair in pairs if not np.isnan(pair[1]).all()]

    return rows


def _auroc(pairs: list[NDArray[np.float32]]) -> float:
    from monai.metrics import compute_roc_auc

    found = []
    for probability, wanted in np.stack(pairs).transpose(2, 1, 0):
        known = ~np.isnan(wanted)
        if 0 < wanted[known].sum() < known.sum():
            found.append(compute_roc_auc(torch.from_numpy(probability[known]), torch.from_numpy(wanted[known])))
    return float(np.mean(found)) if found else math.nan


def _accuracy(spec: OutputSpec) -> Reduce:
    def share(pairs: list[NDArray[np.float32]]) -> float:
        probability, wanted = np.stack(pairs).transpose(1, 0, 2)
        if spec.activation == "softmax":
            return float((probability.argmax(1) == wanted.argmax(1)).mean())
        known = ~np.isnan(wanted)
        return float(((probability > spec.threshold) == (wanted > 0.5))[known].mean())

    return share


def _box_rows(spec: OutputSpec) -> Rows:
    from monai.apps.detection.metrics.matching import matching_batch
    from monai.data.box_utils import box_iou

    def rows(found: Tensor, targets: Sequence[Mapping[str, Tensor] | None]) -> list[Any]:
        kept = []
        for boxes, target in zip(found, targets, strict=True):
            if target is None:
                continue
            wanted = {key: value.cpu().numpy() for key, value in target.items()}
            sides = wanted["box_index"].shape[1]
            told = boxes[boxes[:, sides + 2] > 0].numpy()
            matched = matching_batch(
                box_iou,
                _coco(spec, sides // 2).iou_thresholds,
                [told[:, :sides]],
                [told[:, sides + 1].astype(int)],
                [told[:, sides]],
                [wanted["box_index"]],
                [wanted["label"]],
            )
            kept.append((sides // 2, matched[0]))
        return kept

    return rows


def _average_precision(spec: OutputSpec) -> Reduce:
    def precision(rows: list[tuple[int, Any]]) -> float:
        dims = rows[0][0]
        if not any(match["gtMatches"].size for _, image in rows for match in image.values()):
            return math.nan
        told, _ = _coco(spec, dims)([image for _, image in rows])
        return float(told[f"AP_IoU_{AP_IOU[dims]:.2f}_MaxDet_100"])

    return precision


def _coco(spec: OutputSpec, dims: int) -> Any:
    from monai.apps.detection.metrics.coco import COCOMetric

    names = [label.name for label in spec.labels]
    return COCOMetric(names, [AP_IOU[dims]], _AP_RANGE[dims], [100], per_class=False, verbose=False)


def _mean(rows: list[Any]) -> float:
    with warnings.catch_warnings():
        # Nothing but images without a foreground: the mean is NaN, and that is what is said.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(np.nanmean(np.asarray(rows, dtype=np.float64)))


def _of_any(reduce: Reduce) -> Callable[[OutputSpec], Reduce]:
    return lambda spec: reduce


_Measure = tuple[str, Callable[[OutputSpec], Rows], Callable[[OutputSpec], Reduce]]
_MEASURES: dict[tuple[str, bool], tuple[_Measure, ...]] = {
    ("dense", True): (("dice", _dice_rows, _of_any(_mean)),),
    ("dense", False): (("mae", _error_rows, _of_any(_mean)),),
    ("boxes", True): (("ap", _box_rows, _average_precision),),
    ("global", True): (("auroc", _class_rows, _of_any(_auroc)), ("accuracy", _class_rows, _accuracy)),
    ("global", False): (("mae", _error_rows, _of_any(_mean)),),
}
"""By kind of output, and whether it has labels."""
