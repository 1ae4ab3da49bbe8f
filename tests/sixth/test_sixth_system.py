"""A system from outside with a kind of output of its own: an installed package and a small bundle, nothing in mtnet."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch import Tensor, nn

from mtnet.bundle import Bundle, BundleError
from mtnet.inference import MultiTaskInferer
from mtnet.losses import loss_of_outputs
from mtnet.structures import OutputSpec
from tests.evaluation.manifests import picture, write

HERE = Path(__file__).parent


@pytest.fixture(scope="module", name="installed")
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package as an installer leaves it: code, and metadata with its entry points."""
    return shutil.copytree(HERE / "package", tmp_path_factory.mktemp("site") / "packages")


@pytest.fixture(name="landmarks")
def _landmarks(installed: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(installed))
    import landmarks.kind
    import landmarks.system

    return landmarks


def run(installed: Path, *command: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(HERE.parents[1])])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module", name="trained")
def _trained(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, trained for one step by its own config."""
    bundle = shutil.copytree(HERE / "bundle", tmp_path_factory.mktemp("bundles") / "landmarks")
    config = str(bundle / "configs" / "train.json")
    run(
        installed,
        "monai.bundle",
        "run",
        "--config_file",
        config,
        "--weights",
        str(bundle / "models/model.pt"),
        cwd=bundle,
    )
    assert (bundle / "models" / "model.pt.sha256").is_file()
    return bundle


class Points(nn.Module):
    """Answers like the system: a cell whose middle voxel is bright holds a point, at that voxel's place in the cell."""

    def __init__(self, marks: OutputSpec) -> None:
        super().__init__()
        self.outputs = (marks,)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        cells = nn.functional.max_pool2d(image[:, :2], 4)
        places = nn.functional.max_pool2d(image[:, :2], 4, return_indices=True)[1].amax(1, keepdim=True)
        row, column = places // image.shape[3] % 4, places % image.shape[3] % 4
        offset = (torch.cat([row, column], 1) - 1.5) / 4
        return {"marks": torch.cat([cells * 20 - 10, offset], 1)}


def test_points_on_seams_are_told_once_and_where_they_are(landmarks):
    marks = landmarks.system.MARKS
    image = torch.zeros(1, 3, 96, 128)
    wanted = [(7, 9, 0), (47, 64, 0), (48, 20, 1), (63, 63, 1), (31, 95, 0), (90, 127, 1)]
    for row, column, label in wanted:
        image[0, label, row, column] = 1.0
    network = Points(marks)
    for window, overlap in (((96, 128), 0.0), ((32, 32), 0.0), ((32, 64), 0.5)):
        rows = MultiTaskInferer(window, overlap)(image, network)["marks"][0]
        found = sorted((int(i), int(j), int(label)) for i, j, label, score in rows.round().tolist() if score)
        assert found == sorted(wanted)
        torch.testing.assert_close(rows[:, :2], rows[:, :2].round())


def test_items_of_a_batch_with_different_numbers_of_points_are_filled_up(landmarks):
    image = torch.zeros(2, 3, 32, 32)
    image[0, 0, 5, 5] = image[0, 1, 20, 20] = 1.0
    answer = MultiTaskInferer((32, 32), 0.0)(image, Points(landmarks.system.MARKS))["marks"]
    assert answer.shape == (2, 2, 4)
    assert (answer[0, :, 3] > 0.99).all() and not answer[1].any()


def test_it_learns_by_the_loss_of_its_kind(landmarks):
    torch.manual_seed(0)
    network = landmarks.system.network()
    samples = [landmarks.system.DrawnSpots(4)[n] for n in range(4)]
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    image, targets = landmarks.system.prepare(batch)
    loss, seen = loss_of_outputs(network.outputs, 2), []
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(6):
        total, terms = loss(network(image), targets)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        seen.append(float(total.detach()))
    assert {"marks/heat", "marks/place", "pred/dice"} <= set(terms) and seen[-1] < seen[0]
    targets["marks"][1] = None
    assert loss(network(image), targets)[0].isfinite()


def test_a_bundle_names_a_system_only_where_its_package_is_installed(installed, tmp_path, monkeypatch):
    bundle = Bundle.read(shutil.copytree(HERE / "bundle", tmp_path / "landmarks"))
    with pytest.raises(BundleError, match=r"landmarks.system.network' is not on the list.*'mtnet.systems'"):
        bundle.build("network_def")
    monkeypatch.syspath_prepend(str(installed))
    assert [spec.kind for spec in bundle.build("network_def").outputs] == ["dense", "keypoints"]
    for name in ("landmarks.system.prepare", "landmarks.kind.best_apart", "landmarks.system.DrawnSpots"):
        bundle.config["network_def"] = {"_target_": name}
        with pytest.raises(BundleError, match="not on the list"):
            bundle.build("network_def")


@pytest.mark.slow
def test_it_is_trained_and_evaluated_by_its_own_configs(installed, trained, tmp_path):
    config = str(trained / "configs" / "evaluate.json")
    weights = str(trained / "models" / "model.pt")
    arguments = ("--config_file", config, "--weights", weights, "--output_dir", str(tmp_path))
    run(installed, "monai.bundle", "run", *arguments, cwd=tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert 0 < metrics["mean_distance_px"] <= 64


@pytest.mark.slow
def test_mtnet_infer_answers_a_picture_and_tells_the_points(installed, trained, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
    PILImage.fromarray(pixels).save(tmp_path / "picture.png")
    run(installed, "mtnet", "infer", "picture.png", "out", "--bundle", str(trained), cwd=tmp_path)
    document = json.loads((tmp_path / "out" / "findings.json").read_text())
    points = document["extras"]["marks"]
    assert document["schema_version"] == "1.3" and points
    for point in points:
        assert point["label"] in ("red", "green") and 0.3 <= point["score"] <= 1
        i, j, k = point["centre_index"]
        assert -0.5 <= i <= 79.5 and -0.5 <= j <= 47.5 and abs(k) < 1e-6
    assert (tmp_path / "out" / "segmentation.png").is_file()


@pytest.mark.slow
def test_mtnet_evaluate_scores_its_points_beside_its_mask(installed, trained, tmp_path):
    values = {"red_i": 20.0, "red_j": 12.0, "green_i": 50.0, "green_j": 30.0}
    places = [((12, 8), (28, 16)), ((40, 20), (60, 40)), None]
    samples = [picture(tmp_path, f"p{n}", place, values=values) for n, place in enumerate(places)]
    manifest = write(tmp_path, [*samples, picture(tmp_path, "unknown", None)])
    run(installed, "mtnet", "evaluate", str(trained), str(manifest), "out", "--device", "cpu", cwd=tmp_path)
    scores = json.loads((tmp_path / "out" / "metrics.json").read_text())
    told = scores["keypoints"]["marks"]
    assert told["mean_distance"]["n"] == 3 and 0 < told["mean_distance"]["value"] <= 80
    assert 0 <= told["found_within_5_px"]["value"] <= 1 and scores["segmentation"]["dice"]["n"] == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_its_exports_answer_like_the_network(installed, trained, tmp_path, landmarks):
    from mtnet.nets import load_state
    from tests.nets.exports import assert_same

    onnxruntime = pytest.importorskip("onnxruntime")
    shared = (
        *("--config_file", str(trained / "configs" / "inference.json")),
        *("--meta_file", str(trained / "configs" / "metadata.json")),
        *("--ckpt_file", str(trained / "models" / "model.pt")),
    )
    run(installed, "monai.bundle", "ckpt_export", "network_def", "--filepath", "net.ts", *shared, cwd=tmp_path)
    traced = ("--use_trace", "True", "--input_shape", "[1, 3, 64, 96]")
    run(
        installed, "monai.bundle", "onnx_export", "tuple_view", "--filepath", "net.onnx", *shared, *traced, cwd=tmp_path
    )
    eager = landmarks.system.network().eval()
    load_state(eager, trained / "models" / "model.pt")
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        wanted, scripted = eager(image), torch.jit.load(str(tmp_path / "net.ts")).eval()(image)
    assert list(scripted) == list(wanted) == ["pred", "marks"]
    for name, tensor in wanted.items():
        torch.testing.assert_close(scripted[name], tensor, rtol=1e-4, atol=1e-4)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    assert_same(list(wanted.values()), session.run(None, {session.get_inputs()[0].name: image.numpy()}), 1e-4)
