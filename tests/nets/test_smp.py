"""Encoder x decoder against segmentation_models_pytorch 0.6.0: its parameters, its work, its weights' answers."""

from __future__ import annotations

import re

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mtnet.nets.blocks import make_conv
from mtnet.nets.decoders import make_decoder
from mtnet.nets.encoders import make_encoder
from tests.nets.builders import parameters

SMP = {"unet": smp.Unet, "unetplusplus": smp.UnetPlusPlus, "fpn": smp.FPN, "deeplabv3plus": smp.DeepLabV3Plus}
NORMS = {name: ("group", {"num_groups": 32}) if name == "fpn" else "batch" for name in SMP}

COUNTS = {
    "resnet50": (32_521_105, 48_985_745, 26_116_033, 26_677_585),
    "resnext50_32x4d": (31_992_977, 48_457_617, 25_587_905, 26_149_457),
    "wide_resnet50_2": (75_847_313, 92_311_953, 69_442_241, 70_003_793),
    "efficientnet_b4": (19_412_377, 19_818_073, 18_545_353, 17_809_817),
}
GREY_COUNTS = {
    "resnet50": (32_514_833, 48_979_473, 26_109_761, 26_671_313),
    "resnext50_32x4d": (31_986_705, 48_451_345, 25_581_633, 26_143_185),
    "wide_resnet50_2": (75_841_041, 92_305_681, 69_435_969, 69_997_521),
}
GMAC_AT_256 = {
    "resnet50": (10.633, 57.441, 7.786, 9.141),
    "resnext50_32x4d": (10.817, 57.626, 7.971, 9.143),
    "wide_resnet50_2": (20.179, 66.987, 17.332, 23.770),
}
# Channels of smp's own ResNets (50) and of its own EfficientNet-B4, whose taps lie elsewhere than timm's.
DECODERS_ALONE = {
    (64, 256, 512, 1024, 2048): (9_012_928, 25_477_568, 2_607_872, 3_169_296),
    (48, 32, 56, 160, 448): (2_676_928, 3_264_352, 1_803_008, 1_067_344),
}
CELLS = [(encoder, decoder) for encoder in COUNTS for decoder in SMP]


class Ours(nn.Module):
    """The same cell of the grid, put together from our parts."""

    def __init__(self, encoder: str, decoder: str, in_channels: int = 3) -> None:
        super().__init__()
        self.encoder = make_encoder(encoder, 2, in_channels, output_stride=16 if decoder == "deeplabv3plus" else None)
        self.decoder = make_decoder(decoder, 2, self.encoder.channels, self.encoder.strides, norm=NORMS[decoder])
        self.stride = self.decoder.strides[0]
        self.head = make_conv(2, self.decoder.channels[0], 1, 3 if self.stride == 1 else 1)

    def forward(self, x: Tensor) -> Tensor:
        answer = self.head(self.decoder(self.encoder(x))[0])
        return nn.functional.interpolate(answer, scale_factor=self.stride, mode="bilinear", align_corners=True)


def theirs(encoder: str, decoder: str) -> nn.Module:
    return SMP[decoder](f"tu-{encoder}", encoder_weights=None, classes=1)


def unetplusplus_block(match: re.Match[str]) -> str:
    """Their x_<start>_<end> of the triangle (four levels above the coarsest) by its place in the order of making."""
    start, end = int(match[1]), int(match[2])
    column = end - start
    place = 10 if end == 4 else 4 * column - column * (column - 1) // 2 + start
    return f"decoder.blocks.{place}"


