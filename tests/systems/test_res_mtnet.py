"""Res-MTNet's trunks against their counts, its links, what it sees of a study, and what its loss weighs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from mtnet.systems.res_mtnet import inferer, loss, network, preprocessing
from tests.systems.made import image, parameters, perturbed, truth


@pytest.mark.parametrize(
    ("encoder", "dims", "channels", "trunk"),
    [
        ("resnet18", 2, 3, 11_176_512),
        ("resnet18", 2, 1, 11_170_240),
        ("resnet34", 2, 3, 21_284_672),
        ("resnet50", 2, 1, 23_501_760),
        # MONAI's classifiers have 33,161,409 and 63,471,041 and 14,356,929 with one linear layer, 513 each, and biases
        # in the three shortcuts, 896, that ours have not.
        ("resnet18", 3, 1, 33_161_409 - 513 - 896),
        ("resnet34", 3, 1, 63_471_041 - 513 - 896),
        ("resnet10", 3, 1, 14_356_929 - 513 - 896),
    ],
)
def test_the_published_trunks_are_torchvisions_and_monais(encoder, dims, channels, trunk):
    with torch.device("meta"):
        assert parameters(network("published", encoder, spatial_dims=dims, in_channels=channels).encoder) == trunk


def test_the_links_are_two_maps_that_start_at_nothing():
    net, plain = network().eval(), network(interaction="none").eval()
    own = net.state_dict()
    plain.load_state_dict({name: own[name] for name in plain.state_dict()})
    assert parameters(net) - parameters(plain) == 2 * 256 * 256
    with torch.inference_mode():
        linked, apart, moved = net(image("res_mtnet")), plain(image("res_mtnet")), perturbed(net)(image("res_mtnet"))
    assert all(torch.equal(linked[name], apart[name]) for name in apart)
    assert all(not torch.equal(moved[name], apart[name]) for name in apart)


def test_a_task_alone_has_no_links():
    for task, names in (("classification", ["pred"]), ("regression", ["diameter", "reader_rating"])):
        net = network(tasks=[task]).eval()
        assert net.interaction is None and [spec.name for spec in net.outputs] == names


def test_it_measures_in_mm_with_the_spread_of_the_nodules_at_first():
    net = network(uncertainty=True).eval()
    for linear in net.branches["regression"].head.linears:
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    with torch.inference_mode():
        answers = net(image("res_mtnet"))
    assert answers["diameter"][0].tolist() == pytest.approx([8.7, 2 * np.log(5.0)], rel=1e-5)
    assert answers["reader_rating"][0].tolist() == pytest.approx([2.9, 2 * np.log(1.2)], rel=1e-5)


def test_lambda_weighs_the_measures_and_an_indeterminate_rating_teaches_no_class():
    answers, targets = network().eval()(image("res_mtnet")), truth("res_mtnet")
    total, terms = loss(0.5)(answers, targets)
    assert total.item() == pytest.approx(
        float(terms["pred"]) + 0.5 * float(terms["diameter"]) + 0.5 * float(terms["reader_rating"]), rel=1e-6
    )
    assert float(terms["pred"]) == pytest.approx(
        torch.nn.functional.cross_entropy(answers["pred"], targets["pred"]).item(), rel=1e-5
    )
    unknown = {**targets, "pred": torch.tensor([-1, -1]), "diameter": torch.tensor([float("nan"), 6.0])}
    _, terms = loss()(answers, unknown)
    assert float(terms["pred"]) == 0 and bool(terms["diameter"].isfinite())
    for options in ({"weighting": "uncertainty"}, {"uncertainty": True}):
        net = network(uncertainty=options.get("uncertainty", False))
        assert bool(loss(**options)(net(image("res_mtnet")), targets)[0].isfinite())


def study(shape=(60, 50, 20), spacing=(0.6, 0.7, 2.5)) -> MetaTensor:
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    hu = np.random.default_rng(0).integers(-1400, 900, shape).astype(np.float32)
    return MetaTensor(torch.from_numpy(hu), affine=torch.from_numpy(affine))


@pytest.mark.parametrize(("dims", "shape"), [(2, (3, 64, 64)), (3, (1, 32, 32, 32))])
def test_a_study_and_a_point_become_what_the_network_takes(dims, shape):
    item = {"image": study(), "at_lps_mm": (18.0, 14.0, 20.0)}
    made = preprocessing(dims, load=False)(item)["image"]
    assert made.shape == shape and made.dtype == torch.float32
    assert float(made.min()) == 0 and float(made.max()) == 1
    with torch.inference_mode():
        answers = inferer()(made[None], network(spatial_dims=dims).eval())
    assert answers["pred"].shape == (1, 2) and float(answers["pred"].sum()) == pytest.approx(1)
    assert answers["diameter"].shape == (1, 1)
