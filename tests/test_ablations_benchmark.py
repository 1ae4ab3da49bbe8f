"""Ablations change what they say, and what is measured beside them is what it is called."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from benchmarks import grids, skips, task_features
from benchmarks.run_tables import read_tables
from benchmarks.runs import network_of
from benchmarks.variants import unet_v2_with
from mtnet.evaluation.tasks import tasks_of
from mtnet.predictor import Predictor
from mtnet.sources.manifest import read_manifest
from mtnet.structures import ModelInfo
from mtnet.systems import chest_ct, unet_v2, yolo_med
from tests.training.made import write_pictures

REPOSITORY = Path(__file__).parents[1]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.mark.slow
def test_every_ablation_builds_its_network_and_its_rows_can_be_scored(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    tables, jobs = read_tables(Path("data/ablations.json"))
    by_title = {table.name: table for table in tables}
    assert {table.bundle for table in tables} == {path.name for path in Path("bundles").iterdir() if path.is_dir()}
    assert len(by_title["ablation_breast_grid"].rows) == 4 and len(by_title["ablation_breast_lambda"].rows) == 5
    sizes = {}
    for table in tables:
        paths = {path for name in table.rows for path in _paths(jobs[name], sizes)}
        for metric in table.metrics:
            assert any(metric.rpartition(":")[2].startswith(f"{path}.") for path in paths), metric
    # Tasks alone are smaller than together, and no two rows of the grid are one network.
    assert max(sizes["busi_128_mask"], sizes["busi_128_class"]) < sizes["busi_128"]
    assert sizes["yolo_128_apart"] < sizes["yolo_128"] and sizes["lidc_apart"] < sizes["lidc_both"]
    assert sizes["chest_masks"] < sizes["chest_masks_boxes"] < sizes["chest_masks_boxes_class"] < sizes["chest_all"]
    assert len({sizes[name] for name in by_title["ablation_breast_grid"].rows}) == 4
    assert len({sizes[name] for name in by_title["ablation_unet_v2"].rows}) == 5


@pytest.mark.slow
def test_the_grids_are_the_papers_and_want_a_gpu(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    (breast, chest), jobs = read_tables(grids.JOBS)
    cells = {(jobs[name].overrides["encoder"], jobs[name].overrides["decoder"]) for name in breast.rows}
    assert len(cells) == 16 and {jobs[name].overrides["variant"] for name in breast.rows} == {"published"}
    # Of published size, each cell with the count of smp's network and a linear classifier of three classes.
    assert _parameters(jobs["grid_busi_resnet50_unet"]) == 32_521_105 + 6_147
    settings = {tuple(network_of(jobs[name]).branches) for name in chest.rows}
    assert len(settings) == 2**4 - 1
    for name in chest.rows:
        changed = jobs[name].overrides
        off = {task for task in chest_ct.TASKS if task not in changed.get("tasks", chest_ct.TASKS)}
        assert {key for key, value in changed.items() if value == 0.0 and key != "seed"} == {f"lambda_{t}" for t in off}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert grids.main() == 1 and "want a GPU, and torch sees none here" in capsys.readouterr().out


def _parameters(job) -> int:
    return sum(parameter.numel() for parameter in network_of(job).parameters())


def _paths(job, sizes) -> list[str]:
    network = network_of(job)
    sizes[job.name] = sum(parameter.numel() for parameter in network.parameters())
    return [task.path for task in tasks_of(network.outputs)]


@pytest.mark.parametrize("name", ["chest_masks", "chest_masks_boxes", "chest_plain_dice"])
def test_a_chest_of_fewer_tasks_or_another_loss_learns(name, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    _, jobs = read_tables(Path("data/ablations.json"))
    parser = ConfigParser()
    parser.read_config(jobs[name].config)
    for key, value in jobs[name].overrides.items():
        parser[key] = value
    network, loss = parser.get_parsed_content("network_def"), parser.get_parsed_content("loss")
    mask = torch.zeros(1, 1, 32, 32, 32, dtype=torch.long)
    mask[..., 10:20] = 1
    box = {"box_index": torch.tensor([[8.0, 8, 8, 20, 20, 20]]), "label": torch.zeros(1, dtype=torch.long)}
    image = torch.rand(1, 1, 32, 32, 32)
    targets = {
        "pred": mask,
        "lesions": [{**box, "texture": torch.zeros(1, dtype=torch.long)}],
        "classification": torch.ones(1, 2),
        "reconstruction": image,
    }
    total = loss(network(image), targets)
    total.backward()
    assert torch.isfinite(total)
    assert {term.split("/")[0] for term in loss.terms} == {spec.name for spec in network.outputs}


def test_plain_skips_are_u_net_v2_but_for_the_skips():
    image = torch.rand(2, 3, 64, 64)
    ours = unet_v2_with("sdi").train()
    paper = unet_v2.network(decoder="unet_v2")
    assert {name for name, _ in ours.named_parameters()} == {name for name, _ in paper.named_parameters()}
    wanted = {name: tensor.shape for name, tensor in ours(image).items()}
    for merge in ("sum", "concatenation"):
        network = unet_v2_with(merge).train()
        answers = network(image)
        assert {name: tensor.shape for name, tensor in answers.items()} == wanted
        sum(answer.mean() for answer in answers.values()).backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


def test_what_is_kept_for_backward_is_counted_to_the_byte():
    layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Sigmoid(), torch.nn.Linear(8, 2), torch.nn.Sigmoid())
    # The image is there anyway; the answers of both sigmoids are kept, 3 x 8 and 3 x 2 numbers.
    assert skips.kept_for_backward(layers, torch.rand(3, 4)) == 4 * (24 + 6)


def test_the_features_of_two_tasks_are_correlated_cell_by_cell():
    first = torch.rand(1, 4, 6, 6)
    assert task_features.correlations({"segmentation": [first], "detection": [3 * first]}) == pytest.approx([1.0])
    lengths = first.norm(dim=1)
    opposite = (2 - lengths)[:, None]
    assert task_features.correlations({"segmentation": [first], "detection": [opposite]}) == pytest.approx([-1.0])
    flat = torch.ones(1, 4, 6, 6)
    (undefined,) = task_features.correlations({"segmentation": [first], "detection": [flat]})
    assert undefined != undefined


def test_small_and_large_lesions_have_their_rows_and_an_interaction_that_changes_nothing_shows_as_such(tmp_path):
    samples = read_manifest(write_pictures(tmp_path, 12)).select("all")
    network = yolo_med.network()
    parts = (network, yolo_med.preprocessing(64), yolo_med.inferer())
    predictor = Predictor(*parts, ModelInfo("made", "1", "0" * 64, "nothing"))
    rows = [line.strip("| ").split(" | ") for line in task_features.table_text(predictor, samples).splitlines()[2:]]
    assert [row[:2] for row in rows] == [[name, str(s)] for name in ("small", "large") for s in (8, 16, 32)]
    # The exchange starts as the identity.
    assert all(row[3] == row[4] for row in rows if row[3] != "not defined")
    with (
        pytest.raises(ValueError, match="has no interaction"),
        task_features.exchanged(yolo_med.network(tasks=["detection"])),
    ):
        pass
