"""Each part of a training by itself."""

from __future__ import annotations

import io
import json
import logging
import math
import sys
import time
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from monai.transforms import Compose, Lambdad, RandFlipd

from mtnet.nets.state_dict_io import read_state, save_state
from mtnet.structures import Label, OutputSpec
from mtnet.systems import unet_v2, yolo_med
from mtnet.training import (
    AutocastInferer,
    AveragedWeights,
    BalancedOrder,
    ClippedGradients,
    EpochsOfSamples,
    LearningCurve,
    LossTermLog,
    SampleTargets,
    StepSeeds,
    TerminalProgress,
    TrainingState,
    augmentation,
    class_counts,
    curves,
    precision,
    started_from,
)
from mtnet.training.augmentation import RandSaturationd
from mtnet.training.balance import kind_of


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = torch.nn.Conv2d(3, 4, 3), torch.nn.Dropout()

    def forward(self, image):
        return {"pred": self.out(self.conv(image))}


def step_engine(step=lambda engine, batch: None, **state) -> Engine:
    engine = Engine(step)
    engine.register_events(*IterationEvents)
    for name, value in state.items():
        setattr(engine, name, value)
    return engine


def test_the_average_follows_tensorflow_s_formula_for_weights_and_running_statistics():
    network = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1))
    averaged = AveragedWeights(network, decay=0.5)
    expected = None
    for step, value in enumerate([1.0, 3.0, -2.0, 5.0, 8.0, 1.0, 0.0, 4.0, 4.0, -3.0, 2.0, 6.0]):
        network[0].weight.data.fill_(value)
        network[1].running_mean.fill_(-value)
        network[1].num_batches_tracked.fill_(step)
        averaged()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert averaged.network[0].weight.item() == pytest.approx(expected, abs=1e-6)
        assert averaged.network[1].running_mean.item() == pytest.approx(-expected, abs=1e-6)
        assert averaged.network[1].num_batches_tracked.item() == step
    again = AveragedWeights(network, decay=0.5)
    again.load_state_dict(averaged.state_dict())
    network[0].weight.data.fill_(7.0)
    averaged()
    again()
    assert torch.equal(again.network[0].weight, averaged.network[0].weight)
    same = AveragedWeights(network, decay=0.0)
    for value in (1.0, 2.0):
        network[0].weight.data.fill_(value)
        same()
    assert same.network[0].weight.item() == 2.0
    with pytest.raises(ValueError, match="decay"):
        AveragedWeights(network, decay=1.0)


def test_a_step_s_dropout_comes_from_seed_and_step_alone():
    def drawn(seed: int, first: int) -> list[torch.Tensor]:
        found = []
        engine = step_engine(lambda engine, batch: found.append(torch.rand(3)))
        StepSeeds(seed).attach(engine)
        engine.state.iteration = first
        engine.run([0] * 4, max_epochs=1, epoch_length=4)
        return found

    torch.manual_seed(1)
    whole = drawn(0, 0)
    torch.manual_seed(2)
    again = drawn(0, 0)
    assert all(torch.equal(*pair) for pair in zip(whole, again, strict=True))
    assert not torch.equal(whole[0], whole[1]) and not torch.equal(drawn(1, 0)[0], whole[0])


def test_long_gradients_are_shortened_and_steps_without_a_finite_one_left_out(caplog):
    layer = torch.nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    gradients = iter([[3.0, 4.0], [0.3, 0.4], [float("nan"), 1.0]])
    lengths = []

    def step(engine, batch):
        optimizer.zero_grad()
        layer.weight.grad = torch.tensor([next(gradients)])
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        lengths.append(None if layer.weight.grad is None else layer.weight.grad.norm().item())
        optimizer.step()

    engine = step_engine(step, optimizer=optimizer)
    ClippedGradients(layer, 1.0).attach(engine)
    with caplog.at_level(logging.WARNING):
        engine.run([0] * 3, max_epochs=1)
    assert lengths[:2] == pytest.approx([1.0, 0.5], abs=1e-4) and lengths[2] is None
    assert bool(torch.isfinite(layer.weight).all()) and "1 steps were left out" in caplog.text
    with pytest.raises(ValueError, match="longest"):
        ClippedGradients(layer, 0.0)

    gradients = iter([[math.nan, 1.0], [0.3, 0.4], [math.inf, 1.0], [math.nan, 1.0]])
    with pytest.raises(RuntimeError, match=r"epoch 2 had a finite gradient.*precision float32"):
        engine = step_engine(step, optimizer=optimizer)
        ClippedGradients(layer, 1.0).attach(engine)
        engine.run([0] * 2, max_epochs=2)


