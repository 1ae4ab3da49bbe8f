"""From a manifest to batches: what is known arrives, what is unknown is missing, and all of it moves together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, DivisiblePadd, RandAffined, RandFlipd, RandRotate90d
from PIL import Image as PILImage

from mtnet.systems import breast_ultrasound, yolo_med
from mtnet.training import (
    BoxesOnImaged,
    EpochsOfSamples,
    ItemsInOrder,
    LoadSampled,
    augmentation,
    boxes_of_mask,
    collate_samples,
    require_samples,
    samples_of,
    shard,
)
from tests.training.made import BOX, SHAPE, write_pictures


@pytest.fixture(scope="module", name="manifest")
def _manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def test_a_split_is_told_with_what_is_known_of_each_sample(manifest):
    items = samples_of(manifest, "train")
    assert [item["id"] for item in items] == ["made/0", "made/1", "made/2"]
    assert [set(item) - {"id", "image", "diameter_mm"} for item in items] == [
        {"masks", "boxes", "class"},
        {"masks", "boxes"},
        {"class"},
    ]
    assert samples_of(manifest, "test")[1]["masks"] == [] and samples_of(manifest, "test")[1]["boxes"] == []
    assert len(samples_of(str(manifest), "all")) == 6


def test_without_a_manifest_there_are_no_samples_and_a_training_says_what_to_do(manifest):
    assert samples_of(None, "train") == []
    require_samples([1], None)
    with pytest.raises(ValueError, match=r"no manifest was given\. Make one with mtnet prepare and give it with --man"):
        require_samples([], None)
    with pytest.raises(ValueError, match=r"manifest\.json has none in the split"):
        require_samples([], manifest)


def test_masks_of_one_image_are_joined_and_an_empty_mask_is_not_an_unknown_one(tmp_path, manifest):
    second = np.zeros(SHAPE, np.uint8)
    second[40:44, 60:70] = 255
    PILImage.fromarray(second).save(tmp_path / "second.png")
    item = samples_of(manifest, "train")[0]
    label = LoadSampled()({**item, "masks": [*item["masks"], str(tmp_path / "second.png")]})["label"]
    assert label.shape == (80, 48) and label.sum() == 20 * 30 + 4 * 10
    assert label[60:70, 40:44].all() and label[20:50, 10:30].all()
    empty = LoadSampled()(samples_of(manifest, "test")[1])["label"]
    assert empty.shape == (80, 48) and empty.sum() == 0
    assert "label" not in LoadSampled()(samples_of(manifest, "train")[2])
    assert "label" not in LoadSampled(masks=False)(item) and "boxes" in LoadSampled(masks=False)(item)
    assert not {"boxes", "boxes_affine"} & LoadSampled(boxes=False)(item).keys()


def test_a_mask_of_another_size_is_refused_by_the_sample_s_id(tmp_path, manifest):
    PILImage.fromarray(np.full((4, 5), 255, np.uint8)).save(tmp_path / "small.png")
    item = {**samples_of(manifest, "train")[0], "masks": [str(tmp_path / "small.png")]}
    with pytest.raises(ValueError, match="mask of made/0 has 5 x 4 pixels, its image 80 x 48"):
        LoadSampled()(item)


def test_a_path_under_label_is_one_mask_as_in_monai_label_s_lists(manifest):
    item = samples_of(manifest, "train")[0]
    loaded = LoadSampled()({"image": item["image"], "label": item["masks"][0]})
    assert loaded["label"].sum() == 20 * 30 and "boxes" not in loaded


MOVES = {
    "flip": RandFlipd(["image", "label"], prob=1.0, spatial_axis=1),
    "quarter turn": RandRotate90d(["image", "label"], prob=1.0, max_k=1),
    "zoom": RandAffined(
        ["image", "label"], prob=1.0, scale_range=((0.3, 0.3), (0.3, 0.3)), mode=("bilinear", "nearest")
    ),
    "shift": RandAffined(
        ["image", "label"], prob=1.0, translate_range=((5, 5), (-7, -7)), mode=("bilinear", "nearest")
    ),
    "pad": DivisiblePadd(["image", "label"], 32, method="end"),
}


@pytest.mark.parametrize("move", MOVES)
def test_boxes_lie_around_their_mask_after_any_step_in_space(manifest, move):
    steps = Compose([LoadSampled(), yolo_med.preprocessing(160, load=False), MOVES[move], BoxesOnImaged()])
    item = steps(samples_of(manifest, "train")[0])
    expected = boxes_of_mask(item["label"])["box_index"]
    assert item["boxes"].shape == (1, 4)
    torch.testing.assert_close(item["boxes"], expected, atol=1.01, rtol=0)
    plain = Compose([LoadSampled(), yolo_med.preprocessing(160, load=False), BoxesOnImaged()])
    before = plain(samples_of(manifest, "train")[0])["boxes"]
    # Rows and columns at twice the size; the box of (i, j) columns and rows.
    doubled = [2 * (BOX[k] + 0.5) - 0.5 for k in (1, 0, 3, 2)]
    torch.testing.assert_close(before, torch.tensor([doubled]))


def test_boxes_beyond_the_image_are_cut_off_or_dropped():
    image = MetaTensor(torch.zeros(1, 10, 10), affine=torch.eye(3))
    boxes = torch.tensor([[-5.0, 1.0, 8.0, 4.0], [-5.0, 1.0, 2.0, 4.0], [8.6, 1.0, 9.4, 4.0], [2.5, 2.5, 4.5, 4.5]])
    kept = BoxesOnImaged()({"image": image, "boxes": boxes, "boxes_affine": torch.eye(3)})
    assert kept["boxes"].tolist() == [[-0.5, 1.0, 8.0, 4.0], [2.5, 2.5, 4.5, 4.5]]
    assert "boxes_affine" not in kept


def test_boxes_of_a_volume_follow_its_spacing_and_orientation():
    image = MetaTensor(torch.zeros(1, 20, 20, 20), affine=torch.diag(torch.tensor([-2.0, -2.0, 2.0, 1.0])))
    boxes = torch.tensor([[1.5, 2.5, 3.5, 5.5, 6.5, 7.5]])
    loaded = torch.diag(torch.tensor([-4.0, -2.0, 2.0, 1.0]))
    kept = BoxesOnImaged()({"image": image, "boxes": boxes, "boxes_affine": loaded})
    assert kept["boxes"].tolist() == [[3.0, 2.5, 3.5, 11.0, 6.5, 7.5]]


def test_a_batch_holds_images_of_several_sizes_and_lists_with_none_for_what_is_unknown(manifest):
    steps = Compose([LoadSampled(), yolo_med.preprocessing(64, load=False), BoxesOnImaged()])
    items = [steps(item) for item in samples_of(manifest, "train")]
    items[1]["image"] = items[1]["image"][:, :, :40]
    batch = collate_samples(items)
    assert batch["image"].shape == (3, 3, 38, 64) and batch["image"].affine.shape[0] == 3
    assert bool((batch["image"][1, :, :, 40:] == 0).all())
    assert batch["class"] == ["benign", None, "normal"] and batch["label"][2] is None and batch["boxes"][2] is None
    assert batch["label"][0].shape == (1, 38, 64) and batch["diameter_mm"] == [8.0, 9.0, 10.0]


def test_what_is_random_comes_from_seed_epoch_and_sample_alone(manifest):
    def data(seed: int = 0) -> EpochsOfSamples:
        steps = [LoadSampled(), breast_ultrasound.preprocessing((32, 32), load=False)]
        random = augmentation(turn_degrees=20, zoom=0.2, scale=0.3, shift=0.2, gamma=0.3, blur=1.0, noise=0.1)
        return EpochsOfSamples(
            samples_of(manifest, "train"), Compose([*steps, random]), epochs=3, items_a_step=2, seed=seed
        )

    whole = data()
    assert (whole.steps, len(whole)) == (2, 12)
    seen = [whole[index] for index in range(12)]
    again = data()
    for index in (11, 3, 7):
        assert torch.equal(again[index]["image"], seen[index]["image"])
        assert again[index]["id"] == seen[index]["id"]
    # Every epoch has all samples; its last step is filled up.
    for epoch in range(3):
        assert {item["id"] for item in seen[4 * epoch : 4 * epoch + 3]} == {"made/0", "made/1", "made/2"}
    first, second = (next(item for item in seen[4 * e : 4 * e + 3] if item["id"] == "made/0") for e in (0, 1))
    assert not torch.equal(first["image"], second["image"])
    assert not torch.equal(data(seed=1)[0]["image"], seen[0]["image"]) or data(seed=1)[0]["id"] != seen[0]["id"]
    with pytest.raises(IndexError):
        whole[12]


def test_what_is_kept_of_samples_gathers_no_notes_of_what_was_done_to_them(manifest):
    steps = [LoadSampled(), breast_ultrasound.preprocessing((32, 32), load=False)]
    data = EpochsOfSamples(
        samples_of(manifest, "train"),
        Compose([*steps, augmentation(turn_degrees=20, zoom=0.2, blur=1.0)]),
        epochs=9,
        items_a_step=1,
        cache_gib=1.0,
    )
    kept = [data.data[number]["image"] for number in range(len(data.data))]
    before = [(len(image.applied_operations), image.clone()) for image in kept]
    seen = [data[index]["image"] for index in range(len(data))]
    assert [len(image.applied_operations) for image in kept] == [notes for notes, _ in before]
    assert all(torch.equal(image, first) for image, (_, first) in zip(kept, before, strict=True))
    # The affine still tells where an image went: boxes follow it.
    assert any(not torch.equal(image.affine, kept[0].affine) for image in seen)


def test_an_image_and_its_label_change_together_and_a_missing_label_is_no_obstacle(manifest):
    steps = Compose(
        [
            LoadSampled(),
            breast_ultrasound.preprocessing((48, 80), load=False),
            augmentation(turn_degrees=20, zoom=0.2, prob=1.0),
        ]
    )
    items = [steps(item) for item in samples_of(manifest, "train")]
    image, label = items[0]["image"][0], items[0]["label"][0] > 0
    assert image[label].mean() > image[~label].mean() + 0.5
    assert "label" not in items[2] and items[2]["image"].shape == (3, 48, 80)


def test_processes_share_every_step_and_leave_nothing_out():
    items = list(range(24))
    shares = [list(ItemsInOrder(items, batch=2, shard=rank, shards=3)) for rank in range(3)]
    assert [len(ItemsInOrder(items, batch=2, shard=rank, shards=3)) for rank in range(3)] == [8, 8, 8]
    for step in range(4):
        together = sorted(n for share in shares for n in share[2 * step : 2 * step + 2])
        assert together == items[6 * step : 6 * step + 6]
    assert ItemsInOrder(items, batch=2, shards=3).items_a_step == 6
    assert list(ItemsInOrder(items, 20)) == [20, 21, 22, 23]
    assert [list(shard(items[:5], rank, 2)) for rank in (0, 1)] == [[0, 2, 4], [1, 3]]
    assert [list(shard(items[:1], rank, 2)) for rank in (0, 1)] == [[0], [0]]
