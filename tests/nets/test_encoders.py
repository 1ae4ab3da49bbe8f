"""Encoders against timm, against the published numbers, and against what every encoder promises.

The numbers were measured with timm 1.0.31 and torch 2.13.0; GMAC is of one image, attention counted.
"""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from mtnet.nets import (
    ENCODERS,
    VGG13,
    ClassificationHead,
    CSPDarknet53,
    EfficientNetEncoder,
    MultiTaskNet,
    PickLevels,
    ResNetEncoder,
    TimmEncoder,
    make_encoder,
    save_state,
)
from mtnet.nets.macs import count_macs
from mtnet.nets.network import Branch
from tests.nets.builders import CLASSES, image, parameters

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

OF_TIMM = ("resnet18", "resnext26ts", "efficientnet_b0", "vgg13", "cspdarknet53", "pvt_v2_b0", "convnext_atto")
OURS = {
    "cspdarknet53": lambda dims, **options: CSPDarknet53(dims, 1, width=4, **options),
    "cspdarknet53 with mish": lambda dims, **options: CSPDarknet53(dims, 1, width=4, activation="mish", **options),
    "efficientnet_b0": lambda dims, **options: EfficientNetEncoder(dims, 1, "b0", **options),
    "resnet18": lambda dims, **options: ResNetEncoder(dims, 1, 18, width=4, **options),
    "vgg13": lambda dims, **options: VGG13(dims, 1, (4, 4, 6, 6, 8), pooled_tap=True, **options),
}


@pytest.fixture
def without_memory():
    with torch.device("meta"):
        yield


