from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mtnet.losses import (
    RECONSTRUCTION_LOSSES,
    REGRESSION_LOSSES,
    SEGMENTATION_LOSSES,
    DeepSupervisionLoss,
    MultiTaskLoss,
    RegressionLoss,
    StructureLoss,
    UncertaintyWeighting,
    convex_weights,
    inverse_frequency,
    make_reconstruction_loss,
    make_regression_loss,
    make_segmentation_loss,
)

LN2 = math.log(2)


class Mean(nn.Module):
    """A loss that is the mean of the answer."""

    def forward(self, answer: Tensor, target: Tensor) -> Tensor:
        return answer.mean()


def two(**options: object) -> MultiTaskLoss:
    return MultiTaskLoss({"value": Mean(), "class": Mean()}, **options)  # type: ignore[arg-type]


ANSWERS = {"value": torch.full((1, 1), 2.0), "class": torch.full((1, 1), 0.5)}
TARGETS = {name: torch.zeros(1, 1) for name in ANSWERS}


@pytest.mark.parametrize(
    ("s", "log", "log1p"),
    [((0.0, 0.0), 1.5, 2.636294), ((LN2, 0.0), 1.346574, 2.541759), ((LN2, -LN2), 1.5, 2.504077)],
)
def test_learned_weights_give_the_tabled_values(s: tuple[float, float], log: float, log1p: float) -> None:
    for name, expected in (("uncertainty", log), ("uncertainty_log1p", log1p)):
        loss = two(weighting=name, forms={"value": "regression"})
        assert loss.learned is not None and loss.learned.log_variance.tolist() == [0.0, 0.0]
        with torch.no_grad():
            loss.learned.log_variance.copy_(torch.tensor(s))
        total, terms = loss(ANSWERS, TARGETS)
        assert total.item() == pytest.approx(expected, abs=1e-6)
        assert (terms["value"].item(), terms["class"].item()) == (2.0, 0.5)


def test_the_least_of_the_learned_weights_is_at_the_logarithm_of_the_loss() -> None:
    loss = two(weighting="uncertainty", forms={"value": "regression"})
    optimiser = torch.optim.SGD(loss.parameters(), 1.0)
    for _ in range(100):
        optimiser.zero_grad()
        loss(ANSWERS, TARGETS)[0].backward()
        optimiser.step()
    assert loss.learned is not None
    assert loss.learned.log_variance.tolist() == pytest.approx([LN2, 0.0], abs=1e-4)


@pytest.mark.parametrize("weighting", ["uncertainty", "uncertainty_log1p"])
@pytest.mark.parametrize(
    "missing",
    [
        {"class": TARGETS["class"]},
        {**TARGETS, "value": [None]},
        {**TARGETS, "value": torch.full((1, 1), float("nan"))},
        {**TARGETS, "value": torch.full((1, 3), -1)},
    ],
    ids=["absent", "none", "nan", "negative label"],
)
def test_a_task_without_targets_learns_no_certainty(weighting: str, missing: dict[str, object]) -> None:
    loss = two(weighting=weighting)
    total, terms = loss({**ANSWERS, "class": torch.full((1, 1), 3.0)}, missing)
    total.backward()
    assert loss.learned is not None and loss.learned.log_variance.grad is not None
    assert loss.learned.log_variance.grad[0] == 0 != loss.learned.log_variance.grad[1]
    assert float(terms["value"]) == 0


def test_learned_weights_are_seen_by_optimiser_and_checkpoint() -> None:
    loss = two(weighting="uncertainty")
    assert [name for name, _ in loss.named_parameters()] == ["learned.log_variance"]
    assert list(loss.state_dict()) == ["learned.log_variance"]
    assert list(two().state_dict()) == []


def test_a_task_that_is_switched_off_has_no_learned_weight() -> None:
    loss = two(weights={"class": 0.0}, weighting="uncertainty")
    assert loss.learned is not None and loss.learned.tasks == ("value",)
    loss(ANSWERS, TARGETS)[0].backward()


