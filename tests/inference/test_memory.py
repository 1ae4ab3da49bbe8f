import pytest
import torch
from torch import nn

from mtnet.inference.memory import ActivationMeter, Memory, is_out_of_memory


def starved(memory, times):
    """Work that runs out of memory so many times."""
    left = [times]

    def work():
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return memory.batch, memory.accumulator_device.type, memory.slab_bytes

    return work


def test_first_the_batch_halves_then_accumulators_move_to_the_host_then_slabs_halve():
    memory = Memory(4, torch.device("cuda"))
    slab = memory.slab_bytes
    steps = [(4, "cuda", slab), (2, "cuda", slab), (1, "cuda", slab), (1, "cpu", slab), (1, "cpu", slab // 2)]
    for step in steps:
        assert (memory.batch, memory.accumulator_device.type, memory.slab_bytes) == step
        memory.until_it_fits(starved(memory, 1))
    assert [line.code for line in memory.lines] == [
        "memory_batch_halved",
        "memory_batch_halved",
        "memory_accumulators_on_host",
        "memory_slabs_halved",
        "memory_slabs_halved",
    ]
    assert {line.severity for line in memory.lines} == {"note"}


def test_when_no_step_is_left_the_error_goes_on():
    memory = Memory(1, torch.device("cpu"))
    with pytest.raises(torch.OutOfMemoryError):
        memory.until_it_fits(starved(memory, 1000))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("Expected all tensors to be on the same device"), False),
        (ValueError("DefaultCPUAllocator: can't allocate memory"), False),
    ],
)
def test_only_what_says_so_is_out_of_memory(error, expected):
    assert is_out_of_memory(error) == expected


def test_torch_s_own_refusal_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)


def test_the_meter_sees_the_largest_module_and_leaves_no_hook():
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1))
    with ActivationMeter(net, torch.device("cpu")) as meter:
        net(torch.zeros(1, 1, 32, 32))
    assert meter.window_bytes == 2 * 4 * 32 * 32 * (8 + 2)
    assert not any(module._forward_hooks for module in net.modules())
