"""Scores of masks: the cases that were worked out beforehand, MONAI, and segmentation_models_pytorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou, compute_surface_dice

from mtnet.evaluation import segmentation
from mtnet.evaluation.segmentation import record_of

# MONAI 1.6 warns of a call that it makes itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")


def square(shape: tuple[int, ...], low: Sequence[int], edge: int) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(n, n + edge) for n in low)] = True
    return mask


def blobs(seed: int, shape: tuple[int, ...], share: float = 0.15) -> np.ndarray:
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.0)
    return np.asarray(smooth > np.quantile(smooth, 1 - share))


def values(records: list[Any]) -> dict[str, float]:
    return {name: m.value(np.ones(len(m.rows))) for name, m in segmentation.metrics(records).items()}


@pytest.mark.parametrize(
    ("answer", "spacing", "hd95", "nsd"),
    [
        (square((20, 20), (5, 4), 4), (1.0, 1.0), 1.0, 1.0),
        (square((20, 20), (5, 4), 4), (2.0, 1.0), 2.0, 1.0),
        (square((20, 20), (4, 4), 4) | square((20, 20), (5, 14), 1), (1.0, 1.0), 2.8, 0.96),
    ],
)
def test_worked_cases_in_the_plane(answer: np.ndarray, spacing: tuple[float, float], hd95: float, nsd: float) -> None:
    record = record_of(square((20, 20), (4, 4), 4), answer, spacing)
    assert record["hd95"] == pytest.approx(hd95) and record["nsd"] == pytest.approx(nsd)


def test_a_tolerance_is_met_at_its_very_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation, "TOLERANCE", 1.0)
    moved = record_of(square((20, 20), (4, 4), 4), square((20, 20), (5, 4), 4), (2.0, 1.0))
    assert moved["nsd"] == pytest.approx(2 / 3)
    monkeypatch.setattr(segmentation, "TOLERANCE", 0.5)
    cube = record_of(square((9, 9, 9), (2, 2, 2), 4), square((9, 9, 9), (3, 2, 2), 4), (1.0, 1.0, 1.0))
    assert cube["nsd"] == pytest.approx(0.642857, abs=1e-6)


@pytest.mark.parametrize("shape", [(40, 33), (24, 20, 17)])
@pytest.mark.parametrize("seed", range(4))
def test_random_masks_score_as_in_monai(seed: int, shape: tuple[int, ...]) -> None:
    truth, answer = blobs(seed, shape), blobs(seed + 100, shape) | blobs(seed, shape, 0.05)
    spacing = (0.7, 1.3, 2.5)[: len(shape)]
    record = record_of(truth, answer, spacing)
    y, pred = (torch.from_numpy(m)[None, None] for m in (truth, answer))
    assert record["dice"] == pytest.approx(compute_dice(pred, y).item())
    assert record["iou"] == pytest.approx(compute_iou(pred, y).item())
    hd95 = compute_hausdorff_distance(pred, y, include_background=True, percentile=95, spacing=spacing)
    assert record["hd95"] == pytest.approx(hd95.item(), rel=1e-5)
    nsd = compute_surface_dice(pred, y, [2.0], include_background=True, spacing=spacing)
    assert record["nsd"] == pytest.approx(nsd.item(), rel=1e-5)


def test_means_and_pooled_scores_are_those_of_segmentation_models_pytorch() -> None:
    truths, answers = [blobs(n, (32, 32)) for n in range(6)], [blobs(n + 50, (32, 32), 0.3) for n in range(6)]
    told = values([record_of(t, a, None) for t, a in zip(truths, answers, strict=True)])
    stats = smp.metrics.get_stats(
        torch.from_numpy(np.stack(answers)[:, None]).long(),
        torch.from_numpy(np.stack(truths)[:, None]).long(),
        "binary",
    )
    assert told["dice"] == pytest.approx(smp.metrics.f1_score(*stats, reduction="micro-imagewise").item())
    assert told["dice_pooled"] == pytest.approx(smp.metrics.f1_score(*stats, reduction="micro").item())
    assert told["iou"] == pytest.approx(smp.metrics.iou_score(*stats, reduction="micro-imagewise").item())
    assert told["iou_pooled"] == pytest.approx(smp.metrics.iou_score(*stats, reduction="micro").item())


def test_pooled_and_mean_dice_differ_as_worked_out() -> None:
    counted = [
        {"true_positive": 10, "false_positive": 0, "false_negative": 0, "dice": 1.0, "iou": 1.0},
        {"true_positive": 1, "false_positive": 9, "false_negative": 0, "dice": 2 / 11, "iou": 0.1},
    ]
    told = values([{**one, "hd95": 0.0, "nsd": 1.0, "unit": "px"} for one in counted])
    assert told["dice_pooled"] == pytest.approx(22 / 31) and told["dice"] == pytest.approx(13 / 22)


def test_empty_masks_follow_the_stated_rule() -> None:
    empty, some = np.zeros((6, 8), dtype=bool), square((6, 8), (1, 1), 3)
    both, lost, false = record_of(empty, empty, None), record_of(some, empty, None), record_of(empty, some, (1.0, 2.0))
    assert (both["dice"], both["iou"], both["nsd"], both["hd95"]) == (1.0, 1.0, 1.0, 0.0)
    assert (lost["dice"], lost["iou"], lost["nsd"], lost["hd95"]) == (0.0, 0.0, 0.0, 10.0)
    assert false["hd95"] == pytest.approx(np.hypot(6, 16)) and false["unit"] == "mm"
    told = values([both, lost, {**false, "unit": "px"}, record_of(some, some, None)])
    assert told["dice"] == pytest.approx(0.5)
    assert told["dice_with_lesion"] == pytest.approx(0.5)
    assert told["empty_kept_empty"] == pytest.approx(0.5)
    assert told["one_empty"] == pytest.approx(0.5)


def test_masks_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        record_of(np.zeros((3, 4), dtype=bool), np.zeros((4, 3), dtype=bool), None)


def test_images_without_a_mask_do_not_count() -> None:
    some = square((6, 8), (1, 1), 3)
    metric = segmentation.metrics([None, record_of(some, some, None)])["dice"]
    assert metric.rows.tolist() == [1]
    assert segmentation.metrics([None]) == {}
