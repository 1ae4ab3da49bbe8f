"""U-Net v2 with PVTv2-B2: the authors' numbers, less what they never use, and the rule of their forward pass."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mtnet.nets.blocks import make_conv
from mtnet.nets.decoders import UNetV2Decoder
from mtnet.nets.encoders import make_encoder
from mtnet.nets.necks import CBAM
from tests.nets.builders import parameters

PVT = ((64, 128, 320, 512), (4, 8, 16, 32))


class UNetV2(nn.Module):
    """The published network: an answer of a 1-wide convolution a level, each four times the level's size."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = make_encoder("pvt_v2_b2", 2, 3)
        self.decoder = UNetV2Decoder(2, self.encoder.channels, self.encoder.strides, norm="batch")
        self.heads = nn.ModuleList(make_conv(2, c, classes, 1) for c in self.decoder.channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = self.decoder(self.encoder(x))
        return [
            F.interpolate(head(level), scale_factor=4, mode="bilinear")
            for head, level in zip(self.heads, levels, strict=True)
        ]


@contextmanager
def countable_attention():
    """Attention as plain products: the counter of operations does not see the fused one on a CPU."""
    from timm.layers import set_fused_attn

    set_fused_attn(False)
    try:
        yield
    finally:
        set_fused_attn(True)


@pytest.mark.parametrize(("classes", "count"), [(1, 25_128_652), (2, 25_128_784)])
def test_it_has_the_authors_parameters_less_an_unused_transposed_convolution(classes, count):
    with torch.device("meta"):
        net = UNetV2(classes)
    assert parameters(net) == count
    assert parameters(net) + 32 * 32 * 4 * 4 == {1: 25_145_036, 2: 25_145_168}[classes]


def test_each_part_has_the_authors_parameters():
    with torch.device("meta"):
        decoder = UNetV2Decoder(2, *PVT, norm="batch")
    assert [parameters(CBAM(2, c)) - 98 for c in PVT[0]] == [512, 2_048, 12_800, 32_768]
    assert [parameters(part[1]) for part in decoder.skips.reduce] == [2_112, 4_160, 10_304, 16_448]
    assert [parameters(part) for part in decoder.skips.infuse] == [36_992] * 4
    assert [parameters(part) for part in decoder.ups] == [16_384] * 3


@pytest.mark.parametrize(
    ("edge", "classes", "gmac"),
    [(224, 1, 4.209702), (256, 1, 5.555373), (352, 1, 10.912667), (256, 2, 5.555547)],
)
def test_it_does_the_authors_work_with_attention_counted(edge, classes, gmac):
    with countable_attention(), torch.device("meta"):
        net = UNetV2(classes).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            answers = net(torch.zeros(1, 3, edge, edge))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=1e-6)
    assert [x.shape[2:] for x in answers] == [(edge // n, edge // n) for n in (1, 2, 4, 8)]


def test_all_four_answers_train_all_of_it():
    decoder = UNetV2Decoder(2, (5, 6, 7, 8), PVT[1], channels=4, norm="batch")
    heads = nn.ModuleList(make_conv(2, 4, 1, 1) for _ in decoder.strides)
    levels = decoder([torch.randn(2, c, 64 // s, 96 // s) for c, s in zip((5, 6, 7, 8), PVT[1], strict=True)])
    assert decoder.strides == (4, 8, 16, 32)
    sum(head(x).sum() for head, x in zip(heads, levels, strict=True)).backward()
    assert all(p.grad is not None for part in (decoder, heads) for p in part.parameters())


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_it_follows_the_published_rule(size):
    """Each axis is resized to its own length, so that sizes other than squares work as well."""
    torch.manual_seed(0)
    decoder = UNetV2Decoder(2, (48, 64, 80, 96), PVT[1], channels=8, norm="batch").eval()
    given = [torch.randn(2, c, size[0] // s, size[1] // s) for c, s in zip((48, 64, 80, 96), PVT[1], strict=True)]

    reduced = []
    for x, (attention, reduce) in zip(given, decoder.skips.reduce, strict=True):
        first, _, second = attention.channels.weigh
        pooled = [F.conv2d(F.relu(F.conv2d(p, first.weight)), second.weight) for p in (mean_of(x), max_of(x))]
        by_channel = torch.sigmoid(pooled[0] + pooled[1]) * x
        seen = torch.stack([by_channel.mean(1), by_channel.max(1).values], dim=1)
        by_place = torch.sigmoid(F.conv2d(seen, attention.places.conv.weight, padding=3)) * by_channel
        reduced.append(reduce.norm(F.conv2d(by_place, reduce.conv.weight)))
    skips = []
    for target, infuse in enumerate(decoder.skips.infuse):
        shape = reduced[target].shape[2:]
        product = torch.ones_like(reduced[target])
        for i, level in enumerate(reduced):
            x = level
            if i < target:
                x = F.adaptive_avg_pool2d(level, shape)
            elif i > target:
                x = F.interpolate(level, size=shape, mode="bilinear", align_corners=True)
            conv = infuse.views[i][1]
            product = product * F.conv2d(x, conv.weight, conv.bias, padding=1)
        skips.append(product)
    y4 = skips[3]
    y3 = F.conv_transpose2d(y4, decoder.ups[0].weight, stride=2, padding=1) + skips[2]
    y2 = F.conv_transpose2d(y3, decoder.ups[1].weight, stride=2, padding=1) + skips[1]
    y1 = F.conv_transpose2d(y2, decoder.ups[2].weight, stride=2, padding=1) + skips[0]

    for answer, expected in zip(decoder(given), (y1, y2, y3, y4), strict=True):
        torch.testing.assert_close(answer, expected)


def mean_of(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)


def max_of(x: Tensor) -> Tensor:
    return x.amax((2, 3), keepdim=True)
