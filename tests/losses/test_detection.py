from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from mtnet.detection import Candidates, decode, pairwise_iou, suppress
from mtnet.losses import DenseDetectionLoss
from mtnet.losses.detection import lesion_loss
from mtnet.structures import Label, LesionChannel, OutputSpec

MALIGNANCY = LesionChannel("malignancy", (Label(0, "suspicious"),), "sigmoid")
TEXTURE = LesionChannel("texture", (Label(0, "solid"), Label(1, "part-solid"), Label(2, "ground-glass")), "softmax")
DIAMETER = LesionChannel("diameter", units="mm")
NODULE = OutputSpec(
    "boxes", "boxes", labels=(Label(0, "nodule"),), strides=(4, 8), lesion_channels=(MALIGNANCY, TEXTURE, DIAMETER)
)
TERMS = {"box", "class", "quality", "malignancy", "texture", "diameter"}


def random_levels(dims: int, batch: int = 1, side: int = 32, spec: OutputSpec = NODULE) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(batch, spec.box_channels(dims), *(side // s,) * dims, generator=draw).requires_grad_()
        for name, s in zip(spec.tensor_names, spec.strides, strict=True)
    }


def objects(dims: int, *boxes: tuple[float, float], **channels: list[float]) -> dict[str, Tensor]:
    """Cubes from a low to a high, the same on every axis."""
    box_index = torch.tensor([[low] * dims + [high] * dims for low, high in boxes]).reshape(-1, 2 * dims)
    label = torch.zeros(len(boxes), dtype=torch.long)
    return {"box_index": box_index, "label": label} | {name: torch.tensor(v) for name, v in channels.items()}


def total(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


class ToyDetector(nn.Module):
    def __init__(self, spec: OutputSpec) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv3d(1, 16, 3, 2, 1),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.Conv3d(16, 32, 3, 2, 1),
            nn.GroupNorm(4, 32),
            nn.ReLU(),
            nn.Conv3d(32, 32, 3, 1, 1),
            nn.ReLU(),
        )
        self.coarse = nn.Sequential(nn.Conv3d(32, 32, 3, 2, 1), nn.ReLU())
        self.heads = nn.ModuleList(nn.Conv3d(32, spec.box_channels(3), 1) for _ in spec.strides)
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
            with torch.no_grad():
                head.bias[[0, 7]] = -4.595120

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = self.fine(image)
        return {"boxes_s4": self.heads[0](fine), "boxes_s8": self.heads[1](self.coarse(fine))}


@pytest.mark.slow
@pytest.mark.parametrize("confidence", ["quality_focal", "bce"])
def test_a_toy_network_learns_one_3d_image_in_100_steps(confidence: str) -> None:
    torch.manual_seed(4)
    image = torch.randn(1, 1, 32, 32, 32) * 0.1
    boxes = torch.tensor(
        [
            [3.5, 3.5, 3.5, 9.5, 9.5, 8.5],
            [17.5, 15.5, 18.5, 29.5, 27.5, 28.5],
            [20.5, 4.5, 4.5, 23.5, 7.5, 7.5],
        ]
    )
    for box in (boxes + 0.5).int().tolist():
        image[0, 0, box[0] : box[3], box[1] : box[4], box[2] : box[5]] += 1
    target = {
        "box_index": boxes,
        "label": torch.zeros(3, dtype=torch.long),
        "malignancy": torch.tensor([1.0, 0.0, -1.0]),
        "texture": torch.tensor([0.0, 2.0, 1.0]),
        "diameter": torch.tensor([6.0, 12.0, -1.0]),
    }
    network = ToyDetector(NODULE)
    loss = DenseDetectionLoss(NODULE, 3, confidence=confidence)  # type: ignore[arg-type]
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=99)
    for _ in range(99):
        optimiser.zero_grad()
        total(loss(network(image), [target])).backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        levels = network(image)
    found = Candidates.joined(
        [decode(levels[n], s, 1, 3) for n, s in zip(NODULE.tensor_names, NODULE.strides, strict=True)]
    )[0]
    found = found[suppress(found.box_index, found.scores[:, 0], 0.1)]
    score = found.scores[:, 0]
    iou, best = pairwise_iou(boxes, found.box_index[:3]).max(1)
    assert sorted(best.tolist()) == [0, 1, 2] and float(iou.min()) > 0.5
    assert float(score[2]) > 0.4 > 2 * float(score[3])
    assert found.lesion[best[:2], 0].sigmoid().round().tolist() == [1, 0]
    assert found.lesion[best, 1:4].argmax(1).tolist() == [0, 2, 1]
    assert found.lesion[best[:2], 4].tolist() == pytest.approx([6, 12], abs=1.5)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("confidence", ["quality_focal", "bce"])
