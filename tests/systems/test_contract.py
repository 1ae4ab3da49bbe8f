"""What every system keeps to: shapes, views of one state dict, learning, and exports that answer alike."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from mtnet.nets import save_state
from mtnet.structures import OutputSpec
from tests.nets.exports import assert_same, onnx_answers
from tests.systems.made import NETWORKS, SIZES, SYSTEMS, image, perturbed, truth

ALL = tuple(SYSTEMS)


def built(system: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[system](**options)


def expected_shape(spec: OutputSpec, name: str, size: tuple[int, ...]) -> tuple[int, ...]:
    if spec.kind == "global":
        return (2, spec.value_channels)
    stride = spec.strides[spec.tensor_names.index(name)]
    channels = spec.box_channels(len(size)) if spec.kind == "boxes" else spec.value_channels
    return (2, channels, *(n // stride for n in size))


@pytest.mark.parametrize("variant", ["compact", "published"])
@pytest.mark.parametrize("system", ALL)
def test_every_output_has_the_shape_that_it_says(system, variant):
    network = built(system, variant=variant).eval()
    with torch.inference_mode():
        answers = network(image(system))
    wanted = {name: expected_shape(s, name, SIZES[system]) for s in network.outputs for name in s.tensor_names}
    assert {name: tuple(tensor.shape) for name, tensor in answers.items()} == wanted
    assert next(iter(answers)) == "pred"


@pytest.mark.parametrize("system", ["unet_v2", "breast_ultrasound", "yolo_med", "res_mtnet"])
def test_it_answers_in_3d_as_well(system):
    options = {"encoder": "resnet18"} if system != "res_mtnet" else {}
    channels = 1 if system == "res_mtnet" else 3
    network = built(system, spatial_dims=3, **options).eval()
    with torch.inference_mode():
        answers = network(torch.rand(1, channels, 32, 32, 32))
    for spec in network.outputs:
        for name in spec.tensor_names:
            assert answers[name].ndim == (2 if spec.kind == "global" else 5)


@pytest.mark.parametrize("system", ALL)
def test_one_state_dict_fits_every_view_and_gives_equal_values(system):
    whole = perturbed(built(system)).eval()
    with torch.inference_mode():
        answers = whole(image(system))
        for spec in whole.outputs:
            view = built(system, outputs=[spec.name], layout="tuple").eval()
            view.load_state_dict(whole.state_dict())
            kept = view(image(system))
            assert len(kept) == len(spec.tensor_names)
            for name, tensor in zip(spec.tensor_names, kept, strict=True):
                assert torch.equal(tensor, answers[name])


@pytest.mark.parametrize("system", ALL)
def test_every_parameter_learns(system):
    network = perturbed(built(system)).train()
    total, _ = SYSTEMS[system].loss()(network(image(system)), truth(system))
    total.backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())] == []
    assert [n for n, p in network.named_parameters() if not bool(p.grad.any())] == []


@pytest.mark.parametrize("system", ALL)
def test_the_loss_falls_in_three_steps_on_a_made_batch(system):
    network, loss = built(system).train(), SYSTEMS[system].loss()
    for module in network.modules():
        if type(module).__name__ in ("Dropout", "DropPath"):
            module.eval()
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    seen = []
    for _ in range(4):
        total, terms = loss(network(image(system)), truth(system))
        assert all(bool(term.isfinite()) for term in terms.values())
        seen.append(total.item())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    assert seen[3] < seen[0]


@pytest.mark.parametrize("system", ALL)
def test_the_compact_weights_take_at_most_20_mb(system, tmp_path):
    save_state(built(system), tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size <= 20_000_000


@pytest.mark.parametrize("system", ALL)
def test_torchscript_answers_as_the_network(system):
    network = perturbed(built(system)).eval()
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(network), buffer)
    buffer.seek(0)
    with torch.inference_mode():
        eager, scripted = network(image(system)), torch.jit.load(buffer)(image(system))
    assert list(eager) == list(scripted)
    for name in eager:
        torch.testing.assert_close(scripted[name], eager[name], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("system", ALL)
def test_onnx_answers_as_the_network(system, tmp_path):
    network = perturbed(built(system, layout="tuple")).eval()
    with torch.inference_mode():
        eager = network(image(system))
    assert_same(eager, onnx_answers(network, [image(system)], tmp_path / "network.onnx"), 2e-4)


@pytest.mark.parametrize("system", ALL)
def test_what_it_does_not_know_is_refused_by_name(system):
    with torch.device("meta"):
        with pytest.raises(ValueError, match="compact, published"):
            built(system, variant="huge")
        with pytest.raises(ValueError, match="encoder is 'resnet7'"):
            built(system, encoder="resnet7")
        if system != "unet_v2":
            with pytest.raises(ValueError, match="expected some of"):
                built(system, tasks=["sing"])
