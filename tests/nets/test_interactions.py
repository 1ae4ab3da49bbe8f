"""Interactions between tasks: the identity at first, what sees what, and where gradients go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mtnet.nets import Branch, DetectionHead, MultiTaskNet, SegmentationHead
from mtnet.nets.interactions import INTERACTIONS, CrossScaleInteraction, ResidualTaskLinks, make_interaction
from mtnet.nets.interactions.attention import EncoderLayer, pool_to_grid
from mtnet.structures import Label, OutputSpec
from tests.nets.builders import TISSUES, image, parameters
from tests.nets.exports import assert_same, onnx_answers

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

CHANNELS = {"detection": (8, 12, 16), "segmentation": (8, 12, 16)}
STRIDES = {"detection": (8, 16, 32), "segmentation": (8, 16, 32)}
SMALL = {"grid": 3, "width": 8, "heads": 2, "feedforward": 16}
POOLED = {"malignancy": (6,), "diameter": (10,)}

Levels = dict[str, list[Tensor]]


def cross(dims: int = 2, scales: str = "cross", trained: bool = True, **options: object) -> CrossScaleInteraction:
    torch.manual_seed(0)
    part = CrossScaleInteraction(dims, CHANNELS, STRIDES, scales=scales, **{**SMALL, **options})  # type: ignore[arg-type]
    if trained:
        nn.init.constant_(part.scale, 0.5)
    return part.eval()


def links(trained: bool = True) -> ResidualTaskLinks:
    torch.manual_seed(0)
    part = ResidualTaskLinks(POOLED)
    for link in part.links if trained else ():
        nn.init.normal_(link.weight)
    return part.eval()


def maps(dims: int = 2, sizes: tuple[tuple[int, ...], ...] = ((8, 13, 9), (4, 7, 5), (2, 4, 3)), grad: bool = False):
    draw = torch.Generator().manual_seed(1)
    return {
        task: [
            torch.randn(2, c, *size[:dims], generator=draw).requires_grad_(grad)
            for c, size in zip(CHANNELS[task], sizes, strict=True)
        ]
        for task in CHANNELS
    }


def vectors(grad: bool = False) -> Levels:
    draw = torch.Generator().manual_seed(1)
    return {task: [torch.randn(2, c[0], generator=draw).requires_grad_(grad)] for task, c in POOLED.items()}


def flat(levels: Levels) -> list[Tensor]:
    return [level for task in levels for level in levels[task]]


def parts(trained: bool = True) -> dict[str, tuple[nn.Module, Levels]]:
    made: dict[str, tuple[nn.Module, Levels]] = {"links": (links(trained), vectors())}
    for dims in (2, 3):
        for scales in ("cross", "same"):
            made[f"{scales} {dims}D"] = (cross(dims, scales, trained), maps(dims))
    return made


NAMES = tuple(parts())


class AsTuple(nn.Module):
    """An interaction as exporters want it: tensors in, tensors out."""

    def __init__(self, part: nn.Module, like: Levels) -> None:
        super().__init__()
        self.part = part
        self.counts = {task: len(levels) for task, levels in like.items()}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given, first = {}, 0
        for task, count in self.counts.items():
            given[task] = list(tensors[first : first + count])
            first += count
        return tuple(flat(self.part(given)))


@pytest.mark.parametrize("name", NAMES)
def test_an_untrained_interaction_is_the_identity(name):
    part, levels = parts(trained=False)[name]
    answer = part(levels)
    assert tuple(answer) == part.tasks == tuple(levels)
    assert all(torch.equal(a, b) for a, b in zip(flat(levels), flat(answer), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_an_interaction_keeps_shapes_at_odd_sizes_and_leaves_its_input_alone(name):
    part, levels = parts()[name]
    before = [level.clone() for level in flat(levels)]
    answer = flat(part(levels))
    assert [a.shape for a in answer] == [b.shape for b in before]
    assert all(torch.equal(a, b) for a, b in zip(flat(levels), before, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(answer, before, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_an_interaction_learns(name):
    part, levels = parts()[name]
    draw = torch.Generator().manual_seed(5)
    weighed = [(level * torch.randn(level.shape, generator=draw)).sum() for level in flat(part.train()(levels))]
    torch.stack(weighed).sum().backward()
    assert [n for n, p in part.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_untrained_interaction_gives_no_parameter_a_missing_gradient(name):
    part, levels = parts(trained=False)[name]
    torch.stack([level.sum() for level in flat(part.train()(levels))]).sum().backward()
    assert [n for n, p in part.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_interaction_scripts(name):
    part, levels = parts()[name]
    with torch.no_grad():
        plain, scripted = part(levels), torch.jit.script(part)(levels)
    assert list(plain) == list(scripted)
    for one, other in zip(flat(plain), flat(scripted), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_an_interaction_exports_to_onnx(name, tmp_path):
    part, levels = parts()[name]
    # 13 is no multiple of the grid of 3, and the coarsest level is smaller than the grid.
    arguments = flat(levels)
    with torch.no_grad():
        assert_same(flat(part(levels)), onnx_answers(AsTuple(part, levels), arguments, tmp_path / "part.onnx"))


@pytest.mark.parametrize("name", NAMES)
def test_an_interaction_compiles_as_one_graph(name):
    part, levels = parts()[name]
    torch.compiler.reset()
    with torch.no_grad():
        answer = torch.compile(part, backend="aot_eager", fullgraph=True)(levels)
        for one, other in zip(flat(part(levels)), flat(answer), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_an_interaction_works_in_bfloat16_and_under_autocast(name):
    part, levels = parts()[name]
    with torch.no_grad():
        expected = flat(part(levels))
        with torch.autocast("cpu", torch.bfloat16):
            mixed = flat(part(levels))
        half = flat(part.bfloat16()({task: [x.bfloat16() for x in levels[task]] for task in levels}))
    for one, under, other in zip(expected, mixed, half, strict=True):
        assert under.dtype == one.dtype and other.dtype == torch.bfloat16
        torch.testing.assert_close(under, one, atol=0.1, rtol=0.05)
        torch.testing.assert_close(other.float(), one, atol=0.1, rtol=0.05)


def sees(part: nn.Module, levels: Levels, task: str, level: int) -> dict[tuple[str, int], bool]:
    """Which given levels change the answer at one level."""
    part(levels)[task][level].square().sum().backward()
    return {
        (t, n): x.grad is not None and bool(x.grad.abs().sum() > 0) for t in levels for n, x in enumerate(levels[t])
    }


def test_across_scales_every_level_of_every_task_is_seen():
    assert all(sees(cross(), maps(grad=True), "segmentation", 1).values())


def test_at_the_same_scale_only_the_level_of_that_stride_is_seen():
    seen = sees(cross(scales="same"), maps(grad=True), "segmentation", 1)
    assert [place for place, yes in seen.items() if yes] == [("detection", 1), ("segmentation", 1)]


def test_levels_that_do_not_join_pass_unchanged():
    part, levels = cross(joined_strides=(8, 16)), maps()
    answer = part(levels)
    for task in levels:
        assert torch.equal(answer[task][2], levels[task][2])
        assert not torch.equal(answer[task][0], levels[task][0])


def test_tasks_may_give_different_levels():
    part = CrossScaleInteraction(
        2, {"a": (4, 8), "b": (8,), "c": (8, 8, 8)}, {"a": (4, 8), "b": (8,), "c": (2, 8, 16)}, **SMALL
    )
    levels = {
        "a": [torch.randn(1, 4, 8, 8), torch.randn(1, 8, 4, 4)],
        "b": [torch.randn(1, 8, 4, 4)],
        "c": [torch.randn(1, 8, 16, 16), torch.randn(1, 8, 4, 4), torch.randn(1, 8, 2, 2)],
    }
    assert [a.shape for a in flat(part(levels))] == [b.shape for b in flat(levels)]


def test_the_encoder_layer_computes_torchs():
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    ours = EncoderLayer(16, 4, 32)
    source = theirs.state_dict()
    renamed = {
        "to_qkv": "self_attn.in_proj_",
        "from_heads": "self_attn.out_proj.",
        "expand": "linear1.",
        "contract": "linear2.",
        "norm_attention": "norm1.",
        "norm_feedforward": "norm2.",
    }
    ours.load_state_dict(
        {f"{o}.{kind}": source[f"{t}{kind}"] for o, t in renamed.items() for kind in ("weight", "bias")}
    )
    tokens = torch.randn(2, 11, 16)
    torch.testing.assert_close(ours(tokens), theirs(tokens))


@pytest.mark.parametrize(("width", "heads", "feedforward", "count"), [(256, 8, 1024, 789_760), (128, 4, 512, 198_272)])
def test_the_encoder_layer_has_the_designs_parameters(width, heads, feedforward, count):
    layer = EncoderLayer(width, heads, feedforward)
    assert parameters(layer) == count == parameters(nn.TransformerEncoderLayer(width, heads, feedforward))


def test_without_other_widths_an_interaction_is_its_layer_its_embeddings_and_a_scale_a_map():
    part = CrossScaleInteraction(2, {"a": (256,) * 3, "b": (256,) * 3}, {"a": (8, 16, 32), "b": (8, 16, 32)})
    assert parameters(part) == 789_760 + (3 + 2 + 2 * 10) * 256 + 6


@pytest.mark.parametrize("size", [(10,), (80,), (13, 7), (3, 21, 10), (1, 2, 4)])
@pytest.mark.parametrize("grid", [1, 4, 10])
def test_pooling_is_adaptive_average_pooling(size, grid):
    level = torch.randn(2, 3, *size, dtype=torch.float64)
    theirs = (functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d)
    torch.testing.assert_close(pool_to_grid(level, grid), theirs[len(size) - 1](level, grid))


def test_a_cell_of_the_grid_has_a_place_of_its_own():
    part = cross(3)
    places = part._places().reshape(3, 3, 3, 8)
    expected = part.place_embedding[0, 2] + part.place_embedding[1, 0] + part.place_embedding[2, 1]
    torch.testing.assert_close(places[2, 0, 1], expected)


def test_a_residual_link_adds_the_other_tasks_map():
    part, levels = links(), vectors()
    first, second = levels["malignancy"][0], levels["diameter"][0]
    answer = part(levels)
    torch.testing.assert_close(answer["malignancy"][0], first + second @ part.links[0].weight.T)
    torch.testing.assert_close(answer["diameter"][0], second + first @ part.links[1].weight.T)


class Tower(nn.Module):
    """A decoder with weights: one convolution a level."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, c, 1) for c in channels)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        answers: list[Tensor] = []
        for i, conv in enumerate(self.convs):
            answers.append(conv(levels[i]))
        return answers