@pytest.mark.parametrize("assigner", ["simota", "atss"])
def test_odd_targets_give_finite_terms_and_a_gradient_to_every_channel(
    dims: int, confidence: str, assigner: str
) -> None:
    loss = DenseDetectionLoss(NODULE, dims, assigner, confidence=confidence)  # type: ignore[arg-type]
    batches = [
        [objects(dims)] * 2,
        [objects(dims, (11.5, 12.5)), objects(dims)],
        [objects(dims, (11.5, 12.5), (11.5, 12.5), (11.5, 12.5)), objects(dims, (500.0, 520.0))],
        [objects(dims, (-50.0, 80.0)), objects(dims, (-90.0, -80.0))],
        [objects(dims, (10.0, 10.0)), objects(dims, (31.5, 31.5))],
        [None, objects(dims, (3.5, 12.5))],
        [None, None],
    ]
    for targets in batches:
        levels = random_levels(dims, 2)
        terms = loss(levels, targets)
        assert set(terms) == TERMS
        for term in terms.values():
            gradients = torch.autograd.grad(term, list(levels.values()), retain_graph=True)
            assert bool(torch.isfinite(term)) and all(bool(torch.isfinite(g).all()) for g in gradients)


@pytest.mark.parametrize("confidence", ["quality_focal", "bce"])
def test_an_image_without_objects_teaches_only_that_there_is_nothing(confidence: str) -> None:
    levels = random_levels(3)
    terms = DenseDetectionLoss(NODULE, 3, confidence=confidence)(levels, [objects(3)])  # type: ignore[arg-type]
    assert {name for name, term in terms.items() if term.item() > 0} <= {"class", "quality"}
    gradient = torch.autograd.grad(terms["quality"], levels["boxes_s4"])[0]
    assert bool((gradient[:, 7] > 0).all()), "every quality logit is pushed down"
    assert float(gradient[:, :7].abs().sum() + gradient[:, 8:].abs().sum()) == 0


def test_an_unmarked_item_teaches_nothing_at_all() -> None:
    levels = random_levels(3, 2)
    terms = DenseDetectionLoss(NODULE, 3)(levels, [None, objects(3, (3.5, 12.5))])
    for gradient in torch.autograd.grad(total(terms), list(levels.values())):
        assert float(gradient[0].abs().sum()) == 0 and float(gradient[1].abs().sum()) > 0


@pytest.mark.parametrize("dims", [2, 3])
def test_a_perfect_answer_costs_almost_nothing(dims: int) -> None:
    spec = OutputSpec("boxes", "boxes", labels=(Label(0, "a"), Label(1, "b")), strides=(8,))
    truth = objects(dims, (7.5, 15.5)) | {"label": torch.tensor([1])}
    level = torch.zeros(1, spec.box_channels(dims), *(4,) * dims)
    level[:, [0, 1, -1]] = -20.0
    # Raw offsets of 0 are the cell itself, and the object is cell 1, ..., 1.
    cell = (0, slice(None), *(1,) * dims)
    terms = DenseDetectionLoss(spec, dims)({"boxes_s8": level}, [truth])
    assert float(terms["box"]) == pytest.approx(0, abs=1e-6)
    assert float(terms["class"]) == pytest.approx(20) and float(terms["quality"]) == pytest.approx(20)
    middle = level[cell]
    middle[[1, -1]] = 20.0
    terms = DenseDetectionLoss(spec, dims)({"boxes_s8": level}, [truth])
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(dict.fromkeys(terms, 0.0), abs=1e-6)


def test_terms_are_divided_by_the_positives_of_the_whole_batch() -> None:
    one = random_levels(2)
    target = objects(2, (3.5, 12.5), malignancy=[1.0], texture=[2.0], diameter=[7.0])
    twice = {name: level.detach().repeat(2, 1, 1, 1) for name, level in one.items()}
    loss = DenseDetectionLoss(NODULE, 2)
    single, double = loss(one, [target]), loss(twice, [target, target])
    for name in TERMS:
        torch.testing.assert_close(double[name], single[name])


def test_the_published_yolox_terms_follow_their_formulas() -> None:
    # One cell, one object, one class: everything is known by hand.
    spec = OutputSpec("boxes", "boxes", labels=(Label(0, "a"),), strides=(8,))
    level = torch.zeros(1, 6, 1, 1)
    level[0, 0], level[0, 5] = 0.3, -0.7
    target = {"box_index": torch.tensor([[-0.5, -0.5, 7.5, 3.5]]), "label": torch.tensor([0])}
    loss = DenseDetectionLoss(spec, 2, box="iou_squared", confidence="bce", term_weights={"box": 5.0})
    terms = loss({"boxes_s8": level}, [target])
    half = torch.tensor(0.5)
    bce = nn.functional.binary_cross_entropy_with_logits
    assert float(terms["box"]) == pytest.approx(5 * (1 - 0.5**2), abs=1e-6)
    assert float(terms["class"]) == pytest.approx(float(bce(torch.tensor(0.3), half)), abs=1e-6)
    assert float(terms["quality"]) == pytest.approx(float(bce(torch.tensor(-0.7), half)), abs=1e-6)


