"""The network as a whole: one pass, every answer, any subset, both layouts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtnet.nets import Branch, ClassificationHead, MultiTaskNet, PickLevels
from tests.nets.builders import CLASSES, TASKS, Exchange, four_tasks, image, parameters

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

NAMES = ("pred", "boxes_s4", "boxes_s8", "classes", "reconstruction")
OUTPUT_OF = dict(zip(TASKS, ("pred", "boxes", "classes", "reconstruction"), strict=True))
EXCHANGE = (("segmentation", "reconstruction"), (4, 4))


def twin(net: MultiTaskNet, **options) -> MultiTaskNet:
    """Another view of a network, with the same weights."""
    other = four_tasks(**options)
    other.load_state_dict(net.state_dict(), strict=True)
    return other.eval()


def calls(net: nn.Module, x) -> dict[str, int]:
    """How often each module ran in one forward."""
    counts: dict[str, int] = {}
    hooks = [
        module.register_forward_hook(lambda *_, name=name: counts.__setitem__(name, counts.get(name, 0) + 1))
        for name, module in net.named_modules()
    ]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return counts


@pytest.mark.parametrize("dims", [2, 3])
def test_answers_come_in_the_order_of_the_outputs(dims):
    net = four_tasks(dims)
    assert tuple(net(image(dims))) == NAMES
    assert tuple(name for spec in net.outputs for name in spec.tensor_names) == NAMES


def test_the_encoder_runs_once_for_all_tasks():
    counts = calls(four_tasks(), image(2))
    assert counts["encoder"] == 1
    assert counts["neck"] == 1
    assert all(counts[f"encoder.stages.{i}.{j}.conv"] == 1 for i in range(5) for j in range(2))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kept", [["pred"], ["boxes"], ["classes"], ["reconstruction"], ["classes", "pred"]], ids=str)
def test_a_subset_is_bit_equal_under_the_same_state_dict(kept, dims):
    net = four_tasks(dims).eval()
    view = twin(net, spatial_dims=dims, outputs=kept)
    assert list(view.state_dict()) == list(net.state_dict())
    with torch.no_grad():
        everything, some = net(image(dims)), view(image(dims))
    assert tuple(some) == tuple(name for name in NAMES if name.split("_")[0] in kept)
    assert all(torch.equal(some[name], everything[name]) for name in some)


@pytest.mark.parametrize("task", TASKS)
def test_a_subset_runs_its_own_branch_and_nothing_else(task):
    net = four_tasks(outputs=[OUTPUT_OF[task]]).eval()
    ran = calls(net, image(2))
    others = [name for name in ran if name.startswith("branches.") and name.split(".")[1] != task]
    assert others == []
    assert any(name.startswith(f"branches.{task}.") for name in ran)
    assert ("neck" in ran) == (task == "detection")


@pytest.mark.parametrize("layout", ["dict", "tuple"])
@pytest.mark.parametrize("dims", [2, 3])
def test_both_layouts_script(dims, layout):
    net = four_tasks(dims, layout=layout).eval()
    scripted = torch.jit.script(net)
    with torch.no_grad():
        plain, answer = net(image(dims)), scripted(image(dims))
    assert type(plain) is type(answer) is (dict if layout == "dict" else tuple)
    if layout == "dict":
        assert tuple(answer) == NAMES
        plain, answer = tuple(plain.values()), tuple(answer.values())
    assert len(answer) == len(NAMES)
    for one, other in zip(plain, answer, strict=True):
        torch.testing.assert_close(one, other)


def test_a_scripted_subset_runs_its_own_branch_alone():
    scripted = torch.jit.script(four_tasks(outputs=["classes"], interaction=Exchange(*EXCHANGE)).eval())
    with torch.autograd.profiler.profile() as trace:
        answer = scripted(image(2))
    assert tuple(answer) == ("classes",)
    convolutions = sum(event.count for event in trace.key_averages() if event.key == "aten::conv2d")
    assert convolutions == 10


@pytest.mark.parametrize("task", TASKS)
def test_a_branch_alone_answers_as_in_the_network(task):
    net = four_tasks().eval()
    branch = net.branches[task]
    with torch.no_grad():
        levels = net.encoder(image(2))
        alone = branch(net.neck(levels) if branch.reads_neck else levels)
        together = net(image(2))
    assert alone and all(torch.equal(tensor, together[name]) for name, tensor in alone.items())


def test_the_tuple_holds_the_tensors_of_the_dict_in_order():
    net = four_tasks().eval()
    with torch.no_grad():
        named, bare = net(image(2)), twin(net, layout="tuple")(image(2))
    assert isinstance(bare, tuple)
    assert all(torch.equal(one, other) for one, other in zip(named.values(), bare, strict=True))


def test_the_tensor_layout_gives_the_one_tensor_and_scripts():
    net = four_tasks().eval()
    view = twin(net, outputs=["pred"], layout="tensor")
    with torch.no_grad():
        assert torch.equal(view(image(2)), net(image(2))["pred"])
        torch.testing.assert_close(torch.jit.script(view)(image(2)), net(image(2))["pred"])


def test_the_tuple_layout_exports_as_one_graph():
    net = four_tasks(layout="tuple").eval()
    program = torch.export.export(net, (image(2),), strict=False)
    with torch.no_grad():
        for one, other in zip(net(image(2)), program.module()(image(2)), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dims", [2, 3])
def test_the_loss_of_every_answer_reaches_the_first_convolution(dims, name):
    net = four_tasks(dims)
    net(image(dims))[name].square().sum().backward()
    gradient = net.encoder.stages[0][0].conv.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0


def test_a_network_is_its_encoder_its_neck_and_its_branches():
    net = four_tasks()
    branches = {task: parameters(branch) for task, branch in net.branches.items()}
    assert parameters(net) == parameters(net.encoder) + parameters(net.neck) + sum(branches.values())
    assert len(net.branches) == 4 and all(branches.values())


@pytest.mark.parametrize("task", TASKS)
def test_a_network_without_a_task_lacks_its_branch_alone(task):
    net, rest = four_tasks(), four_tasks(tasks=[t for t in TASKS if t != task])
    assert set(net.state_dict()) - set(rest.state_dict()) == {
        f"branches.{task}.{key}" for key in net.branches[task].state_dict()
    }
    assert parameters(net) - parameters(rest) == parameters(net.branches[task])


@pytest.mark.parametrize("layout", ["dict", "tuple"])
def test_a_wrong_size_is_an_error_that_names_the_size_to_pad_to(layout):
    net = four_tasks(3, layout=layout)
    text = r"size is \[64, 61, 30\]; every axis must be a multiple of 16. Pad it to \[64, 64, 32\]"
    with pytest.raises(ValueError, match=text):
        net(torch.zeros(1, 1, 64, 61, 30))
    with pytest.raises(Exception, match=text):
        torch.jit.script(net)(torch.zeros(1, 1, 64, 61, 30))


def test_an_empty_axis_is_a_wrong_size():
    with pytest.raises(ValueError, match=r"Pad it to \[16, 32\]"):
        four_tasks()(torch.zeros(1, 1, 0, 32))


def test_an_interaction_that_adds_nothing_changes_nothing():
    net = four_tasks().eval()
    joined = four_tasks(interaction=Exchange(*EXCHANGE)).eval()
    missing = joined.load_state_dict(net.state_dict(), strict=False).missing_keys
    assert missing and all(key.startswith("interaction.") for key in missing)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(net(image(2)).values(), joined(image(2)).values(), strict=True))


def test_a_subset_with_an_interaction_runs_all_decoders_that_feed_it():
    net = four_tasks(interaction=Exchange(*EXCHANGE)).eval()
    nn.init.constant_(net.interaction.scale, 3.0)
    view = twin(net, interaction=Exchange(*EXCHANGE), outputs=["pred"])
    ran = calls(view, image(2))
    assert "branches.reconstruction.decoder" in ran and "branches.reconstruction.head" not in ran
    assert "branches.detection.decoder" not in ran and ran["interaction"] == 1
    with torch.no_grad():
        everything, some = net(image(2)), view(image(2))
        assert torch.equal(some["pred"], everything["pred"])
        nn.init.zeros_(net.interaction.scale)
        assert not torch.equal(net(image(2))["pred"], some["pred"])


def test_a_subset_outside_the_interaction_does_not_run_it():
    ran = calls(four_tasks(interaction=Exchange(*EXCHANGE), outputs=["classes", "boxes"]).eval(), image(2))
    assert "interaction" not in ran and "branches.segmentation.decoder" not in ran


def test_a_network_with_an_interaction_scripts():
    net = four_tasks(interaction=Exchange(*EXCHANGE)).eval()
    nn.init.constant_(net.interaction.scale, 3.0)
    with torch.no_grad():
        plain, scripted = net(image(2)), torch.jit.script(net)(image(2))
    assert tuple(scripted) == NAMES
    for name in NAMES:
        torch.testing.assert_close(plain[name], scripted[name])


@pytest.mark.parametrize("norm", ["group", "batch", "instance"])
@pytest.mark.parametrize("dims", [2, 3])
def test_every_parameter_learns(dims, norm):
    net = four_tasks(dims, norm=norm)
    torch.stack([answer.square().sum() for answer in net(image(dims)).values()]).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"outputs": ["lungs"]}, "expected some of ['pred', 'boxes', 'classes', 'reconstruction']"),
        ({"outputs": []}, "expected some of"),
        ({"layout": "list"}, "'dict', 'tuple' or 'tensor'"),
        ({"layout": "tensor"}, "exactly one tensor"),
        ({"layout": "tensor", "outputs": ["boxes"]}, "('boxes_s4', 'boxes_s8')"),
        ({"tasks": []}, "at least one task"),
    ],
    ids=str,
)
def test_an_impossible_network_says_why(options, text):
    with pytest.raises(ValueError) as caught:
        four_tasks(**options)
    assert text in str(caught.value)


def test_two_outputs_of_one_name_are_refused():
    net = four_tasks(tasks=["classification"])
    again = Branch(PickLevels(net.encoder.channels, net.encoder.strides), ClassificationHead((12,), CLASSES))
    with pytest.raises(ValueError, match="'first' and 'second' both have an output named 'classes'"):
        MultiTaskNet(net.encoder, {"first": again, "second": again})


def test_a_branch_on_a_missing_neck_is_refused():
    net = four_tasks(tasks=["detection"])
    with pytest.raises(ValueError, match="'detection' reads the neck"):
        MultiTaskNet(net.encoder, dict(net.branches))
    with pytest.raises(ValueError, match="'encoder' or 'neck'"):
        Branch(nn.Identity(), net.branches["detection"].head, reads="image")
