"""Answers on the grid that an image was loaded on, and those of a network that is scored under dropout."""

from __future__ import annotations

import torch
from monai.data import MetaTensor
from torch import nn

from mtnet.inference.dropout import under_dropout
from mtnet.inference.inferer import UNDER_DROPOUT, MultiTaskInferer, source_grid
from mtnet.structures import Label, OutputSpec

SPECS = (OutputSpec("pred", "dense", (Label(0, "background"), Label(1, "bright")), (1,), "softmax"),)


class BrightNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.outputs = SPECS
        self.norm = nn.BatchNorm3d(1)
        self.drop = nn.Dropout3d(0.5)

    def forward(self, image):
        bright = self.norm(image)
        return {"pred": self.drop(torch.cat([-bright, bright], 1))}


def image():
    """Half as fine as the file it came from."""
    values = torch.zeros(1, 1, 8, 8, 8) - 1
    values[..., 2:5, 3:6, 4:7] = 4
    meta = {"spatial_shape": [16, 16, 16], "original_affine": torch.diag(torch.tensor([1.0, 1, 1, 1])).double()}
    affine = torch.diag(torch.tensor([2.0, 2, 2, 1])).double()
    affine[:3, 3] = 0.5
    return MetaTensor(values, affine=affine, meta=meta)


def test_labels_lie_on_the_grid_that_the_image_was_loaded_on():
    given = image()
    got = MultiTaskInferer(8, dense="source")(given, BrightNet().eval())
    assert source_grid(given).shape == (16, 16, 16)
    assert got["pred"].shape == (1, 1, 16, 16, 16) and got["pred"].dtype == torch.uint8
    assert got["pred"][0, 0, 5:9, 7:11, 9:13].all() and UNDER_DROPOUT not in got


def test_a_network_in_training_mode_gives_probabilities_that_differ_by_its_dropout_alone():
    net, inferer = BrightNet().train(), MultiTaskInferer(8, dense="source")
    statistics = net.norm.running_mean.clone()
    passes = [inferer(image(), net) for _ in range(16)]
    values = torch.stack([p["pred"] for p in passes])
    assert all(UNDER_DROPOUT in p for p in passes) and values.shape[1:] == (1, 2, 16, 16, 16)
    torch.testing.assert_close(values.sum(2), torch.ones_like(values[:, :, 0]))
    assert values.std(0).max() > 0.1
    assert net.training and net.norm.training and torch.equal(net.norm.running_mean, statistics)


def test_only_dropout_of_the_copy_is_in_training_mode():
    net = BrightNet().train()
    copy = under_dropout(net)
    assert copy is not net and copy.drop.training and not copy.norm.training and not copy.training