def test_balance_moves_kinds_from_as_frequent_as_they_are_to_equally_frequent():
    kinds = ["a"] * 90 + ["b"] * 9 + ["c"]
    for balance, wanted in ((0.0, [90, 9, 1]), (1.0, [34, 33, 33]), (0.5, [70, 22, 8])):
        order = BalancedOrder(kinds, balance, seed=3)
        for epoch in range(3):
            drawn = [kinds[number] for number in order(epoch)]
            counts = [drawn.count(kind) for kind in "abc"]
            assert len(drawn) == 100 and max(abs(n - m) for n, m in zip(counts, wanted, strict=True)) <= 1
    plain = BalancedOrder(kinds, 0.0)
    assert all(sorted(plain(epoch)) == list(range(100)) for epoch in range(2))
    # Within a kind none comes again before all have come, over epochs too.
    order = BalancedOrder(kinds, 1.0)
    seen = np.concatenate([[n for n in order(epoch) if kinds[n] == "a"] for epoch in range(6)])
    assert max(np.bincount(seen)[:90]) - min(np.bincount(seen)[:90]) <= 1
    assert not np.array_equal(order(0), order(1)) and np.array_equal(order(1), BalancedOrder(kinds, 1.0)(1))
    assert BalancedOrder([], 0.5)(0).size == 0
    with pytest.raises(ValueError, match="balance"):
        BalancedOrder(kinds, 2.0)


def test_kinds_differ_by_class_by_what_is_known_and_by_what_is_known_to_be_empty():
    items = [
        {"id": "1", "image": "x", "class": "benign", "masks": ["m"]},
        {"id": "2", "image": "y", "class": "benign", "masks": ["n"]},
        {"id": "3", "image": "x", "class": "benign"},
        {"id": "4", "image": "x", "class": "malignant", "masks": ["m"]},
        {"id": "5", "image": "x", "masks": ["m"]},
        {"id": "6", "image": "x", "masks": []},
        {"id": "7", "image": "x", "masks": ["m"], "diameter_mm": 3.0},
    ]
    kinds = [kind_of(item) for item in items]
    assert kinds[0] == kinds[1] and len(set(kinds)) == 6


@pytest.mark.parametrize("gib", [0.0, 1.0, 3e-8])
def test_steps_before_the_first_random_one_are_taken_once_where_there_is_memory(gib):
    asked = []

    def load(value):
        asked.append(value)
        return torch.full((1, 4, 4), float(value))

    data = EpochsOfSamples(
        [{"id": str(n), "image": n} for n in range(4)],
        Compose(
            [Compose([Lambdad("image", load)]), RandFlipd("image", prob=1.0), Lambdad("image", lambda x: x.add_(1))]
        ),
        epochs=3,
        items_a_step=2,
        cache_gib=gib,
    )
    made = len(asked)
    values = sorted(int(data[index]["image"].mean()) for index in range(4, 12))
    assert values == sorted([1, 2, 3, 4] * 2)
    assert (made, len(asked)) == {0.0: (0, 8), 1.0: (5, 5), 3e-8: (1, 9)}[gib]


