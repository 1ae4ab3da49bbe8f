"""Two processes, targets missing on one of them or on both: no parameter is left out, and both keep equal weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from mtnet.losses import (
    DeepSupervisionLoss,
    DenseDetectionLoss,
    FocalLoss,
    GaussianRegressionLoss,
    MultiTaskLoss,
    SegmentationLoss,
)
from mtnet.nets import Branch, ClassificationHead, DetectionHead, MultiTaskNet, SegmentationHead
from mtnet.nets.decoders import PickLevels
from mtnet.nets.heads import RegressionHead
from mtnet.nets.interactions import CrossScaleInteraction
from mtnet.structures import Label, OutputSpec

TISSUES = (Label(0, "background"), Label(1, "polyp"))
BOXES = OutputSpec("boxes", "boxes", TISSUES[1:], (4, 8), "sigmoid")
CLASSES = OutputSpec("classes", "global", TISSUES, activation="softmax")
DIAMETER = OutputSpec("diameter", "global", units="mm", log_variance=True)
CHANNELS, STRIDES = (4, 6), (4, 8)
EVERY = ("pred", "boxes", "classes", "diameter")

# For each step, the tasks without targets on process 0 and on process 1.
STEPS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    ((), ()),
    (EVERY[:2], ()),
    ((), EVERY[2:]),
    (EVERY[:1], EVERY[1:]),
    (("diameter",), ("diameter",)),
    (EVERY, ()),
    (EVERY, EVERY),
    ((), ()),
)


class Stem(nn.Module):
    """Two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = CHANNELS, STRIDES
        self.convs = nn.ModuleList(nn.Conv2d(1, c, 1) for c in CHANNELS)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [conv(F.avg_pool2d(x, stride)) for conv, stride in zip(self.convs, STRIDES, strict=True)]


def network() -> MultiTaskNet:
    """Four tasks, deep supervision and an interaction."""
    torch.manual_seed(0)

    def pick() -> PickLevels:
        return PickLevels(CHANNELS, STRIDES, STRIDES)

    dense = SegmentationHead(2, CHANNELS, STRIDES, labels=TISSUES, upsample=4, auxiliary_strides=(8,))
    tasks = ("segmentation", "detection")
    exchange = CrossScaleInteraction(
        2, dict.fromkeys(tasks, CHANNELS), dict.fromkeys(tasks, STRIDES), grid=2, width=4, heads=2, feedforward=8
    )
    nn.init.constant_(exchange.scale, 0.5)
    return MultiTaskNet(
        Stem(),
        {
            "segmentation": Branch(pick(), dense),
            "detection": Branch(pick(), DetectionHead(2, CHANNELS, STRIDES, BOXES, convs=1, width=4)),
            "classification": Branch(pick(), ClassificationHead(CHANNELS, CLASSES)),
            "measurement": Branch(pick(), RegressionHead(CHANNELS, [DIAMETER], scales=(4.0,), offsets=(10.0,))),
        },
        interaction=exchange,
    )


def loss_of(net: MultiTaskNet) -> MultiTaskLoss:
    return MultiTaskLoss(
        {
            "pred": DeepSupervisionLoss(SegmentationLoss(), ("pred", *(spec.name for spec in net.auxiliary))),
            "boxes": DenseDetectionLoss(BOXES, 2),
            "classes": FocalLoss(),
            "diameter": GaussianRegressionLoss(unit=4.0),
        },
        weighting="uncertainty",
        forms={"diameter": "regression"},
    )


def batch(step: int, rank: int) -> tuple[Tensor, dict[str, Any]]:
    """Two images and their targets; of a missing task now all are absent, now unknown one by one."""
    draw = torch.Generator().manual_seed(10 * step + rank)
    image = torch.randn(2, 1, 16, 24, generator=draw)
    box = {
        "box_index": torch.tensor([[2.0, 3.0, 5.0, 7.0], [1.0, 8.0, 15.0, 23.0]]),
        "label": torch.tensor([0, 0]),
    }
    targets: dict[str, Any] = {
        "pred": torch.randint(0, 2, (2, 16, 24), generator=draw),
        "boxes": [box, None],
        "classes": torch.tensor([1, -1]),
        "diameter": torch.tensor([float("nan"), 7.0]),
    }
    unknown = {
        "pred": torch.full((2, 16, 24), -1),
        "boxes": [None, None],
        "classes": torch.tensor([-1, -1]),
        "diameter": torch.full((2,), float("nan")),
    }
    for task in STEPS[step][rank]:
        if step % 2:
            del targets[task]
        else:
            targets[task] = unknown[task]
    return image, targets


def train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        net = network()
        inner = loss_of(net)
        # Not find_unused_parameters: a parameter without a gradient is an error at the next step.
        model, loss = DistributedDataParallel(net), DistributedDataParallel(inner)
        optimiser = torch.optim.AdamW(
            [{"params": net.parameters()}, {"params": inner.parameters(), "weight_decay": 0.0}], 1e-2
        )
        for step in range(len(STEPS)):
            image, targets = batch(step, rank)
            optimiser.zero_grad()
            total, _ = loss(model(image), targets)
            total.backward()
            optimiser.step()
        torch.save({"net": net.state_dict(), "loss": inner.state_dict()}, Path(folder) / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


def alone() -> dict[str, dict[str, Tensor]]:
    """The same training in one process: the mean of both processes' gradients."""
    # As the processes have it: attention's bias of keys has no gradient but rounding, which AdamW makes steps of.
    torch.set_num_threads(1)
    net = network()
    loss = loss_of(net)
    optimiser = torch.optim.AdamW(
        [{"params": net.parameters()}, {"params": loss.parameters(), "weight_decay": 0.0}], 1e-2
    )
    for step in range(len(STEPS)):
        optimiser.zero_grad()
        for rank in (0, 1):
            image, targets = batch(step, rank)
            total, _ = loss(net(image), targets)
            (total / 2).backward()
        optimiser.step()
    return {"net": net.state_dict(), "loss": loss.state_dict()}


def test_one_process_gives_every_parameter_a_gradient_whatever_is_missing() -> None:
    net = network()
    loss = loss_of(net)
    for step in range(len(STEPS)):
        for rank in (0, 1):
            image, targets = batch(step, rank)
            net.zero_grad(set_to_none=True)
            loss.zero_grad(set_to_none=True)
            total, _ = loss(net(image), targets)
            total.backward()
            parameters = [*net.named_parameters(), *loss.named_parameters()]
            assert [name for name, p in parameters if p.grad is None] == []
            assert bool(torch.isfinite(total.detach()))
            if STEPS[step][rank] == EVERY:
                assert all(not p.grad.any() for _, p in parameters if p.grad is not None)


@pytest.mark.slow
def test_two_processes_train_alike_with_targets_missing_on_one_or_both() -> None:
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(train, args=(folder,), nprocs=2)
        first, second = (torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    threads = torch.get_num_threads()
    try:
        expected = alone()
    finally:
        torch.set_num_threads(threads)
    for part, state in first.items():
        for name, value in state.items():
            assert torch.equal(value, second[part][name]), f"{part}.{name} differs between the processes"
            torch.testing.assert_close(value, expected[part][name], atol=1e-4, rtol=1e-3)
    start = network().state_dict()
    assert [name for name, value in start.items() if torch.equal(first["net"][name], value)] == []
    assert bool(first["loss"]["learned.log_variance"].all())
