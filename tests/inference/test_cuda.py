"""What the engine does on CUDA. Where there is no device, its order of work is proved with streams that do nothing."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from mtnet.inference import engine
from mtnet.inference.engine import run
from mtnet.inference.feeder import Feeder
from mtnet.inference.plan import Plan
from mtnet.inference.runtimes import EagerPass, prepare
from mtnet.inference.windows import lay_windows
from mtnet.systems import chest_ct
from tests.inference.toy_nets import EveryKindNet


def needs_gpu(test):
    """Mark a test that needs a CUDA device."""
    there = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
    return pytest.mark.gpu(there(test))


PLAN = Plan(window=(16, 16, 16), batch=4)


def image():
    drawn = -torch.randn(1, 1, 48, 40, 56, generator=torch.Generator().manual_seed(0)).abs()
    drawn[0, 0, 10, 12, 14] = drawn[0, 0, 40, 30, 44] = 1.5
    return drawn


def check_alike(got, expected, tolerance):
    assert (got.dense["pred"].array == expected.dense["pred"].array).mean() > 1 - 1e-3
    for name in ("values", "coarse"):
        assert abs(got.dense[name].array - expected.dense[name].array).max() < tolerance
    assert (got.boxes["boxes"].box_index - expected.boxes["boxes"].box_index).abs().max() < tolerance
    assert (got.global_["image_class"] - expected.global_["image_class"]).abs().max() < tolerance


class Streamless:
    """Stands for a stream and an event."""

    def __init__(self, *_):
        pass

    def wait_stream(self, _other):
        pass

    def wait_event(self, _event):
        pass

    def record(self, _stream):
        pass


@pytest.fixture
def overlapped(monkeypatch):
    """The engine as on CUDA, on a CPU: what was done, in order."""
    done = []
    cuda = engine.torch.cuda
    for name in ("Stream", "Event", "current_stream"):
        monkeypatch.setattr(cuda, name, Streamless)
    monkeypatch.setattr(cuda, "stream", lambda _stream: nullcontext())
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(cuda, name, lambda *_, name=name: done.append(name))
    merge_all = engine._Windows.merge_all

    def as_on_cuda(windows, progress):
        launched, committed = windows._launched, windows._commit
        windows._launched = lambda begun: (done.append(f"launch {begun}"), launched(begun))[1]
        windows._commit = lambda which, prepared: (done.append(f"commit {which.start}"), committed(which, prepared))[1]
        windows._overlapped(progress or (lambda *_: None))
        merge_all(windows, progress)

    monkeypatch.setattr(engine._Windows, "merge_all", as_on_cuda)
    return done


def test_the_next_batch_is_in_the_network_before_the_last_one_is_merged(overlapped):
    net = EveryKindNet()
    got = run(net, image(), PLAN)
    assert overlapped[:5] == ["launch 0", "launch 4", "commit 0", "launch 8", "commit 4"]
    assert [entry for entry in overlapped if entry.startswith("commit")] == [
        f"commit {n}" for n in range(0, got.windows_run, 4)
    ]


def test_overlapping_changes_no_answer(overlapped, monkeypatch):
    got = run(EveryKindNet(), image(), PLAN)
    monkeypatch.undo()
    expected = run(EveryKindNet(), image(), PLAN)
    check_alike(got, expected, 1e-6)


def test_where_memory_runs_out_the_rest_goes_on_without_overlap(overlapped, monkeypatch):
    calls = []

    class Tight(EveryKindNet):
        def forward(self, windows):
            calls.append(len(windows))
            self.most = 4 if len(calls) < 4 else 2
            return super().forward(windows)

    got = run(Tight(), image(), PLAN)
    assert "synchronize" in overlapped
    assert [line.code for line in got.lines] == ["memory_no_overlap", "memory_batch_halved"]
    monkeypatch.undo()
    check_alike(got, run(EveryKindNet(), image(), PLAN), 1e-5)


def test_an_error_that_is_not_out_of_memory_comes_through_the_overlap(overlapped):
    class Broken(EveryKindNet):
        def forward(self, windows):
            raise RuntimeError("a fault of the network")

    with pytest.raises(RuntimeError, match="a fault of the network"):
        run(Broken(), image(), PLAN)


def test_on_the_host_windows_are_cut_where_they_lie():
    layout = lay_windows(PLAN, (48, 40, 56), 4, 2, 0)
    feeder = Feeder(image(), layout, torch.device("cpu"))
    feeder.expect(range(2, 4))
    batch = feeder.batch(range(2, 4))
    expected = torch.cat([image()[(slice(None), slice(None), *layout.slices(n))] for n in (2, 3)])
    assert torch.equal(batch, expected)
    assert feeder.device_bytes == 0


@pytest.fixture
def exact_convolutions(monkeypatch):
    """Without TensorFloat-32, which torch takes for convolutions in float32 on CUDA."""
    if torch.cuda.is_available():
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


class OnDevice(EveryKindNet):
    """The toy network, whose boxes and classes are worked out on the host and go back to the device."""

    def forward(self, windows):
        host = windows.float().cpu()
        others = {**self.boxes(host), **self.image(host)}
        return {**self.dense(windows), **{name: tensor.to(windows.device) for name, tensor in others.items()}}


@needs_gpu
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_cuda_gives_the_cpu_s_answers(exact_convolutions, batch):
    expected = run(EveryKindNet(), image(), PLAN)
    plan = replace(PLAN, device="cuda", batch=batch)
    check_alike(run(OnDevice().cuda(), image(), plan), expected, 1e-4)


@needs_gpu
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_on_cuda_stays_near_the_cpu_s_float32(precision):
    expected = run(EveryKindNet(), image(), PLAN)
    plan = replace(PLAN, device="cuda", precision=precision)
    got = run(OnDevice().cuda(), image(), plan)
    spread = abs(expected.dense["values"].array).max()
    assert abs(got.dense["values"].array - expected.dense["values"].array).max() < 0.05 * spread


@needs_gpu
def test_an_image_that_does_not_go_to_the_device_is_copied_batch_by_batch(exact_convolutions, monkeypatch):
    monkeypatch.setattr("mtnet.inference.feeder._SHARE_FOR_IMAGE", 0.0)
    layout = lay_windows(PLAN, (48, 40, 56), 4, 2, 0)
    feeder = Feeder(image(), layout, torch.device("cuda"))
    assert feeder.device_bytes == 0
    for windows in (range(3), range(3, 6), range(8, 9)):
        batch = feeder.batch(windows)
        feeder.expect(range(windows.stop, windows.stop + 3))
        crops = [image()[(slice(None), slice(None), *layout.slices(n))] for n in windows]
        assert torch.equal(batch.cpu(), torch.cat(crops))
    expected = run(EveryKindNet(), image(), PLAN)
    check_alike(run(OnDevice().cuda(), image(), replace(PLAN, device="cuda")), expected, 1e-4)


@needs_gpu
def test_a_memory_limit_on_cuda_is_kept():
    net = OnDevice().cuda()
    plan = replace(PLAN, device="cuda", batch=64, memory_limit_bytes=24 << 20)
    torch.cuda.reset_peak_memory_stats()
    base = torch.cuda.memory_allocated()
    got = run(net, image(), plan)
    assert torch.cuda.max_memory_allocated() - base <= 24 << 20
    check_alike(got, run(EveryKindNet(), image(), PLAN), 2e-3)


@needs_gpu
def test_memory_that_runs_out_on_cuda_halves_the_batch():
    class Greedy(OnDevice):
        def forward(self, windows):
            if len(windows) > 2:
                # More than any card has.
                torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
            return super().forward(windows)

    got = run(Greedy().cuda(), image(), replace(PLAN, device="cuda", batch=8))
    assert [line.code for line in got.lines] == ["memory_no_overlap", "memory_batch_halved", "memory_batch_halved"]
    check_alike(got, run(EveryKindNet(), image(), PLAN), 2e-3)


@needs_gpu
def test_torch_compile_runs_on_cuda():
    torch.manual_seed(0)
    net = chest_ct.network().eval().cuda()
    windows = torch.rand(2, 1, 64, 64, 64, device="cuda")
    with torch.no_grad():
        expected = EagerPass(net, "float32", "cuda")(windows, 2)
        got = prepare(net, "compile", "float32", "cuda")(windows[:1], 2)
    for name, tensor in got.items():
        assert (tensor - expected[name][:1]).abs().max() < 1e-2 * expected[name].abs().max()