class Pyramid(nn.Module):
    """An encoder of three levels."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = CHANNELS["detection"]
        self.strides = STRIDES["detection"]
        self.edges = list(self.strides)
        self.convs = nn.ModuleList(nn.Conv2d(1, c, 1) for c in self.channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        answers: list[Tensor] = []
        for i, conv in enumerate(self.convs):
            answers.append(conv(functional.avg_pool2d(x, self.edges[i])))
        return answers


def two_tasks(name: str, outputs: list[str] | None = None) -> MultiTaskNet:
    torch.manual_seed(0)
    boxes = OutputSpec("boxes", "boxes", (Label(0, "polyp"),), (8, 16, 32), "sigmoid")
    mask = OutputSpec("pred", "dense", TISSUES, (8,), "softmax")
    encoder = Pyramid()
    channels, strides = encoder.channels, encoder.strides
    return MultiTaskNet(
        encoder,
        {
            "segmentation": Branch(Tower(channels), SegmentationHead(2, channels, strides, output=mask)),
            "detection": Branch(Tower(channels), DetectionHead(2, channels, strides, boxes, convs=1)),
        },
        interaction=make_interaction(name, 2, CHANNELS, STRIDES, **SMALL),
        outputs=outputs,
    )


@pytest.mark.parametrize("name", ["none", "same_scale", "cross_scale"])
def test_the_interaction_alone_carries_a_loss_from_one_task_to_the_decoder_of_the_other(name):
    net = two_tasks(name)
    if net.interaction is not None:
        nn.init.constant_(net.interaction.scale, 0.5)
    net(image(2, edge=64))["pred"].square().sum().backward()
    other = [conv.weight.grad for conv in net.branches["detection"].decoder.convs]
    reached = [g is not None and bool(g.abs().sum() > 0) for g in other]
    assert reached == {"none": [False] * 3, "same_scale": [True, False, False], "cross_scale": [True] * 3}[name]


def test_a_view_of_one_task_keeps_keys_and_bits_with_the_interaction():
    net = two_tasks("cross_scale").eval()
    nn.init.constant_(net.interaction.scale, 0.5)
    view = two_tasks("cross_scale", outputs=["boxes"]).eval()
    view.load_state_dict(net.state_dict(), strict=True)
    x = image(2, edge=64)
    with torch.no_grad():
        everything, some = net(x), view(x)
        torch.testing.assert_close(torch.jit.script(net)(x)["pred"], everything["pred"])
    assert list(some) == ["boxes_s8", "boxes_s16", "boxes_s32"]
    assert all(torch.equal(some[n], everything[n]) for n in some)


def test_an_interaction_is_made_by_its_name():
    assert list(INTERACTIONS) == ["none", "same_scale", "cross_scale", "residual_links"]
    assert isinstance(make_interaction("cross_scale", 2, CHANNELS, STRIDES, **SMALL), CrossScaleInteraction)
    assert isinstance(make_interaction("residual_links", 2, POOLED, {}), ResidualTaskLinks)
    assert make_interaction("none", 2, CHANNELS, STRIDES, **SMALL) is None
    with pytest.raises(ValueError, match="'cross'; expected one of none, same_scale, cross_scale, residual_links"):
        make_interaction("cross", 2, CHANNELS, STRIDES)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: CrossScaleInteraction(2, {"a": (8,)}, {"a": (8,)}), "two tasks or more"),
        (lambda: CrossScaleInteraction(2, CHANNELS, {"a": (8,), "b": (8,)}), "the same two tasks"),
        (
            lambda: CrossScaleInteraction(2, {"a": (8,), "b": (8, 8)}, {"a": (8,), "b": (8,)}),
            "2 channels and 1 strides",
        ),
        (lambda: cross(scales="none"), "expected 'cross' or 'same'"),
        (lambda: cross(joined_strides=(4,)), r"levels at \[8, 16, 32\]"),
        (lambda: cross(grid=0), "1 cell or more"),
        (lambda: cross(heads=3), "a divisor of the width 8"),
        (
            lambda: CrossScaleInteraction(2, {"a": (8,), "b": (8,)}, {"a": (4,), "b": (8,)}, scales="same"),
            "stride 4 of task 'a' would see no other level",
        ),
        (lambda: ResidualTaskLinks({"a": (8,)}), "two or more"),
        (lambda: links()({t: [torch.zeros(1, c[0], 2, 2)] for t, c in POOLED.items()}), "pooled levels"),
    ],
)
def test_an_impossible_interaction_says_why(make, text):
    with pytest.raises(ValueError, match=text):
        make()
