"""Images that look alike, and how well found groups agree with given ones."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from mtnet.io.image2d import read_picture
from mtnet.sources import near_duplicates
from mtnet.sources.near_duplicates import Agreement, agreement, find_groups, fingerprint, likeness
from tests.sources import made

SIZE = (320, 240)


@pytest.fixture
def original(tmp_path):
    return made.picture(tmp_path / "original.png", 1, SIZE)


def print_of(path):
    return fingerprint(read_picture(path).array)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((200, 150), Image.Resampling.LANCZOS),
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        lambda image: ImageEnhance.Contrast(image).enhance(1.2),
        lambda image: image.convert("L"),
        lambda image: image.crop((6, 4, 314, 236)),
    ],
    ids=["smaller", "darker", "more contrast", "grey", "cut at the edges"],
)
def test_a_changed_copy_is_of_its_originals_group(tmp_path, original, change):
    change(Image.open(original)).save(tmp_path / "copy.jpg", quality=70)
    other = made.picture(tmp_path / "other.png", 2, SIZE)
    assert find_groups([print_of(p) for p in (other, original, tmp_path / "copy.jpg")]) == [0, 1, 1]


def test_different_images_stay_apart(tmp_path):
    prints = [print_of(made.picture(tmp_path / f"{n}.png", n, SIZE)) for n in range(40)]
    assert find_groups(prints) == list(range(40))


def test_no_images_and_one_image_are_groups_too(original):
    assert find_groups([]) == []
    assert find_groups([print_of(original)]) == [0]


def test_blank_images_are_read_without_a_warning(tmp_path):
    Image.new("L", SIZE).save(tmp_path / "black.png")
    assert np.isfinite(print_of(tmp_path / "black.png")).all()


def test_16_bits_and_8_bits_of_one_image_look_alike(tmp_path):
    made.picture(tmp_path / "8.png", 5, SIZE, mode="L")
    wide = np.asarray(Image.open(tmp_path / "8.png")).astype(np.uint16) * 257
    Image.fromarray(wide).save(tmp_path / "16.png")
    assert likeness(print_of(tmp_path / "8.png")[None], print_of(tmp_path / "16.png")[None])[0, 0] > 1.9


def test_groups_do_not_depend_on_the_blocks_that_they_are_looked_for_in(tmp_path, monkeypatch):
    prints = [print_of(made.picture(tmp_path / f"{n}.png", n // 3, SIZE)) for n in range(12)]
    whole = find_groups(prints)
    monkeypatch.setattr(near_duplicates, "_BLOCK", 5)
    assert find_groups(prints) == whole == [n // 3 for n in range(12)]


def test_a_chain_of_small_likenesses_does_not_become_one_group():
    """Images a, b, c with a like b and b like c, but a not like c."""
    angle = np.deg2rad(21)
    prints = []
    for n in range(3):
        thumbnail = np.zeros(1024, dtype=np.float32)
        thumbnail[:2] = np.cos(n * angle), np.sin(n * angle)
        prints.append(np.concatenate([np.where(np.arange(256) < 60 * n, -1, 1), thumbnail]).astype(np.float32))
    stacked = np.stack(prints)
    alike = likeness(stacked, stacked)
    assert alike[0, 1] >= near_duplicates.ALIKE and alike[1, 2] >= near_duplicates.ALIKE > alike[0, 2]
    assert len(set(find_groups(prints))) == 2


def test_agreement_counts_pairs_as_looking_at_every_pair_does():
    rng = np.random.default_rng(0)
    found, given = rng.integers(0, 9, 60).tolist(), rng.integers(0, 12, 60).tolist()
    both = [(found[a] == found[b], given[a] == given[b]) for a, b in combinations(range(60), 2)]
    told = agreement(found, given)
    assert told.shared_pairs == sum(f and g for f, g in both)
    assert told.found_pairs == sum(f for f, _ in both)
    assert told.given_pairs == sum(g for _, g in both)
    assert told.recall == told.shared_pairs / told.given_pairs


def test_agreement_without_any_pair_is_perfect():
    assert agreement([1, 2], [3, 4]) == Agreement(0, 0, 0, 2, 2, 1)
    assert agreement([1, 2], [3, 4]).recall == agreement([1, 2], [3, 4]).precision == 1
