"""What validation says of each kind of output, against plain formulas and cases with a known answer."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mtnet.systems import breast_ultrasound, chest_ct, res_mtnet, yolo_med
from mtnet.training import better, key_metric, other_metrics, output_metrics
from mtnet.training.metrics import OutputMetric

OUTPUTS = (*yolo_med.network().outputs, breast_ultrasound.CLASSIFICATION, res_mtnet.DIAMETER)


def measured(metric: OutputMetric, *batches: tuple[torch.Tensor, object]) -> float:
    """The metric after these batches of (answer, targets)."""
    engine = SimpleNamespace(state=SimpleNamespace(metrics={}))
    metric.reset(engine)
    for answer, target in batches:
        label = {} if target is None else {metric.name: target}
        engine.state.output = {"pred": {metric.name: answer}, "label": label}
        metric.update(engine)
    metric.finish(engine, "it")
    return engine.state.metrics["it"]


def test_every_output_has_its_metrics_and_the_first_is_the_key_unless_another_is_named():
    names = ["pred_dice", "lesions_ap", "classification_auroc", "classification_accuracy", "diameter_mae"]
    assert list(output_metrics(OUTPUTS)) == names
    assert list(key_metric(OUTPUTS)) == ["pred_dice"] and list(other_metrics(OUTPUTS)) == names[1:]
    assert list(key_metric(OUTPUTS, "lesions_ap")) == ["lesions_ap"]
    assert "lesions_ap" not in other_metrics(OUTPUTS, "lesions_ap")
    with pytest.raises(ValueError, match=r"no metric 'dice'.*pred_dice, lesions_ap"):
        key_metric(OUTPUTS, "dice")


def test_dice_is_the_mean_over_images_with_a_foreground_and_unknown_ones_do_not_count():
    answer, truth = torch.zeros(4, 1, 4, 4), torch.zeros(1, 4, 4)
    truth[0, :2] = 1
    answer[0, 0, :2] = 1
    answer[1, 0, 0] = 1
    metric = output_metrics(OUTPUTS)["pred_dice"]
    # The third image has no foreground, the fourth no target.
    assert measured(metric, (answer, [truth, truth, truth * 0, None])) == pytest.approx((1 + 2 / 3) / 2)
    assert math.isnan(measured(metric, (answer[2:3], [truth * 0])))
    assert math.isnan(measured(metric, (answer, None)))


def test_dice_of_a_softmax_output_leaves_the_background_out():
    metric = output_metrics([chest_ct.SEGMENTATION])["pred_dice"]
    answer, truth = torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 4, 4, 4)
    answer[0, 0, 0], truth[0, :2] = 1, 1
    assert measured(metric, (answer, [truth])) == pytest.approx(2 / 3)


def test_auroc_is_that_of_the_formula_and_accuracy_the_share_of_right_classes():
    rng = np.random.default_rng(0)
    probability = torch.from_numpy(rng.dirichlet(np.ones(3), 30)).float()
    truth = torch.from_numpy(rng.integers(0, 3, 30))
    wanted = []
    for number in range(3):
        yes, no = probability[truth == number, number], probability[truth != number, number]
        wanted.append(float((yes[:, None] > no[None]).float().mean()))
    found = output_metrics(OUTPUTS)
    batches = [(probability[:16], truth[:16]), (probability[16:], truth[16:])]
    assert measured(found["classification_auroc"], *batches) == pytest.approx(np.mean(wanted), abs=1e-6)
    right = float((probability.argmax(1) == truth).float().mean())
    assert measured(found["classification_accuracy"], *batches) == pytest.approx(right)
    unknown = (torch.rand(5, 3), torch.full((5,), -1))
    assert measured(found["classification_accuracy"], *batches, unknown) == pytest.approx(right)
    assert math.isnan(measured(found["classification_auroc"], (probability[:1], truth[:1])))


def test_a_sigmoid_output_is_scored_on_what_is_known_of_each_class():
    found = output_metrics([chest_ct.CLASSIFICATION])
    nan = math.nan
    truth = torch.tensor([[1.0, nan], [0.0, 1.0], [1.0, 0.0], [nan, nan]])
    probability = torch.tensor([[0.9, 0.1], [0.2, 0.3], [0.1, 0.2], [0.5, 0.5]])
    assert measured(found["classification_auroc"], (probability, truth)) == pytest.approx((0.5 + 1.0) / 2)
    assert measured(found["classification_accuracy"], (probability, truth)) == pytest.approx(3 / 5)


def rows(boxes: list[list[float]], scores: list[float], valid: list[float]) -> torch.Tensor:
    """As ``MultiTaskInferer`` gives boxes."""
    columns = [[*box, score, 0.0, told] for box, score, told in zip(boxes, scores, valid, strict=True)]
    return torch.tensor(columns)[None]


def test_average_precision_is_coco_s():
    """systems.md 8.9: true, false, true on two objects by score; 101 points give 0.834983."""
    objects = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
    answer = rows(
        [[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30], [0, 0, 0, 0]], [0.9, 0.8, 0.7, 0.99], [1, 1, 1, 0]
    )
    metric = output_metrics(OUTPUTS)["lesions_ap"]
    truth = {"box_index": objects, "label": torch.zeros(2, dtype=torch.long)}
    assert measured(metric, (answer, [truth])) == pytest.approx(0.834983, abs=1e-5)
    empty = {"box_index": torch.zeros(0, 4), "label": torch.zeros(0, dtype=torch.long)}
    # A false box on another image costs; an image whose boxes nobody marked does not.
    with_negative = measured(metric, (answer, [truth]), (rows([[0, 0, 5, 5]], [0.95], [1]), [empty]))
    assert with_negative < 0.834
    assert measured(metric, (answer, [truth]), (answer, [None])) == pytest.approx(0.834983, abs=1e-5)
    assert math.isnan(measured(metric, (answer, [empty])))


def test_errors_of_values_are_in_their_unit_and_unknown_ones_do_not_count():
    metric = output_metrics(OUTPUTS)["diameter_mae"]
    assert measured(metric, (torch.tensor([[8.0], [5.0], [3.0]]), torch.tensor([9.0, math.nan, 6.0]))) == 2.0
    # With a log-variance as second channel.
    assert measured(metric, (torch.tensor([[8.0, -3.0]]), torch.tensor([9.0]))) == 1.0
    redrawn = output_metrics([chest_ct.RECONSTRUCTION])["reconstruction_mae"]
    assert measured(redrawn, (torch.ones(2, 1, 4, 4, 4), torch.zeros(2, 1, 4, 4, 4))) == 1.0


def test_errors_are_better_when_lower_and_anything_is_better_than_nothing():
    dice, error = better(OUTPUTS, "pred_dice"), better(OUTPUTS, "diameter_mae")
    assert dice(0.6, 0.5) and not dice(0.5, 0.6)
    assert error(0.5, 0.6) and not error(0.6, 0.5)
    # Without a name it is the first output's.
    assert better([chest_ct.RECONSTRUCTION])(0.5, 0.6) and better(OUTPUTS)(0.6, 0.5)
    assert dice(0.1, math.nan) and not dice(math.nan, 0.1)
