"""A loss for every output of a network, by its kind."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mtnet.losses import LOSSES, ClassificationLoss, loss_of_outputs
from mtnet.structures import Label, OutputSpec
from mtnet.structures.kinds import BUILT_IN
from tests.nets.builders import BOXES, CLASSES, TISSUES, four_tasks, image

VALUE = OutputSpec("diameter", "global", units="mm", log_variance=True)


def test_every_built_in_kind_has_a_loss():
    assert tuple(LOSSES) == BUILT_IN


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_network_of_all_kinds_trains_every_parameter_by_the_losses_of_its_kinds(dims, weighting):
    torch.manual_seed(0)
    network = four_tasks(dims).train()
    x = image(dims)
    loss = loss_of_outputs(network.outputs, dims, weighting=weighting)
    box = torch.tensor([[8.0] * dims + [20.0] * dims])
    lesion = {"texture": torch.tensor([1]), "diameter": torch.tensor([9.0])}
    object_ = {"box_index": box, "label": torch.tensor([0]), **lesion}
    targets = {
        "pred": (x > 0).long(),
        "boxes": [object_, object_],
        "classes": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        "reconstruction": x,
    }
    total, said = loss(network(x), targets)
    total.backward()
    assert {name.split("/")[0] for name in said} == set(targets)
    assert all(p.grad is not None for p in [*network.parameters(), *loss.parameters()])
    if loss.learned is not None:
        assert dict(zip(loss.learned.tasks, loss.learned.halved, strict=True))["reconstruction"]


def test_values_with_and_without_uncertainty_have_losses_of_their_own():
    loss = loss_of_outputs([VALUE, OutputSpec("rating", "global")], 2)
    kinds = {name: type(term).__name__ for name, term in loss.terms.items()}
    assert kinds == {"diameter": "GaussianRegressionLoss", "rating": "RegressionLoss"}


def test_classes_are_judged_without_the_weight_of_the_window():
    logits = torch.randn(4, 3)
    exclusive = ClassificationLoss(OutputSpec("c", "global", CLASSES.labels, activation="softmax"))
    target = torch.tensor([0, 1, -1, 1])
    torch.testing.assert_close(exclusive(logits, target), F.cross_entropy(logits[:, :2], target, ignore_index=-1))
    free = ClassificationLoss(CLASSES)
    wanted = torch.randint(0, 2, (4, 2)).float()
    torch.testing.assert_close(free(logits, wanted), F.binary_cross_entropy_with_logits(logits[:, :2], wanted))


def test_an_output_that_is_no_class_is_refused():
    for spec in (VALUE, BOXES, OutputSpec("pred", "dense", TISSUES, (1,))):
        with pytest.raises(ValueError, match="global output with labels"):
            ClassificationLoss(spec)


def test_a_kind_that_nobody_knows_is_named_with_those_that_are_known():
    with pytest.raises(ValueError, match="'dens' is unknown; known are dense, boxes, global"):
        OutputSpec("pred", "dens", (Label(0, "a"),), (1,))
