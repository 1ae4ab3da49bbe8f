from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from monai.data.box_utils import box_giou, box_iou
from torch import Tensor

from mtnet.detection import pairwise_iou, volume
from mtnet.detection.overlap import OVERLAP_KINDS, paired_overlap

CASES = [
    ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7, -5 / 63, 2 / 63, 2 / 63),
    ((0, 0, 4, 2), (1, 0, 3, 4), 1 / 3, 0.083333, 0.302083, 0.268332),
    ((0, 0, 1, 1), (2, 0, 3, 1), 0, -1 / 3, -0.4, -0.4),
    ((0, 0, 4, 4), (1, 1, 3, 3), 0.25, 0.25, 0.25, 0.25),
]


def random_boxes(count: int, dims: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    low = torch.rand(count, dims, generator=draw, dtype=torch.float64) * 20
    return torch.cat([low, low + 0.5 + 10 * torch.rand(count, dims, generator=draw, dtype=torch.float64)], 1)


@pytest.mark.parametrize("case", CASES)
def test_the_published_formulas_give_the_tabled_values(case: tuple[tuple[int, ...], tuple[int, ...], float]) -> None:
    a, b, *expected = case
    boxes = torch.tensor([a, b], dtype=torch.float64)
    got = [float(paired_overlap(boxes[0], boxes[1], kind)) for kind in OVERLAP_KINDS]
    assert got == pytest.approx(expected, abs=6e-7)


@pytest.mark.parametrize("dims", [2, 3])
def test_identical_boxes_overlap_by_one_in_every_measure(dims: int) -> None:
    boxes = random_boxes(5, dims, 0)
    for kind in OVERLAP_KINDS if dims == 2 else ("iou", "giou", "diou"):
        assert paired_overlap(boxes, boxes, kind).tolist() == pytest.approx([1.0] * 5)


@pytest.mark.parametrize("dims", [2, 3])
def test_iou_and_giou_equal_monai(dims: int) -> None:
    a, b = random_boxes(40, dims, 1), random_boxes(30, dims, 2)
    # MONAI computes in float32, ours here in float64.
    torch.testing.assert_close(pairwise_iou(a, b), box_iou(a, b), rtol=0, atol=2e-6)
    mixed = paired_overlap(a[:, None].expand(-1, 30, -1), b[None].expand(40, -1, -1), "giou")
    torch.testing.assert_close(mixed, box_giou(a, b), rtol=0, atol=2e-6)


def test_blocks_of_pairs_equal_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random_boxes(33, 3, 3), random_boxes(17, 3, 4)
    whole = pairwise_iou(a, b)
    monkeypatch.setattr("mtnet.detection.overlap._PAIRS_AT_ONCE", 50)
    assert torch.equal(pairwise_iou(a, b), whole)


@pytest.mark.parametrize("counts", [(0, 3), (3, 0), (0, 0)])
def test_no_boxes_give_an_empty_matrix(counts: tuple[int, int]) -> None:
    assert pairwise_iou(torch.zeros(counts[0], 6), torch.zeros(counts[1], 6)).shape == counts


@settings(deadline=None, max_examples=60)
@given(
    dims=st.sampled_from([2, 3]),
    seed=st.integers(0, 10_000),
    shift=st.floats(-1000, 1000),
    scale=st.floats(0.01, 100),
)
def test_overlap_does_not_change_with_translation_scale_order_or_axes(
    dims: int, seed: int, shift: float, scale: float
) -> None:
    a, b = random_boxes(8, dims, seed), random_boxes(8, dims, seed + 1)
    swapped = [*reversed(range(dims)), *reversed(range(dims, 2 * dims))]
    for kind in ("iou", "giou", "diou"):
        reference = paired_overlap(a, b, kind)
        for other in (
            paired_overlap(b, a, kind),
            paired_overlap(a + shift, b + shift, kind),
            paired_overlap(a * scale, b * scale, kind),
            paired_overlap(a[:, swapped], b[:, swapped], kind),
        ):
            torch.testing.assert_close(other, reference, rtol=1e-9, atol=1e-9)
        assert bool((reference <= 1 + 1e-12).all())
        assert bool((reference >= (0 if kind == "iou" else -1) - 1e-12).all())


def test_a_2d_overlap_equals_that_of_boxes_of_one_common_depth() -> None:
    a, b = random_boxes(10, 2, 5), random_boxes(10, 2, 6)
    depth = torch.ones(10, 1, dtype=torch.float64)
    solid = [torch.cat([box[:, :2], 0 * depth, box[:, 2:], 3 * depth], 1) for box in (a, b)]
    torch.testing.assert_close(pairwise_iou(*solid), pairwise_iou(a, b))


def test_volume_is_the_count_of_voxels_of_a_half_open_box() -> None:
    assert float(volume(torch.tensor([-0.5, -0.5, 1.5, 0.5, 3.5, 2.5]))) == 1 * 4 * 1
    assert float(volume(torch.tensor([0.0, 5.0, 2.0, 3.0]))) == 0


@pytest.mark.parametrize("dims", [2, 3])
def test_empty_boxes_overlap_by_zero_and_have_finite_gradients(dims: int) -> None:
    empty = torch.zeros(1, 2 * dims, requires_grad=True)
    for kind in OVERLAP_KINDS if dims == 2 else ("iou", "giou", "diou"):
        value = paired_overlap(empty, torch.zeros(1, 2 * dims), kind)
        (gradient,) = torch.autograd.grad(value.sum(), empty)
        assert math.isfinite(float(value.detach())) and bool(torch.isfinite(gradient).all())
    assert float(pairwise_iou(empty.detach(), empty.detach())) == 0


def test_ciou_takes_no_gradient_through_alpha() -> None:
    box = torch.tensor([0.0, 0.0, 4.0, 2.0], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([1.0, 0.0, 3.0, 4.0], dtype=torch.float64)
    (got,) = torch.autograd.grad(paired_overlap(box, other, "ciou"), box)
    (through_diou,) = torch.autograd.grad(paired_overlap(box, other, "diou"), box)
    # v = 4 / pi^2 (atan 0.5 - atan 2)^2; its gradient by the width 4 is known in closed form, alpha is 0.201111.
    width, height = 4.0, 2.0
    slope = 8 / math.pi**2 * (math.atan(2.0) - math.atan(0.5)) * height / (width**2 + height**2)
    assert float(got[2] - through_diou[2]) == pytest.approx(-0.201111 * slope, rel=1e-5)


def test_ciou_is_refused_in_3d_with_what_to_use_instead() -> None:
    with pytest.raises(ValueError, match="'diou' or 'giou'"):
        paired_overlap(torch.zeros(1, 6), torch.zeros(1, 6), "ciou")


def test_boxes_of_a_wrong_form_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 4\)"):
        volume(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="2D and 3D"):
        pairwise_iou(torch.zeros(1, 4), torch.zeros(1, 6))
    with pytest.raises(ValueError, match="iou, giou, diou, ciou"):
        paired_overlap(torch.zeros(1, 4), torch.zeros(1, 4), "gou")  # type: ignore[arg-type]
