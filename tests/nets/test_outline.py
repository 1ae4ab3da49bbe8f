"""The work and the parts of networks, against the published counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtnet.nets.macs import count_macs
from mtnet.nets.outline import outline
from mtnet.systems import breast_ultrasound, chest_ct, unet_v2, yolo_med
from tests.nets.builders import Exchange, four_tasks, image, parameters


@pytest.mark.parametrize(("edge", "gmac"), [(224, 4.209702), (256, 5.555373), (352, 10.912667)])
def test_u_net_v2_takes_what_its_authors_code_takes(edge, gmac):
    with torch.device("meta"):
        # All four answers, as in training.
        assert count_macs(unet_v2.network("published"), torch.zeros(1, 3, edge, edge)) / 1e9 == pytest.approx(
            gmac, abs=6e-7
        )


@pytest.mark.parametrize(("encoder", "decoder", "gmac"), [("resnet50", "unet", 10.633), ("resnet50", "fpn", 7.786)])
def test_a_cell_of_the_grid_takes_what_smps_takes(encoder, decoder, gmac):
    with torch.device("meta"):
        network = breast_ultrasound.network("published", encoder, decoder, tasks=["segmentation"]).eval()
        assert count_macs(network, torch.zeros(1, 3, 256, 256)) / 1e9 == pytest.approx(gmac, abs=6e-4)


def test_attention_is_counted_on_a_real_device_as_on_none():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).train()

    class Attends(nn.Module):
        def forward(self, x):
            q = x.flatten(2).transpose(1, 2)
            return nn.functional.scaled_dot_product_attention(q, q, q)

    # 16 tokens of 4 channels: two products of 16 x 16 x 4.
    assert count_macs(Attends(), torch.rand(1, 4, 4, 4)) == 2 * 16 * 16 * 4
    assert count_macs(layer, torch.rand(1, 16, 8)) == 16 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 16 * 16 * 8


@pytest.mark.parametrize("dims", [2, 3])
def test_an_outline_tells_every_part_and_its_shares_make_the_whole(dims):
    network = four_tasks(dims, interaction=Exchange(("segmentation", "reconstruction"), (4, 4))).train()
    x = image(dims)
    told = outline(network, x.shape[1:])
    assert network.training and told.parameters == parameters(network)
    assert told.encoder.made_by == "VGG13" and told.neck is not None and told.interaction is not None
    assert list(told.tasks) == ["segmentation", "detection", "classification", "reconstruction"]
    assert [branch.reads for branch in told.tasks.values()] == ["encoder", "neck", "encoder", "encoder"]
    assert [branch.interacts for branch in told.tasks.values()] == [True, False, False, True]
    parts = [told.encoder, told.neck, told.interaction]
    parts += [part for branch in told.tasks.values() for part in (branch.decoder, branch.head)]
    assert sum(part.macs for part in parts) == told.macs > 0
    assert sum(part.parameters for part in parts) == told.parameters
    network.eval()
    with torch.no_grad():
        answers = network(x)
    assert {name: (x.shape[0], *shape) for branch in told.tasks.values() for name, shape in branch.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in answers.items()
    }


def test_a_view_of_one_task_leaves_out_what_it_does_not_run():
    with torch.device("meta"):
        whole = outline(chest_ct.network(), (1, 64, 64, 64))
        one = outline(chest_ct.network(outputs=["pred"]), (1, 64, 64, 64))
    assert list(one.tasks) == ["segmentation"] and one.neck is None
    assert one.parameters == whole.parameters and one.macs < whole.macs


@pytest.mark.parametrize(
    ("variant", "encoder", "size"),
    [
        ("compact", "vgg13", chest_ct.WINDOW),
        ("compact", "vgg13", (256, 256)),
        ("published", "vgg13", (256, 256)),
        ("published", "resnet50", (256, 256)),
    ],
)
def test_four_tasks_of_one_pass_take_at_most_1_75_of_segmentation_and_0_6_of_four_networks(variant, encoder, size):
    def macs(tasks):
        with torch.device("meta"):
            network = chest_ct.network(variant, encoder, len(size), tasks=tasks).eval()
            return count_macs(network, torch.zeros(1, 1, *size))

    together = macs(chest_ct.TASKS)
    assert together <= 1.75 * macs(["segmentation"])
    assert together <= 0.6 * sum(macs([task]) for task in chest_ct.TASKS)


def test_parts_that_join_others_are_named_by_them():
    with torch.device("meta"):
        told = outline(yolo_med.network(), (3, 64, 64))
    assert told.neck is not None and told.neck.made_by == "SPP + FPN"
    assert told.tasks["segmentation"].head.made_by == "YOLOSegmentationDecoder + SegmentationHead"
    with torch.device("meta"):
        assert outline(unet_v2.network(), (3, 64, 64)).encoder.made_by == "timm cs3darknet_s"


def test_a_size_that_the_network_does_not_take_is_an_error_that_names_one_that_it_does():
    with pytest.raises(ValueError, match=r"Pad it to \[48, 32\]"):
        outline(four_tasks(), (1, 33, 32))
