from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mtnet.training import FusedAdamW


def test_its_steps_are_those_of_adamw_and_are_fused_unless_told_otherwise():
    torch.manual_seed(0)
    plain = nn.Linear(5, 3)
    fused = copy.deepcopy(plain)
    settings = {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.2}
    optimizers = torch.optim.AdamW(plain.parameters(), **settings), FusedAdamW(fused.parameters(), **settings)
    for _ in range(4):
        for layer, optimizer in zip((plain, fused), optimizers, strict=True):
            optimizer.zero_grad()
            (layer(torch.arange(5.0)) ** 2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(fused.weight, plain.weight)
    assert optimizers[1].defaults["fused"] is True
    assert FusedAdamW(fused.parameters(), lr=0.1, fused=False).defaults["fused"] is False


def test_a_training_that_began_with_torchs_own_adamw_goes_on():
    layer = nn.Linear(2, 1)
    before, after = torch.optim.AdamW(layer.parameters(), lr=0.1), FusedAdamW(layer.parameters(), lr=0.5)
    layer(torch.ones(2)).backward()
    before.step()
    after.load_state_dict(before.state_dict())
    after.step()
    assert after.param_groups[0]["lr"] == 0.1
    assert after.state[layer.weight]["step"] == pytest.approx(2)
