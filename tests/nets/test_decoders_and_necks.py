"""What every decoder and neck promises: levels of the size it says, at odd sizes, trained whole, exported as it is."""

from __future__ import annotations

import io

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from mtnet.nets.decoders import (
    ASPP,
    DECODERS,
    DeepLabV3PlusDecoder,
    FPNDecoder,
    LevelTowers,
    UNetDecoder,
    UNetPlusPlusDecoder,
    UNetV2Decoder,
    YOLOSegmentationDecoder,
    make_decoder,
)
from mtnet.nets.necks import CBAM, PAN, SDI, SPP
from tests.nets.builders import parameters

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

CHANNELS = (3, 5, 7, 6)
STRIDES = (4, 8, 16, 32)
SIZES = {2: (96, 160), 3: (32, 96, 64)}
"""Multiples of the coarsest stride that are no powers of two, another along each axis."""

PARTS = {
    "unet": lambda dims, norm: UNetDecoder(dims, CHANNELS, STRIDES, channels=(8, 6, 5, 4, 3), norm=norm),
    "unet++": lambda dims, norm: UNetPlusPlusDecoder(dims, CHANNELS, STRIDES, channels=(8, 6, 5, 4), norm=norm),
    "unet++ with several levels": lambda dims, norm: UNetPlusPlusDecoder(
        dims, CHANNELS, STRIDES, channels=(8, 6, 5), norm=norm, levels=3, convs=1
    ),
    "fpn decoder": lambda dims, norm: FPNDecoder(
        dims, CHANNELS, STRIDES, channels=6, pyramid_channels=9, norm=norm, dropout=0.2
    ),
    "deeplabv3+": lambda dims, norm: DeepLabV3PlusDecoder(
        dims, CHANNELS, STRIDES, channels=8, detail_channels=4, rates=(1, 2), norm=norm
    ),
    "deeplabv3+ on a dilated encoder": lambda dims, norm: DeepLabV3PlusDecoder(
        dims, CHANNELS, (4, 8, 16, 16), channels=8, detail_channels=4, rates=(1, 2), norm=norm
    ),
    "unet v2": lambda dims, norm: UNetV2Decoder(dims, CHANNELS, STRIDES, channels=6, norm=norm),
    "unet v2 that answers once": lambda dims, norm: UNetV2Decoder(
        dims, CHANNELS, STRIDES, channels=6, norm=norm, levels=1
    ),
    "yolo segmentation": lambda dims, norm: YOLOSegmentationDecoder(
        dims, CHANNELS, STRIDES, channels=(8, 6, 4), norm=norm
    ),
    "level towers": lambda dims, norm: LevelTowers(dims, CHANNELS, STRIDES, channels=6, norm=norm, convs=2),
    "sdi": lambda dims, norm: SDI(dims, CHANNELS, STRIDES, channels=6, norm=norm),
    "spp": lambda dims, norm: SPP(dims, CHANNELS, STRIDES, channels=9, norm=norm),
    "pan": lambda dims, norm: PAN(dims, CHANNELS, STRIDES, channels=6, strides=(4, 8, 16), norm=norm),
    "pan that leaves out a level": lambda dims, norm: PAN(
        dims, CHANNELS, STRIDES, channels=6, strides=(4, 16), norm=norm
    ),
}
EXPORTED = [name for name in PARTS if name != "unet v2 that answers once"]


