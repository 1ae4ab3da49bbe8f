from __future__ import annotations

import pytest
import torch

from mtnet.inference.precision import fast_precision


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"avx2": True, "avx512_f": True}, "float32"),
        ({}, "float32"),
    ],
)
def test_a_cpu_takes_bfloat16_only_where_it_has_instructions_for_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert fast_precision("cpu") == expected


def test_a_torch_that_cannot_be_asked_gives_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert fast_precision("cpu") == "float32"


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float16")])
def test_a_cuda_card_takes_bfloat16_from_compute_capability_8(monkeypatch, capability, expected):
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    assert fast_precision("cuda:1") == expected
    assert asked == ["cuda:1"]


def test_other_devices_stay_at_float32():
    assert fast_precision("mps") == "float32"