def test_the_soft_targets_carry_no_gradient_into_the_box() -> None:
    levels = random_levels(2)
    terms = DenseDetectionLoss(NODULE, 2)(levels, [objects(2, (3.5, 12.5))])
    gradient = torch.autograd.grad(terms["class"] + terms["quality"], levels["boxes_s4"])[0]
    assert float(gradient[:, 1:5].abs().sum()) == 0 and float(gradient[:, [0, 5]].abs().sum()) > 0


def test_lesion_channels_learn_only_from_known_lesions() -> None:
    logits = torch.tensor([[2.0], [0.5], [9.0]])
    known = lesion_loss(logits[:2], torch.tensor([1.0, 0.25]), MALIGNANCY)
    assert float(lesion_loss(logits, torch.tensor([1.0, 0.25, -1.0]), MALIGNANCY)) == pytest.approx(float(known))
    bce = nn.functional.binary_cross_entropy_with_logits(logits[:2, 0], torch.tensor([1.0, 0.25]))
    assert float(known) == pytest.approx(float(bce))
    assert float(lesion_loss(logits, torch.tensor([2.5, float("nan"), 9.0]), DIAMETER)) == pytest.approx(0.125 / 2)
    assert float(lesion_loss(logits, torch.full((3,), -1.0), DIAMETER)) == 0


def test_a_softmax_channel_uses_cross_entropy_and_a_sigmoid_one_a_question_a_label() -> None:
    logits = torch.tensor([[1.0, -1.0, 0.5], [0.0, 2.0, 1.0]])
    target = torch.tensor([2.0, 1.0])
    expected = nn.functional.cross_entropy(logits, target.long())
    assert float(lesion_loss(logits, target, TEXTURE)) == pytest.approx(float(expected))
    questions = LesionChannel("signs", TEXTURE.labels, "sigmoid")
    one_hot = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    each = nn.functional.binary_cross_entropy_with_logits(logits, one_hot, reduction="none").sum(1).mean()
    assert float(lesion_loss(logits, target, questions)) == pytest.approx(float(each))


def test_half_precision_answers_are_judged_in_float32() -> None:
    levels = {name: level.detach().bfloat16() for name, level in random_levels(3).items()}
    exact = {name: level.float() for name, level in levels.items()}
    loss = DenseDetectionLoss(NODULE, 3)
    target = [objects(3, (3.5, 12.5), (20.0, 22.0))]
    for name, term in loss(levels, target).items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, loss(exact, target)[name])


def test_wrong_arguments_and_targets_are_refused_with_what_is_expected() -> None:
    with pytest.raises(ValueError, match="2D boxes only"):
        DenseDetectionLoss(NODULE, 3, box="ciou")
    with pytest.raises(ValueError, match="simota, atss"):
        DenseDetectionLoss(NODULE, 3, "hungarian")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind boxes"):
        DenseDetectionLoss(OutputSpec("pred", "dense", strides=(1,)), 3)
    with pytest.raises(ValueError, match="terms are"):
        DenseDetectionLoss(NODULE, 3, term_weights={"iou": 1.0})
    bare = OutputSpec(
        "boxes", "boxes", labels=NODULE.labels, strides=(4,), lesion_channels=(LesionChannel("t", TEXTURE.labels),)
    )
    with pytest.raises(ValueError, match="'softmax' or 'sigmoid'"):
        DenseDetectionLoss(bare, 3)
    loss = DenseDetectionLoss(NODULE, 3)
    with pytest.raises(ValueError, match="2 targets for a batch of 1"):
        loss(random_levels(3), [objects(3), objects(3)])
    with pytest.raises(ValueError, match=r"expected \(1, 6\)"):
        loss(random_levels(3), [objects(2, (0.0, 4.0))])
    with pytest.raises(ValueError, match="lesion classes"):
        loss(random_levels(3), [objects(3, (0.0, 4.0)) | {"label": torch.tensor([1])}])
    with pytest.raises(ValueError, match="malignancy has shape"):
        loss(random_levels(3), [objects(3, (0.0, 4.0), malignancy=[1.0, 0.0])])
    with pytest.raises(ValueError, match="not finite"):
        loss(random_levels(3), [objects(3, (float("nan"), 4.0))])
    with pytest.raises(ValueError, match="channels"):
        loss(random_levels(2), [objects(2)])