def levels_of(dims: int, name: str = "", batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    strides = (4, 8, 16, 16) if "dilated" in name else STRIDES
    return [
        torch.randn(batch, c, *(n // s for n in SIZES[dims]), generator=generator)
        for c, s in zip(CHANNELS, strides, strict=True)
    ]


class Loose(nn.Module):
    """The part with levels as separate arguments and a tuple as answer, as ONNX wants them."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *levels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.part(list(levels)))


@pytest.mark.parametrize("norm", ["group", "batch", "instance", None], ids=str)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", PARTS)
def test_a_part_gives_the_levels_that_it_says_at_odd_sizes(name, dims, norm):
    part = PARTS[name](dims, norm).eval()
    levels = part(levels_of(dims, name))
    assert len(levels) == len(part.channels) == len(part.strides)
    assert list(part.strides) == sorted(part.strides)
    for level, channels, stride in zip(levels, part.channels, part.strides, strict=True):
        assert level.shape == (2, channels, *(n // stride for n in SIZES[dims]))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", PARTS)
def test_every_parameter_gets_a_gradient(name, dims):
    torch.manual_seed(0)
    part = PARTS[name](dims, "group").train()
    sum(level.square().sum() for level in part(levels_of(dims, name))).backward()
    assert [key for key, p in part.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", PARTS)
def test_every_level_that_a_part_is_given_counts(name):
    torch.manual_seed(0)
    part = PARTS[name](2, "group").eval()
    given = [level.requires_grad_() for level in levels_of(2, name)]
    sum(level.square().sum() for level in part(given)).backward()
    idle = [i for i, level in enumerate(given) if level.grad is None or not level.grad.abs().sum() > 0]
    assert idle == ([1, 2] if name == "deeplabv3+" or "dilated" in name else [])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", PARTS)
def test_bfloat16_stays_near_single_precision(name, dims):
    torch.manual_seed(0)
    part = PARTS[name](dims, "group").eval()
    given = levels_of(dims, name)
    with torch.no_grad():
        exact = part(given)
        with torch.autocast("cpu", torch.bfloat16):
            rough = part(given)
    for one, other in zip(exact, rough, strict=True):
        assert (one - other.float()).norm() < 0.05 * one.norm()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", PARTS)
def test_torchscript_answers_the_same_and_at_another_size_too(name, dims):
    part = PARTS[name](dims, "group").eval()
    scripted = torch.jit.script(part)
    for given in (levels_of(dims, name), [x.repeat_interleave(3, dim=2) for x in levels_of(dims, name, batch=1)]):
        with torch.no_grad():
            torch.testing.assert_close(scripted(given), part(given))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", EXPORTED)
def test_onnx_answers_the_same(name, dims):
    part = Loose(PARTS[name](dims, "group")).eval()
    given = levels_of(dims, name, batch=1)
    names = [f"level_{i}" for i in range(len(given))]
    file = io.BytesIO()
    torch.onnx.export(part, tuple(given), file, input_names=names, dynamo=False, opset_version=18)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    read = {i.name for i in session.get_inputs()}
    answers = session.run(None, {n: x.numpy() for n, x in zip(names, given, strict=True) if n in read})
    with torch.no_grad():
        for answer, expected in zip(answers, part(*given), strict=True):
            np.testing.assert_allclose(answer, expected.numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet++", "unet v2"])
def test_a_decoder_compiles_to_one_graph_that_answers_the_same(name):
    # Inductor's C++ for these takes minutes on a busy machine; what a part can break is the capture.
    part = PARTS[name](2, "group").eval()
    given = levels_of(2, name)
    with torch.no_grad():
        compiled = torch.compile(part, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(given), part(given), atol=1e-5, rtol=1e-4)


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
    with pytest.raises(ValueError, match=r"decoder is 'unet3'.*unet, unetplusplus, fpn, deeplabv3plus, unet_v2, yolo"):
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
        (lambda: SPP(2, (3, 5), (8, 4)), "finest first"),
        (lambda: PAN(2, (3, 5), (4, 8), strides=(4, 16)), "expected some of"),
        (lambda: LevelTowers(2, (3,), (4,), convs=0), "convs is 0"),
        (lambda: YOLOSegmentationDecoder(2, (3,), (2,), channels=(4, 4, 4)), "2 doublings cannot start at stride 2"),
    ],
)
def test_levels_that_a_part_cannot_read_are_an_error_that_says_which(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_spp_is_max_pools_of_5_9_and_13():
    neck = SPP(2, CHANNELS, STRIDES, norm="batch").eval()
    given = levels_of(2)
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
