"""MONAI Label's own app, from a real server process in its own environment, on every bundle and real images."""

from __future__ import annotations

import email
import json
import math
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image as PILImage

from mtnet.predictor import Predictor
from mtnet.results import findings_to_dict
from tests.bundles import write_random_bundle

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-label" / "bin" / "python"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.study,
    pytest.mark.skipif(not PYTHON.exists(), reason="make label-env makes MONAI Label's environment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

SMALL = {"batch_size": 2, "workers": 0}
BUNDLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "unet_v2_polyp": ({"size": [64, 64]}, {"size": [64, 64], **SMALL}),
    "breast_ultrasound_multitask": ({"size": [64, 64]}, {"size": [64, 64], **SMALL}),
    "yolo_med_polyp": ({"size": 64}, {"size": 64, **SMALL}),
    "res_mtnet_nodule": ({}, SMALL),
    "chest_ct_multitask": (
        {"spacing_mm": [6.0, 6.0, 6.0], "window": [16, 16, 16], "overlap": 0.0},
        {"bags_per_epoch": 1, "patches_per_bag": 2, "patch_size": [16, 16, 16], "workers": 0},
    ),
}
"""Options of ``inference.json`` and ``train.json`` that make a bundle small."""


@dataclass(frozen=True)
class Server:
    """A running server, its bundle's copy and its images by id."""

    url: str
    name: str
    bundle: Path
    images: dict[str, Path]

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> Any:
        request = urllib.request.Request(f"{self.url}/{path}", body or None, {"Content-Type": kind}, method=method)
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.headers, answer.read()

    def infer(self, image: str, **params: Any) -> tuple[dict[str, Any], bytes]:
        """JSON and label file of one answer."""
        form = urllib.parse.urlencode({"params": json.dumps({"device": "cpu", **params})}).encode()
        headers, body = self.ask("POST", f"infer/{self.name}?image={image}", form, "application/x-www-form-urlencoded")
        parts = email.message_from_bytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
        by_name = {part.get_param("name", header="Content-Disposition"): part for part in parts.get_payload()}
        return json.loads(by_name["params"].get_payload(decode=True)), by_name["image"].get_payload(decode=True)

    def save_label(self, image: str, file: Path) -> None:
        head = f'--x\r\nContent-Disposition: form-data; name="label"; filename="{file.name}"\r\n\r\n'
        body = head.encode() + file.read_bytes() + b"\r\n--x--\r\n"
        self.ask("PUT", f"datastore/label?image={image}&tag=final", body, "multipart/form-data; boundary=x")

    def post(self, path: str, **params: Any) -> None:
        self.ask("POST", f"{path}?run_sync=true", json.dumps({"device": "cpu", **params}).encode())


def write_images(name: str, folder: Path, data_dir: Path) -> dict[str, Path]:
    """Two real images for a bundle, by their ids."""
    folder.mkdir()
    if name == "chest_ct_multitask":
        from mtnet.io.nifti_out import write_nifti
        from mtnet.io.read import read_volume

        series = sorted((data_dir / "chest_ct_study").glob("*/*/*"))
        for number, path in enumerate(s for s in series if s.is_dir()):
            write_nifti(read_volume(path).volume, folder / f"chest{number}.nii.gz")
    elif name == "res_mtnet_nodule":
        for number, path in enumerate(sorted((data_dir / "lidc_voi" / "nodules").glob("*.npz"))[:2]):
            crop = np.load(path)
            nibabel.save(nibabel.Nifti1Image(crop["image"], crop["affine"]), folder / f"nodule{number}.nii.gz")
    else:
        place = "BUSI/benign/*).png" if name.startswith("breast") else "CVC-ClinicDB/images/*.jpg"
        for number, path in enumerate(sorted(data_dir.glob(place))[:2]):
            shutil.copy(path, folder / f"picture{number}{path.suffix}")
    return {path.name.split(".")[0]: path for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module", name="server", params=BUNDLES)
def _server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data_dir: Path
) -> Iterator[Server]:
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    inference, train = BUNDLES[name]
    bundle = write_random_bundle(name, folder / name, **inference)
    config = bundle / "configs" / "train.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **train}))
    images = write_images(name, folder / "studies", data_dir)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "mtnet.hosts.label.start", "--bundle", bundle, "--studies", folder / "studies"]
    command += ["--workspace", folder / "app", "--port", str(port)]
    log = folder / "server.log"
    with log.open("wb") as out:
        running = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            stdout=out,
            stderr=out,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    server = Server(f"http://127.0.0.1:{port}", name, folder / "app" / "model" / name, images)
    try:
        for _ in range(300):
            try:
                server.ask("GET", "info/")
                break
            except urllib.error.URLError:
                assert running.poll() is None, log.read_text()[-3000:]
                time.sleep(1)
        yield server
    finally:
        running.terminate()
        running.wait(30)
        if request.session.testsfailed:
            print(log.read_text()[-20000:])


