from __future__ import annotations

from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from monai.data.box_utils import batched_nms, non_max_suppression

from mtnet.detection import suppress


def brute_force(boxes: list[list[int]], scores: list[float], threshold: Fraction, labels: list[int]) -> list[int]:
    """Greedy suppression of whole-number boxes in exact arithmetic."""
    dims = len(boxes[0]) // 2 if boxes else 2

    def extent(low: list[int], high: list[int]) -> int:
        return int(np.prod([max(h - one, 0) for one, h in zip(low, high, strict=True)]))

    kept: list[int] = []
    for box in sorted(range(len(boxes)), key=lambda n: (-scores[n], n)):
        a = boxes[box]
        for other in kept:
            b = boxes[other]
            inter = extent(
                [max(x, y) for x, y in zip(a[:dims], b[:dims], strict=True)],
                [min(x, y) for x, y in zip(a[dims:], b[dims:], strict=True)],
            )
            union = extent(a[:dims], a[dims:]) + extent(b[:dims], b[dims:]) - inter
            if labels[box] == labels[other] and union and Fraction(inter, union) > threshold:
                break
        else:
            kept.append(box)
    return kept


@st.composite
def crowds(draw: st.DrawFn) -> tuple[list[list[int]], list[float], list[int]]:
    dims = draw(st.sampled_from([2, 3]))
    count = draw(st.integers(0, 25))
    corner = st.lists(st.integers(0, 6), min_size=dims, max_size=dims)
    size = st.lists(st.integers(0, 5), min_size=dims, max_size=dims)
    boxes = []
    for _ in range(count):
        low = draw(corner)
        boxes.append([*low, *(a + b for a, b in zip(low, draw(size), strict=True))])
    scores = draw(st.lists(st.sampled_from([0.1, 0.5, 0.5, 0.9]), min_size=count, max_size=count))
    labels = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    return boxes, scores, labels


@settings(deadline=None, max_examples=200)
@given(crowd=crowds(), tenths=st.integers(0, 10), block=st.sampled_from([1, 3, 512]))
def test_suppression_equals_brute_force_in_exact_arithmetic(
    crowd: tuple[list[list[int]], list[float], list[int]], tenths: int, block: int
) -> None:
    boxes, scores, labels = crowd
    tensor = torch.tensor(boxes, dtype=torch.float32) if boxes else torch.zeros(0, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtnet.detection.suppression._BLOCK", block)
        patch.setattr("mtnet.detection.suppression.TILE_COLUMNS", 2)
        patch.setattr("mtnet.detection.suppression.TILE_ROWS", 2)
        score = torch.tensor(scores, dtype=torch.float32)
        one_class = suppress(tensor, score, tenths / 10)
        by_class = suppress(tensor, score, tenths / 10, torch.tensor(labels, dtype=torch.long))
    assert one_class.tolist() == brute_force(boxes, scores, Fraction(tenths, 10), [0] * len(boxes))
    assert by_class.tolist() == brute_force(boxes, scores, Fraction(tenths, 10), labels)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("extent", [20.0, 200.0])
def test_suppression_equals_monai(dims: int, extent: float) -> None:
    draw = torch.Generator().manual_seed(0)
    low = torch.rand(1500, dims, generator=draw) * extent
    boxes = torch.cat([low, low + 1 + 10 * torch.rand(1500, dims, generator=draw)], 1)
    scores = torch.rand(1500, generator=draw).mul(50).round() / 50
    labels = torch.randint(0, 3, (1500,), generator=draw)
    for threshold in (0.1, 0.45):
        expected = non_max_suppression(boxes, scores, threshold)
        assert suppress(boxes, scores, threshold).tolist() == expected.tolist()
        by_class = batched_nms(boxes.double(), scores.double(), labels, threshold)
        assert suppress(boxes, scores, threshold, labels).tolist() == by_class.tolist()


def test_ties_go_to_the_lower_index() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(4, 1)
    assert suppress(boxes, torch.tensor([0.5, 0.7, 0.7, 0.5]), 0.5).tolist() == [1]


def test_an_overlap_equal_to_the_threshold_does_not_suppress() -> None:
    # IoU 1/3 exactly: 2 of 6 pixels; 0.1 + 0.2 would be above 0.3 by one rounding step.
    boxes = torch.tensor([[0.0, 0.0, 4.0, 1.0], [2.0, 0.0, 6.0, 1.0]])
    assert suppress(boxes, torch.tensor([0.9, 0.8]), 1 / 3).tolist() == [0, 1]
    assert suppress(boxes, torch.tensor([0.9, 0.8]), 0.33).tolist() == [0]
    three_tenths = torch.tensor([[0.0, 0.0, 10.0, 13.0], [0.0, 7.0, 10.0, 20.0]])
    assert suppress(three_tenths, torch.tensor([0.9, 0.8]), 0.1 + 0.2).tolist() == [0, 1]


def test_the_number_of_boxes_can_be_limited() -> None:
    low = torch.arange(2000.0)[:, None].repeat(1, 3) * 2
    boxes = torch.cat([low, low + 1], 1)
    scores = torch.linspace(1, 0, 2000)
    assert suppress(boxes, scores, 0.5, max_boxes=3).tolist() == [0, 1, 2]
    assert suppress(boxes, scores, 0.5, max_boxes=0).tolist() == []
    assert len(suppress(boxes, scores, 0.5)) == 2000


@pytest.mark.parametrize("extent", [30.0, 1000.0])
def test_ten_thousand_boxes_dense_and_sparse_are_judged_and_stay_judged(extent: float) -> None:
    draw = torch.Generator().manual_seed(1)
    low = torch.rand(10_000, 3, generator=draw) * extent
    boxes = torch.cat([low, low + 5 + 10 * torch.rand(10_000, 3, generator=draw)], 1)
    scores = torch.rand(10_000, generator=draw)
    kept = suppress(boxes, scores, 0.2)
    again = suppress(boxes[kept], scores[kept], 0.2)
    assert again.tolist() == list(range(len(kept)))
    assert 0 < len(kept) < 10_000


def test_unusable_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        suppress(torch.tensor([[0.0, 0.0, float("nan"), 1.0]]), torch.ones(1), 0.5)
    with pytest.raises(ValueError, match="iou_threshold is 1"):
        suppress(torch.zeros(1, 4), torch.ones(1), 1.5)
    with pytest.raises(ValueError, match=r"expected \(N, 2D\)"):
        suppress(torch.zeros(2, 4), torch.ones(3), 0.5)
