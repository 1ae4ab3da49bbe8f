import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mtnet.inference import MultiTaskInferer
from mtnet.inference.engine import run
from mtnet.inference.plan import Plan
from mtnet.structures import Label, OutputSpec, kinds
from tests.inference.toy_nets import BOX_SIZE, IMAGE, PRED, BlobNet, DenseNet, ImageNet


def planted(shape, voxels, value=1.0):
    image = torch.zeros(1, 1, *shape)
    for voxel in voxels:
        image[(0, 0, *voxel)] = value
    return image


def found(net, image, **fields):
    window = (16,) * (image.ndim - 2)
    return run(net, image, Plan(window=window, nms_iou=0.2, **fields)).boxes["boxes"]


def assert_each_once(boxes, voxels, shape, value=1.0, tolerance=1e-4):
    """One box for each planted voxel, in its place, cut at the image's edge, its score as the cell gave it."""
    dims = len(shape)
    assert len(boxes.score) == len(voxels)
    assert torch.allclose(boxes.score, torch.sigmoid(torch.tensor(value)), atol=1e-6)
    assert torch.allclose(boxes.lesion["diameter"], torch.tensor(value))
    centres = torch.tensor(sorted(voxels), dtype=torch.float32)
    low = (centres - BOX_SIZE / 2).clamp_min(-0.5)
    high = (centres + BOX_SIZE / 2).minimum(torch.tensor(shape) - 0.5)
    got = boxes.box_index[np.lexsort(np.round(boxes.box_index.numpy(), 2).T[::-1])]
    expected = torch.cat([low, high], 1)
    expected = expected[np.lexsort(np.round(expected.numpy(), 2).T[::-1])]
    assert got.shape == (len(voxels), 2 * dims)
    assert (got - expected).abs().max() <= tolerance


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_a_nodule_on_any_seam_gives_exactly_one_box_with_its_score_unchanged(overlap):
    shape = (40, 40)
    for offset in itertools.product(range(0, 10, 1), repeat=2):
        voxels = list(itertools.product(*(range(o, 40, 10) for o in offset)))
        boxes = found(BlobNet(), planted(shape, voxels), overlap=overlap)
        assert_each_once(boxes, voxels, shape)


def test_a_nodule_on_a_seam_or_a_corner_of_a_volume_gives_one_box():
    shape = (28, 28, 28)
    # Windows start at 0 and 12, so 13 and 14 are the voxels on both sides of the seam.
    for rows in itertools.product(((0, 13, 26), (1, 14, 27), (3, 12, 24)), repeat=3):
        voxels = list(itertools.product(*rows))
        assert_each_once(found(BlobNet(), planted(shape, voxels)), voxels, shape)


@pytest.mark.parametrize("wobble", [-0.9, -0.4, 0.4, 0.9])
def test_windows_that_place_a_nodule_differently_neither_lose_nor_double_it(wobble):
    for x in range(40):
        for y in (5, 14):
            boxes = found(BlobNet(wobble), planted((40, 40), [(x, y)]), overlap=0.5)
            assert len(boxes.score) == 1, (x, y)
            assert boxes.score.item() == pytest.approx(torch.sigmoid(torch.tensor(1.0)).item(), abs=1e-6)


@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_a_nodule_on_a_seam_of_the_windows_that_ran_gives_one_box(overlap):
    region = torch.zeros(40, 40, dtype=torch.bool)
    region[17:23, 3:37] = True
    for x, y in itertools.product(range(17, 23), range(3, 37, 2)):
        boxes = found(BlobNet(), planted((40, 40), [(x, y)]), overlap=overlap, region=region)
        assert len(boxes.score) == 1, (x, y)


def test_no_box_counts_whose_centre_lies_outside_the_region_or_the_valid_image():
    inside, outside, padding = (10, 10), (10, 20), (30, 10)
    region = torch.zeros(32, 32, dtype=torch.bool)
    region[:, :16] = True
    image = planted((32, 32), [inside, outside, padding])
    assert_each_once(found(BlobNet(), image, region=region, valid_shape=(28, 32)), [inside], (28, 32))


def test_boxes_below_the_floor_are_not_looked_at_and_no_more_come_than_asked_for():
    image = planted((40, 40), [(5, 5), (5, 25), (25, 5)])
    image[0, 0, 25, 25] = 0.5
    assert len(found(BlobNet(), image).score) == 4
    assert len(found(BlobNet(), image, score_floor=0.7).score) == 3
    best = found(BlobNet(), image, max_boxes=2)
    assert best.score.tolist() == pytest.approx([torch.sigmoid(torch.tensor(1.0)).item()] * 2)
    assert len(found(BlobNet(), planted((16, 16), [(2, 2), (2, 12), (12, 2)]), max_candidates=1).score) == 1


def test_boxes_come_by_falling_score():
    image = torch.zeros(1, 1, 40, 40)
    for n, (x, y) in enumerate(itertools.product((4, 14, 34), repeat=2)):
        image[0, 0, x, y] = 0.3 + 0.1 * ((n * 5) % 9)
    score = found(BlobNet(), image).score
    assert len(score) == 9
    assert (score.diff() < 0).all()


