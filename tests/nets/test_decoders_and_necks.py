"""What single decoders and necks read, refuse and compute; what all of them promise stands in test_contract.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtnet.nets.decoders import (
    ASPP,
    DECODERS,
    DeepLabV3PlusDecoder,
    FPNDecoder,
    InfusedUNetDecoder,
    LevelTowers,
    UNetPlusPlusDecoder,
    UNetV2Decoder,
    YOLOSegmentationDecoder,
    make_decoder,
)
from mtnet.nets.necks import CBAM, PAN, SDI, SPP
from tests.nets.builders import parameters
from tests.nets.parts import CHANNELS, NECKS, SIZES, STRIDES
from tests.nets.parts import DECODERS as DECODING

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

PARTS = {name: case for name, case in {**DECODING, **NECKS}.items() if case.reads != "vector"}
IDLE = {
    "deeplabv3+": [1, 2],
    "deeplabv3+ on a dilated encoder": [1, 2],
    "fpn": [0],
    "picked levels": [1, 3],
    "reconstruction": [0, 1, 2],
    "shared vector": [0, 1, 2],
    "spp and fpn": [0],
    "unet that stops early": [0],
    "unet with several levels": [0],
}
"""Levels that a part is given and does not read, by their place; none for all others."""


@pytest.mark.parametrize("name", PARTS)
def test_every_level_that_a_part_reads_counts_and_no_other(name):
    torch.manual_seed(0)
    part = PARTS[name].make(2, "group").eval()
    given = [level.requires_grad_() for level in PARTS[name].given(2)]
    torch.stack([level.square().sum() for level in part(given)]).sum().backward()
    idle = [i for i, level in enumerate(given) if level.grad is None or not level.grad.abs().sum() > 0]
    assert idle == IDLE.get(name, [])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_is_made_by_its_name_for_any_encoder(name, dims):
    from mtnet.nets.encoders import VGG13, ResNetEncoder

    for encoder in (VGG13(dims, 1, (2, 3, 4, 5, 6)), ResNetEncoder(dims, 1, 10, width=2)):
        decoder = make_decoder(name, dims, encoder.channels, encoder.strides, norm="group").eval()
        size = [64, 32, 32][:dims]
        with torch.no_grad():
            levels = decoder(encoder.eval()(torch.zeros(1, 1, *size)))
        assert [x.shape[2:] for x in levels] == [torch.Size(n // stride for n in size) for stride in decoder.strides]
        assert decoder.strides[0] in (1, 2, 4)


def test_an_unknown_decoder_is_an_error_that_lists_the_names():
    with pytest.raises(ValueError, match=f"decoder is 'unet3'.*{', '.join(DECODERS)}"):
        make_decoder("unet3", 2, CHANNELS, STRIDES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UNetPlusPlusDecoder(2, (3, 5), (4, 16)), "twice the one before"),
        (lambda: UNetPlusPlusDecoder(2, (3, 5, 7), (2, 4, 8), channels=(4,)), "each of the 2 levels"),
        (lambda: UNetPlusPlusDecoder(2, (3, 5), (2, 4), channels=(4, 4, 4)), "3 blocks cannot start at stride 4"),
        (lambda: UNetPlusPlusDecoder(2, (3, 5), (2, 4), levels=3), "levels is 3; expected 1 to 2"),
        (lambda: FPNDecoder(2, (3, 5), (8, 16)), "needs a level of stride 4"),
        (lambda: FPNDecoder(2, (3, 5), (4, 4)), "twice the one before"),
        (lambda: DeepLabV3PlusDecoder(2, (3, 5), (2, 4)), "coarser than 4"),
        (lambda: DeepLabV3PlusDecoder(2, (3, 5), (4,)), "one stride for each number of channels"),
        (lambda: UNetV2Decoder(2, (3, 5), (4, 16)), "twice the one before"),
        (lambda: UNetV2Decoder(2, (3, 5), (4, 8), levels=3), "levels is 3; expected 1 to 2"),
        (lambda: SDI(2, (3, 5), (4, 6)), "multiple of the one before"),
        (lambda: SDI(2, (3, 5), (4, 8), levels=3), "levels is 3; expected 1 to 2"),
        (lambda: InfusedUNetDecoder(2, (3, 5, 7), (1, 2, 4)), "a level of stride 4 or more before the coarsest"),
        (lambda: SPP(2, (3, 5), (8, 4)), "finest first"),
        (lambda: PAN(2, (3, 5), (4, 8), strides=(4, 16)), "expected some of"),
        (lambda: LevelTowers(2, (3,), (4,), convs=0), "convs is 0"),
        (lambda: YOLOSegmentationDecoder(2, (3,), (2,), channels=(4, 4, 4)), "2 doublings cannot start at stride 2"),
    ],
)
def test_levels_that_a_part_cannot_read_are_an_error_that_says_which(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_level_reaches_every_product_of_sdi_before_the_others_say_anything(dims, level):
    neck = SDI(dims, CHANNELS, STRIDES, channels=4)
    reduced = [torch.zeros(1, 4, *x.shape[2:]) for x in NECKS["sdi"].given(dims)]
    for infuse in neck.infuse:
        torch.testing.assert_close(infuse(reduced), torch.ones_like(reduced[infuse.target]))
    reduced[level] = 1 + torch.rand_like(reduced[level])
    own = neck.infuse[level]
    torch.testing.assert_close(own(reduced), own.views[level](reduced[level]))
    for infuse in neck.infuse:
        assert (infuse(reduced) - 1).abs().mean() > 0.05


def test_spp_is_max_pools_of_5_9_and_13():
    neck = SPP(2, CHANNELS, STRIDES, norm="batch").eval()
    given = NECKS["spp"].given(2)
    near = neck.squeeze(given[-1])
    pools = [nn.functional.max_pool2d(near, k, stride=1, padding=k // 2) for k in (5, 9, 13)]
    torch.testing.assert_close(neck(given)[-1], neck.join(torch.cat([near, *pools], dim=1)))
    assert all(one is other for one, other in zip(neck(given)[:-1], given[:-1], strict=True))


def test_the_necks_of_yolo_med_have_the_designs_parameters():
    with torch.device("meta"):
        spp = SPP(2, (256, 512, 1024), (8, 16, 32), norm="batch")
        assert parameters(spp) == 2_624_512
        assert (spp.channels, spp.strides) == ((256, 512, 1024), (8, 16, 32))
        # On top of the pyramid's 2,231,296: two strided convolutions down and two that smooth.
        assert parameters(PAN(2, spp.channels, spp.strides, norm="batch")) == 2_231_296 + 4 * (9 * 256 * 256 + 512)


def test_a_rate_that_leaves_the_level_sees_the_middle_tap_alone():
    aspp = ASPP(2, 4, 4, rates=(36,), norm="batch").eval()
    x = torch.randn(1, 4, 6, 6)
    depthwise = aspp.rates[0].depthwise
    torch.testing.assert_close(depthwise(x), x * depthwise.weight[:, :, 1, 1][None, :, :, None])


@pytest.mark.parametrize("dims", [2, 3])
def test_cbam_weighs_between_nothing_and_all(dims):
    x = torch.rand(2, 5, *SIZES[dims][:dims])
    weighed = CBAM(dims, 5)(x)
    assert weighed.shape == x.shape
    assert (weighed >= 0).all()
    assert (weighed <= x).all()
