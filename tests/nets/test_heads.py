"""What the heads promise beyond one answer: auxiliary answers, measured values, coupled boxes, decoding first."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mtnet.nets import Branch, ClassificationHead, DetectionHead, MultiTaskNet, SegmentationHead, UNetDecoder
from mtnet.nets.heads import DecodingHead, ReconstructionHead, RegressionHead
from mtnet.structures import Label, OutputSpec
from tests.nets.builders import BOXES, CLASSES, TISSUES, image, parameters

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

POLYP = (Label(1, "polyp"),)
DIAMETER = OutputSpec("diameter", "global", units="mm")
DIAMETER_SURE = OutputSpec("diameter", "global", units="mm", log_variance=True)
RATING = OutputSpec("rating", "global", units="1")
CHANNELS, STRIDES = (6, 8, 10), (4, 8, 16)


def levels(dims: int = 2, edge: int = 32) -> list[Tensor]:
    draw = torch.Generator().manual_seed(2)
    sizes = ([edge, 3 * edge, edge][:dims] for _ in CHANNELS)
    return [
        torch.randn(2, c, *(n // s for n in size), generator=draw)
        for c, s, size in zip(CHANNELS, STRIDES, sizes, strict=True)
    ]


def supervised(dims: int = 2, **options: object) -> SegmentationHead:
    torch.manual_seed(0)
    given = {"labels": TISSUES, "upsample": 4, "auxiliary_strides": (8, 16), "kernel_size": 1, **options}
    return SegmentationHead(dims, CHANNELS, STRIDES, **given)  # type: ignore[arg-type]


HEADS = {
    "segmentation upsampled": supervised,
    "segmentation upsampled with corners": lambda dims: supervised(dims, align_corners=True),
    "measured values": lambda dims: RegressionHead(CHANNELS, [DIAMETER_SURE, RATING], scales=(4.0, 1.0)),
    "coupled boxes": lambda dims: DetectionHead(dims, CHANNELS[:2], STRIDES[:2], BOXES, coupled=True, width=6, convs=1),
    "decoupled boxes": lambda dims: DetectionHead(dims, CHANNELS[:2], STRIDES[:2], BOXES, width=6, convs=1),
    "classes": lambda dims: ClassificationHead(CHANNELS, CLASSES),
}


def read_by(head: nn.Module, dims: int) -> list[Tensor]:
    return levels(dims)[:2] if isinstance(head, DetectionHead) else levels(dims)


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_new_head_of_one_label_or_value_begins_near_undecided(dims, kernel_size):
    torch.manual_seed(0)
    drawn = [torch.randn(4, 64, *[16] * dims)]
    for head in (
        SegmentationHead(dims, (64,), (1,), labels=TISSUES[:1], activation="sigmoid", kernel_size=kernel_size),
        ReconstructionHead(dims, (64,), (1,), kernel_size=kernel_size),
    ):
        (answer,) = head(drawn).values()
        # Weights by the fan-out alone would give 11.
        assert 0.5 < answer.std() < 2.5


@pytest.mark.parametrize("name", HEADS)
def test_a_head_answers_in_bfloat16(name):
    head = HEADS[name](2).eval()
    given = read_by(head, 2)
    with torch.no_grad():
        eager = head(given)
        half = head.bfloat16()([level.bfloat16() for level in given])
    for key, value in eager.items():
        torch.testing.assert_close(half[key].float(), value, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("dims", [2, 3])
def test_auxiliary_answers_are_given_in_training_alone(dims):
    head = supervised(dims)
    size = [4 * n for n in levels(dims)[0].shape[2:]]
    answers = head.train()(levels(dims))
    assert list(answers) == ["pred", "pred_aux_s2", "pred_aux_s4"]
    for name, stride in (("pred", 1), ("pred_aux_s2", 2), ("pred_aux_s4", 4)):
        assert answers[name].shape == (2, 3, *(n // stride for n in size))
    assert [spec.strides for spec in head.auxiliary] == [(2,), (4,)]
    assert list(head.eval()(levels(dims))) == ["pred"] == [spec.name for spec in head.outputs]


@pytest.mark.parametrize("corners", [False, True])
def test_an_upsampled_head_is_a_convolution_and_a_linear_interpolation(corners):
    head = supervised(align_corners=corners)
    given = levels()
    small = head.conv(given[0])
    expected = functional.interpolate(small, scale_factor=4, mode="bilinear", align_corners=corners)
    torch.testing.assert_close(head(given)["pred"], expected)


def test_four_heads_of_unet_v2_have_33_parameters_each():
    head = SegmentationHead(
        2,
        (32,) * 4,
        (4, 8, 16, 32),
        labels=POLYP,
        activation="sigmoid",
        kernel_size=1,
        upsample=4,
        auxiliary_strides=(8, 16, 32),
    )
    assert parameters(head) == 4 * 33
    maps = head.train()([torch.zeros(1, 32, 256 // s, 256 // s) for s in (4, 8, 16, 32)])
    assert {name: tuple(x.shape[2:]) for name, x in maps.items()} == {
        "pred": (256, 256),
        "pred_aux_s2": (128, 128),
        "pred_aux_s4": (64, 64),
        "pred_aux_s8": (32, 32),
    }


def test_a_single_head_keeps_its_keys():
    head = SegmentationHead(2, CHANNELS, STRIDES, labels=TISSUES)
    assert list(head.state_dict()) == ["conv.weight", "conv.bias"]
    decoupled = DetectionHead(2, CHANNELS[:2], STRIDES[:2], BOXES, convs=1, norm=None)
    assert {key.split(".")[2] for key in decoupled.state_dict()} == {
        "class_tower",
        "box_tower",
        "classes",
        "offsets",
        "quality",
        "lesion",
    }


class Stem(nn.Module):
    """An encoder of three levels that scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = CHANNELS, STRIDES
        self.edges = list(STRIDES)
        self.convs = nn.ModuleList(nn.Conv2d(1, c, 1) for c in CHANNELS)

    def forward(self, x: Tensor) -> list[Tensor]:
        answers: list[Tensor] = []
        for i, conv in enumerate(self.convs):
            answers.append(conv(functional.avg_pool2d(x, self.edges[i])))
        return answers


