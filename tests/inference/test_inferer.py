import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor, decollate_batch
from monai.inferers import Inferer, SlidingWindowInferer

from mtnet.inference.inferer import MultiTaskInferer
from tests.inference.toy_nets import PRED, DenseNet, EveryKindNet


def images():
    batch = -torch.randn(2, 1, 24, 33, 16, generator=torch.Generator().manual_seed(0)).abs()
    batch[0, 0, 4, 4, 4] = batch[0, 0, 20, 30, 10] = batch[1, 0, 12, 13, 8] = 1.5
    return batch


def test_dense_answers_equal_monai_s_inferer():
    net = DenseNet()
    batch = images()[..., :32, :]
    theirs = SlidingWindowInferer((16, 16, 16), 4, 0.25, mode="gaussian")
    with torch.no_grad():
        expected = theirs(batch, lambda x: net(x)["pred"])
    got = MultiTaskInferer((16, 16, 16), sw_batch_size=2)(batch, net)
    assert list(got) == ["pred", "values"]
    assert (got["pred"] - expected).abs().max() < 1e-5


def test_every_answer_has_the_batch_first_and_boxes_say_which_rows_are_valid():
    got = MultiTaskInferer(16)(images(), EveryKindNet())
    assert {name: tuple(t.shape) for name, t in got.items()} == {
        "pred": (2, 3, 24, 33, 16),
        "values": (2, 2, 24, 33, 16),
        "boxes": (2, 2, 10),
        "image_class": (2, 2),
        "coarse": (2, 3, 24, 33, 16),
    }
    assert got["boxes"][..., 8].tolist() == [[1.0, 1.0], [1.0, 0.0]]
    centre = (got["boxes"][1, 0, :3] + got["boxes"][1, 0, 3:6]) / 2
    assert centre.tolist() == pytest.approx([12, 13, 8], abs=1e-4)
    assert got["boxes"][1, 0, 6].item() == pytest.approx(1 / (1 + np.exp(-1.5)), abs=1e-5)
    assert got["boxes"][..., 9].tolist() == [[1.5, 1.5], [1.5, 0.0]]
    assert not got["boxes"][1, 1].any()


def test_each_item_is_answered_as_if_it_came_alone():
    together = MultiTaskInferer(16)(images(), EveryKindNet())
    for n, image in enumerate(images().split(1)):
        alone = MultiTaskInferer(16)(image, EveryKindNet())
        for name in ("pred", "values", "coarse", "image_class"):
            assert torch.equal(together[name][n], alone[name][0])
        assert torch.equal(together["boxes"][n, : alone["boxes"].shape[1]], alone["boxes"][0])


def test_hosts_can_take_the_batch_apart():
    items = decollate_batch(MultiTaskInferer(16)(images(), EveryKindNet()))
    assert len(items) == 2
    assert items[0]["boxes"].shape == (2, 10)
    assert items[0]["pred"].shape == (3, 24, 33, 16)


def test_without_a_lesion_one_row_that_is_not_valid_stands_in():
    got = MultiTaskInferer(16)(-images().abs(), EveryKindNet())
    assert got["boxes"].shape == (2, 1, 10)
    assert not got["boxes"].any()


def test_the_list_layout_has_one_dict_an_item():
    batch = MultiTaskInferer(16)(images(), EveryKindNet())
    items = MultiTaskInferer(16, layout="list")(images(), EveryKindNet())
    assert [type(item) for item in items] == [dict, dict]
    assert all(torch.equal(items[n][name], batch[name][n]) for n in range(2) for name in batch)


def test_dense_answers_keep_the_affine_of_the_image():
    affine = torch.diag(torch.tensor([1.5, 1.5, 3.0, 1.0], dtype=torch.float64))
    got = MultiTaskInferer(16)(MetaTensor(images(), affine=affine), EveryKindNet())
    assert isinstance(got["pred"], MetaTensor)
    assert torch.equal(got["pred"].affine, affine)
    assert not isinstance(got["boxes"], MetaTensor)


@pytest.mark.parametrize("dense", ["probabilities", "labels"])
def test_dense_answers_come_in_the_form_that_is_asked_for(dense):
    logits = MultiTaskInferer(16)(images(), DenseNet(outputs=(PRED,)))["pred"]
    got = MultiTaskInferer(16, dense=dense)(images(), DenseNet(outputs=(PRED,)))["pred"]
    expected = logits.softmax(1) if dense == "probabilities" else logits.argmax(1, keepdim=True).to(torch.uint8)
    assert got.dtype == expected.dtype
    assert (got.float() - expected.float()).abs().max() < 1e-6


def test_a_bundle_config_builds_it_by_name():
    parser = ConfigParser(
        {"inferer": {"_target_": "mtnet.inference.MultiTaskInferer", "roi_size": [16, 16, 16], "overlap": 0.5}}
    )
    inferer = parser.get_parsed_content("inferer")
    assert isinstance(inferer, Inferer)
    assert set(inferer(images(), EveryKindNet())) == {"pred", "values", "boxes", "image_class", "coarse"}


def test_two_dimensions_work_too():
    got = MultiTaskInferer((16, 16))(images()[..., 4], DenseNet(2))
    assert got["pred"].shape == (2, 3, 24, 33)


def test_a_wrapped_network_still_says_what_it_gives():
    net = DenseNet()
    wrapped = torch.nn.DataParallel(net)
    assert torch.equal(MultiTaskInferer(16)(images(), wrapped)["pred"], MultiTaskInferer(16)(images(), net)["pred"])


def test_a_network_that_does_not_say_what_it_gives_is_refused():
    with pytest.raises(ValueError, match="Conv3d has no outputs"):
        MultiTaskInferer(16)(images(), torch.nn.Conv3d(1, 1, 1))


@pytest.mark.parametrize("option", [{"layout": "tuple"}, {"dense": "mask"}, {"mode": "flat"}])
def test_an_unknown_option_is_refused_at_once(option):
    with pytest.raises(ValueError, match=next(iter(option.values()))):
        MultiTaskInferer(16, **option)