def test_the_fastest_precision_is_measured_told_and_kept(monkeypatch, caplog):
    times = {("float32", False): 4.0, ("bfloat16", False): 3.0, ("float32", True): 2.0, ("bfloat16", True): 1.0}
    network = Small()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    image = torch.rand(6, 3, 16, 16)
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    with caplog.at_level(logging.INFO, "mtnet.training"):
        setting = precision.fastest(network, image)
    assert torch.equal(torch.rand(1), wanted) and setting in times
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert "a step of 4 samples takes" in caplog.text and "bfloat16 channels-last" in caplog.text

    monkeypatch.setattr(precision, "_step_seconds", lambda network, inputs, setting: times[setting])
    inferer = AutocastInferer("auto")
    answer = inferer(MetaTensor(image), network)
    assert inferer.state_dict() == {"dtype": torch.bfloat16, "channels_last": True}
    assert answer["pred"].dtype == torch.bfloat16
    assert network.conv.weight.is_contiguous(memory_format=torch.channels_last)
    again = AutocastInferer("auto")
    again.load_state_dict(inferer.state_dict())
    monkeypatch.setattr(precision, "fastest", None)
    assert again(image, network)["pred"].dtype == torch.bfloat16


def test_a_precision_that_once_gave_no_finite_gradient_is_not_taken(monkeypatch, caplog):
    times = {("float32", False): [4.0], ("bfloat16", False): [3.0], ("float32", True): [5.0]}
    times[("bfloat16", True)] = [1.0, math.inf, 1.0, 1.0]
    turns = {setting: cycle(each) for setting, each in times.items()}
    monkeypatch.setattr(precision, "_step_seconds", lambda network, inputs, setting: next(turns[setting]))
    with caplog.at_level(logging.INFO, "mtnet.training"):
        assert precision.fastest(Small(), torch.rand(6, 3, 16, 16)) == ("bfloat16", False)
    assert "bfloat16 channels-last no finite gradient: bfloat16 it is" in caplog.text
    monkeypatch.undo()
    for value in (math.inf, 1e30):
        image = torch.full((2, 3, 16, 16), value)
        assert precision._step_seconds(Small(), image, ("float32", False)) == math.inf


def test_the_bar_tells_every_term_on_a_terminal_alone(monkeypatch):
    for terminal in (True, False):
        screen = io.StringIO()
        screen.isatty = lambda terminal=terminal: terminal
        monkeypatch.setattr(sys, "stderr", screen)
        loss = SimpleNamespace(terms={"pred/dice": 0.25, "classification": 1.5})
        log = LossTermLog(loss)
        engine = step_engine(lambda engine, batch: time.sleep(0.11))
        for handler in (log, TerminalProgress(log)):
            handler.attach(engine)
        engine.run([0] * 3, max_epochs=2)
        told = screen.getvalue()
        if terminal:
            assert "epoch 2/2" in told and "pred/dice=0.250" in told and "classification=1.500" in told
        else:
            assert told == ""


def test_an_error_of_a_step_ends_a_training_with_a_bar(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)

    def step(engine, batch):
        raise ValueError("a broken step")

    engine = step_engine(step)
    TerminalProgress(LossTermLog(SimpleNamespace(terms={}))).attach(engine)
    engine.logger.setLevel(logging.CRITICAL)
    with pytest.raises(ValueError, match="a broken step"):
        engine.run([0], max_epochs=1)


def test_the_same_numbers_go_to_tensorboard_where_it_is_installed_and_a_missing_matplotlib_is_told(
    tmp_path, monkeypatch, caplog
):
    written = []

    class Writer:
        def add_scalar(self, name, value, epoch):
            written.append((name, value, epoch))

        def flush(self):
            written.append("flushed")

        def close(self):
            written.append("closed")

    monkeypatch.setattr(curves, "_tensorboard", lambda folder: Writer())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    log = LossTermLog(SimpleNamespace(terms={"pred": 0.5}))
    engine = step_engine(optimizer=SimpleNamespace(param_groups=[{"lr": 0.25}]))
    for handler in (log, LearningCurve(tmp_path, log)):
        handler.attach(engine)
    with caplog.at_level(logging.INFO, "mtnet.training"):
        engine.run([0] * 2, max_epochs=2)
    assert written == [
        *(("learning_rate", 0.25, 1), ("loss/pred", 0.5, 1), "flushed"),
        *(("learning_rate", 0.25, 2), ("loss/pred", 0.5, 2), "flushed"),
        "closed",
    ]
    assert [row["loss"] for row in json.loads((tmp_path / "curve.json").read_text())["epochs"]] == [{"pred": 0.5}] * 2
    assert "matplotlib is not installed" in caplog.text and not (tmp_path / "curve.png").exists()


