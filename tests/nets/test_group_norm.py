from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mtnet.nets import group_norm
from mtnet.nets.blocks import make_norm
from mtnet.nets.group_norm import GroupNorm

SHAPES = [(3, 16, 9, 11), (2, 24, 5, 7, 6), (1, 8, 1, 1, 3)]


def layout(shape):
    return torch.channels_last if len(shape) == 4 else torch.channels_last_3d


def gradients(norm, x, weights):
    x = x.clone().requires_grad_()
    answer = norm(x)
    (answer.double() * weights).sum().backward()
    return [answer.detach(), x.grad, norm.weight.grad, norm.bias.grad]


def drawn(shape):
    torch.manual_seed(len(shape))
    norm = GroupNorm(8, shape[1])
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (3 * torch.randn(shape) + 2).bfloat16().contiguous(memory_format=layout(shape))
    return norm, x, torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_in_half_precision_with_channels_last_its_gradients_are_those_in_double_precision(shape):
    norm, x, weights = drawn(shape)
    exact = gradients(copy.deepcopy(norm).double(), x.double(), weights)
    got = gradients(norm, x, weights)
    assert got[1].dtype == torch.bfloat16
    assert got[1].is_contiguous(memory_format=layout(shape))
    for one, other in zip(got, exact, strict=True):
        assert (one.double() - other).norm() <= 0.02 * other.norm() + 1e-6


@pytest.mark.parametrize("shape", [(3, 16, 9, 11), (2, 8, 5, 7, 6), (1, 8, 1, 1, 3)])
def test_in_float32_with_few_channels_last_its_gradients_are_those_in_double_precision(shape):
    norm, x, weights = drawn(shape)
    exact = gradients(copy.deepcopy(norm).double(), x.double(), weights)
    assert "_GroupNorm" in type(norm(x.float().requires_grad_()).grad_fn).__name__
    for one, other in zip(gradients(norm, x.float(), weights), exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_gradient_changes_nothing_that_it_was_given(dtype):
    norm, x, weights = drawn(SHAPES[0])
    x, given = x.to(dtype), weights.to(dtype).contiguous(memory_format=torch.channels_last)
    before = x.clone(), given.clone()
    norm(x.requires_grad_()).backward(given)
    assert torch.equal(x, before[0])
    assert torch.equal(given, before[1])


@pytest.mark.parametrize(
    ("shape", "dtype", "last", "trained"),
    [
        (SHAPES[0], torch.float32, True, False),
        (SHAPES[0], torch.float32, False, True),
        (SHAPES[0], torch.float64, True, True),
        (SHAPES[1], torch.float32, True, True),
        (SHAPES[0], torch.bfloat16, False, True),
        (SHAPES[0], torch.bfloat16, True, False),
    ],
)
def test_elsewhere_it_is_torchs(shape, dtype, last, trained, monkeypatch):
    monkeypatch.setattr(group_norm._GroupNorm, "apply", lambda *_: pytest.fail("torch's own was to be taken"))
    norm, x, _ = drawn(shape)
    x = x.to(dtype).contiguous(memory_format=layout(shape) if last else torch.contiguous_format)
    norm = norm.to(dtype)
    assert torch.equal(norm(x.requires_grad_(trained)), nn.GroupNorm.forward(norm, x))


def test_it_is_what_a_norm_called_group_is():
    assert isinstance(make_norm("group", 3, 16), GroupNorm)