def without_uids(lesions: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**lesion, "tracking_uid": ""} for lesion in lesions]


def check_answer(server: Server, tmp_path: Path) -> None:
    """Label map, geometry and JSON of an answer are those of ``mtnet infer`` with the same weights."""
    image, path = next(iter(server.images.items()))
    suffix = ".nii.gz" if path.name.endswith(".nii.gz") else ".png"
    told, content = server.infer(image, result_extension=suffix)
    (tmp_path / f"label{suffix}").write_bytes(content)
    findings = Predictor.from_bundle(server.bundle, device="cpu").run(path)
    assert findings.label_map is not None
    expected = findings.label_map.array[0]
    if suffix == ".nii.gz":
        label = nibabel.load(tmp_path / f"label{suffix}")
        got = np.asarray(label.dataobj)
        np.testing.assert_allclose(label.affine, nibabel.load(path).affine, atol=1e-4)
        np.testing.assert_array_equal(got, expected)
    else:
        with PILImage.open(tmp_path / f"label{suffix}") as label:
            got = np.asarray(label).T
        np.testing.assert_array_equal(got, expected[..., 0])
    document = findings_to_dict(findings)
    assert without_uids(told["lesions"]) == without_uids(document["lesions"])
    assert told["image_classes"] == document["image_classes"]
    assert told["label_names"] and "latencies" in told


def test_the_stock_app_answers_scores_and_trains(server: Server, tmp_path: Path) -> None:
    info = json.loads(server.ask("GET", "info/")[1])
    assert list(info["models"]) == list(info["trainers"]) == list(info["scoring"]) == [server.name]
    check_answer(server, tmp_path)

    server.post(f"scoring/{server.name}", simulation_size=2, max_workers=1)
    listed = json.loads(server.ask("GET", "datastore/?output=all")[1])["objects"]
    scores = [listed[image]["image"]["info"]["epistemic_entropy"] for image in server.images]
    assert all(0 < score <= math.log(3) for score in scores), "an entropy of probabilities, not of labels"
    assert len(set(scores)) == len(scores)

    weights = server.bundle / "models" / "model.pt"
    before = weights.read_bytes()
    for image, path in server.images.items():
        server.save_label(image, drawn_label(path, tmp_path))
    server.post(f"train/{server.name}", max_epochs=1, val_split=0, multi_gpu=False, tracking="None")
    assert weights.read_bytes() != before, "an epoch changes the weights"
    check_answer(server, tmp_path)


def drawn_label(image: Path, folder: Path) -> Path:
    """A label map for an image: a block of value 1 in its middle."""
    if image.name.endswith(".nii.gz"):
        read = nibabel.load(image)
        label, file = np.zeros(read.shape, np.uint8), folder / f"label-{image.name}"
        label[tuple(slice(n // 2 - max(n // 16, 1), n // 2 + max(n // 16, 1)) for n in read.shape)] = 1
        nibabel.save(nibabel.Nifti1Image(label, read.affine), file)
        return file
    with PILImage.open(image) as picture:
        columns, rows = picture.size
    label, file = np.zeros((rows, columns), np.uint8), folder / f"label-{image.stem}.png"
    label[rows // 3 : rows // 2, columns // 3 : columns // 2] = 1
    PILImage.fromarray(label).save(file)
    return file