def test_a_convex_weight_leaves_the_rest_to_the_other_task() -> None:
    total, _ = two(weights={"value": 0.7}, weighting="convex")(ANSWERS, TARGETS)
    assert total.item() == pytest.approx(0.7 * 2 + 0.3 * 0.5)
    assert convex_weights(("a", "b", "c"), {"a": 0.5, "c": 0.2}) == pytest.approx({"a": 0.5, "b": 0.3, "c": 0.2})
    for given in ({}, {"a": 1.2}, {"a": 0.5, "b": 0.5}):
        with pytest.raises(ValueError, match="all but one"):
            convex_weights(("a", "b"), given)


def test_a_list_with_gaps_teaches_whatever_is_there() -> None:
    answers = {"value": torch.tensor([[1.0], [2.0], [4.0]], requires_grad=True)}
    loss = MultiTaskLoss({"value": RegressionLoss("l1")})
    total, _ = loss(answers, {"value": [torch.tensor(0.0), None, torch.tensor(1.0)]})
    total.backward()
    assert total.item() == pytest.approx(2.0)
    assert answers["value"].grad is not None and answers["value"].grad[:, 0].tolist() == [0.5, 0.0, 0.5]
    total, _ = loss(
        answers, {"value": [torch.tensor(9.0), None, torch.tensor(1.0)]}, {"value": torch.tensor([0, 1, 1]).bool()}
    )
    assert total.item() == pytest.approx(3.0)


def test_a_supervised_term_reads_its_answers_and_gives_each_a_gradient() -> None:
    names = ("pred", "pred_aux_s2")
    loss = MultiTaskLoss({"pred": DeepSupervisionLoss(StructureLoss(), names)})
    for target in ({"pred": torch.ones(2, 1, 8, 8)}, {"pred": [None, torch.ones(1, 8, 8)]}, {"pred": [None, None]}, {}):
        given = {n: torch.zeros(2, 1, 8 >> i, 8 >> i, requires_grad=True) for i, n in enumerate(names)}
        total, _ = loss(given, target)
        total.backward()
        assert all(x.grad is not None for x in given.values())
        whole = all(float(x.grad[1].abs().sum()) > 0 for x in given.values() if x.grad is not None)
        assert whole is (target not in ({}, {"pred": [None, None]}))


def test_busis_class_weights_are_the_designs() -> None:
    assert inverse_frequency((437, 210, 133)) == pytest.approx([0.594966, 1.238095, 1.954887], abs=1e-6)
    with pytest.raises(ValueError, match="at least one sample"):
        inverse_frequency((3, 0))


@pytest.mark.parametrize(
    ("make", "names", "options"),
    [
        (make_segmentation_loss, SEGMENTATION_LOSSES, {}),
        (make_regression_loss, REGRESSION_LOSSES, {}),
        (make_reconstruction_loss, RECONSTRUCTION_LOSSES, {}),
    ],
)
def test_losses_are_made_by_their_name(make, names, options) -> None:
    for name in names:
        assert isinstance(make(name, **({"spatial_dims": 2} if name == "ssim" else options)), nn.Module)
    with pytest.raises(ValueError, match=f"'l7'; expected one of {', '.join(names)}"):
        make("l7")


def test_impossible_weightings_say_why() -> None:
    with pytest.raises(ValueError, match="fixed, convex, uncertainty, uncertainty_log1p"):
        two(weighting="gradnorm")
    with pytest.raises(ValueError, match="forms names"):
        two(weighting="uncertainty", forms={"box": "regression"})
    with pytest.raises(ValueError, match="regression or classification"):
        UncertaintyWeighting({"a": "ranking"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="log, log1p"):
        UncertaintyWeighting({"a": "regression"}, "sqrt")  # type: ignore[arg-type]
