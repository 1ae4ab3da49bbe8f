"""What every part promises, in 2D and 3D: shapes at odd sizes, a gradient to every parameter, half precision, capture
by torch.compile, TorchScript and ONNX."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from mtnet.nets import DetectionHead
from mtnet.nets.blocks import make_norm
from tests.nets.builders import BOXES, Exchange, four_tasks, image
from tests.nets.exports import assert_same, onnx_answers
from tests.nets.parts import HEADS, LEVELS, PARTS, SIZES, Loose, made, read, tensors

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

NORMS = ("group", "batch", "instance", ("group", {"num_groups": 3}), None)
EVERYWHERE = [(name, dims) for name, case in PARTS.items() for dims in case.dims]
every_part = pytest.mark.parametrize(("name", "dims"), EVERYWHERE, ids=str)


@pytest.mark.parametrize(
    ("name", "dims", "norm"),
    [
        (n, d, norm)
        for n, d in EVERYWHERE
        if n in LEVELS
        for norm in (NORMS if PARTS[n].normed and d == 2 else NORMS[:1])
    ],
    ids=str,
)
def test_a_part_gives_the_levels_that_it_says_at_odd_sizes(name, dims, norm):
    case = PARTS[name]
    part = made(case, dims, norm).eval()
    with torch.no_grad():
        levels = part(case.given(dims))
    assert len(levels) == len(part.channels) == len(part.strides)
    if part.strides[0] is not None:
        assert list(part.strides) == sorted(part.strides)
    for level, channels, stride in zip(levels, part.channels, part.strides, strict=True):
        assert level.shape == (2, channels, *(() if stride is None else (n // stride for n in SIZES[dims])))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", HEADS)
def test_a_head_gives_the_outputs_that_it_says_at_odd_sizes(name, dims):
    head = made(PARTS[name], dims).eval()
    with torch.no_grad():
        answers = head(read(PARTS[name], head, dims))
    assert list(answers) == [key for spec in head.outputs for key in spec.tensor_names]
    for spec in head.outputs:
        for n, key in enumerate(spec.tensor_names):
            size = tuple(length // spec.strides[n] for length in SIZES[dims]) if spec.strides else ()
            channels = spec.box_channels(dims) if spec.kind == "boxes" else spec.value_channels
            channels += name == "classification head"  # the weight of the window
            assert answers[key].shape == (2, channels, *size)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", [name for name, case in PARTS.items() if case.reads in ("tasks", "vectors")])
def test_an_interaction_keeps_shapes_at_odd_sizes(name, dims):
    given = PARTS[name].given(dims)
    answers = made(PARTS[name], dims).eval()(given)
    assert list(answers) == list(given)
    assert [x.shape for x in tensors(answers)] == [x.shape for x in tensors(given)]


@pytest.mark.parametrize(("name", "dims"), [(n, d) for n, d in EVERYWHERE if n != "picked levels"], ids=str)
def test_every_parameter_gets_a_gradient(name, dims):
    part = made(PARTS[name], dims).train()
    answers = tensors(part(read(PARTS[name], part, dims)))
    draw = torch.Generator().manual_seed(1)
    # Weighted at random: of a normalised level neither the sum nor the sum of squares moves.
    torch.stack([(answer * torch.randn(answer.shape, generator=draw)).sum() for answer in answers]).sum().backward()
    assert [key for key, p in part.named_parameters() if p.grad is None or not p.grad.abs().sum() > 1e-7] == []


@every_part
def test_bfloat16_stays_near_single_precision(name, dims):
    part = made(PARTS[name], dims).eval()
    given = read(PARTS[name], part, dims)
    with torch.no_grad():
        exact = tensors(part(given))
        with torch.autocast("cpu", torch.bfloat16):
            rough = tensors(part(given))
    # Fifty layers on end round fifty times.
    share = 0.1 if PARTS[name].reads == "image" else 0.05
    for one, other in zip(exact, rough, strict=True):
        assert (one - other.float()).norm() < share * one.norm()


@every_part
def test_torchscript_answers_the_same_and_at_another_size_too(name, dims):
    part = made(PARTS[name], dims).eval()
    scripted = torch.jit.script(part)
    given = read(PARTS[name], part, dims)
    longer = read(PARTS[name], part, dims, batch=1)
    if PARTS[name].reads in ("image", "levels", "dilated"):
        longer = (
            longer.repeat_interleave(3, 2)
            if isinstance(longer, torch.Tensor)
            else [level.repeat_interleave(3, 2) for level in longer]
        )
    for one in (given, longer):
        with torch.no_grad():
            plain, answers = part(one), scripted(one)
        assert type(plain) is type(answers)
        assert not isinstance(plain, dict) or list(plain) == list(answers)
        for a, b in zip(tensors(plain), tensors(answers), strict=True):
            torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@every_part
def test_onnx_answers_the_same(name, dims, tmp_path):
    part = made(PARTS[name], dims).eval()
    given = read(PARTS[name], part, dims, batch=1)
    loose = Loose(part, given)
    with torch.no_grad():
        eager = loose(*tensors(given))
    # The steps of the deepest encoders add up differently in onnxruntime.
    tolerance = 1e-3 if PARTS[name].reads == "image" else 1e-4
    assert_same(eager, onnx_answers(loose, tensors(given), tmp_path / "part.onnx", opset=18), tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_torch_compile_captures_a_part_as_one_graph(name):
    dims = PARTS[name].dims[0]
    part = made(PARTS[name], dims).eval()
    given = read(PARTS[name], part, dims, batch=1)
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(part, backend="aot_eager", fullgraph=True)
        for one, other in zip(tensors(part(given)), tensors(compiled(given)), strict=True):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_network_of_parts_of_every_family_is_compiled_to_machine_code_and_answers_the_same():
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU (g++ or clang++), and there is none here")
    torch.manual_seed(0)
    exchange = Exchange(("segmentation", "detection"), (4, 8))
    network = four_tasks(tasks=("segmentation", "detection"), interaction=exchange).eval()
    torch.compiler.reset()
    with torch.no_grad():
        eager, compiled = network(image(2)), torch.compile(network)(image(2))
    for key, answer in eager.items():
        torch.testing.assert_close(compiled[key], answer, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_detection_head_gives_one_tensor_a_level_and_may_share_its_weights(dims, shared):
    head = DetectionHead(dims, (7, 7), (4, 8), BOXES, shared=shared, width=6, convs=1)
    assert len(head.levels) == (1 if shared else 2)
    levels = [torch.randn(2, 7, *(n // s for n in SIZES[dims])) for s in (4, 8)]
    answers = torch.jit.script(head.eval())(levels)
    assert tuple(answers) == BOXES.tensor_names == ("boxes_s4", "boxes_s8")
    for name, level in zip(answers, levels, strict=True):
        assert answers[name].shape == (2, BOXES.box_channels(dims), *level.shape[2:])


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


@pytest.mark.parametrize("name", [name for name, case in PARTS.items() if case.normed])
def test_the_asked_norm_is_the_only_one(name):
    part = PARTS[name].make(3, "instance")
    kinds = {type(m) for m in part.modules() if "Norm" in type(m).__name__ and type(m).__module__.startswith("torch")}
    assert kinds == {nn.InstanceNorm3d}
