"""Peers are the libraries' own networks, trained by our configs and told beside ours with paired intervals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import runs
from benchmarks.peers import networks, nnunet
from benchmarks.run_tables import into_card, read_tables, table_text, tell
from benchmarks.runs import keep, kept, kept_baselines, network_of, scored
from mtnet.evaluation.records import Evaluated, SampleRecord, read_records
from mtnet.sources.manifest import read_manifest
from mtnet.structures import ModelInfo
from mtnet.training.queue import Job, read_jobs
from tests.training.made import write_pictures

REPOSITORY = Path(__file__).parents[1]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def test_a_peer_gives_the_librarys_own_answers_under_our_names():
    import segmentation_models_pytorch as smp
    from monai.networks.nets import DenseNet121

    image = torch.rand(2, 3, 64, 64)
    peer = networks.breast_unet().eval()
    theirs = smp.Unet("resnet34", encoder_weights=None, classes=1, aux_params={"classes": 3}).eval()
    theirs.load_state_dict(peer.net.state_dict())
    with torch.no_grad():
        told, (mask, classes) = peer(image), theirs(image)
    assert torch.equal(told["pred"], mask) and torch.equal(told["classification"], classes)
    assert list(networks.polyp_unet().eval()(image)) == ["pred"]

    nodules = networks.nodule_densenet().eval()
    dense = DenseNet121(spatial_dims=3, in_channels=1, out_channels=4).eval()
    dense.load_state_dict(nodules.net.state_dict())
    planes = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        told = nodules(planes)
        # The three planes themselves are the first, a middle and the last of the 32.
        deep = torch.nn.functional.interpolate(planes[:, None], size=(32, 64, 64), mode="trilinear", align_corners=True)
        assert torch.equal(deep[:, 0, 0], planes[:, 0]) and torch.equal(deep[:, 0, -1], planes[:, 2])
        raw = dense(deep)
    assert torch.equal(told["pred"], raw[:, :2])
    torch.testing.assert_close(told["diameter"], raw[:, 2:3] * 5.0 + 8.7)
    torch.testing.assert_close(told["reader_rating"], raw[:, 3:] * 1.2 + 2.9)


@pytest.mark.parametrize("name", ["peers", "ablations", "grids"])
def test_jobs_and_tables_of_the_repository_name_what_there_is(name, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    path = Path("data") / f"{name}.json"
    tables, jobs = read_tables(path)
    own = read_jobs(path)
    rows = {row for table in tables for row in table.rows}
    begun_with = {name for job in own for name in job.earlier}
    assert {job.name for job in own} <= rows | begun_with and rows <= jobs.keys()
    for job in own:
        config = json.loads(Path(job.config).read_text(encoding="utf-8"))
        if job.name not in begun_with:
            assert job.overrides.keys() <= set(config), job.name
    for table in tables:
        assert (Path("bundles") / table.bundle / "docs" / "README.md").is_file()


def test_every_peer_has_the_outputs_and_the_recipe_of_ours(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    tables, jobs = read_tables(Path("data/peers.json"))
    for table in tables:
        ours = network_of(jobs[table.reference])
        others = ("size", "precision", "encoder", "decoder")
        recipe = {k: v for k, v in jobs[table.reference].overrides.items() if k not in others}
        for name in table.rows:
            if "network_def" not in jobs[name].overrides:
                continue
            kept = {spec.name for spec in network_of(jobs[name]).outputs}
            assert kept <= {spec.name for spec in ours.outputs}
            if jobs[name].config == jobs[table.reference].config:
                assert recipe.items() <= jobs[name].overrides.items()
                # On a CPU torch's 3D convolutions can give gradients in bfloat16 that are not finite.
                precisions = {"float32", jobs[table.reference].overrides["precision"]}
                assert jobs[name].overrides["precision"] in precisions


@pytest.fixture(name="finished", scope="module")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file of jobs and tables, and the folder of the queue in which its first two are trained."""
    from monai.bundle import ConfigParser

    folder = tmp_path_factory.mktemp("finished")
    manifest = write_pictures(folder / "pictures", 18)
    small = {"size": [32, 32], "max_epochs": 1, "batch_size": 2, "workers": 0, "precision": "float32"}
    config = str(REPOSITORY / "bundles/breast_ultrasound_multitask/configs/train.json")
    peer = {"network_def": {"_target_": "benchmarks.peers.networks.breast_unet", "encoder": "resnet18"}}
    entries = [
        {"name": "ours", "config": config, "prepare": [["a", "b"]], "overrides": {**small, "encoder": "resnet10"}},
        {"name": "peer", "like": "ours", "overrides": peer},
        {"name": "later", "like": "ours", "overrides": {"seed": 5}},
    ]
    metrics = ["segmentation.dice_with_lesion", "made:classification.accuracy", "detection.ap50"]
    table = {"name": "made", "bundle": "b", "title": "Made", "metrics": metrics, "reference": "ours"}
    rows = {"ours": "ours", "peer": "smp", "later": "another seed"}
    (folder / "jobs.json").write_text(json.dumps({"jobs": entries, "tables": [{**table, "rows": rows}]}))
    for job in read_jobs(folder / "jobs.json")[:2]:
        place = folder / "state" / job.name
        place.mkdir(parents=True)
        (place / "manifest.json").symlink_to(manifest)
        parser = ConfigParser()
        parser.read_config(job.config)
        told = {**job.overrides, "manifest": str(manifest), "work_dir": str(place), "weights": str(place / "model.pt")}
        for name, value in told.items():
            parser[name] = value
        parser.get_parsed_content("train#trainer").run()
    return folder / "jobs.json", folder / "state"