class Same(nn.Module):
    """A decoder that does nothing."""

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        return levels


def deep(outputs: list[str] | None = None, layout: str = "dict") -> MultiTaskNet:
    torch.manual_seed(0)
    values = RegressionHead(CHANNELS, [DIAMETER_SURE, RATING])
    branches = {"segmentation": Branch(Same(), supervised()), "measurement": Branch(Same(), values)}
    return MultiTaskNet(Stem(), branches, outputs=outputs, layout=layout)  # type: ignore[arg-type]


def test_a_network_gives_auxiliary_answers_in_training_and_never_lists_them():
    net = deep()
    assert [spec.name for spec in net.outputs] == ["pred", "diameter", "rating"]
    assert [spec.name for spec in net.auxiliary] == ["pred_aux_s2", "pred_aux_s4"]
    x = image(2)
    assert list(net.train()(x)) == ["pred", "diameter", "rating", "pred_aux_s2", "pred_aux_s4"]
    assert list(net.eval()(x)) == ["pred", "diameter", "rating"]
    assert list(deep(["rating"]).train()(x)) == ["rating"]
    assert len(deep(layout="tuple").train()(x)) == 3
    scripted = torch.jit.script(deep())
    assert list(scripted(x)) == ["pred", "diameter", "rating", "pred_aux_s2", "pred_aux_s4"]
    assert list(scripted.eval()(x)) == ["pred", "diameter", "rating"]


def test_an_auxiliary_answer_may_not_take_the_name_of_an_output():
    taken = OutputSpec("pred_aux_s2", "global", units="mm")
    with pytest.raises(ValueError, match="both have an output named 'pred_aux_s2'"):
        MultiTaskNet(
            Stem(), {"a": Branch(Same(), supervised()), "b": Branch(Same(), RegressionHead(CHANNELS, [taken]))}
        )


def test_a_measured_value_is_in_its_units_and_its_variance_in_their_square():
    head = RegressionHead(CHANNELS, [DIAMETER_SURE, RATING], scales=(4.0, 1.5), offsets=(10.0, 3.0))
    for linear in head.linears:
        nn.init.zeros_(linear.weight)
        nn.init.constant_(linear.bias, 0.5)
    answers = head(levels())
    assert answers["diameter"].shape == (2, 2) and answers["rating"].shape == (2, 1)
    assert answers["diameter"][0].tolist() == pytest.approx([10 + 0.5 * 4, 0.5 + math.log(16)])
    assert answers["rating"][1].tolist() == pytest.approx([3 + 0.5 * 1.5])


