"""A training with all its parts, on made pictures: killed and gone on with, in pieces, seen and remembered."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtnet.nets import read_state
from tests.training.made import write_pictures
from tests.training.small import small_training

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

KILLED = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import torch
from ignite.engine import Events
from tests.training.small import small_training
torch.set_num_threads(1)
manifest, folder, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
trainer, _ = small_training(manifest, folder)
trainer.add_event_handler(Events.ITERATION_COMPLETED(once=step), lambda: os.kill(os.getpid(), signal.SIGKILL))
trainer.run()
"""


@pytest.fixture(scope="module", name="manifest")
def _manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 12)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def state(trainer, averaged) -> dict[str, torch.Tensor]:
    weights = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    return weights | {f"averaged {name}": tensor.clone() for name, tensor in averaged.network.state_dict().items()}


@pytest.mark.slow
def test_a_training_killed_at_a_random_step_and_gone_on_with_ends_with_the_same_weights(manifest, tmp_path):
    """SIGKILL in a process of its own; dropout, random changes, schedule, average and best epoch are all in it."""
    whole, average = small_training(manifest, tmp_path / "whole")
    begun = state(whole, average)
    whole.run()
    wanted = state(whole, average)
    steps = whole.state.epoch_length
    assert steps == 3 and any(not torch.equal(begun[name], tensor) for name, tensor in wanted.items())

    step = random.randrange(1, 2 * steps)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(manifest), str(tmp_path / "cut"), str(step)],
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "cut" / "checkpoint.pt").is_file() == (step > steps)

    # Begun with other weights and gone on with by workers: whatever is not restored would show.
    again, average = small_training(manifest, tmp_path / "cut", start=99 if step > steps else 0, workers=2)
    again.run()
    found = state(again, average)
    assert all(torch.equal(wanted[name], tensor) for name, tensor in found.items()), f"killed after step {step}"
    first, second = (read_state(tmp_path / name / "model.pt") for name in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_training_in_pieces_is_one_training_and_its_curve_is_whole(manifest, tmp_path):
    for piece in (1, 2):
        trainer, averaged = small_training(manifest, tmp_path, start=piece, minutes=0)
        trainer.run()
        assert trainer.state.epoch == piece
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert curve["max_epochs"] == 2 and [row["epoch"] for row in curve["epochs"]] == [1, 2]
    for row in curve["epochs"]:
        assert set(row["loss"]) == {"pred", "classification"} and row["seconds"] > 0
        assert set(row["validation"]) >= {"pred_dice", "classification_accuracy"}
    # The warm-up reaches the asked rate after an epoch, the cosine ends at 0.
    assert [row["learning_rate"] for row in curve["epochs"]] == pytest.approx([0.01, 0.0])
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    # What is published is the average, of the best epoch.
    best = 1 if curve["epochs"][0]["validation"]["pred_dice"] >= curve["epochs"][1]["validation"]["pred_dice"] else 2
    if best == 2:
        published = read_state(tmp_path / "model.pt")
        for name, tensor in averaged.network.state_dict().items():
            torch.testing.assert_close(published[name], tensor, rtol=1e-3, atol=1e-6)
