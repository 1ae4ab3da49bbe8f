from __future__ import annotations

import pytest
import torch
from monai.losses import DiceLoss as MonaiDice
from monai.losses import GeneralizedDiceLoss as MonaiGeneralizedDice
from torch import Tensor

from mtnet.losses import DiceLoss, GeneralizedDiceLoss

FOREGROUND = torch.tensor([0.8, 0.4, 0.1, 0.1], dtype=torch.float64)
PROBABILITY = torch.stack([1 - FOREGROUND, FOREGROUND])[None]
TRUTH = torch.tensor([[1, 0, 0, 0]])


@pytest.mark.parametrize(("weighting", "expected"), [("square", 0.294118), ("simple", 0.25), ("equal", 0.2)])
def test_generalised_dice_gives_the_tabled_values(weighting: str, expected: float) -> None:
    loss = GeneralizedDiceLoss(weighting, activation="none", smooth=0)  # type: ignore[arg-type]
    assert float(loss(PROBABILITY, TRUTH)) == pytest.approx(expected, abs=1e-6)


def test_plain_dice_gives_the_tabled_values() -> None:
    both = DiceLoss(activation="none", smooth=0)
    foreground = DiceLoss(activation="none", smooth=0, include_background=False)
    assert float(both(PROBABILITY, TRUTH)) == pytest.approx(0.238095, abs=1e-6)
    assert float(foreground(PROBABILITY, TRUTH)) == pytest.approx(1 / 3, abs=1e-6)


def test_an_absent_class_gets_the_largest_finite_weight() -> None:
    loss = GeneralizedDiceLoss(activation="none")
    assert float(loss(PROBABILITY, torch.zeros(1, 4, dtype=torch.long))) == pytest.approx(0.349993, abs=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("over_batch", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_both_losses_equal_monai(dims: int, over_batch: bool, background: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    shape = (5, 6, 7)[:dims]
    logits = torch.randn(3, 4, *shape, generator=draw)
    target = torch.randint(0, 4, (3, *shape), generator=draw)
    target[1][target[1] == 3] = 0
    one_hot = torch.nn.functional.one_hot(target, 4).movedim(-1, 1).float()
    options = {"softmax": True, "include_background": background, "batch": over_batch}
    ours = {"include_background": background, "over_batch": over_batch}
    for weighting in ("square", "simple"):
        got = GeneralizedDiceLoss(weighting, **ours)(logits, target)  # type: ignore[arg-type]
        torch.testing.assert_close(got, MonaiGeneralizedDice(w_type=weighting, **options)(logits, one_hot))
    torch.testing.assert_close(DiceLoss(**ours)(logits, target), MonaiDice(**options)(logits, one_hot))


@pytest.mark.parametrize("loss", [DiceLoss(), GeneralizedDiceLoss(), GeneralizedDiceLoss(over_batch=True)])
def test_unknown_voxels_neither_cost_nor_teach(loss: torch.nn.Module) -> None:
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    target[:, :, 2:] = -1
    value = loss(logits, target)
    value.backward()
    assert logits.grad is not None
    assert float(logits.grad[..., 2:].abs().sum()) == 0 and float(logits.grad[..., :2].abs().sum()) > 0
    torch.testing.assert_close(value, loss(logits[..., :2], target[..., :2]))


@pytest.mark.parametrize("loss", [DiceLoss(), GeneralizedDiceLoss(), GeneralizedDiceLoss("simple", smooth=0)])
@pytest.mark.parametrize("label", [0, 1, -1])
def test_one_class_or_nothing_known_stays_finite(loss: torch.nn.Module, label: int) -> None:
    logits = torch.zeros(2, 2, 3, 3, 3, requires_grad=True)
    value = loss(logits, torch.full((2, 3, 3, 3), label))
    value.backward()
    assert bool(torch.isfinite(value)) and logits.grad is not None and bool(torch.isfinite(logits.grad).all())


def test_a_single_foreground_channel_takes_its_mask() -> None:
    logits = torch.tensor([[[[20.0, 20.0], [-20.0, -20.0]]]])
    loss = DiceLoss(activation="sigmoid")
    mask = torch.tensor([[[[1, 1], [0, 0]]]])
    assert float(loss(logits, mask)) == pytest.approx(0, abs=1e-5)
    assert float(loss(logits, 1 - mask)) == pytest.approx(1, abs=1e-5)
    assert float(loss(logits, mask.float())) == pytest.approx(0, abs=1e-5)


def test_a_label_map_may_have_its_channel_axis() -> None:
    def value(target: Tensor) -> float:
        return float(GeneralizedDiceLoss(activation="none")(PROBABILITY, target))

    assert value(TRUTH[:, None]) == value(TRUTH)


def test_targets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="label map"):
        DiceLoss()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4))
    with pytest.raises(ValueError, match="holds label 2"):
        DiceLoss()(torch.zeros(1, 2, 4), torch.tensor([[0, 1, 2, 0]]))
    with pytest.raises(ValueError, match="weighting"):
        GeneralizedDiceLoss("cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="activation"):
        DiceLoss(activation="tanh")  # type: ignore[arg-type]
