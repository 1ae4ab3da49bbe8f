"""Numbers of parameters against torchvision, segmentation_models_pytorch 0.6.0, YOLOX and MONAI (measured there)."""

from __future__ import annotations

import pytest
import torch

from mtnet.nets import (
    FPN,
    VGG13,
    DetectionHead,
    PickLevels,
    ResNetEncoder,
    SegmentationHead,
    UNetDecoder,
)
from mtnet.structures import Label, OutputSpec
from tests.nets.builders import parameters

LESION = (Label(0, "lesion"),)
SMP_UNET = {"channels": (256, 128, 64, 32, 16), "norm": "batch"}


@pytest.fixture(autouse=True)
def without_memory():
    with torch.device("meta"):
        yield


@pytest.mark.parametrize(
    ("in_channels", "norm", "count"),
    [(3, None, 9_404_992), (1, None, 9_403_840), (3, "batch", 9_410_880), (1, "batch", 9_409_728)],
)
def test_vgg13_has_torchvisions_parameters(in_channels, norm, count):
    assert parameters(VGG13(2, in_channels, norm=norm)) == count


@pytest.mark.parametrize(
    ("depth", "in_channels", "count"),
    [
        (18, 3, 11_176_512),
        (18, 1, 11_170_240),
        (34, 3, 21_284_672),
        (34, 1, 21_278_400),
        (50, 3, 23_508_032),
        (50, 1, 23_501_760),
    ],
)
def test_resnets_have_torchvisions_parameters(depth, in_channels, count):
    assert parameters(ResNetEncoder(2, in_channels, depth, norm="batch")) == count


@pytest.mark.parametrize(
    ("depth", "features", "biases", "count"),
    [
        (10, 512, 128 + 256 + 512, 14_356_929),
        (18, 512, 128 + 256 + 512, 33_161_409),
        (34, 512, 128 + 256 + 512, 63_471_041),
        (50, 2048, 256 + 512 + 1024 + 2048, 46_160_961),
    ],
)
def test_3d_resnets_have_monais_parameters_less_shortcut_biases_and_last_layer(depth, features, biases, count):
    assert parameters(ResNetEncoder(3, 1, depth, norm="batch")) == count - biases - (features + 1)


@pytest.mark.parametrize(
    ("in_channels", "norm", "count"),
    [(1, None, 18_437_393), (3, None, 18_438_545), (1, "batch", 18_443_281), (3, "batch", 18_444_433)],
)
def test_unet_on_vgg13_has_smps_parameters(in_channels, norm, count):
    encoder = VGG13(2, in_channels, norm=norm, pooled_tap=True)
    decoder = UNetDecoder(2, encoder.channels, encoder.strides, **SMP_UNET, centre=True, finest_skip=False)
    head = SegmentationHead(2, decoder.channels, decoder.strides, labels=LESION, activation="sigmoid")
    assert parameters(decoder) == 9_033_408
    assert parameters(head) == 145
    assert parameters(encoder) + parameters(decoder) + parameters(head) == count


@pytest.mark.parametrize(("in_channels", "count"), [(1, 32_514_833), (3, 32_521_105)])
def test_unet_on_resnet50_has_smps_parameters(in_channels, count):
    encoder = ResNetEncoder(2, in_channels, 50, norm="batch")
    decoder = UNetDecoder(2, encoder.channels, encoder.strides, **SMP_UNET)
    head = SegmentationHead(2, decoder.channels, decoder.strides, labels=LESION, activation="sigmoid")
    assert parameters(decoder) == 9_012_928
    assert parameters(encoder) + parameters(decoder) + parameters(head) == count


def test_fpn_on_cspdarknet_taps_has_the_designs_parameters():
    assert parameters(FPN(2, (256, 512, 1024), (8, 16, 32), channels=256, strides=(8, 16, 32), norm="batch")) == (
        2_231_296
    )


def test_three_unshared_decoupled_heads_have_the_designs_parameters():
    spec = OutputSpec("boxes", "boxes", LESION, (8, 16, 32), "sigmoid")
    assert parameters(DetectionHead(2, (256,) * 3, (8, 16, 32), spec, norm="batch")) == 7_088_658


def test_shared_heads_have_the_parameters_of_one_level():
    spec = OutputSpec("boxes", "boxes", LESION, (8, 16, 32), "sigmoid")
    assert parameters(DetectionHead(2, (256,) * 3, (8, 16, 32), spec, norm="batch", shared=True)) == 7_088_658 // 3


def test_picking_levels_costs_nothing():
    assert parameters(PickLevels((8, 16), (4, 8))) == 0
