from __future__ import annotations

import pytest
import torch
from monai.losses import FocalLoss as MonaiFocal

from mtnet.losses import FocalLoss, quality_focal, sigmoid_focal, softmax_focal


@pytest.mark.parametrize(
    ("gamma", "p_true", "expected"), [(2, 0.25, 0.779791), (2, 0.5, 0.173287), (2, 0.9, 0.001054), (0, 0.25, 1.386294)]
)
def test_focal_loss_gives_the_tabled_values_in_both_forms(gamma: float, p_true: float, expected: float) -> None:
    p = torch.tensor([[p_true, 1 - p_true]])
    assert float(softmax_focal(p.log(), torch.tensor([0]), gamma)) == pytest.approx(expected, abs=1e-6)
    logit = torch.tensor(p_true).logit()
    assert float(sigmoid_focal(logit, torch.tensor(1.0), gamma)) == pytest.approx(expected, abs=1e-6)
    assert float(sigmoid_focal(-logit, torch.tensor(0.0), gamma)) == pytest.approx(expected, abs=1e-6)


def test_the_softmax_form_is_not_divided_by_the_number_of_classes() -> None:
    logits = torch.tensor([[0.25, 0.5, 0.25]]).log()
    assert float(softmax_focal(logits, torch.tensor([0]))) == pytest.approx(0.779791, abs=1e-6)
    one_hot = torch.tensor([[1.0, 0.0, 0.0]])
    assert float(FocalLoss()(logits, torch.tensor([0]))) == pytest.approx(
        3 * float(MonaiFocal(use_softmax=True)(logits, one_hot)), abs=1e-6
    )
    # One against the rest: the mean over three sigmoid questions.
    assert float(sigmoid_focal(logits, one_hot).mean()) == pytest.approx(0.361339, abs=1e-6)


def test_the_sigmoid_form_equals_monai() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 4, 5, 6, generator=draw)
    target = (torch.rand(2, 1, 4, 5, 6, generator=draw) < 0.2).float()
    for alpha in (None, 0.25):
        expected = MonaiFocal(gamma=1.5, alpha=alpha, reduction="none")(logits, target)
        torch.testing.assert_close(sigmoid_focal(logits, target, 1.5, alpha), expected)


def test_without_focusing_it_is_cross_entropy_with_class_weights() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=draw)
    target = torch.randint(0, 3, (2, 4, 4), generator=draw)
    weight = [0.2, 1.0, 3.0]
    expected = torch.nn.functional.cross_entropy(logits, target, torch.tensor(weight), reduction="none").mean()
    torch.testing.assert_close(FocalLoss(0, weight)(logits, target), expected)
    torch.testing.assert_close(FocalLoss(0, weight)(logits, target[:, None]), expected)


def test_unknown_elements_neither_cost_nor_count() -> None:
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.tensor([[0, 1, 2, -1], [-1, -1, -1, -1]])
    value = FocalLoss()(logits, target)
    torch.testing.assert_close(value, FocalLoss()(logits[:1, :, :3], target[:1, :3]))
    nothing = FocalLoss()(logits, torch.full((2, 4), -1))
    nothing.backward()
    assert float(nothing.detach()) == 0 and logits.grad is not None and float(logits.grad.abs().sum()) == 0


@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
@pytest.mark.parametrize("truth", [0, 1])
def test_extreme_logits_have_finite_losses_and_gradients(logit: float, truth: int) -> None:
    for gamma in (0.5, 2.0):
        pair = torch.tensor([[logit, -logit]], requires_grad=True)
        one = torch.tensor([logit], requires_grad=True)
        for value, at in (
            (softmax_focal(pair, torch.tensor([truth]), gamma), pair),
            (sigmoid_focal(one, torch.tensor([float(truth)]), gamma), one),
            (quality_focal(one, torch.tensor([float(truth)])), one),
        ):
            (gradient,) = torch.autograd.grad(value.sum(), at)
            assert bool(torch.isfinite(value).all()) and bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize(
    ("quality", "p", "expected"), [(0.8, 0.5, 0.062383), (0, 0.1, 0.001054), (1, 0.9, 0.001054), (0, 0.5, 0.173287)]
)
def test_quality_focal_loss_gives_the_tabled_values(quality: float, p: float, expected: float) -> None:
    assert float(quality_focal(torch.tensor(p).logit(), torch.tensor(quality))) == pytest.approx(expected, abs=1e-6)


def test_quality_focal_loss_is_zero_at_its_target_where_cross_entropy_is_not() -> None:
    logit = torch.tensor(0.6).logit()
    assert float(quality_focal(logit, torch.tensor(0.6))) == pytest.approx(0, abs=1e-12)
    assert float(quality_focal(logit, torch.tensor(0.6), beta=0)) == pytest.approx(0.673012, abs=1e-6)


def test_quality_focal_loss_of_a_hard_target_is_focal_loss() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    target = (torch.arange(50) % 2).float()
    torch.testing.assert_close(quality_focal(logits, target), sigmoid_focal(logits, target))
