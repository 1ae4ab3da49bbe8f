"""Parts on pooled levels, and necks in a chain."""

from __future__ import annotations

import pytest
import torch

from mtnet.nets.decoders import ResidualVector
from mtnet.nets.necks import FPN, SPP, NeckChain, SharedVector

CHANNELS, STRIDES = (4, 6, 8), (8, 16, 32)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_shared_vector_is_the_mean_of_the_deepest_level_seen_by_one_layer(dims):
    levels = [torch.randn(2, c, *[32 // s] * dims) for c, s in zip(CHANNELS, STRIDES, strict=True)]
    neck = SharedVector(CHANNELS, channels=5)
    (vector,) = neck(levels)
    wanted = torch.relu(neck.linear(levels[-1].mean(list(range(2, 2 + dims)))))
    assert torch.equal(vector, wanted) and neck.channels == (5,) and neck.strides == (None,)


def test_a_residual_block_is_added_to_its_vector():
    decoder = ResidualVector((5, 6)).eval()
    vector = torch.randn(3, 6)
    torch.nn.init.zeros_(decoder.block[-1].weight)
    torch.nn.init.zeros_(decoder.block[-1].bias)
    (same,) = decoder([torch.randn(3, 5), vector])
    assert torch.equal(same, vector)
    assert torch.jit.script(decoder)([vector])[0].shape == (3, 6)


@pytest.mark.parametrize("dims", [2, 3])
def test_necks_in_a_chain_are_one_after_the_other(dims):
    pooling = SPP(dims, CHANNELS, STRIDES, norm="group")
    pyramid = FPN(dims, pooling.channels, pooling.strides, channels=8)
    chain = NeckChain(pooling, pyramid).eval()
    levels = [torch.randn(1, c, *[64 // s] * dims) for c, s in zip(CHANNELS, STRIDES, strict=True)]
    answers, wanted = chain([*levels]), pyramid(pooling([*levels]))
    assert all(torch.equal(a, b) for a, b in zip(answers, wanted, strict=True))
    assert (chain.channels, chain.strides) == (pyramid.channels, pyramid.strides)
    assert torch.equal(torch.jit.script(chain)([*levels])[0], wanted[0])


def test_a_chain_of_nothing_is_refused():
    with pytest.raises(ValueError, match="expected one or more"):
        NeckChain()
