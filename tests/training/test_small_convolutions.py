from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mtnet.training import AutocastInferer

CONVOLUTIONS = [
    pytest.param(nn.Conv3d(24, 24, 3, padding=1), (2, 24, 2, 6, 6), id="a depth of 2"),
    pytest.param(nn.Conv3d(24, 24, 5, padding=2, bias=False), (2, 24, 4, 6, 6), id="five wide"),
    pytest.param(nn.Conv3d(24, 24, (3, 1, 1), padding=(1, 0, 0)), (2, 24, 2, 6, 6), id="along one axis"),
    pytest.param(nn.ConvTranspose3d(24, 24, 3, padding=1), (2, 24, 2, 4, 4), id="transposed"),
    pytest.param(nn.Conv2d(24, 24, 3, stride=2, padding=1), (2, 24, 5, 1), id="a column"),
]


def soil_memory():
    """Leave absurd values where the next small tensors will lie."""
    for exponent in range(6, 21):
        torch.full((1 << exponent,), 1e30)


@pytest.mark.parametrize(("conv", "shape"), CONVOLUTIONS)
def test_the_gradient_of_a_convolution_wider_than_its_input_is_that_of_float32(conv, shape):
    torch.manual_seed(0)
    x = torch.randn(shape)
    exact = conv(x)
    upstream = torch.randn_like(exact)
    (expected,) = torch.autograd.grad(exact, conv.weight, upstream)
    for _ in range(3):
        soil_memory()
        answer = AutocastInferer("bfloat16")(x, conv)
        assert answer.dtype == torch.bfloat16
        assert torch.equal(answer, exact.bfloat16())
        (got,) = torch.autograd.grad(answer, conv.weight, upstream.bfloat16())
        assert (got - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("depth", [3, 8])
def test_other_convolutions_run_in_bfloat16(depth):
    torch.manual_seed(0)
    conv, x = nn.Conv3d(8, 8, 3, padding=1), torch.randn(1, 8, depth, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        expected = conv(x)
    assert torch.equal(AutocastInferer("bfloat16")(x, conv), expected)


def test_in_float32_nothing_changes():
    torch.manual_seed(0)
    conv, x = nn.Conv3d(8, 8, 3, padding=1), torch.randn(1, 8, 2, 5, 5)
    assert torch.equal(AutocastInferer("float32")(x, conv), F.conv3d(x, conv.weight, conv.bias, padding=1))
