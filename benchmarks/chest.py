"""A drawn chest as the shipped bundle's network sees it, and how far two answers about it agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtnet.answers import prepared
from mtnet.bundle import find_bundle
from mtnet.detection import pairwise_iou
from mtnet.inference.cost import CostMeter
from mtnet.inference.plan import Detections, Outputs
from mtnet.nets.upsampled_conv import fold_upsampling
from mtnet.phantoms import draw_chest
from mtnet.predictor import Case, Predictor
from mtnet.structures import Source

FIRST_SEED = 300_000


@dataclass(frozen=True, slots=True)
class Agreement:
    """Dice of all labels that are not background, and the share of boxes told in one answer that the other has too."""

    dice: float
    boxes: float
    boxes_told: int


def shipped(**options: object) -> Predictor:
    """The predictor of the shipped chest bundle on the CPU, or what ``options`` say."""
    return Predictor.from_bundle(find_bundle("chest_ct_multitask"), **{"device": "cpu", **options})  # type: ignore[arg-type]


def drawn_image(predictor: Predictor, size: tuple[int, int, int], seed: int = FIRST_SEED) -> Tensor:
    """``(1, C, *size)``: the middle of a drawn chest, preprocessed."""
    phantom = draw_chest(seed, family="held_out", nodules=8)
    whole, _ = prepared(Case(phantom.volume, Source(), CostMeter()), predictor.preprocessing)
    low = [max((n - s) // 2, 0) for n, s in zip(whole.shape[1:], size, strict=True)]
    return whole[(slice(None), *(slice(a, a + s) for a, s in zip(low, size, strict=True)))][None].contiguous()


def agreement(ours: Outputs, reference: Outputs, threshold: float) -> Agreement:
    """Of dense output ``pred`` and boxes ``lesions``. A box is told at ``threshold``; its partner may be a candidate
    below it, with an IoU of 0.5 or more."""
    a, b = (out.dense["pred"].array > 0 for out in (ours, reference))
    found, wanted = ours.boxes["lesions"], reference.boxes["lesions"]
    matched = [*_partners(found, wanted, threshold), *_partners(wanted, found, threshold)]
    share = float(np.mean(matched)) if matched else 1.0
    return Agreement(dice(a, b), share, int((wanted.score >= threshold).sum()))


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Of two masks; 1 where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return float(2 * (a & b).sum() / total) if total else 1.0


def _partners(told: Detections, among: Detections, threshold: float) -> list[bool]:
    boxes = told.box_index[told.score >= threshold]
    if not len(among.box_index):
        return [False] * len(boxes)
    return list((pairwise_iou(boxes, among.box_index).amax(1) >= 0.5).tolist()) if len(boxes) else []


def as_loaded(network: torch.nn.Module) -> torch.nn.Module:
    """A network as MONAI's users load it: mtnet's predictor changes how it lies in memory and how it upsamples."""
    fold_upsampling(network, folded=False)
    return network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload,no-any-return]


def monai_labels(
    network: torch.nn.Module, image: Tensor, window: tuple[int, ...], overlap: float, batch: int
) -> Tensor:
    """Labels by MONAI's inferer in float32: the full forward, less the outputs that it cannot blend."""
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer(window, batch, overlap, mode="gaussian")

    def full_size_only(windows: Tensor) -> dict[str, Tensor]:
        answers = network(windows)
        return {spec.name: answers[spec.name] for spec in network.outputs if spec.kind == "dense"}  # type: ignore[union-attr]

    with torch.no_grad():
        labels: Tensor = inferer(image, full_size_only)["pred"].argmax(1).to(torch.uint8)
    return labels