@pytest.fixture
def without_network(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


# ---- numbers


@pytest.mark.parametrize(
    ("name", "channels", "count"),
    [
        ("pvt_v2_b0", (32, 64, 160, 256), 3_406_624),
        ("pvt_v2_b1", (64, 128, 320, 512), 13_489_728),
        ("pvt_v2_b2", (64, 128, 320, 512), 24_843_584),
        ("pvt_v2_b2_li", (64, 128, 320, 512), 22_034_240),
        ("pvt_v2_b3", (64, 128, 320, 512), 44_719_424),
        ("pvt_v2_b4", (64, 128, 320, 512), 62_036_800),
        ("pvt_v2_b5", (64, 128, 320, 512), 81_436_736),
        ("resnet18", (64, 64, 128, 256, 512), 11_170_240),
        ("resnet34", (64, 64, 128, 256, 512), 21_278_400),
        ("resnet50", (64, 256, 512, 1024, 2048), 23_501_760),
        ("resnet101", (64, 256, 512, 1024, 2048), 42_493_888),
        ("resnext50_32x4d", (64, 256, 512, 1024, 2048), 22_973_632),
        ("wide_resnet50_2", (64, 256, 512, 1024, 2048), 66_827_968),
        ("efficientnet_b4", (24, 32, 56, 160, 448), 16_741_352),
        ("vgg13", (64, 128, 256, 512, 512, 512), 9_403_840),
        ("vgg13_bn", (64, 128, 256, 512, 512, 512), 9_409_728),
        ("cspdarknet53", (32, 64, 128, 256, 512, 1024), 26_616_608),
        ("darknet53", (32, 64, 128, 256, 512, 1024), 40_584_352),
    ],
)
def test_an_encoder_for_one_channel_has_the_published_parameters_and_channels(without_memory, name, channels, count):
    encoder = make_encoder(name, 2, 1)
    assert parameters(encoder) == count
    assert encoder.channels == channels


@pytest.mark.parametrize(
    ("name", "at_224", "at_256", "at_352"),
    [
        ("pvt_v2_b0", 0.565810, 0.754254, 1.535480),
        ("pvt_v2_b1", 2.107844, 2.783576, 5.481637),
        ("pvt_v2_b2", 4.026223, 5.315756, 10.459728),
        ("resnet18", 1.8136, 2.3687, None),
        ("resnet34", 3.6632, 4.7847, None),
        ("resnet50", 4.0871, 5.3383, None),
        ("resnext50_32x4d", 4.2284, 5.5228, None),
        ("wide_resnet50_2", 11.3960, 14.8845, None),
        ("efficientnet_b4", 1.4626, 1.9094, None),
        ("cspdarknet53", 5.0015, 6.5326, None),
    ],
)
def test_an_encoder_has_the_published_multiplications(without_memory, name, at_224, at_256, at_352):
    encoder = make_encoder(name, 2, 3).eval()
    tolerance = 1e-6 if name.startswith("pvt") else 1e-4
    for edge, gmac in ((224, at_224), (256, at_256), (352, at_352)):
        if gmac is not None:
            assert count_macs(encoder, torch.zeros(1, 3, edge, edge)) / 1e9 == pytest.approx(gmac, abs=tolerance)


def test_our_cspdarknet53_has_the_parameters_of_the_paper_stage_by_stage(without_memory):
    encoder = CSPDarknet53(2, 3, norm="batch")
    assert parameters(encoder) == 26_617_184
    assert parameters(encoder.stem) == 928
    assert [parameters(stage) for stage in encoder.stages] == [60_224, 193_920, 1_758_976, 7_024_128, 17_579_008]
    assert parameters(encoder) + 1024 * 1000 + 1000 == 27_642_184
    assert count_macs(encoder.eval(), torch.zeros(1, 3, 640, 640)) / 1e9 == pytest.approx(40.83, abs=0.005)


@pytest.mark.parametrize(("scale", "in_channels", "count"), [("b4", 3, 16_742_216), ("b4", 1, 16_741_352)])
def test_our_efficientnet_has_the_published_parameters(without_memory, scale, in_channels, count):
    assert parameters(EfficientNetEncoder(2, in_channels, scale, "batch")) == count


@pytest.mark.parametrize("name", [name for name, ours in ENCODERS.items() if ours is not None])
def test_each_of_our_3d_encoders_has_the_channels_and_strides_of_its_2d_namesake(without_memory, name):
    flat, deep = make_encoder(name, 2, 1), make_encoder(name, 3, 1)
    assert (flat.channels, flat.strides) == (deep.channels, deep.strides)


@pytest.mark.parametrize("name", ["cs3darknet_s", "resnet18", "regnetx_002"])
def test_every_residual_block_of_a_new_encoder_takes_part_from_the_first_step(name):
    timm = pytest.importorskip("timm")

    def closed(net: nn.Module) -> int:
        return sum(isinstance(layer, nn.BatchNorm2d) and not layer.weight.any() for layer in net.modules())

    assert closed(timm.create_model(name)) > 0
    assert closed(make_encoder(name, 2, 3)) == 0


def test_an_encoder_keeps_what_its_weights_say_of_a_residual_block(tmp_path):
    encoder = make_encoder("resnet18", 2, 3)
    with torch.no_grad():
        encoder.net.layer1[0].bn2.weight.zero_()
    save_state(encoder, tmp_path / "encoder.pt")
    again = make_encoder("resnet18", 2, 3, weights=tmp_path / "encoder.pt")
    assert not again.net.layer1[0].bn2.weight.any()
    assert again.net.layer1[1].bn2.weight.all()


# ---- the same answers as timm's


def with_weights_of(ours: nn.Module, theirs: nn.Module) -> nn.Module:
    """Ours with the weights of theirs, tensor by tensor in the order of both."""
    torch.manual_seed(0)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    return ours


@pytest.mark.parametrize("output_stride", [None, 16, 8])
@pytest.mark.parametrize("name", ["cspdarknet53", "efficientnet_b0", "resnet18", "resnet50"])
def test_ours_answers_like_timms_also_dilated(name, output_stride):
    theirs = make_encoder(name, 2, 1, output_stride=output_stride).eval()
    ours = with_weights_of(make_encoder(name, 2, 1, norm="batch", output_stride=output_stride), theirs).eval()
    assert type(ours) is not type(theirs)
    assert (ours.channels, ours.strides) == (theirs.channels, theirs.strides)
    x = torch.randn(1, 1, 64, 96)
    with torch.no_grad():
        for mine, other in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(mine, other)


def test_our_vgg13_answers_like_timms():
    theirs = make_encoder("vgg13_bn", 2, 1).eval()
    ours = with_weights_of(make_encoder("vgg13_bn", 2, 1, norm="batch"), theirs).eval()
    x = torch.randn(1, 1, 32, 64)
    with torch.no_grad():
        for mine, other in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(mine, other)


# ---- what every encoder promises


@pytest.mark.parametrize(("name", "in_channels"), [*((name, 1) for name in OF_TIMM), ("resnet18", 3), ("resnet18", 5)])
def test_a_timm_encoder_gives_the_levels_that_it_says_and_a_gradient_to_every_parameter(name, in_channels):
    encoder = make_encoder(name, 2, in_channels)
    # timm starts the last norm of each residual block at zero: nothing before it has a gradient then.
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
    x = image(2, edge=64, channels=in_channels)
    levels = encoder(x)
    assert list(encoder.strides) == sorted(encoder.strides)
    for level, channels, stride in zip(levels, encoder.channels, encoder.strides, strict=True):
        assert level.shape == (2, channels, 64 // stride, 128 // stride)
    sum(level.square().mean() for level in levels).backward()
    assert not [key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_levels_of_a_network_that_keeps_channels_last_come_channels_first():
    encoder = make_encoder("swin_tiny_patch4_window7_224", 2, 1, img_size=64)
    assert [tuple(level.shape) for level in encoder(torch.randn(1, 1, 64, 64))] == [
        (1, 96, 16, 16),
        (1, 192, 8, 8),
        (1, 384, 4, 4),
        (1, 768, 2, 2),
    ]


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["cspdarknet53", "efficientnet_b0", "resnet18"])
def test_ours_keeps_its_resolution_when_dilated_in_3d(name, output_stride):
    encoder = OURS[name](3, output_stride=output_stride).eval()
    x = image(3, edge=32, batch=1)
    with torch.no_grad():
        levels = encoder(x)
    assert encoder.strides[-1] == output_stride
    for level, stride in zip(levels, encoder.strides, strict=True):
        assert level.shape[2:] == tuple(n // stride for n in x.shape[2:])


@pytest.mark.parametrize("encoder", [*OURS, "timm"])
def test_a_network_says_what_to_pad_an_odd_size_to(encoder):
    trunk = make_encoder("efficientnet_b0", 2) if encoder == "timm" else OURS[encoder](2)
    pick = PickLevels(trunk.channels, trunk.strides)
    net = MultiTaskNet(trunk, {"classification": Branch(pick, ClassificationHead(pick.channels, CLASSES))})
    with pytest.raises(ValueError, match=r"multiple of 32. Pad it to \[64, 96\]"):
        net(torch.zeros(1, 1, 33, 95))
    assert net.eval()(torch.zeros(1, 1, 64, 96))["classes"].shape == (1, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*OURS, "resnet18 of timm", "pvt_v2_b0 of timm"])
def test_half_precision_gives_nearly_the_same_levels(name, dtype):
    torch.manual_seed(0)
    encoder = make_encoder(name.split()[0], 2, 1) if name.endswith("timm") else OURS[name](2, norm="batch")
    x = image(2, edge=64, batch=1)
    with torch.no_grad():
        encoder.train()(x)
        exact = encoder.eval()(x)
        rough = encoder.to(dtype)(x.to(dtype))
    for one, other in zip(exact, rough, strict=True):
        assert other.dtype == dtype
        assert (one - other.float()).norm() < 0.1 * one.norm()


@pytest.mark.parametrize(
    ("name", "dims"),
    [("resnet18", 2), ("efficientnet_b0", 2), ("pvt_v2_b0", 2), ("cspdarknet53", 3), ("vgg13", 3)],
)
def test_an_encoder_in_onnx_answers_like_itself(name, dims, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    encoder = (make_encoder(name, 2, 1) if dims == 2 else OURS[name](3)).eval()
    x = image(dims, edge=32, batch=1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(encoder, (x,), tmp_path / "encoder.onnx", input_names=["image"], dynamo=True, verbose=False)
        exact = encoder(x)
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    for one, other in zip(exact, session.run(None, {"image": x.numpy()}), strict=True):
        torch.testing.assert_close(one, torch.from_numpy(other), rtol=1e-3, atol=1e-4)


# ---- weights


def test_a_file_in_timms_layout_gives_the_encoder_of_that_network(tmp_path):
    timm = pytest.importorskip("timm")
    safetensors = pytest.importorskip("safetensors.torch")
    for name in ("resnet18", "efficientnet_b0", "pvt_v2_b0"):
        whole = timm.create_model(name).eval()
        safetensors.save_file(whole.state_dict(), tmp_path / "model.safetensors")
        torch.save(whole.state_dict(), tmp_path / "pytorch_model.bin")
        x = image(2, edge=64, batch=1, channels=3)
        with torch.no_grad():
            deepest = whole.forward_intermediates(x, norm=False, intermediates_only=True)[-1]
            for file in ("model.safetensors", "pytorch_model.bin"):
                encoder = TimmEncoder(name, 3, weights=tmp_path / file).eval()
                torch.testing.assert_close(encoder(x)[-1], deepest)
            # A grey image answers like its three equal copies.
            grey = TimmEncoder(name, 1, weights=tmp_path / "model.safetensors").eval()
            torch.testing.assert_close(
                grey(x[:, :1])[-1], encoder(x[:, :1].expand(-1, 3, -1, -1))[-1], rtol=1e-3, atol=1e-4
            )


def test_an_encoder_reads_what_it_saved(tmp_path):
    for options in ({}, {"norm": "group"}):
        encoder = make_encoder("resnet18", 2, 1, **options).eval()
        save_state(encoder, tmp_path / "encoder.pt")
        again = make_encoder("resnet18", 2, 1, weights=tmp_path / "encoder.pt", **options).eval()
        for key, tensor in again.state_dict().items():
            torch.testing.assert_close(tensor, encoder.state_dict()[key], rtol=1e-3, atol=1e-4)


def test_a_file_of_another_network_is_refused_by_what_is_missing(tmp_path):
    torch.save(make_encoder("resnet18", 2, 3).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights.pt do not fit timm's 'resnet50': \d+ tensors missing"):
        make_encoder("resnet50", 2, 3, weights=tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="of another shape"):
        make_encoder("resnext50_32x4d", 2, 1, weights=tmp_path / "weights.pt")
    (tmp_path / "empty.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        make_encoder("resnet18", 2, weights=tmp_path / "empty.safetensors")
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        make_encoder("resnet18", 2, weights=tmp_path / "absent.safetensors")


def test_weights_that_cannot_be_fetched_are_an_error_that_says_where_to_get_them(without_network):
    with pytest.raises(RuntimeError, match=r"https://huggingface.co/timm/resnet18\.\S+ .*weights="):
        make_encoder("resnet18", 2, pretrained=True)


def test_weights_of_imagenet_are_taken_where_the_machine_has_them_and_the_log_says_so(
    without_network, tmp_path, caplog
):
    timm = pytest.importorskip("timm")
    safetensors = pytest.importorskip("safetensors.torch")
    caplog.set_level("INFO", "mtnet.nets")
    make_encoder("resnet18", 2, 3, pretrained=None)
    page = timm.get_pretrained_cfg("resnet18").hf_hub_id
    assert f"resnet18 begins anew: {page} is not in this machine's cache" in caplog.text
    kept = tmp_path / f"models--{page.replace('/', '--')}"
    (kept / "snapshots" / "abc").mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    whole = timm.create_model("resnet18")
    safetensors.save_file(whole.state_dict(), kept / "snapshots" / "abc" / "model.safetensors")
    encoder = make_encoder("resnet18", 2, 3, pretrained=None)
    assert torch.equal(encoder.net.conv1.weight, whole.conv1.weight)
    assert f"resnet18 begins with the weights of {page} in this machine's cache" in caplog.text
    assert not torch.equal(make_encoder("resnet18", 2, 3).net.conv1.weight, whole.conv1.weight)
    make_encoder("cs3darknet_s", 2, 3, pretrained=None)
    assert "cs3darknet_s begins anew: timm has no weights for it" in caplog.text
    # Ours, in 3D or with another norm, has none either.
    make_encoder("resnet18", 3, 1, pretrained=None, width=4)


# ---- names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet5O", 2), "expected one of resnet10, .*pvt_v2_b5, or another of timm"),
        (("resnet5O", 3), "expected one of resnet10, .*cspdarknet53"),
        (("pvt_v2_b2", 3), "expected one of resnet10"),
        (("resnet18", 4), "spatial_dims is 4; expected 2 or 3"),
    ],
)
def test_a_name_that_nobody_has_is_answered_with_those_that_exist(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_encoder(*arguments)


@pytest.mark.parametrize(
    ("name", "dims", "options", "message"),
    [
        ("pvt_v2_b2", 2, {"norm": "group"}, "norm='group'; expected one of resnet10"),
        ("resnet18", 3, {"pretrained": True}, "no weights to fetch"),
        ("vgg13", 3, {"output_stride": 16}, "cannot be dilated"),
        ("vgg13", 2, {"output_stride": 16}, "cannot be built as an encoder"),
        ("pvt_v2_b0", 2, {"output_stride": 16}, "cannot be built as an encoder"),
        ("resnet18", 3, {"output_stride": 7}, r"output_stride is 7; expected one of \[8, 16, 32\]"),
    ],
)
def test_what_an_encoder_cannot_be_is_refused(name, dims, options, message):
    with pytest.raises(ValueError, match=message):
        make_encoder(name, dims, 1, **options)


def test_timm_is_not_imported_until_one_of_its_encoders_is_asked_for():
    code = (
        "import sys; from mtnet.nets import make_encoder; make_encoder('cspdarknet53', 3, 1, width=2); "
        "assert 'timm' not in sys.modules; make_encoder('resnet18', 2); assert 'timm' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_timm_that_cannot_be_imported_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        RuntimeError, match=r"needs timm, which cannot be imported.*same build \(CPU or CUDA\) as torch"
    ):
        make_encoder("resnet18", 2)
    assert make_encoder("resnet18", 3).channels == (64, 64, 128, 256, 512)
