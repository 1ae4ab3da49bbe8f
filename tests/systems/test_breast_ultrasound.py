"""The breast-ultrasound grid against segmentation_models_pytorch's counts, and where lambda stands."""

from __future__ import annotations

import pytest
import torch

from mtnet.systems.breast_ultrasound import loss, network
from tests.systems.made import image, parameters, truth

DECODERS = ("unet", "unetplusplus", "fpn", "deeplabv3plus")
GRID = {
    "resnet50": (32_521_105, 48_985_745, 26_116_033, 26_677_585),
    "resnext50_32x4d": (31_992_977, 48_457_617, 25_587_905, 26_149_457),
    "wide_resnet50_2": (75_847_313, 92_311_953, 69_442_241, 70_003_793),
    # Through timm, as ours is: 806,400 parameters before the classifier are left out, and the stem's tap is 24 wide.
    "efficientnet_b4": (19_412_377, 19_818_073, 19_351_753 - 806_400, 18_616_217 - 806_400),
}
CELLS = [(encoder, decoder, GRID[encoder][n]) for encoder in GRID for n, decoder in enumerate(DECODERS)]


@pytest.mark.parametrize(("encoder", "decoder", "count"), CELLS)
def test_each_cell_of_the_grid_has_smps_parameters_and_the_classifiers(encoder, decoder, count):
    deepest = 448 if encoder.startswith("eff") else 2048
    with torch.device("meta"):
        assert parameters(network("published", encoder, decoder, tasks=["segmentation"])) == count
        assert parameters(network("published", encoder, decoder)) == count + deepest * 3 + 3


@pytest.mark.parametrize(("encoder", "fewer"), [("resnet50", 6_272), ("efficientnet_b4", 864)])
def test_one_channel_takes_two_thirds_of_the_first_convolution_away(encoder, fewer):
    with torch.device("meta"):
        three, one = (network("published", encoder, in_channels=n) for n in (3, 1))
    assert parameters(three) - parameters(one) == fewer


def test_the_published_network_is_the_papers_best_cell():
    with torch.device("meta"):
        net = network("published")
        cell = network("published", "efficientnet_b4", "deeplabv3plus")
    assert parameters(net) == parameters(cell) == 18_616_217 - 806_400 + 1_347
    assert net.encoder.strides[-1] == 16


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_answers_for_the_whole_image(decoder):
    net = network(decoder=decoder).eval()
    with torch.inference_mode():
        answers = net(image("breast_ultrasound"))
    assert answers["pred"].shape == (2, 1, 64, 96) and answers["classification"].shape == (2, 3)


def test_lambda_multiplies_the_focal_term_or_splits_one():
    answers = network().eval()(image("breast_ultrasound"))
    targets = truth("breast_ultrasound")
    total, terms = loss()(answers, targets)
    dice, focal = (float(terms[name]) for name in ("pred", "classification"))
    assert total.item() == pytest.approx(dice + 0.7 * focal, rel=1e-6)
    assert loss(form="convex")(answers, targets)[0].item() == pytest.approx(0.7 * dice + 0.3 * focal, rel=1e-6)
    assert loss(0.0)(answers, targets)[0].item() == pytest.approx(dice, rel=1e-6)
    for options in ({"lambda_": 1.5, "form": "convex"}, {"lambda_": -1.0}, {"form": "other"}):
        with pytest.raises(ValueError):
            loss(**options)


def test_a_missed_lesion_and_a_false_one_teach_by_more_than_dice():
    for logit, lesion in ((-14.0, True), (8.0, False)):
        slopes = {}
        for outline in ("dice", "dice_bce", "structure"):
            logits = torch.full((1, 1, 32, 32), logit, requires_grad=True)
            mask = torch.zeros(1, 1, 32, 32)
            mask[..., 8:16, 8:16] = float(lesion)
            term = loss(outline=outline).terms["pred"](logits, mask)
            (sum(term.values()) if isinstance(term, dict) else term).backward()
            slopes[outline] = float(logits.grad.abs().sum())
        assert slopes["dice"] < 0.001 * min(slopes["dice_bce"], slopes["structure"]), slopes
    with pytest.raises(ValueError, match="dice, dice_bce, structure"):
        loss(outline="iou")


def test_classes_weigh_by_their_inverse_frequency_in_busi():
    logits = {"pred": torch.zeros(1, 1, 4, 4), "classification": torch.zeros(1, 3)}
    said = []
    for label in range(3):
        targets = {"pred": torch.zeros(1, 1, 4, 4), "classification": torch.tensor([label])}
        said.append(float(loss()(logits, targets)[1]["classification"]))
    plain = (2 / 3) ** 2 * torch.log(torch.tensor(3.0)).item()
    assert [value / plain for value in said] == pytest.approx([0.594966, 1.238095, 1.954887], abs=1e-5)


@pytest.mark.parametrize(("known", "taught"), [("pred", "classification"), ("classification", "pred")])
def test_an_image_with_one_of_the_targets_trains_that_task(known, taught):
    net = network()
    total, terms = loss()(net(image("breast_ultrasound")), {known: truth("breast_ultrasound")[known]})
    total.backward()
    assert float(terms[known]) > 0 and float(terms[taught]) == 0
    assert all(p.grad is not None for p in net.parameters())