@pytest.mark.slow
def test_a_peer_is_trained_by_our_config_and_told_beside_ours(finished):
    path, state = finished
    tables, jobs = read_tables(path)
    text, left = table_text(tables[0], jobs, state, draws=50)
    assert left == ["later"] and "Each row is one training of 1 epochs;" in text
    head, _, ours, peer, later = (line.split(" | ") for line in text.splitlines()[2:7])
    assert [cell.strip("| ") for cell in head][2:] == [f"{metric} (n)" for metric in tables[0].metrics]
    assert "<br>" not in ours[2] and peer[2].count("<br>") == 1 and "to" in peer[2].split("<br>")[1]
    assert "(3)" in ours[2] and "(6)" in ours[3] and ours[4].strip(" |") == "–" and "not trained yet" in later[2]
    kept = state / "peer" / "scores-test" / "records.json"
    before = kept.stat().st_mtime_ns
    assert read_records(kept).model.name == "peer"
    scored(jobs["peer"], state / "peer")
    assert kept.stat().st_mtime_ns == before
    (state / "peer" / "model.pt").write_bytes((state / "peer" / "model.pt").read_bytes() + b"\0")
    scored(jobs["peer"], state / "peer")
    assert kept.stat().st_mtime_ns != before


@pytest.mark.slow
def test_a_table_is_made_from_kept_scores_where_the_trainings_are_not(finished, tmp_path, monkeypatch, capsys):
    path, state = finished
    (table,), jobs = read_tables(path)
    monkeypatch.setattr(runs, "KEPT", tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "ours--0123456789abcdef.json").write_text("of another recipe")
    assert tell(path, "python -m x", ["--state", str(state), "--keep"]) == 1
    assert {file.name.split("--")[0] for file in (tmp_path / "kept").iterdir()} == {"ours", "peer"}
    assert not any(str(state.parent) in file.read_text() for file in (tmp_path / "kept").iterdir())
    assert table_text(table, jobs, tmp_path / "nothing", draws=50) == table_text(table, jobs, state, draws=50)
    other = {**jobs, "peer": replace(jobs["peer"], overrides={**jobs["peer"].overrides, "max_epochs": 2})}
    assert table_text(table, other, tmp_path / "nothing", draws=50)[1] == ["peer", "later"]


