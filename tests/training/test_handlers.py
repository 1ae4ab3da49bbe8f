"""Which epoch's weights become a bundle's, what a training that goes on remembers, and who writes."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, State

from mtnet.losses import MultiTaskLoss
from mtnet.nets import read_state
from mtnet.systems import yolo_med
from mtnet.training import (
    ItemsInOrder,
    LossTermLog,
    PublishWeights,
    TrainerLoss,
    TrainingState,
    handlers,
    parameter_groups,
    started_from,
)


def engine(epoch: int = 1, max_epochs: int = 3) -> Engine:
    made = Engine(lambda engine, batch: None)
    made.state = State(epoch=epoch, max_epochs=max_epochs, iteration=10 * epoch)
    return made


def validator(metric: float = 0.5, best_epoch: int = 1, samples: int = 4) -> Engine:
    made = engine()
    made.state = State(
        epoch_length=samples,
        metrics={"pred_dice": metric},
        key_metric_name="pred_dice",
        best_metric=metric,
        best_metric_epoch=best_epoch,
    )
    return made


@pytest.mark.parametrize(
    ("checked_by", "epoch", "written"),
    [
        (None, 2, True),
        (validator(best_epoch=2), 2, True),
        (validator(best_epoch=1), 2, False),
        (validator(metric=math.nan, best_epoch=1), 2, True),
        (validator(samples=0, best_epoch=-1), 2, True),
        (validator(best_epoch=-1), 2, False),
        (validator(best_epoch=-1), 3, True),
    ],
    ids=["unchecked", "best", "not best", "no metric", "no samples", "not yet validated", "never validated"],
)
def test_the_best_epoch_s_weights_are_published_as_far_as_validation_can_say(checked_by, epoch, written, tmp_path):
    PublishWeights(torch.nn.Linear(2, 2), tmp_path / "model.pt", checked_by)(engine(epoch))
    assert (tmp_path / "model.pt").is_file() == written
    assert (tmp_path / "model.pt.sha256").is_file() == written


def test_a_training_that_goes_on_knows_its_place_and_the_best_metric_so_far(tmp_path):
    layer, items = torch.nn.Linear(2, 2), ItemsInOrder(range(400), batch=4, shards=2)
    TrainingState(tmp_path / "state.pt", {"network": layer}, items, validator(0.7, 1)).keep(engine(2))
    other, again, place = torch.nn.Linear(2, 2), validator(0.0, -1), ItemsInOrder(range(400), batch=4, shards=2)
    goes_on = engine(0)
    TrainingState(tmp_path / "state.pt", {"network": other}, place, again).go_on(goes_on)
    assert torch.equal(other.weight, layer.weight)
    assert (goes_on.state.epoch, goes_on.state.iteration, place.first) == (2, 20, 160)
    assert (again.state.best_metric, again.state.best_metric_epoch) == (0.7, 1)


def test_only_the_first_of_several_processes_writes_and_logs(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(handlers, "is_first", lambda: False)
    layer = torch.nn.Linear(2, 2)
    PublishWeights(layer, tmp_path / "model.pt")(engine())
    TrainingState(tmp_path / "state.pt", {"network": layer}).keep(engine())
    log = LossTermLog(SimpleNamespace(terms={"pred": 1.0}))
    with caplog.at_level(logging.INFO, logger="mtnet"):
        log.collect(engine())
        log.tell(engine())
    assert list(tmp_path.iterdir()) == [] and "pred" not in caplog.text


def test_learned_weights_of_tasks_have_no_decay_and_a_state_of_their_own():
    network = torch.nn.Linear(2, 2)
    assert len(parameter_groups(network, TrainerLoss(yolo_med.loss()), 0.1)) == 1
    loss = TrainerLoss(yolo_med.loss(weighting="uncertainty"))
    groups = parameter_groups(network, loss, 0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [tuple(parameter.shape) for parameter in groups[1]["params"]] == [(2,)]
    assert "loss.learned.log_variance" in loss.state_dict()


def test_among_several_processes_every_answer_takes_part_in_the_loss():
    """A task of weight 0 would give no gradient, and DistributedDataParallel would wait for it."""
    answers = {"a": torch.ones(2, 1, requires_grad=True), "b": torch.ones(2, 1, requires_grad=True)}
    terms = {"a": torch.nn.MSELoss(), "b": torch.nn.MSELoss()}
    targets = {"a": torch.zeros(2, 1), "b": torch.zeros(2, 1)}
    for distributed, wanted in ((False, None), (True, torch.zeros(2, 1))):
        loss = TrainerLoss(MultiTaskLoss(terms, {"b": 0.0}), distributed)
        answers["b"].grad = None
        loss(answers, targets).backward()
        assert answers["b"].grad is wanted or torch.equal(answers["b"].grad, wanted)


def test_weights_of_a_file_start_a_training(tmp_path: Path):
    first = torch.nn.Linear(2, 2)
    PublishWeights(first, tmp_path / "model.pt")(engine())
    network = started_from(torch.nn.Linear(2, 2), str(tmp_path / "model.pt"))
    assert torch.equal(network.weight, read_state(tmp_path / "model.pt")["weight"])
    untouched = torch.nn.Linear(2, 2)
    assert started_from(untouched, None) is untouched