NAMES = [
    (r"^encoder\.model", "encoder.net"),
    (r"^segmentation_head\.0", "head"),
    (r"^decoder\.blocks\.x_(\d)_(\d)", unetplusplus_block),
    (r"\.conv([12])\.0\.", lambda m: f".{int(m[1]) - 1}.conv."),
    (r"\.conv([12])\.1\.", lambda m: f".{int(m[1]) - 1}.norm."),
    (r"^decoder\.p5", "decoder.laterals.3"),
    (r"^decoder\.p([234])\.skip_conv", lambda m: f"decoder.laterals.{int(m[1]) - 2}"),
    (r"^decoder\.seg_blocks\.(\d)\.block\.(\d)", lambda m: f"decoder.climbs.{3 - int(m[1])}.{2 * int(m[2])}"),
    (r"\.block\.0\.", ".conv."),
    (r"\.block\.1\.", ".norm."),
    (r"^decoder\.aspp\.0\.convs\.0\.0", "decoder.aspp.point.conv"),
    (r"^decoder\.aspp\.0\.convs\.0\.1", "decoder.aspp.point.norm"),
    (r"^decoder\.aspp\.0\.convs\.4\.1", "decoder.aspp.whole.conv"),
    (r"^decoder\.aspp\.0\.convs\.4\.2", "decoder.aspp.whole.norm"),
    (r"^decoder\.aspp\.0\.convs\.(\d)\.0\.0", lambda m: f"decoder.aspp.rates.{int(m[1]) - 1}.depthwise"),
    (r"^decoder\.aspp\.0\.convs\.(\d)\.0\.1", lambda m: f"decoder.aspp.rates.{int(m[1]) - 1}.pointwise.conv"),
    (r"^decoder\.aspp\.0\.convs\.(\d)\.1", lambda m: f"decoder.aspp.rates.{int(m[1]) - 1}.pointwise.norm"),
    (r"^decoder\.aspp\.0\.project\.0", "decoder.aspp.project.conv"),
    (r"^decoder\.aspp\.0\.project\.1", "decoder.aspp.project.norm"),
    (r"^decoder\.aspp\.1\.0", "decoder.refine.depthwise"),
    (r"^decoder\.aspp\.1\.1", "decoder.refine.pointwise.conv"),
    (r"^decoder\.aspp\.2", "decoder.refine.pointwise.norm"),
    (r"^decoder\.block1\.0", "decoder.detail.conv"),
    (r"^decoder\.block1\.1", "decoder.detail.norm"),
    (r"^decoder\.block2\.0\.0", "decoder.fuse.depthwise"),
    (r"^decoder\.block2\.0\.1", "decoder.fuse.pointwise.conv"),
    (r"^decoder\.block2\.1", "decoder.fuse.pointwise.norm"),
]
"""Their names of weights to ours, one after another."""


def our_name(key: str) -> str:
    for pattern, name in NAMES:
        key = re.sub(pattern, name, key)
    return key


@pytest.mark.parametrize(("encoder", "decoder"), CELLS)
def test_each_cell_of_the_grid_has_smps_parameters(encoder, decoder):
    with torch.device("meta"):
        net = Ours(encoder, decoder)
        assert parameters(net) == COUNTS[encoder][list(SMP).index(decoder)]
        assert parameters(net) == parameters(theirs(encoder, decoder))


@pytest.mark.parametrize(("encoder", "decoder"), [(e, d) for e, d in CELLS if e in GREY_COUNTS])
def test_one_channel_takes_two_thirds_of_the_first_convolution_away(encoder, decoder):
    with torch.device("meta"):
        assert parameters(Ours(encoder, decoder, in_channels=1)) == GREY_COUNTS[encoder][list(SMP).index(decoder)]


@pytest.mark.parametrize("channels", DECODERS_ALONE)
@pytest.mark.parametrize("decoder", SMP)
def test_a_decoder_has_smps_parameters_on_smps_own_encoders(decoder, channels):
    with torch.device("meta"):
        part = make_decoder(decoder, 2, channels, (2, 4, 8, 16, 32), norm=NORMS[decoder])
    assert parameters(part) == DECODERS_ALONE[channels][list(SMP).index(decoder)]


@pytest.mark.parametrize(("encoder", "decoder"), [(e, d) for e, d in CELLS if e in GMAC_AT_256])
def test_each_cell_does_smps_work(encoder, decoder):
    with torch.device("meta"):
        net = Ours(encoder, decoder).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.zeros(1, 3, 256, 256))
    assert counter.get_total_flops() / 2e9 == pytest.approx(GMAC_AT_256[encoder][list(SMP).index(decoder)], abs=6e-4)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["resnet50", "efficientnet_b4"])
@pytest.mark.parametrize("decoder", SMP)
def test_smps_weights_give_smps_answers(encoder, decoder):
    torch.manual_seed(0)
    reference, net = theirs(encoder, decoder).eval(), Ours(encoder, decoder).eval()
    weights = reference.state_dict()
    for key, tensor in weights.items():
        # Norms that have seen data, so that a mixed-up mean or variance shows.
        if key.endswith("running_mean") or (key.endswith("bias") and tensor.ndim == 1):
            tensor.normal_(0, 0.1)
        elif key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    net.load_state_dict({our_name(key): tensor for key, tensor in weights.items()})
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected, answer = reference(x), net(x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(answer, expected, atol=1e-4, rtol=1e-4)
