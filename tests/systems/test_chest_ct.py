"""The chest-CT system against its paper's structure and the numbers of its published parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from mtnet.structures import Geometry
from mtnet.systems import chest_ct
from mtnet.systems.chest_ct import HU_WINDOW, TASKS, loss, network, preprocessing

OUTPUT_OF = {
    "segmentation": "pred",
    "detection": "lesions",
    "classification": "classification",
    "reconstruction": "reconstruction",
}


def count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def first_conv(net: nn.Module) -> nn.Module:
    return next(m for m in net.encoder.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d)))


def noise(dims: int, edge: int = 32, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 1, *[edge] * dims, generator=torch.Generator().manual_seed(0))


def truth(dims: int, edge: int = 32) -> tuple[torch.Tensor, dict]:
    """A patch with a lesion and one without: the image and the targets by output name."""
    image = noise(dims, edge)
    mask = torch.zeros(2, *[edge] * dims, dtype=torch.long)
    mask[(0, *[slice(8, 16)] * dims)] = 1
    lesion = {
        "box_index": torch.tensor([[7.5] * dims + [15.5] * dims]),
        "label": torch.tensor([0]),
        "texture": torch.tensor([2]),
    }
    none = {"box_index": torch.zeros(0, 2 * dims), "label": torch.zeros(0).long(), "texture": torch.zeros(0).long()}
    classes = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    targets = {
        "pred": mask,
        "lesions": [lesion, none],
        "classification": classes,
        "reconstruction": image * 1400 - 1000,
    }
    return image, targets


@pytest.mark.parametrize("encoder", ["vgg13", "resnet18", "resnet50"])
@pytest.mark.parametrize(("variant", "dims"), [("compact", 2), ("compact", 3), ("published", 2)])
def test_all_four_tasks_cost_the_encoder_the_neck_and_their_branches(variant, encoder, dims):
    with torch.device("meta"):
        whole = network(variant, encoder, dims)
        assert count(whole) == count(whole.encoder) + count(whole.neck) + sum(map(count, whole.branches.values()))
        assert list(whole.branches) == list(TASKS)
        for off in TASKS:
            rest = network(variant, encoder, dims, tasks=[task for task in TASKS if task != off])
            neck = count(whole.neck) if off == "detection" else 0
            assert count(whole) - count(rest) == count(whole.branches[off]) + neck
            gone = ("branches." + off, *(["neck"] if off == "detection" else []))
            assert set(rest.state_dict()) == {name for name in whole.state_dict() if not name.startswith(gone)}


@pytest.mark.parametrize(
    ("encoder", "channels", "trunk"),
    [
        ("vgg13", 1, 9_409_728),
        ("vgg13", 3, 9_410_880),
        ("resnet18", 1, 11_170_240),
        ("resnet34", 3, 21_284_672),
        ("resnet50", 1, 23_501_760),
        ("resnet50", 3, 23_508_032),
    ],
)
def test_the_published_variant_has_torchvisions_trunks(encoder, channels, trunk):
    with torch.device("meta"):
        assert count(network("published", encoder, 2, channels).encoder) == trunk


def test_the_published_resnet50_segments_as_segmentation_models_pytorchs_unet():
    with torch.device("meta"):
        net = network("published", "resnet50", 2, tasks=["segmentation"])
    # smp's one-class U-Net has 32,514,833 on one channel; its head has 145, two classes with background have 290.
    assert count(net.branches["segmentation"].decoder) == 9_012_928
    assert count(net) == 32_514_833 + 145


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("encoder", ["vgg13", "resnet10", "resnet18", "resnet50"])
def test_every_output_has_the_shape_that_it_says(encoder, dims):
    image = noise(dims, batch=1)
    with torch.inference_mode():
        answers = network("compact", encoder, dims).eval()(image)
    size = image.shape[2:]
    assert list(answers) == ["pred", "lesions_s4", "lesions_s8", "classification", "reconstruction"]
    assert answers["pred"].shape == (1, 2, *size)
    assert answers["reconstruction"].shape == (1, 1, *size)
    # Two image classes and the window's weight.
    assert answers["classification"].shape == (1, 3)
    for stride in (4, 8):
        # One class, offsets, quality, four textures.
        assert answers[f"lesions_s{stride}"].shape == (1, 1 + 2 * dims + 1 + 4, *(n // stride for n in size))


@pytest.mark.parametrize("encoder", ["vgg13", "resnet18"])
def test_the_published_variant_answers_for_the_whole_slice(encoder):
    with torch.inference_mode():
        answers = network("published", encoder, 2).eval()(noise(2, 64, 1))
    assert answers["pred"].shape == (1, 2, 64, 64)
    assert answers["classification"].shape == (1, 2)
    assert answers["lesions_s8"].shape == (1, 10, 8, 8)


@pytest.mark.parametrize("variant", ["compact", "published"])
def test_one_state_dict_fits_every_view(variant):
    with torch.device("meta"):
        keys = list(network(variant, spatial_dims=2).state_dict())
        views = [
            network(variant, spatial_dims=2, outputs=["pred"], layout="tensor"),
            network(variant, spatial_dims=2, outputs=["lesions", "classification"]),
            network(variant, spatial_dims=2, layout="tuple"),
            network(variant, spatial_dims=2, dropout=0.5),
        ]
    for view in views:
        assert list(view.state_dict()) == keys


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("encoder", ["vgg13", "resnet10"])
def test_the_loss_of_every_branch_alone_reaches_the_first_convolution(encoder, task, dims):
    net = network("compact", encoder, dims)
    image, targets = truth(dims)
    alone = {name: float(name == OUTPUT_OF[task]) for name in OUTPUT_OF.values()}
    total, terms = loss(alone, dims)(net(image), targets)
    total.backward()
    assert {name.split("/")[0] for name in terms} == {OUTPUT_OF[task]}
    gradient = first_conv(net).weight.grad
    assert gradient is not None and bool(torch.isfinite(gradient).all()) and float(gradient.abs().sum()) > 0
    for other, branch in net.branches.items():
        touched = [p for p in branch.parameters() if p.grad is not None and float(p.grad.abs().sum()) > 0]
        assert bool(touched) is (other == task)


def test_weight_zero_switches_a_task_off_and_the_total_is_the_sum_of_the_rest():
    net = network(spatial_dims=2)
    image, targets = truth(2)
    answers = net(image)
    whole, terms = loss(spatial_dims=2)(answers, targets)
    assert whole.item() == pytest.approx(sum(float(v) for v in terms.values()), rel=1e-6)
    for off in OUTPUT_OF.values():
        rest, kept = loss({off: 0.0}, 2)(answers, targets)
        assert set(kept) == {name for name in terms if name.split("/")[0] != off}
        without = sum(float(v) for name, v in terms.items() if name.split("/")[0] != off)
        assert rest.item() == pytest.approx(without, rel=1e-6)


@pytest.mark.parametrize("encoder", ["vgg13", "resnet10"])
def test_the_reconstruction_comes_from_the_bottleneck_alone(encoder):
    net = network("compact", encoder, 2, tasks=["reconstruction", "segmentation"]).eval()
    levels = net.encoder(noise(2))
    redraw, segment = net.branches["reconstruction"], net.branches["segmentation"]
    with torch.inference_mode():
        whole = redraw(levels)["reconstruction"]
        finer_gone = [torch.zeros_like(level) for level in levels[:-1]] + [levels[-1]]
        bottleneck_gone = [*levels[:-1], torch.zeros_like(levels[-1])]
        assert torch.equal(redraw(finer_gone)["reconstruction"], whole)
        assert not torch.allclose(redraw(bottleneck_gone)["reconstruction"], whole)
        # Segmentation does have skips.
        assert not torch.allclose(segment(finer_gone)["pred"], segment(levels)["pred"])


def test_the_reconstruction_is_in_hounsfield_units():
    net = network(spatial_dims=2, tasks=["reconstruction"]).eval()
    head = net.branches["reconstruction"].head
    with torch.inference_mode():
        for inner, hu in ((0.0, -1000.0), (0.5, -300.0), (1.0, 400.0)):
            head.conv.weight.zero_()
            head.conv.bias.fill_(inner)
            assert net(noise(2))["reconstruction"].unique().tolist() == [hu]
    (spec,) = net.outputs
    assert (spec.units, spec.background) == ("HU", -1000.0)


def test_dropout_acts_in_training_on_every_head_and_not_in_inference():
    net = network(spatial_dims=2, dropout=0.5)
    image = noise(2)
    net.train()
    one, other = net(image), net(image)
    assert all(not torch.equal(one[name], other[name]) for name in one)
    net.eval()
    plain = network(spatial_dims=2).eval()
    plain.load_state_dict(net.state_dict())
    one, other = net(image), plain(image)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "huge"}, "compact, published"),
        ({"encoder": "vgg16"}, "vgg13, resnet10"),
        ({"tasks": ["segmentation", "sing"]}, "expected some of segmentation"),
        ({"tasks": []}, "expected some of segmentation"),
        ({"outputs": ["lungs"]}, "lungs"),
    ],
)
def test_what_it_does_not_know_is_refused_by_name(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        network(**options)


def hu_image(direction: np.ndarray, spacing: tuple[float, float, float], hu: np.ndarray) -> MetaTensor:
    affine_lps = np.eye(4)
    affine_lps[:3, :3] = direction @ np.diag(spacing)
    affine_lps[:3, 3] = (-3.0, 5.0, 7.0)
    geometry = Geometry(hu.shape, affine_lps)
    return MetaTensor(torch.as_tensor(hu, dtype=torch.float32), affine=torch.as_tensor(geometry.affine_ras))


def test_preprocessing_maps_the_window_to_0_and_1_and_clips_beyond():
    values = np.array([-3024, -1001, -1000, -300, 400, 401, 3071], dtype=np.float64)
    image = hu_image(np.eye(3), (1.5, 1.5, 1.5), np.tile(values[:, None, None], (1, 4, 4)))
    prepared = preprocessing(load=False)({"image": image})["image"]
    assert prepared.shape == (1, 7, 4, 4) and prepared.dtype == torch.float32
    assert prepared[0, :, 1, 1].tolist() == pytest.approx([0, 0, 0, 0.5, 1, 1, 1], abs=1e-6)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_every_orientation_comes_out_along_lps_with_each_value_at_its_place(order, signs):
    direction = np.eye(3)[:, list(order)] * np.asarray(signs)
    shape, spacing = (9, 10, 11), (2.0, 3.0, 1.5)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    at = index * spacing @ direction.T + (-3.0, 5.0, 7.0)
    image = hu_image(direction, spacing, at @ (5.0, 7.0, 11.0) - 300)
    prepared = preprocessing(load=False)({"image": image})["image"]
    grid = Geometry.from_ras(prepared.shape[1:], prepared.affine.numpy())
    np.testing.assert_allclose(np.asarray(grid.affine_lps)[:3, :3], np.eye(3) * 1.5, atol=1e-5)
    found = prepared[0].numpy() * (HU_WINDOW[1] - HU_WINDOW[0]) + HU_WINDOW[0]
    inner = np.stack(np.meshgrid(*(np.arange(2, n - 2) for n in found.shape), indexing="ij"), -1)
    wanted = grid.index_to_lps_mm(inner.reshape(-1, 3)) @ (5.0, 7.0, 11.0) - 300
    np.testing.assert_allclose(found[tuple(inner.reshape(-1, 3).T)], wanted, atol=0.05)


def test_an_image_on_the_networks_grid_is_not_resampled():
    hu = np.random.default_rng(0).integers(-900, 300, (6, 7, 8)).astype(np.float64)
    prepared = preprocessing(load=False)({"image": hu_image(np.eye(3), (1.5, 1.5, 1.5), hu)})["image"]
    np.testing.assert_allclose(prepared[0].numpy(), (hu + 1000) / 1400, atol=1e-6)


def test_the_inferer_looks_where_there_is_lung_and_a_window_is_at_most_96_mm():
    inferer = chest_ct.inferer()
    assert inferer.region is not None and inferer.region.rule == "lung_field"
    assert inferer.region.hu_window == HU_WINDOW
    assert all(n * mm <= 96 for n, mm in zip(inferer.plan.window, chest_ct.SPACING_MM, strict=True))