def test_tensorboard_s_own_reader_finds_the_curve(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = LossTermLog(SimpleNamespace(terms={"pred": 0.5}))
    engine = step_engine(optimizer=SimpleNamespace(param_groups=[{"lr": 0.25}]))
    for handler in (log, LearningCurve(tmp_path, log)):
        handler.attach(engine)
    engine.run([0] * 2, max_epochs=3)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss/pred")] == [(1, 0.5), (2, 0.5), (3, 0.5)]


def test_a_state_without_one_of_the_parts_is_refused_with_what_to_do(tmp_path):
    layer, engine = torch.nn.Linear(1, 1), step_engine()
    TrainingState(tmp_path / "state.pt", {"network": layer}).keep(engine)
    with pytest.raises(ValueError, match=r"no averaged.*begin anew with another work_dir"):
        TrainingState(tmp_path / "state.pt", {"network": layer, "averaged": AveragedWeights(layer)}).go_on(engine)


def test_heads_that_no_longer_fit_are_new_and_said_so(tmp_path, caplog):
    def network(classes: int) -> torch.nn.Module:
        return torch.nn.ModuleDict({"encoder": torch.nn.Linear(8, 8), "head": torch.nn.Linear(8, classes)})

    torch.manual_seed(0)
    first, second = network(3), network(5)
    torch.save(first.state_dict(), tmp_path / "model.pt")
    head = second["head"].weight.clone()
    with caplog.at_level(logging.INFO, "mtnet.training"):
        started_from(second, str(tmp_path / "model.pt"))
    assert torch.equal(second["encoder"].weight, first["encoder"].weight) and torch.equal(second["head"].weight, head)
    assert "model.pt has nothing that fits: head\n" in caplog.text
    with pytest.raises(ValueError, match="of another network"):
        started_from(torch.nn.Linear(9, 9), str(tmp_path / "model.pt"))


def test_classes_are_counted_as_a_training_sees_them_where_each_of_them_has_a_sample():
    data = [{"class": "a"}] * 4 + [{"class": "b"}, {}]
    output = OutputSpec("kind", "global", (Label(0, "b"), Label(1, "a")), activation="softmax")
    assert class_counts(data, [output], "kind") == [1, 4]
    assert class_counts(data, [output], "kind", 0.5) == [1, 2]
    assert class_counts(data, [output], "other") is None and class_counts(data[:4], [output], "kind") is None


def test_what_an_image_shows_is_of_its_class_where_an_output_tells_several_apart():
    labels = (Label(1, "adenoma"), Label(2, "serrated"))
    outputs = [
        OutputSpec("pred", "dense", (Label(0, "background"), *labels), (1,), "softmax"),
        OutputSpec("lesions", "boxes", labels, (8,), "sigmoid"),
    ]
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:5, 2:5] = 1
    batch = {
        "image": torch.zeros(5, 1, 8, 8),
        "label": [mask, mask, mask, torch.zeros_like(mask), None],
        "class": ["serrated", "adenoma", "other", None, "adenoma"],
    }
    _, targets = SampleTargets(outputs)(batch)
    assert [None if m is None else int(m.max()) for m in targets["pred"]] == [2, 1, None, 0, None]
    assert [None if b is None else b["label"].tolist() for b in targets["lesions"]] == [[1], [0], None, [], None]
    del batch["class"]
    _, targets = SampleTargets(outputs)(batch)
    assert targets["pred"][0] is None and targets["lesions"][3] is not None


