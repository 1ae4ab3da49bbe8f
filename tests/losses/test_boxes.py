from __future__ import annotations

import pytest
import torch

from mtnet.losses import BOX_LOSS_KINDS, box_loss

A = torch.tensor([[0, 0, 2, 2], [0, 0, 4, 2], [0, 0, 1, 1], [0, 0, 4, 4]], dtype=torch.float64)
B = torch.tensor([[1, 1, 3, 3], [1, 0, 3, 4], [2, 0, 3, 1], [1, 1, 3, 3]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("iou_squared", [0.979592, 0.888889, 1, 0.9375]),
        ("giou", [1.079365, 0.916667, 4 / 3, 0.75]),
        ("diou", [0.968254, 0.697917, 1.4, 0.75]),
        ("ciou", [0.968254, 0.731668, 1.4, 0.75]),
        ("iou", [6 / 7, 2 / 3, 1, 0.75]),
    ],
)
def test_box_losses_give_the_tabled_values(kind: str, expected: list[float]) -> None:
    assert box_loss(A, B, kind).tolist() == pytest.approx(expected, abs=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("dims", [2, 3])
def test_identical_boxes_cost_nothing(dims: int) -> None:
    box = torch.cat([torch.arange(dims) * 3.0, torch.arange(dims) * 3.0 + 5])[None]
    for kind in BOX_LOSS_KINDS:
        if kind != "ciou" or dims == 2:
            assert float(box_loss(box, box, kind)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_only_enclosing_measures_pull_disjoint_boxes_together(dims: int) -> None:
    box = torch.cat([torch.zeros(dims), torch.ones(dims)])[None].requires_grad_()
    target = box.detach() + 5
    for kind, pulls in (("iou", False), ("iou_squared", False), ("giou", True), ("diou", True)):
        (gradient,) = torch.autograd.grad(box_loss(box, target, kind).sum(), box)  # type: ignore[arg-type]
        assert bool((gradient[0, dims:] < 0).all()) is pulls


def test_unknown_kinds_and_ciou_in_3d_are_refused() -> None:
    with pytest.raises(ValueError, match="iou_squared"):
        box_loss(A, B, "l2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2D boxes only"):
        box_loss(torch.zeros(1, 6), torch.zeros(1, 6), "ciou")
