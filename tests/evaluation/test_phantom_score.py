"""The score of a bundle on drawn chests, with detectors whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mtnet.evaluation import phantom_score
from mtnet.evaluation.phantom_score import FIRST_HELD_OUT_SEED, main, score_bundle
from mtnet.inference.plan import Detections
from mtnet.phantoms import NoduleRequest, draw_chest
from mtnet.systems.chest_ct import DETECTION, SEGMENTATION, TEXTURES

SIZES_MM = (20.0, 14.0, 6.0)
"""The last is too small to be asked for."""


class Oracle:
    """Stands for a predictor: says where the nodules of the chest that was drawn last are, moved by ``shift_mm``."""

    def __init__(
        self, shift_mm: float = 0.0, false_boxes: int = 0, score: float = 0.9, wrong_textures: tuple[int, ...] = ()
    ) -> None:
        self.network = SimpleNamespace(outputs=(SEGMENTATION, DETECTION))
        self.wrong_textures = wrong_textures
        self.shift_mm, self.false_boxes, self.score = shift_mm, false_boxes, score
        self.drawn: list = []

    def draw(self, seed, *, family, spacing_mm):
        requests = [NoduleRequest(diameter_mm=size, place="parenchyma") for size in SIZES_MM]
        self.drawn.append(draw_chest(seed, family=family, spacing_mm=spacing_mm, nodules=requests, noise=False))
        return self.drawn[-1]

    def infer(self, case):
        phantom, grid = self.drawn[-1], case.volume.geometry
        assert case.volume is phantom.volume
        centres = [[c + self.shift_mm * (a == 2) for a, c in enumerate(n.centre_lps_mm)] for n in phantom.lesions]
        centres += [grid.index_to_lps_mm([2.0 * n, 0.0, 0.0]).tolist() for n in range(self.false_boxes)]
        index = torch.as_tensor(grid.lps_mm_to_index(centres), dtype=torch.float32)
        count = len(centres)
        names = [label.name for label in TEXTURES]
        textures = [names.index(nodule.texture) for nodule in phantom.lesions] + [0] * self.false_boxes
        for nodule in self.wrong_textures:
            textures[nodule] = (textures[nodule] + 1) % len(names)
        found = Detections(
            torch.cat([index - 1, index + 1], 1),
            torch.full((count,), self.score),
            torch.zeros(count, dtype=torch.long),
            {"texture": torch.eye(len(names))[textures]},
        )
        return SimpleNamespace(outputs=SimpleNamespace(boxes={DETECTION.name: found}), grid=grid)


@pytest.fixture
def score(monkeypatch):
    def of(oracle: Oracle, count: int = 1, **options):
        monkeypatch.setattr(phantom_score, "GRIDS_MM", ((4.0, 4.0, 4.0),))
        monkeypatch.setattr(phantom_score, "draw_chest", oracle.draw)
        monkeypatch.setattr(phantom_score.Predictor, "from_bundle", lambda folder: oracle)
        return score_bundle(Path("any"), count, **options)

    return of


def test_who_knows_the_truth_finds_all_and_a_threshold_on_intensity_does_not(score):
    oracle, told = Oracle(), []
    result = score(oracle, count=2, progress=lambda number, counts: told.append((number, counts.hit_scores.size)))
    assert [phantom.seed for phantom in oracle.drawn] == [FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + 1]
    assert {phantom.family for phantom in oracle.drawn} == {"held_out"}
    # Two of each chest's three nodules are large enough to be asked for.
    assert (result.phantoms, result.nodules, result.threshold) == (2, 4, DETECTION.threshold)
    assert told == [(1, 2), (2, 2)]
    assert (result.sensitivity, result.best_sensitivity, result.false_boxes_a_scan) == (1.0, 1.0, 0.0)
    assert result.centre_error_mm_median < 0.01
    assert 0 <= result.baseline_sensitivity < 1


def test_a_shift_is_told_as_the_error_of_the_centres(score):
    assert score(Oracle(shift_mm=1.5)).centre_error_mm_median == pytest.approx(1.5, abs=0.01)


def test_textures_are_told_of_found_nodules_that_are_asked_for(score):
    oracle = Oracle(wrong_textures=(1, 2))
    result = score(oracle, count=2)
    expected: dict = {}
    for phantom in oracle.drawn:
        for number, nodule in enumerate(phantom.lesions[:2]):
            counts = expected.setdefault(nodule.texture, {"found": 0, "right": 0})
            counts["found"] += 1
            counts["right"] += number == 0
    assert result.textures == expected and sum(counts["right"] for counts in expected.values()) == 2
    assert score(Oracle(score=0.3)).textures == {}


def test_boxes_beyond_the_radius_are_misses_and_false(score):
    result = score(Oracle(shift_mm=15.0))
    assert result.sensitivity == result.best_sensitivity == 0
    assert result.false_boxes_a_scan == 3
    assert result.centre_error_mm_median != result.centre_error_mm_median


def test_boxes_under_the_threshold_count_for_the_best_threshold_alone(score):
    result = score(Oracle(score=0.3))
    assert (result.sensitivity, result.false_boxes_a_scan) == (0.0, 0.0)
    assert result.best_sensitivity == 1.0 and result.best_threshold == pytest.approx(0.3)


def test_too_many_false_boxes_spoil_the_best_sensitivity(score):
    assert score(Oracle(false_boxes=1)).best_sensitivity == 1.0
    result = score(Oracle(false_boxes=2))
    assert result.false_boxes_a_scan == 2
    assert (result.sensitivity, result.best_sensitivity) == (1.0, 0.0)


def test_one_command_prints_it(score, monkeypatch, capsys):
    score(Oracle())
    monkeypatch.setattr(phantom_score, "find_bundle", Path)
    assert main(["--count", "1", "--json", "--family", "train", "--first-seed", "5"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["sensitivity"] == 1.0
    assert printed.err.startswith("chest 1: scores of nodules [0.9, 0.9]")
    assert main(["--count", "1"]) == 0
    text = capsys.readouterr().out
    assert "1 held_out chests, 2 nodules of 8 mm and more" in text
    assert "sensitivity 1.000 at 0.00 false boxes a scan" in text
    assert "texture of found nodules right: 2 of 2 (" in text