def test_saturation_keeps_the_grey_of_colours_and_grey_pictures_as_they_are():
    from mtnet.transforms.pictures import IMAGENET_MEAN, IMAGENET_STD, LUMA

    mean, spread, luma = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD, LUMA))
    step = RandSaturationd("image", 0.5, prob=1.0)
    step.set_random_state(0)
    colours = torch.rand(3, 4, 4)
    for picture in (colours, colours[:1].expand(3, -1, -1)):
        moved = step({"image": (picture - mean) / spread})["image"] * spread + mean
        torch.testing.assert_close((moved * luma).sum(0), (picture * luma).sum(0), rtol=0, atol=1e-5)
        same = torch.allclose(moved, picture, atol=1e-5)
        assert same == (picture is not colours)
    one = torch.rand(1, 4, 4)
    assert torch.equal(step({"image": one})["image"], one)


def test_ultrasound_flips_its_columns_alone_and_a_move_shifts_image_and_label_together():
    image = torch.arange(16.0).reshape(1, 4, 4)
    flip = augmentation(flip=1.0, flip_axes=(1,))
    assert torch.equal(flip({"image": image})["image"], image.flip(2))
    bright = torch.zeros(1, 32, 32)
    bright[:, 12:20, 12:20] = 1
    steps = augmentation(flip=0, move=6, prob=1.0)
    steps.set_random_state(0)
    moved = steps({"image": bright.clone(), "label": bright.clone()})
    assert not torch.allclose(moved["label"].as_tensor(), bright)
    assert ((moved["image"] > 0.5) == (moved["label"] > 0.5)).float().mean() > 0.98
    every = augmentation(turn_degrees=20, zoom=0.2, move=4, scale=0.2, colour=0.1, saturation=0.3, blur=1, noise=0.1)
    assert every({"image": torch.rand(3, 32, 32), "label": bright})["image"].shape == (3, 32, 32)


def test_an_outline_goes_on_in_another_system_whose_tasks_exchange_before_its_decoder(tmp_path):
    first, second = unet_v2.network(), yolo_med.network(decoder="infused_unet")
    save_state(first, tmp_path / "model.pt")
    outline = started_from(second, str(tmp_path / "model.pt")).branches["segmentation"].head
    for part, own in ((first.branches["segmentation"].decoder, outline.decoder), (first.encoder, second.encoder)):
        stored = [tensor.half().float() if tensor.ndim > 1 else tensor for tensor in part.state_dict().values()]
        assert all(torch.equal(a, b) for a, b in zip(stored, own.state_dict().values(), strict=True))
    assert torch.equal(first.branches["segmentation"].head.conv.weight.half().float(), outline.head.conv.weight)


def test_of_several_files_a_network_takes_the_mean_of_what_they_share_and_all_that_one_alone_has(tmp_path, caplog):
    outliner, marker = unet_v2.network(), yolo_med.network()
    files = [str(tmp_path / "marker.pt"), str(tmp_path / "outliner.pt")]
    for network, file in zip((marker, outliner), files, strict=True):
        save_state(network, Path(file))
    both = yolo_med.network(decoder="infused_unet")
    with caplog.at_level(logging.INFO, "mtnet.training"):
        assert started_from(both, files) is both
    kept = [read_state(Path(file)) for file in files]
    state = both.state_dict()
    encoder = [name for name in state if name.startswith("encoder.") and state[name].is_floating_point()]
    assert encoder
    for name in encoder:
        torch.testing.assert_close(state[name], (kept[0][name].float() + kept[1][name].float()) / 2, rtol=0, atol=1e-6)
    boxes = [name for name in state if name.startswith(("branches.detection.", "neck."))]
    assert boxes and all(torch.equal(state[name], kept[0][name].to(state[name].dtype)) for name in boxes)
    outline = both.branches["segmentation"].head.decoder.state_dict()
    for name, tensor in outline.items():
        assert torch.equal(tensor, kept[1][f"branches.segmentation.decoder.{name}"].to(tensor.dtype))
    assert "nothing that fits: interaction.to_tokens, interaction.from_tokens\n" in caplog.text
    assert "marker.pt: branches.segmentation.decoder" in caplog.text
    with pytest.raises(FileNotFoundError, match="third"):
        started_from(both, [*files, str(tmp_path / "third.pt")])