def test_an_untrained_measurement_expects_the_spread_of_the_targets():
    answer = RegressionHead(CHANNELS, [DIAMETER_SURE], scales=(4.0,))(levels())["diameter"]
    assert answer[:, 1].exp().sqrt().tolist() == pytest.approx([4.0, 4.0])


def test_a_measured_value_stays_exact_in_half_precision():
    head = RegressionHead(CHANNELS, [DIAMETER], scales=(0.001,), offsets=(1234.567,)).bfloat16()
    answer = head([level.bfloat16() for level in levels()])["diameter"]
    assert answer.dtype == torch.float32
    assert answer[0, 0].item() == pytest.approx(1234.567, abs=0.02)


@pytest.mark.parametrize("head", [ClassificationHead(CHANNELS, CLASSES), RegressionHead(CHANNELS, [DIAMETER])])
def test_a_pooled_level_is_read_as_it_is(head):
    level = levels()[-1]
    (spatial,), (vector,) = head([level]).values(), head([level.mean((2, 3))]).values()
    torch.testing.assert_close(spatial, vector)


def test_a_classifier_on_the_deepest_map_has_smps_parameters():
    three = OutputSpec("classes", "global", (*CLASSES.labels, Label(2, "c")), activation="softmax")
    assert parameters(ClassificationHead((2048,), three)) == 6_147
    assert parameters(ClassificationHead((448,), three)) == 1_347


def test_a_coupled_head_has_one_tower():
    with torch.device("meta"):
        spec = OutputSpec("boxes", "boxes", POLYP, (8, 16, 32), "sigmoid")
        one = parameters(DetectionHead(2, (256,) * 3, (8, 16, 32), spec, norm="batch", coupled=True))
        two = parameters(DetectionHead(2, (256,) * 3, (8, 16, 32), spec, norm="batch"))
    tower = 2 * (9 * 256 * 256 + 2 * 256)
    assert two == 7_088_658
    assert two - one == 3 * tower


def test_in_a_coupled_head_the_offsets_move_the_tower_of_the_classes():
    head = DetectionHead(2, (8,), (4,), OutputSpec("b", "boxes", POLYP, (4,), "sigmoid"), coupled=True)
    head([torch.randn(1, 8, 4, 4)])["b_s4"][:, 1:].sum().backward()
    assert all(p.grad.any() for n, p in head.levels[0].class_tower.named_parameters() if n.endswith("weight"))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_head_that_decodes_first_answers_as_decoder_and_head(dims):
    torch.manual_seed(0)
    decoder = UNetDecoder(dims, CHANNELS, STRIDES, channels=(8, 6))
    head = SegmentationHead(dims, decoder.channels, decoder.strides, labels=TISSUES, upsample=4)
    both = DecodingHead(decoder, head).eval()
    with torch.no_grad():
        assert torch.equal(both(levels(dims))["pred"], head(decoder(levels(dims)))["pred"])
        torch.testing.assert_close(torch.jit.script(both)(levels(dims))["pred"], both(levels(dims))["pred"])
    assert both.outputs == head.outputs and both.auxiliary == ()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: supervised(auxiliary_strides=(4,)), r"expected some of \(8, 16\)"),
        (lambda: supervised(auxiliary_strides=(8, 8)), r"expected some of \(8, 16\)"),
        (lambda: supervised(output=OutputSpec("pred", "dense", TISSUES, (8,))), "times upsample"),
        (lambda: RegressionHead(CHANNELS, [CLASSES]), "without labels"),
        (lambda: RegressionHead(CHANNELS, []), "at least one output"),
        (lambda: RegressionHead(CHANNELS, [DIAMETER], scales=(1.0, 2.0)), "1 outputs, 2 scales"),
        (lambda: RegressionHead(CHANNELS, [DIAMETER], scales=(0.0,)), "above 0"),
        (lambda: ClassificationHead(CHANNELS, DIAMETER_SURE), "use a RegressionHead"),
    ],
)
def test_a_head_that_cannot_be_built_says_why(make, text):
    with pytest.raises(ValueError, match=text):
        make()
