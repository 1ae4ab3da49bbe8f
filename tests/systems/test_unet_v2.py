"""U-Net v2 against the numbers of its authors' code, and what its loss weighs."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mtnet.nets.decoders import InfusedUNetDecoder, UNetV2Decoder
from mtnet.structures import Label
from mtnet.systems.unet_v2 import AUXILIARY, POLYP, SUPERVISION, Variant, loss, network
from tests.nets.test_unet_v2 import countable_attention
from tests.systems.made import image, parameters, truth

TWO = (Label(0, "background"), POLYP)
AUTHORS = {(POLYP,): 25_145_036, TWO: 25_145_168}
UNUSED = 32 * 32 * 4 * 4


@pytest.mark.parametrize("labels", list(AUTHORS))
def test_the_published_network_has_the_authors_parameters_less_an_unused_transposed_convolution(labels):
    with torch.device("meta"):
        net = network("published", labels=labels)
    assert parameters(net) == AUTHORS[labels] - UNUSED == {1: 25_128_652, 2: 25_128_784}[len(labels)]
    assert parameters(net.encoder) == 24_849_856


@pytest.mark.parametrize(("edge", "gmac"), [(224, 4.209702), (256, 5.555373), (352, 10.912667)])
def test_the_published_network_does_the_authors_work_with_attention_counted(edge, gmac):
    with countable_attention(), torch.device("meta"):
        net = network("published")
        # All four answers are drawn in training mode alone, as the authors count them; drop path costs nothing.
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            answers = net.train()(torch.zeros(2, 3, edge, edge))
    assert counter.get_total_flops() / 4e9 == pytest.approx(gmac, abs=1e-6)
    assert [x.shape[2] for x in answers.values()] == [edge, edge // 2, edge // 4, edge // 8]


def test_four_answers_are_given_in_training_and_one_after_it():
    net = network()
    assert list(net.train()(image("unet_v2"))) == ["pred", *AUXILIARY]
    assert list(net.eval()(image("unet_v2"))) == ["pred"]


@pytest.mark.parametrize("decoder", ["unet_v2", "unet", "unetplusplus"])
def test_the_decoders_to_compare_with_answer_at_the_same_sizes(decoder):
    with torch.device("meta"):
        answers = network(decoder=decoder).train()(torch.zeros(2, 3, 64, 64))
        ours = network().train()(torch.zeros(2, 3, 64, 64))
    assert {name: x.shape for name, x in answers.items()} == {name: x.shape for name, x in ours.items()}


def test_each_variant_has_its_own_decoder():
    with torch.device("meta"):
        told = {variant: type(network(variant).branches["segmentation"].decoder) for variant in get_args(Variant)}
    assert told == {"compact": InfusedUNetDecoder, "published": UNetV2Decoder}


def test_encoders_with_finer_levels_give_those_of_the_paper():
    with torch.device("meta"):
        net = network(encoder="resnet18", decoder="unet_v2", in_channels=1)
    assert net.neck.strides == (4, 8, 16, 32) and net.encoder.strides[0] == 2


def test_the_four_answers_weigh_as_the_recipe_says():
    net, targets = network().train(), truth("unet_v2")
    answers = net(image("unet_v2"))
    whole = loss()(answers, targets)[0].item()
    alone = []
    for number in range(4):
        weights = [1e-9] + [0.0] * 3 if number == 0 else [1e-9] + [float(i == number) for i in range(1, 4)]
        alone.append(loss(supervision=weights)(answers, targets)[0].item())
    shares = [weight / sum(SUPERVISION) for weight in SUPERVISION]
    assert shares == pytest.approx([0.5333, 0.2667, 0.1333, 0.0667], abs=1e-4)
    assert whole == pytest.approx(sum(s * value for s, value in zip(shares, alone, strict=True)), rel=1e-4)


def test_the_structure_loss_is_the_papers_and_the_codes_quirk_a_switch():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1:3, 1:3] = 1
    answers = {"pred": torch.full((1, 1, 4, 4), -1.0)}
    assert loss()(answers, {"pred": mask})[0].item() == pytest.approx(1.711109, abs=1e-6)
    assert loss(legacy_reduction=True)(answers, {"pred": mask})[0].item() == pytest.approx(1.299813, abs=1e-6)


def test_the_recipe_for_skin_lesions_is_cross_entropy_and_one_and_a_half_dice():
    logits = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = (logits[:, 1] > 0.3).long()
    total, terms = loss("ce_dice")({"pred": logits}, {"pred": mask})
    probability = logits.softmax(1)[:, 1]
    dice = (2 * (probability * mask).sum() + 1e-5) / (probability.sum() + mask.sum() + 1e-5)
    entropy = torch.nn.functional.cross_entropy(logits, mask)
    assert float(terms["pred/dice"]) == pytest.approx(1.5 * (1 - float(dice)), rel=1e-5)
    assert total.item() == pytest.approx(float(entropy) + 1.5 * (1 - float(dice)), rel=1e-5)
    with pytest.raises(ValueError, match="structure, ce_dice"):
        loss("hinge")
