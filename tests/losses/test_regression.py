from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mtnet.losses import GaussianRegressionLoss, RegressionLoss

NAN = float("nan")


@pytest.mark.parametrize(
    ("beta", "residual", "expected"), [(1.0, 0.5, 0.125), (1.0, 2.0, 1.5), (0.1, 0.05, 0.0125), (0.1, 0.5, 0.45)]
)
def test_smooth_l1_gives_the_tabled_values_and_hubers_loss_is_beta_times_them(
    beta: float, residual: float, expected: float
) -> None:
    predicted, target = torch.tensor([[7.0 + residual]]), torch.tensor([7.0])
    assert float(RegressionLoss("smooth_l1", beta)(predicted, target)) == pytest.approx(expected, abs=1e-6)
    assert float(RegressionLoss("huber", beta)(predicted, target)) == pytest.approx(beta * expected, abs=1e-6)
    assert float(RegressionLoss("l1")(predicted, target)) == pytest.approx(residual, abs=1e-6)


def test_the_gaussian_loss_is_torchs_negative_log_likelihood() -> None:
    draw = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(9, 2, generator=draw), torch.randn(9, generator=draw)
    expected = nn.GaussianNLLLoss()(predicted[:, 0], target, predicted[:, 1].exp())
    torch.testing.assert_close(GaussianRegressionLoss()(predicted, target), expected)


def test_the_expected_variance_that_costs_least_is_the_squared_residual() -> None:
    log_variance = torch.tensor(math.log(9.0), requires_grad=True)
    loss = GaussianRegressionLoss(unit=5.0)(torch.stack([torch.tensor(13.0), log_variance])[None], torch.tensor([10.0]))
    loss.backward()
    assert log_variance.grad is not None and float(log_variance.grad) == pytest.approx(0, abs=1e-6)


def test_a_unit_makes_millimetres_weigh_as_other_terms() -> None:
    predicted, target = torch.tensor([14.0]), torch.tensor([10.0])
    assert float(RegressionLoss(unit=4.0)(predicted, target)) == pytest.approx(0.5)


@pytest.mark.parametrize("loss", [RegressionLoss(), RegressionLoss("huber"), GaussianRegressionLoss()])
def test_unknown_values_neither_cost_nor_teach(loss: nn.Module) -> None:
    channels = 2 if isinstance(loss, GaussianRegressionLoss) else 1
    draw = torch.Generator().manual_seed(0)
    predicted = torch.randn(3, channels, generator=draw).requires_grad_()
    value = loss(predicted, torch.tensor([[1.0], [NAN], [2.0]]))
    torch.testing.assert_close(value, loss(predicted[[0, 2]], torch.tensor([1.0, 2.0])))
    value.backward()
    assert predicted.grad is not None
    assert float(predicted.grad[1].abs().sum()) == 0 < float(predicted.grad[0].abs().sum())
    assert float(loss(predicted.detach(), torch.full((3,), NAN))) == 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="smooth_l1, huber, l1"):
        RegressionLoss("l2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 0"):
        RegressionLoss(beta=0)
    with pytest.raises(ValueError, match="above 0"):
        GaussianRegressionLoss(unit=-1)
    with pytest.raises(ValueError, match=r"expected \(3, 2\)"):
        GaussianRegressionLoss()(torch.zeros(3, 1), torch.zeros(3))
