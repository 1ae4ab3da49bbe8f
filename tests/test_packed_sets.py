"""A job's images travel in 8 bits, and a machine without the sets trains on them as on the sets."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from benchmarks import gpu_pack, packed_sets
from benchmarks.packed_sets import NotPackedError, pack_job, unpack
from mtnet.sources.manifest import read_manifest
from mtnet.training import samples_of
from mtnet.training.queue import Job
from tests.training.made import write_chests, write_pictures

REPOSITORY = Path(__file__).parents[1]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def job_of(bundle: str, **overrides) -> Job:
    return Job("job", str(REPOSITORY / f"bundles/{bundle}/configs/train.json"), [["folder", "x"]], overrides)


def prepared(state: Path, manifest: Path) -> Path:
    (state / "job").mkdir(parents=True)
    (state / "job" / "manifest.json").symlink_to(manifest)
    return state


def seen(job: Job, manifest: Path) -> list[dict]:
    """What the config's deterministic steps make of the samples to train on."""
    parser = ConfigParser()
    parser.read_config(job.config)
    for name, value in job.overrides.items():
        parser[name] = value
    steps = parser.get_parsed_content("train#deterministic_transforms")
    return [steps(item) for item in samples_of(manifest, "train")]


@pytest.mark.parametrize(
    ("bundle", "overrides"),
    [("breast_ultrasound_multitask", {"size": [32, 64]}), ("yolo_med_polyp", {"size": 64})],
)
def test_packed_pictures_are_what_the_network_would_have_seen(bundle, overrides, tmp_path):
    job = job_of(bundle, **overrides)
    manifest = write_pictures(tmp_path / "pictures", 12)
    small = pack_job(job, prepared(tmp_path / "state", manifest), tmp_path / "there" / "job")
    assert {sample.split for sample in small.samples} == {"train", "val"}
    assert not list((tmp_path / "there").glob("*/images/*.png"))
    assert unpack(tmp_path / "there") == ["job"]
    there = tmp_path / "there" / "job" / "manifest.json"
    before, after = seen(job, manifest), seen(job, there)
    assert [item["id"] for item in before] == [item["id"] for item in after]
    for home, away in zip(before, after, strict=True):
        assert home["image"].shape == away["image"].shape
        # Half of a step of 8 bits, by the smallest of ImageNet's deviations.
        assert (home["image"] - away["image"]).abs().max() < 0.51 / 255 / 0.224
        assert home.keys() == away.keys()
        if "label" in home:
            assert torch.equal(home["label"].as_tensor(), away["label"].as_tensor())
    # A made box of columns 20 to 49 and rows 10 to 29 on 48 x 80 pixels, stretched.
    rows, columns = before[0]["image"].shape[1:]
    box = next(sample.boxes for sample in read_manifest(there).samples if sample.boxes)[0]
    assert box == pytest.approx(
        [20 * columns / 80 - 0.5, 10 * rows / 48 - 0.5, 50 * columns / 80 - 0.5, 30 * rows / 48 - 0.5]
    )


def test_packed_volumes_are_hu_in_steps_and_lie_where_they_lay(tmp_path):
    import nibabel

    job = job_of("res_mtnet_nodule")
    manifest = write_chests(tmp_path / "chests")
    small = pack_job(job, prepared(tmp_path / "state", manifest), tmp_path / "there" / "job")
    home = read_manifest(manifest).select("train")[0]
    away = next(sample for sample in small.samples if sample.id == home.id)
    first, second = nibabel.load(home.image), nibabel.load(away.image)
    assert second.get_data_dtype() == np.uint8 and np.array_equal(first.affine, second.affine)
    told = np.clip(np.asanyarray(first.dataobj), -1000, 400)
    assert np.abs(np.asanyarray(second.dataobj) - told).max() <= 1400 / 255 / 2 + 1e-3
    assert away.centre_lps_mm == pytest.approx(home.centre_lps_mm) and away.boxes == home.boxes
    assert np.array_equal(
        np.asanyarray(nibabel.load(away.masks[0]).dataobj) > 0, np.asanyarray(nibabel.load(home.masks[0]).dataobj) > 0
    )
    with pytest.raises(NotPackedError, match="draws or cuts its samples while it trains"):
        pack_job(job_of("chest_ct_multitask"), tmp_path / "state", tmp_path / "chest")


def test_jobs_are_packed_as_long_as_they_fit_and_the_rest_is_told(tmp_path, monkeypatch, capsys):
    small = {"size": [32, 32]}
    config = str(REPOSITORY / "bundles/unet_v2_polyp/configs/train.json")
    jobs = [Job(name, config, [["folder", "x"]], small) for name in ("first", "second")]
    manifest = write_pictures(tmp_path / "pictures", 6)
    for job in jobs:
        (tmp_path / "state" / job.name).mkdir(parents=True)
        (tmp_path / "state" / job.name / "manifest.json").symlink_to(manifest)
    monkeypatch.setattr(gpu_pack, "STATE", tmp_path / "state")
    out = tmp_path / "pack.tar.gz"
    with tarfile.open(out, "w:gz") as pack:
        assert gpu_pack.pack_sets(pack, out, jobs, tmp_path / "work") == ["first", "second"]
    with tarfile.open(out) as pack:
        link = pack.getmember("gpu-pack/.cache/train/second/manifest.json")
        names = pack.getnames()
    # The second sees the same images.
    assert link.linkname == "../first/manifest.json" and not [name for name in names if "second/images" in name]
    assert [name for name in names if "first/images" in name]
    monkeypatch.setattr(gpu_pack, "MOST_BYTES", 1000)
    with tarfile.open(out, "w:gz") as pack:
        assert gpu_pack.pack_sets(pack, out, jobs, tmp_path / "again") == []
    assert "left out: first takes 0.0 MiB, which do not fit; --only packs it" in capsys.readouterr().err


@pytest.mark.slow
def test_the_queue_trains_what_was_packed_without_the_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    entry = {
        "name": "job",
        "config": "bundles/breast_ultrasound_multitask/configs/train.json",
        "prepare": [["folder", "/nowhere"]],
        "overrides": {"size": [32, 32], "encoder": "resnet10", "max_epochs": 1, "batch_size": 2, "workers": 0},
    }
    (tmp_path / "jobs.json").write_text(json.dumps({"jobs": [entry]}))
    state = prepared(tmp_path / "state", write_pictures(tmp_path / "pictures", 6))
    pack_job(Job.read(entry), state, tmp_path / "there" / "job")
    told = ["--jobs", str(tmp_path / "jobs.json"), "--state", str(tmp_path / "there")]
    assert packed_sets.main(told) == 0, (tmp_path / "there" / "job" / "log.txt").read_text()
    assert (tmp_path / "there" / "job" / "model.pt").is_file()
    assert packed_sets.main([*told[:2], "--state", str(tmp_path / "empty")]) == 1