def test_a_picture_without_lesions_gives_an_empty_answer_of_the_right_shape():
    boxes = found(BlobNet(), torch.zeros(1, 1, 20, 20, 20))
    assert boxes.box_index.shape == (0, 6)
    assert boxes.lesion["diameter"].shape == (0, 1)


def test_scores_that_are_no_numbers_are_an_error():
    net = BlobNet()
    image = planted((16, 16), [(4, 4)])
    forward = net.forward
    net.forward = lambda x: {name: t * torch.nan for name, t in forward(x).items()}
    with pytest.raises(ValueError, match="'boxes' holds values that are no numbers"):
        found(net, image)


def windows_of(image, starts, size):
    return torch.cat([image[(..., *(slice(s, s + size) for s in start))] for start in starts])


def test_a_global_mean_weighs_windows_by_learned_weight_and_region_share():
    image = torch.randn(1, 1, 32, 16, generator=torch.Generator().manual_seed(3))
    region = torch.zeros(32, 16, dtype=torch.bool)
    region[4:16] = True
    net = ImageNet()
    plan = Plan(window=(8, 8), overlap=0.0, region=region, batch=3)
    starts = [(x, y) for x in (0, 8) for y in (0, 8)]
    raw = net(windows_of(image, starts, 8))["image_class"].double()
    weight = raw[:, 2].exp() * torch.tensor([0.5, 0.5, 1.0, 1.0], dtype=torch.float64)
    expected = torch.sigmoid((raw[:, :2] * weight[:, None]).sum(0) / weight.sum())
    assert torch.allclose(run(net, image, plan).global_["image_class"], expected.float(), atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "max", "noisy_or"])
def test_pooling_by_name_needs_no_learned_weight(pooling):
    spec = OutputSpec("image_class", "global", IMAGE.labels, activation="sigmoid", pooling=pooling, temperature=2.0)
    image = torch.randn(1, 1, 32, 16, generator=torch.Generator().manual_seed(3))
    net = ImageNet((spec,), weight=False)
    raw = net(windows_of(image, list(itertools.product((0, 8, 16, 24), (0, 8))), 8))["image_class"]
    expected = {
        "mean": torch.sigmoid(raw.mean(0) / 2),
        "max": torch.sigmoid(raw.amax(0) / 2),
        "noisy_or": 1 - (1 - torch.sigmoid(raw / 2)).prod(0),
    }[pooling]
    got = run(net, image, Plan(window=(8, 8), overlap=0.0)).global_["image_class"]
    assert torch.allclose(got, expected, atol=1e-6)


def test_noisy_or_without_sigmoid_is_refused():
    spec = OutputSpec("image_class", "global", IMAGE.labels, activation="softmax", pooling="noisy_or")
    with pytest.raises(ValueError, match="noisy_or"):
        run(ImageNet((spec,)), torch.zeros(1, 1, 8, 8), Plan(window=(8, 8)))


@pytest.mark.parametrize("batch", [2, 3, 5, 64])
def test_global_answers_do_not_depend_on_the_batch(batch):
    image = torch.randn(1, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    one = run(ImageNet(), image, Plan(window=(16, 16))).global_["image_class"]
    several = run(ImageNet(), image, Plan(window=(16, 16), batch=batch)).global_["image_class"]
    assert torch.allclose(one, several, atol=1e-7)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (ImageNet((OutputSpec("image_class", "global", (Label(0, "a"),)),)), r"expected \(B, 1\), or \(B, 2\)"),
        (DenseNet(2, (OutputSpec("pred", "dense", PRED.labels, (2,), "softmax"),)), r"expected \(1, C, 4, 4\)"),
    ],
)
def test_tensors_that_are_not_what_the_network_says_are_refused(net, words):
    with pytest.raises(ValueError, match=words):
        run(net, torch.zeros(1, 1, 8, 8), Plan(window=(8, 8)))


class Counts:
    """Merger of a kind of its own: how many voxels above 0 all windows saw together."""

    def __init__(self, specs, job):
        self.total = {spec.name: torch.zeros(1, 1) for spec in specs}

    def prepare(self, windows, tensors):
        return tensors

    def commit(self, windows, prepared):
        for name in self.total:
            self.total[name] += prepared[name].sum()

    def finish(self):
        return self.total


class CountNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.outputs = (OutputSpec("voxels", "count"),)

    def forward(self, image):
        return {"voxels": (image > 0).flatten(1).sum(1)}


def test_a_kind_that_an_installed_package_brings_is_merged_by_its_own_merger(monkeypatch):
    def entries(group):
        assert group == "mtnet.kinds"
        return [SimpleNamespace(name="count", load=lambda: SimpleNamespace(merger=Counts))]

    monkeypatch.setattr(kinds, "entry_points", entries)
    image = planted((32, 32), [(3, 3), (20, 20), (21, 20)])
    assert run(CountNet(), image, Plan(window=(8, 8), overlap=0.0)).extras == {"voxels": torch.tensor([[3.0]])}
    batch = MultiTaskInferer((8, 8), 0.0)(torch.cat([image, torch.zeros_like(image)]), CountNet())
    assert batch["voxels"].tolist() == [[[3.0]], [[0.0]]]


def test_a_kind_that_nobody_knows_is_named_with_those_that_are_known():
    with pytest.raises(ValueError, match="'count' is unknown; known are dense, boxes, global"):
        CountNet()