def test_the_rows_under_a_run_are_kept_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "KEPT", tmp_path / "kept")
    job = Job("crops", "train.json", [["a", "b"]], {})
    run = Evaluated(ModelInfo("crops", "1", "0" * 64, "made"), "test", (SampleRecord("a/1", "a", "1", "/here/1.nii"),))
    keep(job, run, {"shape_only": replace(run, split="all")})
    own = kept(job)
    assert own == replace(run, samples=(SampleRecord("a/1", "a", "1", "1.nii"),))
    assert own is not None and kept_baselines(job) == {"shape_only": replace(own, split="all")}
    other = replace(job, name="crop")
    assert kept(other) is None and kept_baselines(other) == {}


def test_what_is_kept_is_of_the_recipes_as_they_are(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    files = [path.stem.split("--") for path in runs.KEPT.iterdir()]
    lists = [read_jobs(Path(f"data/{name}.json")) for name in ("trainings", "peers", "ablations")]
    known = {job.name: job.digest for jobs in lists for job in jobs}
    assert files and all(known[name] == digest for name, digest, *_ in files)


@pytest.mark.slow
def test_the_command_says_what_is_not_trained_yet(finished, capsys):
    path, state = finished
    assert tell(path, "python -m x", ["--state", str(state)]) == 1
    said = capsys.readouterr()
    assert "| smp |" in said.out and "not trained yet: later. python -m mtnet.training.queue --jobs" in said.err
    with pytest.raises(SystemExit):
        tell(path, "python -m x", ["--only", "none"])
    assert "there are made" in capsys.readouterr().err


def test_a_table_takes_its_own_place_in_a_card():
    card = into_card("# Card\n\nText.\n", "one", "| a |", "make it")
    assert card == "# Card\n\nText.\n\n<!-- one: make it -->\n| a |\n<!-- one ends -->\n"
    card = into_card(card + "\nMore.\n", "one", "| b |", "make it")
    assert "| a |" not in card and card.count("<!-- one ends -->") == 1 and card.endswith("\nMore.\n")


def test_nnunet_is_given_our_splits_and_its_answers_are_noted_as_ours(tmp_path):
    manifest = read_manifest(write_pictures(tmp_path / "pictures", 12))
    tested = nnunet.write_dataset(manifest, tmp_path / "out")
    raw = tmp_path / "out" / "raw" / nnunet.NAME
    told = json.loads((raw / "dataset.json").read_text())
    (splits,) = json.loads((tmp_path / "out" / "splits_final.json").read_text())
    labels = {path.stem for path in (raw / "labelsTr").iterdir()}
    assert told["numTraining"] == len(labels) == len(splits["train"]) + len(splits["val"])
    assert {path.name for path in (raw / "imagesTr").iterdir()} == {f"{name}_0000.png" for name in labels}
    assert {sample.id for sample in tested.values()} == {s.id for s in manifest.select("test")}
    label = np.asarray(Image.open(raw / "labelsTr" / "case00000.png"))
    assert label.shape == (48, 80) and label.sum() == 20 * 30 and label[10:30, 20:50].all()

    answers = tmp_path / "out" / "answers"
    answers.mkdir()
    for name in tested:
        Image.fromarray(label).save(answers / f"{name}.png")
    (tmp_path / "checkpoint_final.pth").write_bytes(b"weights")
    noted = nnunet.records(tested, answers, tmp_path / "checkpoint_final.pth")
    dice = {one.id: one.notes["segmentation"]["dice"] for one in noted.samples}
    assert dice == {"made/4": 1.0, "made/5": 0.0, "made/10": 1.0, "made/11": 0.0}


def test_nnunet_says_what_it_lacks_and_runs_its_own_commands_on_the_held_out_fold(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert nnunet.main([str(tmp_path / "m.json"), str(tmp_path)]) == 1
    assert "trains for hours on a GPU, and torch sees none here" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(nnunet.shutil, "which", lambda name: None)
    assert nnunet.main([str(tmp_path / "m.json"), str(tmp_path)]) == 1
    assert "pip install nnunetv2" in capsys.readouterr().err
    plan, train, predict = nnunet.commands(tmp_path, "nnUNetTrainer")
    assert train == ["nnUNetv2_train", "501", "2d", "0", "-tr", "nnUNetTrainer"] and "--disable_tta" in predict
    assert plan[0] == "nnUNetv2_plan_and_preprocess"
