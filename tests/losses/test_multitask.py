from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mtnet.losses import DeepSupervisionLoss, DenseDetectionLoss, GeneralizedDiceLoss, MaskedL1Loss, MultiTaskLoss
from mtnet.structures import Label, OutputSpec

SPEC = OutputSpec("boxes", "boxes", labels=(Label(0, "nodule"),), strides=(4,))


def four_tasks(weights: dict[str, float] | None = None) -> MultiTaskLoss:
    return MultiTaskLoss(
        {
            "pred": GeneralizedDiceLoss(),
            "image_class": nn.CrossEntropyLoss(),
            "reconstruction": MaskedL1Loss(),
            "boxes": DenseDetectionLoss(SPEC, 2),
        },
        weights,
    )


def answers() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = {"pred": (3, 2, 8, 8), "image_class": (3, 4), "reconstruction": (3, 1, 8, 8), "boxes_s4": (3, 6, 2, 2)}
    return {name: torch.randn(shape, generator=draw).requires_grad_() for name, shape in shapes.items()}


def truths() -> dict[str, object]:
    box = {"box_index": torch.tensor([[1.0, 1.0, 5.0, 5.0]]), "label": torch.tensor([0])}
    none = {"box_index": torch.zeros(0, 4), "label": torch.zeros(0, dtype=torch.long)}
    return {
        "pred": (torch.arange(64).reshape(1, 8, 8) % 2).repeat(3, 1, 1),
        "image_class": torch.tensor([0, 3, 1]),
        "reconstruction": torch.zeros(3, 1, 8, 8),
        "boxes": [box, none, box],
    }


def test_the_total_is_the_weighted_sum_of_the_terms() -> None:
    weights = {"pred": 2.0, "image_class": 0.5, "boxes": 0.25}
    total, terms = four_tasks(weights)(answers(), truths())
    assert set(terms) == {"pred", "image_class", "reconstruction", "boxes/box", "boxes/class", "boxes/quality"}
    expected = sum(weights.get(name.split("/")[0], 1.0) * float(value) for name, value in terms.items())
    assert total.item() == pytest.approx(expected, rel=1e-6)
    assert not any(value.requires_grad for value in terms.values())
    assert float(terms["reconstruction"]) == pytest.approx(float(answers()["reconstruction"].detach().abs().mean()))


@pytest.mark.parametrize("off", ["pred", "image_class", "reconstruction", "boxes"])
def test_weight_zero_switches_a_task_off_and_leaves_the_others_as_they_were(off: str) -> None:
    outputs = answers()
    total, terms = four_tasks({off: 0.0})(outputs, truths())
    total.backward()
    _, all_terms = four_tasks()(answers(), truths())
    assert terms == {name: value for name, value in all_terms.items() if name.split("/")[0] != off}
    for name, tensor in outputs.items():
        assert (tensor.grad is None) is name.startswith(off)


@pytest.mark.parametrize("missing", ["pred", "image_class", "reconstruction", "boxes"])
def test_a_missing_target_costs_nothing_and_gives_a_zero_gradient(missing: str) -> None:
    target = truths()
    del target[missing]
    outputs = answers()
    total, terms = four_tasks()(outputs, target)
    total.backward()
    assert float(terms[missing]) == 0
    for name, tensor in outputs.items():
        assert tensor.grad is not None
        if name.startswith(missing):
            assert float(tensor.grad.abs().sum()) == 0
        elif missing != "boxes":
            assert float(tensor.grad.abs().sum()) > 0


def test_terms_of_tasks_that_the_network_was_not_built_for_cost_nothing() -> None:
    outputs = {"image_class": answers()["image_class"]}
    outlines = DeepSupervisionLoss(GeneralizedDiceLoss(), ("pred", "pred_aux_s2"))
    terms = {"image_class": nn.CrossEntropyLoss(), "pred": outlines, "boxes": DenseDetectionLoss(SPEC, 2)}
    total, told = MultiTaskLoss(terms)(outputs, {"image_class": truths()["image_class"]})
    assert float(told["pred"]) == float(told["boxes"]) == 0
    assert total.item() == pytest.approx(float(told["image_class"])) and total.item() > 0


@pytest.mark.parametrize("name", ["pred", "image_class", "reconstruction", "boxes"])
def test_samples_without_a_target_are_left_out_of_their_task_alone(name: str) -> None:
    has = torch.tensor([True, False, True])
    outputs = answers()
    total, terms = four_tasks()(outputs, truths(), {name: has})
    total.backward()
    tensor = outputs["boxes_s4" if name == "boxes" else name]
    assert tensor.grad is not None
    assert float(tensor.grad[1].abs().sum()) == 0
    assert float(tensor.grad[0].abs().sum()) > 0 and float(tensor.grad[2].abs().sum()) > 0
    kept = {key: value[has] for key, value in answers().items()}
    target = truths()
    target = {
        key: [value[0], value[2]] if isinstance(value, list) else value[has]  # type: ignore[index]
        for key, value in target.items()
    }
    _, alone = four_tasks()(kept, target)
    for part, value in alone.items():
        if part.split("/")[0] == name:
            torch.testing.assert_close(terms[part], value)


def test_no_known_sample_at_all_stays_finite() -> None:
    nobody = torch.zeros(3, dtype=torch.bool)
    total, _ = four_tasks()(
        answers(), truths(), dict.fromkeys(("pred", "image_class", "reconstruction", "boxes"), nobody)
    )
    assert total.item() == 0


def test_wrong_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="segmentation"):
        four_tasks({"segmentation": 1.0})
    with pytest.raises(ValueError, match="0 or more"):
        four_tasks({"pred": -1.0})
