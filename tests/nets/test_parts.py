"""What single parts compute."""

from __future__ import annotations

import math

import pytest
import torch
from monai.networks.nets.resnet import ResNetFeatures
from torch import nn
from torch.nn import functional

from mtnet.nets import (
    FPN,
    VGG13,
    ClassificationHead,
    DetectionHead,
    PickLevels,
    ReconstructionDecoder,
    ReconstructionHead,
    ResNetEncoder,
    SegmentationHead,
    UNetDecoder,
)
from mtnet.structures import OutputSpec
from tests.nets.builders import BOXES, CLASSES, TISSUES, image

CHANNELS, STRIDES = (4, 6, 8, 10, 12), (1, 2, 4, 8, 16)


def random_levels(requires_grad=False):
    return [
        torch.randn(1, c, 32 // s, 32 // s, requires_grad=requires_grad) for c, s in zip(CHANNELS, STRIDES, strict=True)
    ]


@pytest.mark.parametrize("dims", [2, 3])
def test_vgg13_computes_configuration_b_of_the_paper(dims):
    encoder = VGG13(dims, 1, (3, 4, 5, 6, 7), norm=None, pooled_tap=True)
    conv, pool = (functional.conv2d, functional.max_pool2d) if dims == 2 else (functional.conv3d, functional.max_pool3d)
    weights = list(encoder.parameters())
    x = image(dims, edge=32)
    expected = []
    for stage in range(5):
        for i in (2 * stage, 2 * stage + 1):
            x = functional.relu(conv(x, weights[2 * i], weights[2 * i + 1], padding=1))
        expected.append(x)
        x = pool(x, 2)
    expected.append(x)
    for ours, theirs in zip(encoder(image(dims, edge=32)), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dims", [2, 3])
def test_resnet50_computes_monais_features(dims):
    theirs = ResNetFeatures("resnet50", pretrained=False, spatial_dims=dims, in_channels=1).eval()
    ours = ResNetEncoder(dims, 1, 50, norm="batch").eval()
    renamed = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(renamed)
    x = image(dims, edge=32, batch=1)
    with torch.no_grad():
        for one, other in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(one, other)


def test_a_coarse_level_reaches_every_finer_level_of_an_fpn():
    levels = random_levels(requires_grad=True)
    neck = FPN(2, CHANNELS, STRIDES, channels=8, strides=(4, 8))
    neck(levels)[0].sum().backward()
    assert levels[4].grad is not None and levels[4].grad.abs().sum() > 0
    assert levels[0].grad is None and levels[1].grad is None


def test_an_fpn_without_norm_adds_the_repeated_coarse_level_to_the_fine_one():
    neck = FPN(2, (1, 1), (4, 8), channels=1, strides=(4, 8), norm=None)
    with torch.no_grad():
        for p in neck.parameters():
            p.zero_()
        for lateral in neck.laterals:
            lateral.conv.weight.fill_(1)
        for smooth in neck.smooth:
            smooth.conv.weight[0, 0, 1, 1] = 1
    fine, coarse = torch.arange(16.0).reshape(1, 1, 4, 4), torch.tensor([[[[100.0, 200.0], [300.0, 400.0]]]])
    answer = neck([fine, coarse])
    assert torch.equal(answer[0], fine + coarse.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(answer[1], coarse)


def test_a_unet_decoder_reads_every_level():
    levels = random_levels(requires_grad=True)
    UNetDecoder(2, CHANNELS, STRIDES, channels=(8, 6, 4, 4))(levels)[0].sum().backward()
    assert all(level.grad is not None and level.grad.abs().sum() > 0 for level in levels)


def test_a_unet_decoder_can_leave_the_finest_level_out():
    levels = random_levels(requires_grad=True)
    UNetDecoder(2, CHANNELS, STRIDES, channels=(8, 6, 4, 4), finest_skip=False)(levels)[0].sum().backward()
    assert levels[0].grad is None
    assert levels[1].grad is not None


def test_a_reconstruction_comes_from_the_bottleneck_alone():
    levels = random_levels(requires_grad=True)
    decoder = ReconstructionDecoder(2, CHANNELS, STRIDES, channels=(8, 6, 4, 4))
    head = ReconstructionHead(2, decoder.channels, decoder.strides)
    whole = head(decoder(levels))["reconstruction"]
    whole.sum().backward()
    assert all(level.grad is None for level in levels[:-1])
    emptied = head(decoder([*levels[:-1], torch.zeros_like(levels[-1])]))["reconstruction"]
    assert not torch.allclose(whole, emptied, atol=1e-3)
    assert torch.equal(
        whole, head(decoder([*(torch.zeros_like(x) for x in levels[:-1]), levels[-1]]))["reconstruction"]
    )


def test_an_untrained_detection_head_says_the_prior_everywhere():
    head = DetectionHead(2, (8, 8), (4, 8), BOXES)
    for level in head([torch.randn(1, 8, 8, 8), torch.randn(1, 8, 4, 4)]).values():
        for channel in (0, 5):
            assert level[:, channel].mean().item() == pytest.approx(-4.595120, abs=0.2)
        assert level[:, 1:5].abs().max() < 1
    assert head.levels[0].classes.bias.item() == pytest.approx(-math.log(99), abs=1e-6)
    assert head.levels[1].quality.bias.item() == pytest.approx(-4.595120, abs=1e-6)


def test_detection_channels_come_in_the_order_class_offsets_quality_lesion():
    head = DetectionHead(
        3, (4,), (4,), OutputSpec("b", "boxes", BOXES.labels, (4,), "sigmoid", lesion_channels=BOXES.lesion_channels)
    )
    level = head.levels[0]
    for value, part in enumerate((level.classes, level.offsets, level.quality, level.lesion)):
        nn.init.zeros_(part.weight)
        nn.init.constant_(part.bias, float(value))
    answer = head([torch.randn(1, 4, 2, 2, 2)])["b_s4"]
    assert answer[0, :, 0, 0, 0].tolist() == [0.0] + [1.0] * 6 + [2.0] + [3.0] * 3


def test_offsets_do_not_move_with_the_class_tower():
    head = DetectionHead(2, (8,), (4,), OutputSpec("b", "boxes", BOXES.labels, (4,), "sigmoid"))
    head([torch.randn(1, 8, 4, 4)])["b_s4"][:, 1:].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in head.levels[0].class_tower.parameters())
    assert any(p.grad.any() for p in head.levels[0].box_tower.parameters())


def test_a_shared_detection_head_answers_alike_at_every_level():
    head = DetectionHead(2, (8, 8), (4, 8), BOXES, shared=True)
    x = torch.randn(1, 8, 4, 4)
    first, second = head([x, x]).values()
    assert torch.equal(first, second)


def test_every_window_has_the_same_weight_at_first():
    head = ClassificationHead((8,), CLASSES, window_weight=True)
    answer = head([torch.randn(3, 8, 4, 4)])["classes"]
    assert answer.shape == (3, len(CLASSES.labels) + 1)
    assert torch.equal(answer[:, -1], torch.zeros(3))
    assert answer[:, :-1].abs().min() > 0


def test_classification_reads_the_mean_of_the_coarsest_level():
    head = ClassificationHead((2, 8), CLASSES)
    level = torch.randn(2, 8, 4, 6)
    expected = level.mean((2, 3)) @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head([torch.zeros(2, 2, 8, 12), level])["classes"], expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SegmentationHead(2, CHANNELS, STRIDES, labels=TISSUES, dropout=p),
        lambda p: ReconstructionHead(2, CHANNELS, STRIDES, dropout=p),
        lambda p: ClassificationHead(CHANNELS, CLASSES, dropout=p),
        lambda p: DetectionHead(2, CHANNELS[2:4], (4, 8), BOXES, dropout=p),
    ],
)
def test_dropout_acts_in_training_alone(make):
    torch.manual_seed(0)
    head = make(0.5)
    levels = random_levels()
    levels = levels[2:4] if isinstance(head, DetectionHead) else levels
    name = head.outputs[0].tensor_names[0]
    assert not torch.equal(head.train()(levels)[name], head(levels)[name])
    assert torch.equal(head.eval()(levels)[name], head(levels)[name])
    assert set(head.state_dict()) == set(make(0.0).state_dict())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: VGG13(2, 1, (8, 8)), "five stages"),
        (lambda: ResNetEncoder(2, 1, 12), "10, 18, 34, 50"),
        (lambda: FPN(2, CHANNELS, STRIDES, strides=(4, 64)), "finest first"),
        (lambda: FPN(2, CHANNELS, STRIDES, strides=(8, 4)), "finest first"),
        (lambda: PickLevels(CHANNELS, STRIDES, (3,)), "(1, 2, 4, 8, 16)"),
        (lambda: UNetDecoder(2, CHANNELS, STRIDES, channels=(8,) * 5), "stride 16"),
        (lambda: UNetDecoder(2, CHANNELS, STRIDES, channels=(8,) * 4, levels=5), "1 to 4"),
        (lambda: ReconstructionDecoder(2, CHANNELS, STRIDES, channels=(8, 8)), "stride 16 to 1"),
        (lambda: SegmentationHead(2, CHANNELS, STRIDES), "no labels"),
        (lambda: SegmentationHead(2, (4,), (2,), output=OutputSpec("pred", "dense", TISSUES, (1,))), "strides (2,)"),
        (lambda: ReconstructionHead(2, (4,), (2,), output=CLASSES), "expected a dense one"),
        (lambda: ClassificationHead((4,), BOXES), "expected kind 'global'"),
        (lambda: DetectionHead(2, (4, 4), (8, 16), BOXES), "strides (8, 16)"),
        (lambda: DetectionHead(2, (4, 6), (4, 8), BOXES, shared=True), "cannot share"),
    ],
)
def test_a_part_that_cannot_be_built_says_why(make, text):
    with pytest.raises(ValueError) as caught:
        make()
    assert text in str(caught.value)
