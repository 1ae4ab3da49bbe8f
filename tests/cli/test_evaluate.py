"""``mtnet evaluate``."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from mtnet.bundle import Bundle
from mtnet.cli import main
from mtnet.evaluation.files import schema
from mtnet.io.nifti_out import write_nifti
from mtnet.nets import save_state
from mtnet.sources.manifest import Sample
from mtnet.structures import Geometry, Volume
from tests.bundles import write_tiny_bundle
from tests.evaluation.manifests import picture, pictures, write
from tests.planes import save, spot, write_flat_bundle


@pytest.fixture(scope="module", name="bundle")
def _bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flat_bundle(tmp_path_factory.mktemp("bundle") / "flat")


@pytest.fixture(scope="module", name="manifest")
def _manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    samples = [replace(s, image_class="nodule" if s.masks else None) for s in pictures(folder, 5)]
    samples.append(picture(folder, "c", ((4, 4), (30, 30)), split="train", flags=("label_conflict",)))
    samples.append(picture(folder, "t", ((4, 4), (30, 30)), split="train", fold=2))
    return write(folder, samples)


def run(*arguments: object) -> int:
    return main.main(["evaluate", *map(str, arguments), "--device", "cpu"])


def metrics(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    jsonschema.Draft7Validator(schema()).validate(document)
    return document


def test_every_file_is_written_and_every_task_scored(
    bundle: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bundle, manifest, tmp_path / "out", "--pictures") == 0
    shown = capsys.readouterr()
    assert shown.err == "" and "segmentation.dice" in shown.out and "two classes" in shown.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("metrics.json", "operating_points.json", "records.json", "report.html", "samples.csv"),
    ]
    document = metrics(tmp_path / "out")
    assert document["segmentation"]["dice"]["n"] == 5 and len(document["segmentation"]["dice"]["ci95"]) == 2
    assert {"ap50", "ap50_95", "cpm", "sensitivity_at_1_fp"} <= set(document["detection"])
    assert "auroc" in document["classification"]["nodule"]
    assert document["with_label_conflict"]["segmentation"]["dice"]["n"] == 6
    assert document["evaluation"]["samples"] == 5 and document["evaluation"]["aside"] == 1
    assert document["details"]["segmentation"]["truth_empty"] == 1
    rows = list(csv.DictReader((tmp_path / "out" / "samples.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == [*(f"spots/p{n}" for n in range(5)), "spots/c"]
    mean = np.mean([float(row["segmentation.dice"]) for row in rows[:5]])
    assert document["segmentation"]["dice"]["value"] == pytest.approx(mean)
    told = json.loads((tmp_path / "out" / "operating_points.json").read_text())
    assert told["model"]["weights_sha256"] == document["evaluation"]["model"]["weights_sha256"]
    assert told["split"] == "test" and told["samples"] == 5
    for point in told["points"].get("detection", {}).values():
        assert set(point) == {"threshold", "sensitivity", "false_an_image"}
    report = (tmp_path / "out" / "report.html").read_text()
    assert "FROC" in report and "Dice by lesion size" in report and "data:image/png" in report
    assert "http" not in report.replace("http://www.w3.org", ""), "the report must not need the network"


def test_json_is_printed_alone(
    bundle: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bundle, manifest, tmp_path / "out", "--json", "--split", "train") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == metrics(tmp_path / "out") and printed["evaluation"]["split"] == "train"
    assert printed["segmentation"]["dice"]["ci95"] is None, "one group has no interval"


def test_other_weights_of_the_same_bundle_are_compared_with_an_earlier_run(
    bundle: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    torch.manual_seed(5)
    save_state(Bundle.read(bundle).build("network_def"), tmp_path / "other.pt")
    assert run(bundle, manifest, tmp_path / "a", "--weights", tmp_path / "other.pt", "--tasks", "segmentation") == 0
    assert run(bundle, manifest, tmp_path / "b", "--compare", tmp_path / "a") == 0
    assert "less flat 0.1, on 5 samples of both" in capsys.readouterr().out
    first, second = metrics(tmp_path / "a"), metrics(tmp_path / "b")
    assert "detection" not in first
    assert first["evaluation"]["model"]["weights_sha256"] != second["evaluation"]["model"]["weights_sha256"]
    told = second["comparison"]["differences"]["segmentation.dice"]
    assert told["other"]["value"] == first["segmentation"]["dice"]["value"]
    assert told["difference"]["value"] == pytest.approx(
        second["segmentation"]["dice"]["value"] - first["segmentation"]["dice"]["value"]
    )


def test_a_bundle_differs_from_itself_by_nothing(bundle: Path, manifest: Path, tmp_path: Path) -> None:
    assert run(bundle, manifest, tmp_path / "out", "--compare", bundle) == 0
    differences = metrics(tmp_path / "out")["comparison"]["differences"]
    assert differences and all(one["difference"]["value"] in (0, None) for one in differences.values())


def test_refused_images_are_named_and_the_exit_code_says_so(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = pictures(tmp_path, 3)
    colour = save(tmp_path / "colour.png", spot((64, 48), (8, 6), (24, 20), samples=3))
    path = write(tmp_path, [replace(samples[0], image=colour), *samples[1:]])
    assert run(bundle, path, tmp_path / "out") == 1
    shown = capsys.readouterr()
    assert "refused: spots/p0" in shown.err and "1 sample(s) were refused" in shown.out
    assert metrics(tmp_path / "out")["evaluation"]["refused"][0]["id"] == "spots/p0"


def test_sources_are_scored_one_by_one_too_and_foreign_ones_by_the_error_alone(bundle: Path, tmp_path: Path) -> None:
    samples = [*pictures(tmp_path, 3), picture(tmp_path, "x", ((2, 2), (9, 9)), source="others")]
    path = write(tmp_path, samples)
    assert run(bundle, path, tmp_path / "a") == 0
    assert metrics(tmp_path / "a")["by_source"]["others"]["segmentation"]["dice"]["n"] == 1
    assert run(bundle, path, tmp_path / "b", "--foreign", "others") == 0
    document = metrics(tmp_path / "b")
    assert document["segmentation"]["dice"]["n"] == 3 and document["reconstruction"]["auroc_foreign"]["n"] == 4
    assert document["reconstruction"]["psnr"]["n"] == 3


def test_volumes_go_the_same_way(tmp_path: Path) -> None:
    grid = Geometry.from_parts((24, 20, 18), (6, 6, 6))
    rng = np.random.default_rng(0)
    samples = []
    for n in range(2):
        mask = np.zeros(grid.shape, np.uint8)
        mask[5:9, 6:10, 7 + n : 10 + n] = 1
        noise = rng.normal(-600, 80, grid.shape) + 700.0 * mask
        image, masked = tmp_path / f"{n}.nii.gz", tmp_path / f"{n}_mask.nii.gz"
        write_nifti(Volume(noise.astype(np.int16)[None], grid, "CT"), image)
        write_nifti(Volume(mask[None], grid, "SEG"), masked)
        box = (4.5, 5.5, 6.5 + n, 8.5, 9.5, 9.5 + n)
        samples.append(Sample(f"spots/{n}", "spots", f"spots:{n}", image, "test", 0, (masked,), (box,)))
    assert run(write_tiny_bundle(tmp_path / "bundle"), write(tmp_path, samples), tmp_path / "out") == 0
    document = metrics(tmp_path / "out")
    assert {"dice", "hd95_mm", "nsd_mm"} <= set(document["segmentation"])
    assert document["detection"]["cpm"]["n"] == 2
    assert document["reconstruction"]["mae"]["unit"] == "HU"


def test_a_network_of_points_is_asked_at_each_sample_s_place(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "bundles" / "res_mtnet_nodule"
    shutil.copytree(shipped, tmp_path / "bundle", ignore=shutil.ignore_patterns("models"))
    save_state(Bundle.read(tmp_path / "bundle").build("network_def"), tmp_path / "w.pt")
    grid = Geometry.from_parts((44, 40, 8), (0.7, 0.7, 2.0), (-40, 30, 100))
    rng = np.random.default_rng(0)
    samples = []
    for n, name in enumerate(("low_reader_suspicion", "high_reader_suspicion", None)):
        image = tmp_path / f"{n}.nii.gz"
        write_nifti(Volume(rng.normal(-700, 100, grid.shape).astype(np.int16)[None], grid, "CT"), image)
        x, y, z = grid.index_to_lps_mm([21.0, 19.0 + n, 4.0])
        samples.append(
            Sample(
                f"spots/{n}", "spots", f"spots:{n}", image, "test", 0,
                image_class=name, values={"diameter_mm": 6.0 + n, "reader_rating": 3.0},
                centre_lps_mm=(float(x), float(y), float(z)),
            )
        )  # fmt: skip
    assert run(tmp_path / "bundle", write(tmp_path, samples), tmp_path / "out", "--weights", tmp_path / "w.pt") == 0
    document = metrics(tmp_path / "out")
    assert document["regression"]["diameter_mm"]["mae"]["n"] == 3
    assert document["regression"]["diameter_mm"]["mae"]["unit"] == "mm"
    assert document["classification"]["auroc"]["n"] == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere", "{manifest}", "{tmp}/out"), "neither a bundle folder"),
        (("{bundle}", "{tmp}/nothing.json", "{tmp}/out"), "There is no manifest"),
        (("{bundle}", "{manifest}", "{tmp}/out", "--weights", "{tmp}/nothing.pt"), "nothing.pt is missing"),
        (("{bundle}", "{manifest}", "{tmp}/out", "--split", "val"), "no sample of split 'val'"),
        (("{bundle}", "{manifest}", "{tmp}/out", "--compare", "nowhere"), "neither a bundle folder"),
        (("{bundle}", "{manifest}", "{tmp}/out", "--tasks", "guessing"), "tasks is guessing"),
        (("{bundle}", "{manifest}", "{manifest}"), "is a file"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(
    bundle: Path,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    told: str,
) -> None:
    names = {"bundle": bundle, "manifest": manifest, "tmp": tmp_path}
    assert run(*(one.format(**names) for one in arguments)) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_manifest_of_another_kind_is_named_as_such(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [replace(s, masks=None, boxes=None, values={"weight_kg": 1.0}) for s in pictures(tmp_path, 3)]
    assert run(bundle, write(tmp_path, samples), tmp_path / "out", "--tasks", "segmentation") == 1
    assert "manifest of another bundle's data" in capsys.readouterr().err


def test_without_matplotlib_everything_but_the_report_is_written(
    bundle: Path,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find(name, *rest)
    )
    assert run(bundle, manifest, tmp_path / "out", "--tasks", "classification") == 0
    assert "mtnet[report]" in capsys.readouterr().err
    assert (tmp_path / "out" / "metrics.json").is_file() and not (tmp_path / "out" / "report.html").exists()


def test_the_command_starts_without_torch() -> None:
    code = "import sys; from mtnet.cli import evaluate; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
