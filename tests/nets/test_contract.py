"""What every part promises, in 2D and 3D, for every norm and for odd widths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtnet.nets import (
    FPN,
    VGG13,
    ClassificationHead,
    CSPDarknet53,
    DetectionHead,
    EfficientNetEncoder,
    PickLevels,
    ReconstructionDecoder,
    ReconstructionHead,
    ResNetEncoder,
    SegmentationHead,
    UNetDecoder,
)
from mtnet.nets.blocks import make_norm
from mtnet.structures import OutputSpec
from tests.nets.builders import BOXES, CLASSES, TISSUES, image

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

DIMS = (2, 3)
NORMS = ("group", "batch", "instance", ("group", {"num_groups": 3}), None)
ODD, STRIDES = (3, 5, 7, 9, 11), (1, 2, 4, 8, 16)
STRIDED = (2, 4, 8, 16, 32)

ENCODERS = {
    "vgg13": lambda dims, norm: VGG13(dims, 1, ODD, norm),
    "vgg13 with a pooled tap": lambda dims, norm: VGG13(dims, 1, ODD, norm, pooled_tap=True),
    "cspdarknet53": lambda dims, norm: CSPDarknet53(dims, 1, norm, width=2),
    "efficientnet_b0": lambda dims, norm: EfficientNetEncoder(dims, 1, "b0", norm),
    "resnet10": lambda dims, norm: ResNetEncoder(dims, 1, 10, norm, width=3),
    "resnet18": lambda dims, norm: ResNetEncoder(dims, 1, 18, norm, width=3),
    "resnet50": lambda dims, norm: ResNetEncoder(dims, 1, 50, norm, width=3),
}
PICKS = {
    "fpn": lambda dims, norm: FPN(dims, ODD, STRIDES, channels=5, strides=(4, 8, 16), norm=norm),
    "fpn that gives some levels": lambda dims, norm: FPN(dims, ODD, STRIDES, channels=5, strides=(2, 8), norm=norm),
    "unet": lambda dims, norm: UNetDecoder(dims, ODD, STRIDES, channels=(9, 7, 5, 3), norm=norm),
    "unet that stops early": lambda dims, norm: UNetDecoder(dims, ODD, STRIDES, channels=(9, 7), norm=norm),
    "unet with several levels": lambda dims, norm: UNetDecoder(
        dims, ODD, STRIDES, channels=(9, 7, 5, 3), norm=norm, levels=3, centre=True, finest_skip=False
    ),
    "reconstruction": lambda dims, norm: ReconstructionDecoder(dims, ODD, STRIDES, channels=(9, 7, 5, 3), norm=norm),
    "deepest level": lambda dims, norm: PickLevels(ODD, STRIDES),
    "picked levels": lambda dims, norm: PickLevels(ODD, STRIDES, (2, 8)),
    "unet on strides 2 to 32": lambda dims, norm: UNetDecoder(dims, ODD, STRIDED, channels=(9, 8, 7, 5, 3), norm=norm),
}
HEADS = {
    "segmentation": lambda dims, norm: SegmentationHead(dims, ODD, STRIDES, labels=TISSUES),
    "segmentation at stride 4": lambda dims, norm: SegmentationHead(
        dims, ODD, STRIDES, output=OutputSpec("pred", "dense", TISSUES, (4,), "softmax"), kernel_size=1
    ),
    "reconstruction": lambda dims, norm: ReconstructionHead(dims, ODD, STRIDES),
    "classification": lambda dims, norm: ClassificationHead(ODD, CLASSES),
    "measured value": lambda dims, norm: ClassificationHead(ODD, OutputSpec("diameter", "global", units="mm")),
}


def levels_of(channels, strides, dims):
    base = image(dims, edge=32, batch=2)
    return [torch.randn(2, c, *(n // s for n in base.shape[2:])) for c, s in zip(channels, strides, strict=True)]


def assert_scripts(part: nn.Module, argument) -> None:
    part = part.eval()
    with torch.no_grad():
        plain, scripted = part(argument), torch.jit.script(part)(argument)
    assert type(plain) is type(scripted)
    pairs = (
        zip(plain.values(), scripted.values(), strict=True)
        if isinstance(plain, dict)
        else zip(plain, scripted, strict=True)
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_gives_the_levels_that_it_says(name, dims, norm):
    encoder = ENCODERS[name](dims, norm)
    x = image(dims, edge=64 if dims == 2 else 32)
    # One voxel has no variance: norms over space need the larger image of 2D, or their inference mode.
    levels = encoder.train(dims == 2)(x)
    assert len(levels) == len(encoder.channels) == len(encoder.strides)
    assert list(encoder.strides) == sorted(encoder.strides)
    for level, channels, stride in zip(levels, encoder.channels, encoder.strides, strict=True):
        assert level.shape == (2, channels, *(n // stride for n in x.shape[2:]))


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("name", PICKS)
def test_a_neck_or_decoder_gives_the_levels_that_it_says(name, dims, norm):
    part = PICKS[name](dims, norm)
    given = levels_of(ODD, STRIDED if "strides 2 to 32" in name else STRIDES, dims)
    size = image(dims).shape[2:]
    levels = part.eval()(given)
    assert len(levels) == len(part.channels) == len(part.strides)
    for level, channels, stride in zip(levels, part.channels, part.strides, strict=True):
        assert level.shape == (2, channels, *(n // stride for n in size))


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("name", HEADS)
def test_a_head_gives_the_outputs_that_it_says(name, dims):
    head = HEADS[name](dims, "group")
    (spec,) = head.outputs
    answers = head(levels_of(ODD, STRIDES, dims))
    assert tuple(answers) == spec.tensor_names
    size = [n // spec.strides[0] for n in image(dims).shape[2:]] if spec.kind == "dense" else []
    assert answers[spec.name].shape == (2, max(len(spec.labels), 1), *size)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("dims", DIMS)
def test_a_detection_head_gives_one_tensor_a_level(dims, norm, shared):
    head = DetectionHead(dims, (7, 7), (4, 8), BOXES, norm=norm, shared=shared, width=6, convs=1)
    answers = head(levels_of((7, 7), (4, 8), dims))
    assert tuple(answers) == BOXES.tensor_names == ("boxes_s4", "boxes_s8")
    for name, stride in (("boxes_s4", 4), ("boxes_s8", 8)):
        assert answers[name].shape == (2, BOXES.box_channels(dims), *(n // stride for n in image(dims).shape[2:]))


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_scripts(name, dims):
    assert_scripts(ENCODERS[name](dims, "group"), image(dims))


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("name", PICKS)
def test_a_neck_or_decoder_scripts(name, dims):
    assert_scripts(PICKS[name](dims, "group"), levels_of(ODD, STRIDED if "strides 2 to 32" in name else STRIDES, dims))


@pytest.mark.parametrize("name", HEADS)
def test_a_head_scripts(name):
    assert_scripts(HEADS[name](3, "group"), levels_of(ODD, STRIDES, 3))


@pytest.mark.parametrize("shared", [False, True])
def test_a_detection_head_scripts(shared):
    assert_scripts(DetectionHead(3, (7, 7), (4, 8), BOXES, shared=shared), levels_of((7, 7), (4, 8), 3))


@pytest.mark.parametrize(
    ("norm", "channels", "groups"),
    [
        ("group", 64, 8),
        ("group", 12, 4),
        ("group", 7, 1),
        (("group", {"num_groups": 32}), 48, 16),
        (["group", {}], 8, 8),
    ],
)
def test_the_groups_of_a_group_norm_divide_the_channels(norm, channels, groups):
    layer = make_norm(norm, 2, channels)
    assert isinstance(layer, nn.GroupNorm)
    assert layer.num_groups == groups


@pytest.mark.parametrize("name", [*ENCODERS, *PICKS])
def test_the_asked_norm_is_the_only_one(name):
    part = {**ENCODERS, **PICKS}[name](3, "instance")
    kinds = {type(m) for m in part.modules() if "Norm" in type(m).__name__ and type(m).__module__.startswith("torch")}
    assert kinds == (set() if isinstance(part, PickLevels) else {nn.InstanceNorm3d})
