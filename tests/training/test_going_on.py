"""The bundle's own training config, in its smallest size: stopped and gone on with, and what it publishes."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from mtnet.bundle import Bundle, BundleError
from mtnet.nets import load_state, read_state, save_state
from mtnet.systems import chest_ct
from mtnet.training import learning_only, phantom_bags
from tests.training.drawn import cuboid_sample

CONFIGS = Path(__file__).parents[2] / "bundles" / "chest_ct_multitask" / "configs"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class StoppedError(Exception):
    """What ends a training that is cut off."""


@pytest.fixture(autouse=True)
def one_made_up_chest(monkeypatch):
    monkeypatch.setattr(phantom_bags, "draw_sample", lambda seed, preprocessing: cuboid_sample())


def trainer_of(folder: Path, seed: int, **options):
    """The trainer of ``train.json``: two epochs of two bags of one small patch."""
    torch.manual_seed(seed)
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "train.json"))
    changes = {
        "bundle_root": str(folder / "bundle"),
        "dataset_dir": str(folder / "chests"),
        "work_dir": str(folder / "work"),
        "device": "$torch.device('cpu')",
        "patch_size": [16, 16, 16],
        "chests": 1,
        "bags_per_epoch": 2,
        "patches_per_bag": 1,
        "max_epochs": 2,
        "precision": "float32",
        "workers": 0,
        **options,
    }
    for name, value in changes.items():
        parser[name] = value
    return parser.get_parsed_content("train#trainer"), parser


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}


@pytest.fixture
def seen(monkeypatch):
    """Indices of the bags in the order in which they were asked for."""
    asked: list[int] = []
    plain = phantom_bags.PhantomBags.__getitem__
    monkeypatch.setattr(
        phantom_bags.PhantomBags, "__getitem__", lambda self, index: asked.append(index) or plain(self, index)
    )
    return asked


@pytest.mark.slow
@pytest.mark.parametrize("when", ["after an epoch", "in the middle of an epoch"])
def test_a_training_that_was_stopped_and_gone_on_with_gives_the_weights_of_one_that_never_was(tmp_path, seen, when):
    from ignite.engine import Events

    whole, _ = trainer_of(tmp_path / "whole", 0)
    begun = weights(whole)
    whole.run()
    assert seen == [0, 1, 2, 3]
    assert whole.state.epoch == 2 and whole.state.iteration == 4
    expected = weights(whole)
    assert any(not torch.equal(begun[name], expected[name]) for name in begun)

    first, _ = trainer_of(tmp_path / "cut", 0)

    def stop(engine):
        raise StoppedError

    first.add_event_handler(
        Events.EPOCH_STARTED(once=2) if when == "after an epoch" else Events.ITERATION_COMPLETED(once=3), stop
    )
    with pytest.raises(StoppedError):
        first.run()
    seen.clear()
    # Another start: whatever is not loaded from the file would show.
    second, _ = trainer_of(tmp_path / "cut", 99)
    second.run()
    assert seen == [2, 3]
    assert second.state.epoch == 2 and second.state.iteration == 4
    assert all(torch.equal(expected[name], tensor) for name, tensor in weights(second).items())

    seen.clear()
    done, _ = trainer_of(tmp_path / "cut", 7)
    done.run()
    assert seen == []
    assert all(torch.equal(expected[name], tensor) for name, tensor in weights(done).items())


@pytest.mark.slow
def test_what_training_publishes_is_taken_by_the_bundle_as_local_weights(tmp_path, caplog):
    trainer, parser = trainer_of(tmp_path, 0, max_epochs=1, ema_decay=0.0)
    with caplog.at_level(logging.INFO):
        trainer.run()
    folder = tmp_path / "bundle"
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    (folder / "configs").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps({**metadata, "weights_sha256": "0" * 64}))
    (folder / "configs" / "inference.json").write_text((CONFIGS / "inference.json").read_text())

    bundle = Bundle.read(folder)
    info = bundle.model_info()
    assert info.weights_sha256 == hashlib.sha256(bundle.weights.read_bytes()).hexdigest()
    assert info.training_data == f"local data (first trained on: {metadata['training_data']})"
    network = chest_ct.network()
    load_state(network, bundle.weights)
    for name, tensor in trainer.network.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)
    assert set(read_state(bundle.weights)) == set(bundle.build("network_def").state_dict())
    assert sorted(file.name for file in (folder / "models").iterdir()) == ["model.pt", "model.pt.sha256"]

    bundle.weights.write_bytes(bundle.weights.read_bytes() + b"x")
    with pytest.raises(BundleError, match="damaged or was"):
        bundle.check_weights()

    # Every term of the loss is told, by its name, once an epoch.
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("epoch 1/1")]
    assert len(told) == 1
    for term in (
        "pred/dice",
        "pred/cross_entropy",
        "lesions/box",
        "lesions/texture",
        "classification",
        "reconstruction",
    ):
        assert f"{term} " in told[0]
    assert parser.get_parsed_content("loss").terms


def test_the_means_of_the_log_are_those_of_its_epoch_alone():
    from types import SimpleNamespace

    from mtnet.training import LossTermLog

    lines = []
    loss = SimpleNamespace(terms={"pred": 1.0})
    log = LossTermLog(loss)
    engine = SimpleNamespace(
        state=SimpleNamespace(epoch=1, max_epochs=2), logger=SimpleNamespace(info=lambda *said: lines.append(said))
    )
    for value in (1.0, 3.0):
        loss.terms = {"pred": value}
        log.collect(engine)
    log.tell(engine)
    loss.terms = {"pred": 5.0}
    log.collect(engine)
    log.tell(engine)
    assert [said[-1] for said in lines] == ["pred 2.0000", "pred 5.0000"]


def test_a_part_that_is_named_learns_alone_and_the_rest_keeps_its_bits(tmp_path):
    others = {f"lambda_{task}": 0.0 for task in ("segmentation", "classification", "reconstruction")}
    begun = tmp_path / "begun.pt"
    save_state(chest_ct.network(), begun)
    options = {"learns": ["lesion"], "outputs": ["lesions"], "initial_weights": str(begun), "learning_rate": 0.1}
    trainer, parser = trainer_of(tmp_path, 3, **options, **others)
    trainer.run()
    before = read_state(begun)
    published = read_state(Path(parser.get_parsed_content("weights")))
    changed = {name for name in before if not torch.equal(before[name], published[name])}
    assert changed and all("lesion" in name.split(".") for name in changed)
    assert published.keys() == before.keys()


def test_a_part_that_there_is_not_or_that_cannot_stand_still_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"No part of the network is called textures; there are act, "):
        learning_only(chest_ct.network(), ["textures"])
    with pytest.raises(ValueError, match="normalise by batches: their statistics would go on moving"):
        learning_only(chest_ct.network("published", spatial_dims=2), ["lesion"])
    whole = learning_only(chest_ct.network(), None)
    assert all(parameter.requires_grad for parameter in whole.parameters())
