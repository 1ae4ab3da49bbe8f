"""YOLO-Med's parts against their counts, its switches, and what its loss weighs."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mtnet.losses import StructureLoss
from mtnet.systems.yolo_med import AUXILIARY, DETECTION, loss, network
from tests.systems.made import image, parameters, perturbed, truth


def test_the_published_parts_have_their_parameters():
    with torch.device("meta"):
        net = network("published")
        alone = network("published", tasks=["detection"])
    pooling, pyramid = net.neck.necks
    parts = [parameters(part) for part in (net.encoder, pooling, pyramid, net.branches["detection"])]
    assert parts == [26_617_184, 2_624_512, 2_231_296, 7_088_658]
    assert parameters(alone) == sum(parts) == 38_561_650
    assert parameters(net.interaction.layer) == 789_760


def test_640_pixels_give_8400_cells():
    with torch.device("meta"):
        answers = network("published").eval()(torch.zeros(1, 3, 640, 640))
    cells = [answers[name].flatten(2).shape for name in DETECTION.tensor_names]
    assert cells == [(1, 6, 6400), (1, 6, 1600), (1, 6, 400)]


@pytest.mark.parametrize("interaction", ["cross_scale", "same_scale"])
def test_the_interaction_is_the_identity_before_it_is_trained(interaction):
    net, plain = network(interaction=interaction).eval(), network(interaction="none").eval()
    assert plain.interaction is None
    own = net.state_dict()
    plain.load_state_dict({name: own[name] for name in plain.state_dict()})
    with torch.inference_mode():
        joined, apart = net(image("yolo_med")), plain(image("yolo_med"))
        moved = perturbed(net)(image("yolo_med"))
    assert all(torch.equal(joined[name], apart[name]) for name in apart)
    assert all(not torch.equal(moved[name], apart[name]) for name in apart)


@pytest.mark.parametrize("decoder", ["yolo", "infused_unet"])
def test_without_an_interaction_no_task_learns_from_the_other(decoder):
    gradients = {}
    for interaction in ("none", "cross_scale"):
        net = perturbed(network(interaction=interaction, decoder=decoder))
        if decoder == "yolo":
            without, own = "pred", net.branches["segmentation"].decoder
        else:
            without, own = "lesions", net.neck
        loss({without: 0.0})(net(image("yolo_med")), truth("yolo_med"))[0].backward()
        gradients[interaction] = sum(float(p.grad.abs().sum()) for p in own.parameters() if p.grad is not None)
    assert gradients["none"] == 0 < gradients["cross_scale"]


def test_levels_finer_than_those_of_the_boxes_pass_the_interaction_unchanged():
    net, seen = perturbed(network(decoder="infused_unet")).eval(), {}
    net.interaction.register_forward_hook(lambda module, given, told: seen.update(given=given[0], told=told))
    with torch.inference_mode():
        net(image("yolo_med"))
    pairs = zip(seen["given"]["segmentation"], seen["told"]["segmentation"], strict=True)
    assert [torch.equal(before, after) for before, after in pairs] == [True, True, False, False, False]


def test_a_coupled_head_is_smaller_and_answers_alike():
    with torch.device("meta"):
        whole, coupled = network("published"), network("published", head="coupled")
        # Two 3-wide convolutions with norm a level are gone.
        assert parameters(whole) - parameters(coupled) == 3 * 2 * (9 * 256 * 256 + 2 * 256)
        shapes = [{n: x.shape for n, x in net(torch.zeros(1, 3, 64, 64)).items()} for net in (whole, coupled)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    "options",
    [
        {"neck": "pan"},
        {"encoder": "resnet18"},
        {"encoder": "efficientnet_b0"},
        {"decoder": "unet"},
        {"decoder": "deeplabv3plus"},
    ],
)
def test_other_necks_encoders_and_decoders_fit(options):
    with torch.inference_mode():
        answers = network(**options).eval()(image("yolo_med"))
    assert answers["pred"].shape == (2, 1, 64, 96) and answers["lesions_s32"].shape == (2, 6, 2, 3)


@pytest.mark.parametrize(
    "options", [{"interaction": "telepathy"}, {"head": "lost"}, {"neck": "giraffe"}, {"decoder": "ring"}]
)
def test_an_unknown_switch_is_refused_by_name(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is '{next(iter(options.values()))}'; expected one of"):
        network(**options)


def test_the_total_is_the_sum_of_both_tasks_or_learned():
    net = network()
    answers, targets = net(image("yolo_med")), truth("yolo_med")
    total, terms = loss()(answers, targets)
    names = {"lesions/box", "lesions/class", "lesions/quality", "pred/dice", "pred/cross_entropy"}
    assert set(terms) == names
    assert total.item() == pytest.approx(sum(float(v) for v in terms.values()), rel=1e-5)
    learned = loss(weighting="uncertainty")
    # s is 0 at first: e^0 L + 0.
    assert learned(answers, targets)[0].item() == pytest.approx(total.item(), rel=1e-5)
    assert parameters(learned) == 2


def test_the_outline_may_have_the_structure_loss_and_no_unknown_one():
    answers, targets = network().eval()(image("yolo_med")), truth("yolo_med")
    _, terms = loss(outline="structure")(answers, targets)
    assert terms["pred"].item() == pytest.approx(StructureLoss()(answers["pred"], targets["pred"]).item(), rel=1e-6)
    with pytest.raises(ValueError, match="outline is 'lovely'; expected one of dice_bce, structure"):
        loss(outline="lovely")


def test_the_blocks_of_the_outline_answer_too_while_it_trains():
    net, weights = network(decoder="infused_unet").train(), (8 / 15, 4 / 15, 2 / 15, 1 / 15)
    answers, targets = net(image("yolo_med")), truth("yolo_med")
    assert [name for name in answers if name.startswith("pred")] == ["pred", *AUXILIARY]
    sized = [F.interpolate(answers[name], size=(64, 96), mode="bilinear") for name in ("pred", *AUXILIARY)]
    wanted = sum(w * StructureLoss()(one, targets["pred"]) for w, one in zip(weights, sized, strict=True))
    assert loss(outline="structure")(answers, targets)[1]["pred"].item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("options", [{"assigner": "atss"}, {"box": "giou"}])
def test_other_assignments_and_boxes_are_one_argument(options):
    total, _ = loss(**options)(network()(image("yolo_med")), truth("yolo_med"))
    assert bool(total.isfinite())
