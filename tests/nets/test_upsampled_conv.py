from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mtnet.inference.memory_layout import lay_out
from mtnet.nets import ReconstructionDecoder, UNetDecoder
from mtnet.nets.decoders import UNetPlusPlusDecoder, YOLOSegmentationDecoder
from mtnet.nets.upsampled_conv import UpsampledConvs, fold_upsampling, upsampled_convs
from mtnet.training import AutocastInferer

CHANNELS, STRIDES = (3, 4, 6, 8), (1, 2, 4, 8)


def levels(dims, size=3):
    generator = torch.Generator().manual_seed(1)
    edges = (size + 2, size, size + 1)[:dims]
    return [
        torch.randn(2, channels, *(edge * 8 // stride for edge in edges), generator=generator)
        for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]


def folds(network):
    return [module.folded for module in network.modules() if isinstance(module, UpsampledConvs)]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", [None, "group"])
def test_folded_it_is_upsampling_joining_and_convolving_up_to_the_border(dims, norm):
    torch.manual_seed(0)
    block = upsampled_convs(dims, 5 + 3 + 2, 4, 2, norm).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    coarse = torch.randn(2, 5, *(3, 1, 4)[:dims], dtype=torch.float64)
    others = [torch.randn(2, c, *(6, 2, 8)[:dims], dtype=torch.float64) for c in (3, 2)]
    upsampled = nn.functional.interpolate(coarse, scale_factor=2, mode="nearest")
    expected = nn.Sequential(*block.children())(torch.cat([upsampled, *others], dim=1))
    torch.testing.assert_close(block(coarse, others), expected, rtol=0, atol=0)
    fold_upsampling(block, folded=True)
    torch.testing.assert_close(block(coarse, others), expected)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "decoder",
    [
        lambda dims: UNetDecoder(dims, CHANNELS, STRIDES, channels=(8, 6, 4)),
        lambda dims: UNetPlusPlusDecoder(dims, CHANNELS, STRIDES, channels=(8, 6, 4)),
        lambda dims: ReconstructionDecoder(dims, CHANNELS, STRIDES, channels=(8, 6, 4)),
        lambda dims: YOLOSegmentationDecoder(dims, CHANNELS[2:], STRIDES[2:], channels=(16, 8, 4)),
    ],
    ids=["unet", "unetplusplus", "reconstruction", "yolo"],
)
def test_every_decoder_answers_and_learns_the_same_folded(decoder, dims):
    torch.manual_seed(0)
    plain = decoder(dims).double()
    folded = copy.deepcopy(plain)
    fold_upsampling(folded, folded=True)
    assert set(folds(folded)) == {True}
    assert set(folds(plain)) == {False}
    given = [level.double() for level in levels(dims)]
    given = given[2:] if isinstance(plain, YOLOSegmentationDecoder) else given
    for one in (plain, folded):
        one.answer = one(given)[0]
        one.answer.square().mean().backward()
    torch.testing.assert_close(folded.answer, plain.answer)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(dict(folded.named_parameters())[name].grad, parameter.grad, msg=name)


def test_the_weights_are_those_of_a_network_that_is_not_folded():
    network = UNetDecoder(2, CHANNELS, STRIDES, channels=(8, 6, 4))
    names = list(network.state_dict())
    fold_upsampling(network, folded=True)
    assert list(network.state_dict()) == names
    assert names[0] == "blocks.0.0.conv.weight"


def test_on_a_cpu_a_network_runs_and_trains_folded():
    network = nn.ModuleList([UNetDecoder(2, CHANNELS, STRIDES, channels=(8, 6, 4))])
    assert set(folds(network)) == {False}
    lay_out(network, "cpu")
    assert set(folds(network)) == {True}
    fold_upsampling(network, folded=False)

    class Upsampling(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = upsampled_convs(2, 1, 1, 1, None)

        def forward(self, image):
            return self.block(image, [])

    trained = Upsampling()
    AutocastInferer("float32")(torch.zeros(1, 1, 4, 4), trained)
    assert folds(trained) == [True]


def test_folded_it_compiles():
    torch.manual_seed(0)
    network = UNetDecoder(3, CHANNELS, STRIDES, channels=(8, 6, 4)).eval()
    given = levels(3, size=2)
    fold_upsampling(network, folded=True)
    with torch.no_grad():
        expected = network(given)[0]
        torch.testing.assert_close(torch.compile(network, dynamic=False)(given)[0], expected, rtol=1e-4, atol=1e-4)
