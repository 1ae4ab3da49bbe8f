"""The smallest training of two tasks on made pictures, with every part that a bundle's training has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import Compose

from mtnet.systems import breast_ultrasound
from mtnet.training import (
    AutocastInferer,
    AveragedWeights,
    BoxesOnImaged,
    ClippedGradients,
    EpochsOfSamples,
    ItemsInOrder,
    LearningCurve,
    LoadSampled,
    LossTermLog,
    PublishWeights,
    SampleTargets,
    StepSeeds,
    TerminalProgress,
    TrainerLoss,
    TrainingState,
    augmentation,
    better,
    collate_samples,
    key_metric,
    other_metrics,
    parameter_groups,
    samples_of,
)


def small_training(
    manifest: Path, folder: Path, start: int = 0, *, epochs: int = 2, minutes: float | None = None, workers: int = 0
) -> tuple[SupervisedTrainer, AveragedWeights]:
    """A trainer with dropout, steps of two pictures of 32 x 32, and the average of its weights.

    Args:
        manifest: of made pictures.
        folder: for checkpoint, curve and weights.
        start: seed of the weights; what a training that goes on begins with does not matter.
        epochs, minutes, workers: of the training.
    """
    torch.manual_seed(start)
    network = breast_ultrasound.network(encoder="resnet10", decoder="fpn", dropout=0.5)
    loss = TrainerLoss(breast_ultrasound.loss())
    before = [LoadSampled(), breast_ultrasound.preprocessing((32, 32), load=False)]
    dataset = EpochsOfSamples(
        samples_of(manifest, "train"),
        Compose([*before, augmentation(turn_degrees=20, zoom=0.2, scale=0.3, noise=0.1), BoxesOnImaged()]),
        epochs=epochs,
        items_a_step=2,
        balance=0.5,
        cache_gib=1.0,
    )
    items = ItemsInOrder(dataset, batch=2)
    optimizer = torch.optim.AdamW(parameter_groups(network, loss, 0.01), lr=0.01)
    schedule = WarmupCosineSchedule(optimizer, dataset.steps, epochs * dataset.steps, warmup_multiplier=0.1)
    averaged = AveragedWeights(network, 0.9)
    inferer = AutocastInferer("float32")
    validation = Dataset(samples_of(manifest, "val"), Compose([*before, BoxesOnImaged()]))
    common: dict[str, Any] = {
        "device": "cpu",
        "prepare_batch": SampleTargets(network.outputs),
        "decollate": False,
    }
    evaluator = SupervisedEvaluator(
        **common,
        val_data_loader=DataLoader(validation, num_workers=0, collate_fn=collate_samples),
        network=averaged.network,
        inferer=breast_ultrasound.inferer(dense="labels"),
        key_val_metric=key_metric(network.outputs),
        additional_metrics=other_metrics(network.outputs),
        metric_cmp_fn=better(network.outputs),
    )
    log = LossTermLog(loss)
    curve = LearningCurve(folder, log, evaluator)
    parts = {
        "network": network,
        "loss": loss,
        "optimizer": optimizer,
        "lr_scheduler": schedule,
        "averaged": averaged,
        "inferer": inferer,
        "curve": curve,
    }
    trainer = SupervisedTrainer(
        **common,
        max_epochs=epochs,
        epoch_length=dataset.steps,
        train_data_loader=torch.utils.data.DataLoader(
            dataset, 2, sampler=items, num_workers=workers, collate_fn=collate_samples
        ),
        network=network,
        loss_function=loss,
        optimizer=optimizer,
        inferer=inferer,
        train_handlers=[
            StepSeeds(0),
            ClippedGradients(network),
            averaged,
            LrScheduleHandler(schedule, print_lr=False, epoch_level=False),
            log,
            TerminalProgress(log),
            ValidationHandler(1, evaluator),
            PublishWeights(averaged.network, folder / "model.pt", evaluator),
            curve,
            TrainingState(folder / "checkpoint.pt", parts, items, evaluator, minutes),
        ],
    )
    return trainer, averaged
